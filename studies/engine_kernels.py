"""The laws of published engines' own verification code, run on a CPU and found exactly by interception.

``python -m studies.engine_kernels`` prints the committed results. ``--measure [FOLDER] --sglang DIR --vllm DIR`` finds
them anew (about half an hour) from the transformers that is installed and from two wheels, each unpacked by
``pip install --no-deps --target DIR sglang==0.5.23``, or ``vllm==0.33.0``.

A law by interception says nothing of an engine's random generator, so vLLM's samplers are judged on their own too,
statistically and coarsely. Edges are what happens to coins or rows that have a probability of about 1e-7.
"""

from __future__ import annotations

import os

from specsim.files import replace_file

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import importlib.metadata
import json
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.verification import Case, check_sampler, random_case
from specsim.verification.claim import Claim
from specsim.verification.engines import HuggingFace, SGLangChain
from specsim.verification.guarded import Guarded
from specsim.verification.interception import TOLERANCE, boundary_faults, intercepted_law
from specsim.verification.suite import groups, small_cases, standard_cases
from studies.vllm_kernels import V1, vllm_modules, vllm_v1, vllm_v2

RESULTS = Path(__file__).parent / "results" / "engine_kernels"


def kernel_cases() -> tuple[Case, ...]:
    """What the interpreter has time for: contexts, zeros, point-mass rows, coins."""
    contexts = replace(random_case(np.random.default_rng(1), vocab=2, gamma=2), name="two tokens, two drafts")
    return (contexts, *(case for case in standard_cases() if case.name in ("sparse", "certain drafts", "tails")))


DAY_S = 86_400.0


@dataclass(frozen=True)
class Law:
    """One sampler on one case: total variation of its law from the rule's, and what it does with the ends of coins."""

    engine: str
    rule: str
    case: str
    tv: float
    boundary: str
    seconds: float


@dataclass(frozen=True)
class Drawn:
    """One sampler on its own random numbers: p-value against the rule, and the total variation it would have shown."""

    engine: str
    rule: str
    case: str
    rows: int
    p_value: float
    detects: float
    passed: bool


@dataclass(frozen=True)
class Results:
    """What was found, with what, when."""

    date: str
    versions: dict[str, str]
    laws: list[Law]
    drawn: list[Drawn]
    edges: dict[str, str]

    @property
    def exact(self) -> bool:
        """Every law within the tolerance, every sampler consistent on its own random numbers."""
        return all(law.tv <= TOLERANCE for law in self.laws) and all(drawn.passed for drawn in self.drawn)


def laws(engine: str, sampler: Callable[..., Any], rule: str, cases: tuple[Case, ...]) -> Iterator[Law]:
    """Each case's law by interception, and the first impossible string at a coin's end."""
    claim = Claim(rule, {})
    for case in cases:
        start = time.monotonic()
        guarded, (group,) = Guarded(sampler, budget_s=DAY_S), tuple(groups([case]))
        law = intercepted_law(guarded, group, 0, declared=claim.declares_drafts)
        edge = boundary_faults(guarded, group, 0, claim)
        guarded.close()
        away = claim.distance(law, claim.law(case), case)
        found = Law(engine, rule, case.name, away, edge.line if edge else "", time.monotonic() - start)
        print(line(found), flush=True)
        yield found


def drawn(engine: str, sampler: Callable[..., Any], rule: str, case: Case, detect_tv: float) -> Drawn:
    """A statistical verdict on the sampler's own random numbers."""
    verdict = check_sampler(
        sampler, rule, cases=[case], level="statistical", detect_tv=detect_tv, budget_s=DAY_S, max_rows=20_000
    )
    detects, p_value = verdict.min_detectable_tv or 1.0, verdict.p_value if verdict.p_value is not None else np.nan
    found = Drawn(engine, rule, case.name, verdict.rows, p_value, detects, verdict.passed)
    print(line(found), flush=True)
    return found


def equal_rows() -> Case:
    """Equal rows, where a constant added to the draft's logits leaves float32 ratios just below 1 and no residual."""
    p = {(): (Fraction(3, 10), Fraction(7, 10)), (0,): (Fraction(1, 2),) * 2, (1,): (Fraction(1, 2),) * 2}
    return Case(p, {(): p[()]}, 1, name="q = p")


def edge_of_equal_rows() -> str:
    """What transformers does with equal rows whose logits differ by a constant."""
    verdict = check_sampler(
        HuggingFace.installed(draft_offset=5.0), "token", cases=[equal_rows()], level="interception"
    )
    return "; ".join(f"{finding.name}: {finding.line}" for finding in verdict.findings) or "nothing"


