"""What the oracle kills, beside the statistics that engines' own tests use; its false alarms; its speed.

Run as ``python -m studies.oracle_power``. The other columns are re-implementations of published test statistics, driven
by the same mutants: they say what each statistic can see, not what a project ships. Every one judges a sampler of one
fixed pair of rows (the same p and q at all positions and rows), as those tests do; ours uses the standard cases.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from specsim.verification import statistics
from specsim.verification.batched import LOSSLESS, Floats, inverse_cdf, token
from specsim.verification.batched_lossy import LOSSY
from specsim.verification.batched_nodes import SAMPLERS
from specsim.verification.case import Case, random_case, tv
from specsim.verification.chains import chain_law
from specsim.verification.exact import CHAIN_RULES, exact_law
from specsim.verification.mutants import MUTANTS, Mutant
from specsim.verification.node_oracle import check_node_sampler
from specsim.verification.oracle import check_sampler
from specsim.verification.pipeline import check_pipeline, controls
from specsim.verification.suite import Group, standard_cases

Sampler = Callable[..., tuple[np.ndarray, np.ndarray]]


@dataclass
class Numbers:
    """What was measured: kills by test, false alarms by rule and level, seconds, rates."""

    kills: dict[str, dict[str, bool]] = field(default_factory=dict)
    distances: dict[str, float] = field(default_factory=dict)
    small_p_values: dict[str, dict[float, float]] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    engines: dict[str, bool] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)


def softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def rounds(sampler: Sampler, p: Floats, q: Floats, gamma: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Emitted tokens of n rounds with the same p and q at every position."""
    drafts = inverse_cdf(np.broadcast_to(q, (n * gamma, len(q))), rng.random(n * gamma)).reshape(n, gamma)
    target, draft = np.tile(p, (n, gamma + 1, 1)), np.tile(q, (n, gamma, 1))
    return sampler(target, draft, drafts, rng)[0]


def shares(tokens: np.ndarray, vocab: int) -> Floats:
    seen = tokens[tokens >= 0]
    return np.asarray(np.bincount(seen, minlength=vocab) / max(len(seen), 1))


def l2_ratio(sampler: Sampler, rng: np.random.Generator) -> bool:
    """Distance to p at many samples against few must improve far more than to unrelated laws (vLLM v1's statistic)."""
    vocab, gamma = 10, 2
    p, q = softmax(rng.random(vocab)), softmax(rng.random(vocab))
    others = softmax(rng.random((20, vocab)))
    near, far = [], []
    for n in (10, 50_000):
        seen = shares(rounds(sampler, p, q, gamma, n, rng)[:, :gamma], vocab)  # the bonus column is left out
        near.append(np.linalg.norm(seen - p))
        far.append(np.mean(np.linalg.norm(seen - others, axis=1)))
    return bool(near[0] / near[1] < 20 * far[0] / far[1])


