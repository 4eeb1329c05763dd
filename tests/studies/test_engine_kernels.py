"""The study of engines' own code: its committed results, and how vLLM's samplers are intercepted."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.verification import check_sampler
from specsim.verification.batched import leading
from specsim.verification.interception import TOLERANCE
from specsim.verification.suite import standard_cases
from studies import vllm_kernels
from studies.engine_kernels import RESULTS, kernel_cases, read, report, write
from studies.vllm_kernels import V1, Race, vllm_modules


def test_committed_results_are_exact_and_complete() -> None:
    results = read()
    assert results.exact
    names = {case.name for case in kernel_cases()}
    for engine, rules in (("SGLang chain kernel", 2), ("vLLM v1", 1), ("vLLM v2", 2)):
        found = [(law.rule, law.case) for law in results.laws if law.engine == engine]
        assert len(set(found)) == rules * len(names)
        assert {case for _, case in found} == names
    assert {drawn.engine for drawn in results.drawn} == {"vLLM v1", "vLLM v2"}
    assert {"sglang", "torch", "transformers", "triton", "vllm"} <= set(results.versions)
    assert f"measured {results.date}" in report(results)


def test_a_law_that_is_off_fails_the_study(tmp_path: Path) -> None:
    results = read(RESULTS)
    off = replace(results, laws=[replace(results.laws[0], tv=2 * TOLERANCE), *results.laws[1:]])
    write(off, tmp_path)
    assert read(tmp_path) == off
    assert not read(tmp_path).exact
    assert not replace(results, drawn=[replace(results.drawn[0], passed=False)]).exact


def racing(residual):
    """Token verification whose last token is drawn by a race, as vLLM's is."""

    def run(p, q, drafts, uniforms, noise):
        rows, gamma = drafts.shape
        at = np.arange(rows)[:, None], np.arange(gamma), drafts
        accepted = leading(uniforms * q[at] < p[at])
        weights = np.concatenate([residual(p[:, :-1], q), p[:, -1:]], axis=1)[np.arange(rows), accepted]
        tokens = np.full((rows, gamma + 1), -1)
        tokens[:, :gamma] = np.where(np.arange(gamma) < accepted[:, None], drafts, -1)
        tokens[np.arange(rows), accepted] = np.argmax(weights / noise, axis=1)
        return tokens, accepted + 1

    def own(p, q, drafts, rng):
        return run(p, q, drafts, rng.random(drafts.shape), rng.exponential(size=p[:, 0].shape))

    return Race(run, own)


def test_a_race_is_intercepted_exactly() -> None:
    cases = [case for case in standard_cases() if case.name in ("dense", "sparse", "tails")]
    right = racing(lambda p, q: np.maximum(p - q, 0.0))
    verdict = check_sampler(right, "token", cases=cases, level="interception")
    assert verdict.passed, str(verdict)
    assert check_sampler(right, "token", cases=cases, level="statistical", detect_tv=0.05).passed
    wrong = racing(lambda p, q: np.maximum(p - 0.999 * q, 0.0))
    verdict = check_sampler(wrong, "token", cases=cases, level="interception")
    assert verdict.status == "rejected"
    assert verdict.details["interception_tv"] < 1e-3


def test_a_kernel_is_launched_with_arguments_by_name() -> None:
    class Kernel:
        arg_names = ("out_ptr", "count", "WIDTH")

        def __getitem__(self, grid):
            return lambda **arguments: launched.append((grid, arguments))

    launched: list[object] = []

    def dispatch(out, count, unused=None):
        return (count,), {"WIDTH": 4}

    vllm_kernels._launcher(kernel=Kernel(), warmup_inputs=None)(dispatch)("tensor", count=3)
    assert launched == [((3,), {"out_ptr": "tensor", "count": 3, "WIDTH": 4})]


def test_a_wrong_place_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"nowhere: isn't there; run 'pip install --no-deps --target DIR vllm=="):
        vllm_modules(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no vllm/v1/sample/rejection_sampler.py"):
        vllm_modules(tmp_path)
    for name in (V1, vllm_kernels.V2, vllm_kernels.GUMBEL, vllm_kernels.FLY):
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    with pytest.raises(InputError, match="is imported already"):
        vllm_modules(tmp_path)
