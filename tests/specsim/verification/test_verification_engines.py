"""Published engines' own code: its law by interception, and one line for whatever is absent or different."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.verification import Case, Verdict, assert_lossless, check_sampler, exact_law, tv
from specsim.verification.batched import Floats, Ints, Sampler, block, token
from specsim.verification.engines import HuggingFace, SGLangChain
from specsim.verification.engines.interpreter import Interpreted, interpreted_triton
from specsim.verification.engines.published import Published
from specsim.verification.engines.sglang import KERNEL
from specsim.verification.interception import TOLERANCE
from specsim.verification.suite import standard_cases

CASES = {case.name: case for case in standard_cases()}


def residual_of(p, q):
    rest = (p - q).clamp(min=0)
    return rest / rest.sum()


def stand_in(torch, residual):
    """A verifier with the calling convention of transformers: logits in, one row, global random numbers."""

    def verify(ids, draft_logits, length, target_logits):
        q, p = draft_logits.softmax(-1)[0], target_logits.softmax(-1)[0]
        x = ids[0, -length:]
        at = torch.arange(length)
        ratio = p[at, x] / q[at, x]
        hit = torch.rand_like(ratio) < ratio
        n = int((~hit).cumsum(-1).lt(1).sum())
        row = p[n] if n == length else residual(p[n], q[n])
        last = torch.multinomial(row, num_samples=1)
        return torch.cat([x[:n], last])[None], n

    return verify


def test_the_convention_of_transformers_is_intercepted_exactly() -> None:
    torch = pytest.importorskip("torch")
    right = HuggingFace(stand_in(torch, residual_of))
    verdict = check_sampler(right, "token", cases=standard_cases()[:1], level="interception")
    assert verdict.passed, str(verdict)
    softmaxed = HuggingFace(stand_in(torch, lambda p, q: (p - q).clamp(min=0).softmax(-1)))
    verdict = check_sampler(softmaxed, "token", cases=standard_cases()[:1], level="interception")
    assert verdict.status == "rejected"
    assert verdict.explanation is not None
    assert verdict.explanation.startswith("softmaxed residual")
    assert check_sampler(right, "token", cases=standard_cases()[:1], level="metamorphic").passed


def test_a_claim_without_draft_rows_is_one_line() -> None:
    pytest.importorskip("torch")
    for sampler in (HuggingFace(stand_in(None, None)), SGLangChain(lambda *_, **__: None)):
        finding = check_sampler(sampler, "point_mass").findings[0]
        assert finding.name == "raises"
        assert "needs the rows that drafts were drawn from" in finding.line


def mixed_rows() -> tuple[Floats, Floats, Ints]:
    """60 rows of 7 tokens with 0 to 4 drafts each."""
    rng = np.random.default_rng(11)
    p, q = rng.dirichlet(np.ones(7), (60, 5)), rng.dirichlet(np.ones(7), (60, 4))
    return p, q, np.where(np.arange(4) < rng.integers(5, size=(60, 1)), rng.integers(7, size=(60, 4)), -1)


needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


@pytest.mark.slow
@needs_transformers
def test_transformers_own_verifier_emits_what_the_rule_does_on_the_same_coins() -> None:
    p, q, drafts = mixed_rows()
    uniforms, final = np.random.default_rng(3).random((60, 4)), np.random.default_rng(4).random(60)
    tokens, counts = HuggingFace.installed().inject(p, q, drafts, uniforms, final)
    expected = token.inject(p, q, drafts, uniforms, final)
    np.testing.assert_array_equal(tokens, expected[0])
    np.testing.assert_array_equal(counts, expected[1])


needs_sglang = pytest.mark.skipif(
    None in (find_spec("sglang"), find_spec("triton")), reason="sglang or triton is not installed"
)


@pytest.mark.slow
@needs_transformers
def test_transformers_own_law_is_token_verification() -> None:
    verdict = check_sampler(HuggingFace.installed(), "token", cases=[CASES["dense"]], level="interception")
    assert verdict.passed, str(verdict)
    assert verdict.details["interception_tv"] <= TOLERANCE
    mixed = [CASES[name] for name in ("sparse", "certain drafts", "disjoint supports", "tails")]
    assert_lossless(HuggingFace.installed(), cases=mixed, level="interception")


@pytest.mark.slow
@needs_transformers
def test_transformers_at_the_ends_of_coins() -> None:
    """5.23.0 accepts with ``<=``, so that a uniform of 0 accepts a draft that the target excludes; and rows that are
    equal up to rounding can be rejected at the largest uniform, with nothing left to draw from.
    """
    verdict = check_sampler(HuggingFace.installed(), "token", cases=[CASES["sparse"]], level="interception")
    assert [finding.name for finding in verdict.findings] == ["impossible_at_boundary"]
    p = (Fraction(3, 10), Fraction(7, 10))
    equal = Case({(): p, (0,): p, (1,): p}, {(): p}, 1, name="q = p")
    assert check_sampler(HuggingFace.installed(), "token", cases=[equal], level="interception").passed
    shifted = check_sampler(HuggingFace.installed(draft_offset=5.0), "token", cases=[equal], level="interception")
    assert shifted.status == "inconclusive"
    assert shifted.findings[0].name == "raises"
    assert "nan" in shifted.findings[0].line


def half(part: int, of: int) -> tuple[Fraction, Fraction]:
    return Fraction(part, of), 1 - Fraction(part, of)


FIRST_CERTAIN = Case(
    {
        (): half(1, 3),
        (0,): half(3, 4),
        (1,): half(1, 5),
        (0, 0): half(2, 5),
        (0, 1): half(1, 7),
        (1, 0): half(1, 2),
        (1, 1): half(5, 6),
    },
    {(): half(1, 1), (0,): half(1, 3), (1,): half(1, 2)},
    2,
    name="first draft certain",
)
"""Few chains, so that the interpreter takes half a minute, and the token and block rules far apart."""


def test_the_small_case_tells_the_rules_apart() -> None:
    assert tv(exact_law("token", FIRST_CERTAIN), exact_law("block", FIRST_CERTAIN)) == Fraction(5, 36)


@pytest.mark.slow
@needs_sglang
def test_sglang_own_kernel_has_the_law_of_each_rule() -> None:
    """Both rules at once: each kernel runs in a process of its own."""

    def judged(rule: str) -> Verdict:
        cases = [FIRST_CERTAIN, CASES["sparse"]]
        return check_sampler(
            SGLangChain.published(block=rule == "block"), rule, cases=cases, level="interception", budget_s=900
        )

    with ThreadPoolExecutor() as pool:
        for verdict in pool.map(judged, ("token", "block")):
            assert verdict.passed, str(verdict)
            assert verdict.details["interception_tv"] <= TOLERANCE


@pytest.mark.slow
@needs_sglang
@pytest.mark.parametrize("rule", [token, block], ids=["token", "block"])
def test_sglang_own_kernel_emits_what_the_rule_does_on_the_same_coins(rule: Sampler) -> None:
    p, q, drafts = mixed_rows()
    kernel = SGLangChain.published(block=rule is block)
    tokens, counts = kernel(p, q, drafts, np.random.default_rng(3))
    coins = np.random.default_rng(3)
    expected = rule.inject(p, q, drafts, coins.random((60, 4), dtype=np.float32), coins.random(60, dtype=np.float32))
    assert set(counts.tolist()) >= {1, 2, 3}
    np.testing.assert_array_equal(tokens, expected[0])
    np.testing.assert_array_equal(counts, expected[1])


def unpacked(folder: Path, source: str) -> Path:
    kernel = folder / KERNEL
    kernel.parent.mkdir(parents=True)
    kernel.write_text(source)
    return folder


def test_a_file_is_loaded_by_path_and_its_version_read(tmp_path: Path) -> None:
    root = unpacked(tmp_path, "def chain_speculative_sampling_triton():\n    return 7\n")
    package = Published("sglang", root)
    assert package.version == "unknown"
    (root / "sglang-9.8.7.dist-info").mkdir()
    (root / "sglang-9.8.7.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang\nVersion: 9.8.7\n")
    assert package.version == "9.8.7"
    assert package.module(KERNEL, needs="chain_speculative_sampling_triton").chain_speculative_sampling_triton() == 7
    assert "sglang" not in sys.modules


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1", "has no function 'chain_speculative_sampling_triton'"),
        ("chain_speculative_sampling_triton = 3", "has no function"),
        ("import no_such_module", "can't be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def half(:", "can't be loaded: SyntaxError"),
        ("raise SystemError('two\\nlines')", "can't be loaded: SystemError: two lines"),
    ],
)
def test_the_wrong_file_is_one_line(tmp_path: Path, source: str, said: str) -> None:
    package = Published("sglang", unpacked(tmp_path, source))
    with pytest.raises(InputError) as failed:
        package.module(KERNEL, needs="chain_speculative_sampling_triton")
    one_line(failed.value, said, KERNEL)


def one_line(error: InputError, *said: str) -> None:
    assert len(error.lines) == 1
    assert "\n" not in str(error)
    for part in said:
        assert part in str(error)


def test_a_wrong_place_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as failed:
        SGLangChain.published(tmp_path / "nowhere")
    one_line(failed.value, "isn't there", "pip install --no-deps --target DIR sglang==")
    (tmp_path / "sglang.whl").write_bytes(b"")
    with pytest.raises(InputError) as failed:
        SGLangChain.published(str(tmp_path / "sglang.whl"))
    one_line(failed.value, "isn't a directory")
    with pytest.raises(InputError) as failed:
        SGLangChain.published(tmp_path)
    one_line(failed.value, f"has no {KERNEL}: give the directory that holds sglang/")

    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(InputError) as failed:
        SGLangChain.published()
    one_line(failed.value, "sglang: isn't installed")


@pytest.mark.parametrize("package", ["torch", "triton"])
def test_what_the_kernel_needs_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    pytest.importorskip("torch")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / f"{package}.py").write_text("raise ImportError('no device')")
    monkeypatch.syspath_prepend(tmp_path / "first")  # the kernel's process looks where this one does
    with pytest.raises(InputError) as failed:
        SGLangChain.published(unpacked(tmp_path, ""))
    one_line(failed.value, f"{package}: can't be imported (no device)", f"pip install {package}")


ECHO = """
import os
print("not an answer")
def factory(word):
    return lambda *more: (word, os.environ["TRITON_INTERPRET"], *more)