def chi_square(vocab: int, n: int, gamma: int) -> Callable[[Sampler, np.random.Generator], bool]:
    """Chi-square of each position over the rows that reached it, threshold df + 10 sqrt(2 df) (vLLM v2's statistic)."""

    def test(sampler: Sampler, rng: np.random.Generator) -> bool:
        logits = rng.standard_normal(vocab)
        p, q = softmax(logits), softmax(-logits)
        seen = np.concatenate([rounds(sampler, p, q, gamma, min(4096, n), rng) for _ in range(max(n // 4096, 1))])
        for i in range(gamma + 1):
            column = seen[seen[:, i] >= 0, i]
            if len(column) < 5 * vocab and i:
                continue
            wanted = len(column) * p
            value = ((np.bincount(column, minlength=vocab) - wanted) ** 2 / wanted).sum()
            if value > vocab - 1 + 10 * np.sqrt(2 * (vocab - 1)):
                return True
        return False

    return test


def divergence_of_first_token(sampler: Sampler, rng: np.random.Generator) -> bool:
    """|KL(p to speculative sample) - KL(p to direct sample)| < 0.01 on first tokens (TensorRT-LLM's statistic)."""
    vocab, kept, n = 500, 100, 50_000
    rows = []
    for _ in range(2):
        row = np.zeros(vocab)
        row[rng.permutation(vocab)[:kept]] = 0.8 + 0.2 * rng.random(kept)
        rows.append(row / row.sum())
    p, q = rows
    drafted = np.concatenate([rounds(sampler, p, q, 1, 2_500, rng)[:, 0] for _ in range(n // 2_500)])
    direct = rng.choice(vocab, size=n, p=p)

    def kl(sample: np.ndarray) -> float:
        seen = np.bincount(sample, minlength=vocab) / len(sample)
        inside = p > 0
        return float((p[inside] * np.log(p[inside] / np.maximum(seen[inside], 1e-10))).sum())

    return abs(kl(drafted) - kl(direct)) >= 0.01


def smell(sampler: Sampler, rng: np.random.Generator) -> bool:
    """One-step chi-square at p < 1e-7 on a few fixed and twenty random pairs, 10,000 draws each."""
    pairs: list[tuple[Floats, Floats]] = [
        (np.array([0.5, 0.5]), np.array([0.9, 0.1])),
        (np.array([1.0, 0.0]), np.array([0.5, 0.5])),
        (np.array([0.0, 1.0]), np.array([1.0, 0.0])),
        (np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5])),
    ]
    for _ in range(20):
        vocab = int(rng.integers(2, 28))
        pairs.append((rng.dirichlet(np.ones(vocab)), rng.dirichlet(np.ones(vocab))))
    for p, q in pairs:
        tokens = rounds(sampler, p, q, 1, 10_000, rng)[:, 0]
        counts = {(int(x),): int(n) for x, n in zip(*np.unique(tokens, return_counts=True), strict=True)}
        if statistics.fit(counts, {(x,): float(m) for x, m in enumerate(p)}).p_value < 1e-7:
            return True
    return False


def ours(level: str, detect_tv: float) -> Callable[[Mutant], bool]:
    def test(mutant: Mutant) -> bool:
        level_: object = level
        verdict = check_sampler(mutant.sampler(), mutant.claims, level=level_, detect_tv=detect_tv)  # type: ignore[arg-type]
        return verdict.status == "rejected"

    return test


FIELD: dict[str, Callable[[Sampler, np.random.Generator], bool]] = {
    "L2 ratio": l2_ratio,
    "chi2 wide": chi_square(256, 2_560, 2),
    "chi2 narrow": chi_square(16, 200_000, 2),
    "KL first": divergence_of_first_token,
    "one step": smell,
}
"""Statistics in use, re-implemented; ``chi2 wide`` with 256 tokens for 4,096 and ten trials a bin, as there."""

OURS = {"joint law": ours("statistical", 0.01), "interception": ours("interception", 0.01)}


def kill_table(numbers: Numbers, mutants: tuple[Mutant, ...]) -> None:
    for mutant in mutants:
        numbers.distances[mutant.name] = max(
            float(tv(chain_law(mutant.rule, case.floats()), exact_law(mutant.claims, case.floats())))
            for case in standard_cases()
        )
        row: dict[str, bool] = {}
        for name, test in FIELD.items():
            if mutant.claims == "greedy":
                row[name] = False  # those statistics are of sampling
                continue
            row[name] = test(mutant.sampler(), np.random.default_rng(7))
        for name, judge in OURS.items():
            row[name] = judge(mutant)
        numbers.kills[mutant.name] = row


def false_alarms(numbers: Numbers, *, seeds: int, few: int) -> None:
    """How often the p-value of a right sampler is small; it must be at most the level, but for sampling error."""
    cases = standard_cases()[:2]
    for name, sampler in LOSSLESS.items():
        count = seeds if name in ("token", "block") else few
        numbers.small_p_values[name] = _small(lambda seed, s=sampler, n=name: p_value(s, n, cases, seed), count)
        numbers.seeds[name] = count
    for name in SAMPLERS:
        judged = [
            check_node_sampler(SAMPLERS[name], name, detect_tv=0.1, seed=seed).p_value or 0.0 for seed in range(few)
        ]
        numbers.small_p_values[name] = {level: float(np.mean([p <= level for p in judged])) for level in LEVELS}
        numbers.seeds[name] = few
    options = {"lenience": {"factor": 0.75}, "ensemble": {"weight": 0.75}, "cactus": {"delta": 0.05}}
    for name, given in options.items():
        made = LOSSY[name](**given)
        numbers.small_p_values[name] = _small(
            lambda seed, s=made, n=name, g=given: p_value(s, n, cases, seed, **g), few
        )
        numbers.seeds[name] = few


LEVELS = (0.1, 0.01, 0.001)


def p_value(
    sampler: Sampler, name: str, cases: tuple[Case, ...], seed: int, rows: int = 4_000, **options: object
) -> float:
    """The joint-law p-value of one run with reduced rows, over the cases (Bonferroni)."""
    group, rng = Group(cases), np.random.default_rng(seed)
    case, batch = group.draw(np.full(len(cases), rows), rng, declared=name != "point_mass")
    tokens, _ = sampler(batch.target, batch.draft, batch.tokens, rng)
    codes = group.codes(tokens)
    found = []
    for c, one in enumerate(cases):
        values, times = np.unique(codes[case == c], return_counts=True)
        counts = {group.string_of(int(v)): int(n) for v, n in zip(values, times, strict=True)}
        found.append(statistics.fit(counts, _law(name, one, **options)).p_value)
    return min(1.0, min(found) * len(found))


_LAWS: dict[tuple[str, str], dict] = {}  # type: ignore[type-arg]


def _law(name: str, case: Case, **options: object) -> dict:  # type: ignore[type-arg]
    if (name, case.name) not in _LAWS:
        _LAWS[name, case.name] = exact_law(name, case, **options)
    return _LAWS[name, case.name]


def _small(run: Callable[[int], float], count: int) -> dict[float, float]:
    judged = np.array([run(seed) for seed in range(count)])
    return {level: float((judged <= level).mean()) for level in LEVELS}


def speed(numbers: Numbers) -> None:
    """CPU seconds of enumeration and of a whole check; decisions a second; the token rule against bare numpy."""
    case = random_case(np.random.default_rng(0), vocab=4, gamma=4)
    for name in ("token", "block"):
        numbers.speed[f"exact law, V=4, gamma=4, {name} (s; target 0.2)"] = cpu_s(lambda n=name: exact_law(n, case))
        numbers.speed[f"the same by every branch of the coins, {name} (s; target 0.2)"] = cpu_s(
            lambda n=name: chain_law(CHAIN_RULES[n], case)
        )
    numbers.speed["check_sampler, defaults (s; target 10)"] = cpu_s(lambda: check_sampler(token, "token"), repeats=1)
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(8), size=(8192, 5)), rng.dirichlet(np.ones(8), size=(8192, 4))
    x = inverse_cdf(q.reshape(-1, 8), rng.random(8192 * 4)).reshape(8192, 4)
    numbers.speed["token decisions a second, V=8, million (target 5)"] = (
        8192 * 4 / cpu_s(lambda: token(p, q, x, rng)) / 1e6
    )
    p, q = rng.dirichlet(np.ones(32_000), size=(64, 5)), rng.dirichlet(np.ones(32_000), size=(64, 4))
    x = rng.integers(0, 32_000, (64, 4))
    whole, bare = cpu_s(lambda: token(p, q, x, rng)), cpu_s(lambda: bare_numpy(p, q))
    numbers.speed["token rule over bare numpy, V=32,000, B=64, G=4 (target 2)"] = whole / bare


def bare_numpy(p: Floats, q: Floats) -> np.ndarray:
    """The least that any implementation does a row: one residual, one cumulative sum, one look-up."""
    row = p[:, 0] - q[:, 0]
    np.maximum(row, 0.0, out=row)
    reached = row.cumsum(axis=1)
    return np.array([line.searchsorted(0.5 * line[-1]) for line in reached])


def cpu_s(run: Callable[[], object], *, repeats: int = 5) -> float:
    """Least CPU seconds of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def engines(numbers: Numbers) -> None:
    for name, engine, case in controls():
        numbers.engines[name] = check_pipeline(engine, case).status == "rejected"


def measure(
    *,
    seeds: int = 1_000,
    few: int = 50,
    mutants: tuple[Mutant, ...] = MUTANTS,
    show: Callable[[str], None] = lambda _text: None,
) -> Numbers:
    """All of it, each table shown as it is ready; smaller numbers of seeds and mutants for tests."""
    numbers = Numbers()
    speed(numbers)
    show(speed_table(numbers))
    engines(numbers)
    show(engine_table(numbers))
    kill_table(numbers, mutants)
    show(killed_table(numbers))
    false_alarms(numbers, seeds=seeds, few=few)
    show(alarm_table(numbers))
    return numbers


def killed_table(numbers: Numbers) -> str:
    """Which test rejects which mutant."""
    tests = [*FIELD, *OURS]
    wide = max(map(len, numbers.kills))
    lines = [f"{'mutant':{wide}}  {'TV':>8}  " + "  ".join(f"{name:>12}" for name in tests)]
    for name, row in numbers.kills.items():
        marks = "  ".join(f"{'killed' if row[test] else '-':>12}" for test in tests)
        lines.append(f"{name:{wide}}  {numbers.distances[name]:8.1e}  {marks}")
    total = "  ".join(f"{sum(row[test] for row in numbers.kills.values()):>12}" for test in tests)
    lines.append(f"{f'killed of {len(numbers.kills)}':{wide}}  {'':8}  {total}")
    visible = [name for name, off in numbers.distances.items() if off >= 0.01]
    missed = [name for name in visible if not numbers.kills[name]["joint law"]]
    lines.append(f"at TV 0.01 or more: {len(visible)}; the joint law missed {missed or 'none'} (target none)")
    missed = [name for name, row in numbers.kills.items() if not row["interception"]]
    lines.append(f"interception missed {missed or 'none'} (target none)")
    return "\n".join(lines)


def engine_table(numbers: Numbers) -> str:
    """Faults of engines over several rounds."""
    killed = sum(numbers.engines.values())
    lines = [f"engines over several rounds: {killed} of {len(numbers.engines)} faults rejected"]
    return "\n".join([*lines, *(f"  missed: {name}" for name, seen in numbers.engines.items() if not seen)])


def alarm_table(numbers: Numbers) -> str:
    """How often right samplers get small p-values."""
    heads = "".join(f"{f'p<={level:g}':>10}" for level in LEVELS)
    lines = [f"{'right sampler':32}{'seeds':>6}{heads}  (share; at most the level, but for the error of so few seeds)"]
    for name, small in numbers.small_p_values.items():
        lines.append(f"{name:32}{numbers.seeds[name]:6}" + "".join(f"{small[level]:10.4f}" for level in LEVELS))
    return "\n".join(lines)


def speed_table(numbers: Numbers) -> str:
    """CPU seconds and rates beside their targets."""
    return "\n".join(f"{name:62} {value:8.3f}" for name, value in numbers.speed.items())


if __name__ == "__main__":
    measure(show=lambda text: print(text, end="\n\n", flush=True))