def edge_of_sums(sglang: SGLangChain, rows: int = 40, vocab: int = 6_000) -> str:
    """How often the largest float32 coin makes the kernel emit a last token that the target gives probability 0."""
    rng = np.random.default_rng(5)
    p, q = rng.dirichlet(np.ones(vocab), (rows, 2)), rng.dirichlet(np.ones(vocab), (rows, 1))
    p[..., -1] = 0.0
    p /= p.sum(axis=-1, keepdims=True)
    drafts = q.argmax(axis=-1)
    tokens, counts = sglang.inject(p, q, drafts, np.full((rows, 1), 1.0 - 2.0**-24), np.full(rows, 1.0 - 2.0**-24))
    last = tokens[np.arange(rows), counts - 1]
    return f"token {vocab - 1} of probability 0 in {int((last == vocab - 1).sum())} of {rows} rows"


def measure(sglang: Path | None, vllm: Path | None) -> Results:
    """Run everything; raises InputError where a package is absent."""
    few = kernel_cases()
    contexts, sparse = few[:2]
    chain = {rule: SGLangChain.published(sglang, block=rule == "block") for rule in ("token", "block")}
    package, modules = vllm_modules(vllm)
    v1 = vllm_v1(modules[V1])
    v2 = {rule: vllm_v2(modules, block=rule == "block") for rule in ("token", "block")}
    found = [*laws("transformers", HuggingFace.installed(), "token", small_cases())]
    found += laws("vLLM v1", v1, "token", few)
    found += laws("vLLM v1, no draft rows", v1, "point_mass", (sparse,))
    for rule, race in v2.items():
        found += laws("vLLM v2", race, rule, few)
    for rule, sampler in chain.items():
        found += laws("SGLang chain kernel", sampler, rule, few)
    own = [drawn("vLLM v1", v1, "token", contexts, 0.1)]
    own += [drawn("vLLM v2", race, rule, contexts, 0.15) for rule, race in v2.items()]
    edges = {
        "transformers, q = p, draft logits shifted by 5, coin 1 - 2^-24": edge_of_equal_rows(),
        "SGLang chain kernel, 6,000 tokens, last coin 1 - 2^-24": edge_of_sums(chain["token"]),
    }
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "torch", "triton", "transformers")}
    root = SGLangChain.package(sglang)
    versions |= {"python": platform.python_version(), "sglang": root.version, "vllm": package.version}
    return Results(datetime.now(UTC).date().isoformat(), versions, found, own, edges)


def line(found: Law | Drawn) -> str:
    start = f"{found.engine:<24}{found.rule:<12}{found.case:<24}"
    if isinstance(found, Law):
        return f"{start}TV {found.tv:<9.1e}{found.seconds:6.0f} s  {found.boundary}"
    return f"{start}p = {found.p_value:.2g} on {found.rows:,} rows, which show a TV of {found.detects:.2g}"


def report(results: Results) -> str:
    used = ", ".join(f"{name} {version}" for name, version in sorted(results.versions.items()))
    lines = [
        f"measured {results.date} with {used}",
        "",
        "laws by interception, and the first impossible string at a coin's end",
    ]
    lines += map(line, results.laws)
    lines += ["", "on the engine's own random numbers", *map(line, results.drawn), "", "edges"]
    lines += [f"{where}: {what}" for where, what in results.edges.items()]
    worst = max(law.tv for law in results.laws)
    return "\n".join([*lines, "", f"largest total variation {worst:.1e}; at most {TOLERANCE:g} wanted"])


def read(folder: Path = RESULTS) -> Results:
    """The results in a folder."""
    held = json.loads((folder / "results.json").read_text())
    held["laws"], held["drawn"] = [Law(**row) for row in held["laws"]], [Drawn(**row) for row in held["drawn"]]
    return Results(**held)


def write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(results), indent=1) + "\n"
    replace_file(folder / "results.json", lambda beside: beside.write_text(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--measure", nargs="?", const=RESULTS, type=Path, metavar="FOLDER")
    parser.add_argument("--sglang", type=Path, metavar="DIR", help="where its wheel was unpacked")
    parser.add_argument("--vllm", type=Path, metavar="DIR", help="where its wheel was unpacked")
    options = parser.parse_args()
    if options.measure:
        os.environ["TRITON_INTERPRET"] = "1"
        warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter's numpy on logarithms of 0
        try:
            write(measure(options.sglang, options.vllm), options.measure)
        except InputError as error:
            parser.error(str(error))
        print()
    results = read(options.measure or RESULTS)
    print(report(results))
    if not results.exact:
        raise SystemExit("a law is not the rule's")


if __name__ == "__main__":
    main()