def dies():
    return os._exit
"""


def test_a_process_that_interprets_answers_fails_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    monkeypatch.syspath_prepend(tmp_path)
    kept = os.environ.get("TRITON_INTERPRET")
    call = Interpreted("echo:factory", "word")
    assert call(1, np.arange(2))[:3] == ("word", "1", 1)
    assert os.environ.get("TRITON_INTERPRET") == kept
    raising = Interpreted("operator:attrgetter", "real")
    with pytest.raises(RuntimeError, match="AttributeError: 'str' object has no attribute 'real'"):
        raising("text")
    assert raising(3) == 3
    with pytest.raises(RuntimeError, match="the process that interprets triton ended with 7"):
        Interpreted("echo:dies")(7)
    process = call._process
    del call
    gc.collect()
    assert process.poll() is not None


def test_triton_that_compiles_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    language = SimpleNamespace(max=len)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(language=language))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "triton.language", language)  # type: ignore[arg-type]
    with pytest.raises(InputError) as failed:
        interpreted_triton()
    one_line(failed.value, "triton: compiles in this process: start it with TRITON_INTERPRET=1")


def test_transformers_absent_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "transformers.generation.utils", None)  # type: ignore[arg-type]
    with pytest.raises(InputError) as failed:
        HuggingFace.installed()
    one_line(failed.value, "transformers.generation.utils: can't be imported", "pip install transformers==5.23.0")


def _older(candidate_input_ids, candidate_logits, candidate_length, new_logits, last_is_eos, max_matches): ...


@pytest.mark.parametrize(
    ("utils", "said"),
    [
        (SimpleNamespace(), "has no _speculative_sampling"),
        (SimpleNamespace(_speculative_sampling=_older), "takes candidate_input_ids, candidate_logits"),
    ],
)
def test_transformers_of_another_version_is_one_line(
    monkeypatch: pytest.MonkeyPatch, utils: SimpleNamespace, said: str
) -> None:
    monkeypatch.setitem(sys.modules, "transformers.generation.utils", utils)  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.metadata.version", lambda _: "4.40.0")
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    monkeypatch.setitem(sys.modules, "transformers.generation", ModuleType("transformers.generation"))
    with pytest.raises(InputError) as failed:
        HuggingFace.installed()
    one_line(failed.value, "transformers: 4.40.0: ", said, "install 5.23.0")
