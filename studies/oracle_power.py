"""What the oracle kills, beside the statistics that engines' own tests use; its false alarms; its speed.

``python -m studies.oracle_power`` prints the committed tables; ``--measure [FOLDER]`` measures anew first (about four
minutes of processor time; ``--tiny`` in seconds). The field's statistics (``field_statistics``) are driven by the same
mutants; ours uses the standard cases.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from specsim.errors import InputError
from specsim.files import replace_file
from specsim.verification.batch_mutants import BATCH_MUTANTS
from specsim.verification.batched import Floats, Ints, inverse_cdf, token
from specsim.verification.case import random_case, tv
from specsim.verification.chains import chain_law
from specsim.verification.exact import CHAIN_RULES, exact_law
from specsim.verification.input_mutants import INPUT_MUTANTS
from specsim.verification.lookup import NodeRuleSampler
from specsim.verification.mutants import MUTANTS, Mutant
from specsim.verification.node_mutants import NODE_MUTANTS
from specsim.verification.node_oracle import check_node_sampler
from specsim.verification.oracle import Level, check_sampler
from specsim.verification.pipeline import check_pipeline, controls
from specsim.verification.suite import small_cases, standard_cases
from studies.diagnoses import diagnoses, named_rightly, summary
from studies.false_alarms import LEVELS, false_alarms, too_often
from studies.field_statistics import FIELD

RESULTS = Path(__file__).parent / "results" / "oracle_power"
TABLES = ("kills", "others", "alarms", "speed", "diagnoses")
DETECT_TV = 0.01
RUNS = {"vLLM v0": 3, "vLLM v1": 3}
"""Runs that must all reject, where a statistic's threshold leaves much to chance; one run for the others."""

OURS = ("text law", "joint law", "interception")


@dataclass(frozen=True)
class Size:
    """How much is measured: mutants, seeds of the token and block rules, seeds of the others."""

    mutants: tuple[Mutant, ...] = MUTANTS
    seeds: int = 1_000
    few: int = 50
    detect_tv: float = DETECT_TV


TINY = Size(tuple(m for m in MUTANTS if m.name in ("accepts everything", "acceptance by the next row")), 20, 4, 0.05)


@dataclass(frozen=True)
class Power:
    """Tables: kills of chain mutants by test, of other mutants by level, small p-values of right samplers, speed, and
    what mistakes are said to be.
    """

    kills: pd.DataFrame
    others: pd.DataFrame
    alarms: pd.DataFrame
    speed: pd.DataFrame
    diagnoses: pd.DataFrame

    @property
    def reached(self) -> dict[str, bool]:
        """Each target by name."""
        k, a = self.kills, self.alarms
        seen, wanted = self.speed["value"], self.speed["target"]
        return {
            "interception kills every law that differs": bool(k.loc[k["tv_small"] > 0, "interception"].all()),
            f"the joint law kills every law at TV {DETECT_TV:g} or more": bool(
                k.loc[k["tv"] >= DETECT_TV, "joint law"].all()
            ),
            "no mistake is given another's name": named_rightly(self.diagnoses),
            "every other mutant is killed": bool(self.others["killed"].all()),
            "right samplers' p-values are super-uniform": not any(
                too_often(share, seeds, level)
                for level in LEVELS
                for share, seeds in zip(a[f"p<={level:g}"], a["seeds"], strict=True)
            ),
            "speed": bool(np.where(self.speed["at_least"], seen >= wanted, seen <= wanted).all()),
        }


def measure(size: Size, folder: Path, say: Callable[[str], None]) -> None:
    """Measure every table and write it; a line after each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (
        ("speed", speed()),
        ("alarms", false_alarms(size.seeds, size.few)),
        ("others", others()),
        ("kills", kills(size)),
        ("diagnoses", diagnoses(size.mutants, size.detect_tv)),
    ):
        start = time.process_time()
        table = pd.DataFrame(list(rows))
        replace_file(folder / f"{name}.csv", partial(table.to_csv, index=False))
        say(f"{name}: {len(table)} rows, {time.process_time() - start:.0f} s of processor time")


def read(folder: Path = RESULTS) -> Power:
    """The tables of a folder. Raises InputError where one is missing."""
    for name in TABLES:
        if not (folder / f"{name}.csv").is_file():
            raise InputError(f"{folder} has no {name}.csv: measure with --measure", field="results")
    return Power(*(pd.read_csv(folder / f"{name}.csv", keep_default_na=False) for name in TABLES))


def kills(size: Size) -> Iterator[dict[str, object]]:
    """A row for every chain mutant: its distance from its claim, and which test rejects it."""
    for mutant in size.mutants:
        sampler = mutant.sampler()
        row: dict[str, object] = {"mutant": mutant.name, "claims": mutant.claims, "seen": mutant.seen}
        row["tv"] = max(_off(mutant, case) for case in standard_cases())
        row["tv_small"] = max(_off(mutant, case) for case in small_cases())
        for name, test in FIELD.items():
            seeds = range(7, 7 + RUNS.get(name, 1))
            sampled = mutant.claims != "greedy"  # those statistics are of sampling
            row[name] = sampled and all(test(sampler, np.random.default_rng(seed)) for seed in seeds)
        judged: dict[str, tuple[str | None, Level]] = {
            "text law": (None, "statistical"),
            "joint law": (mutant.claims, "statistical"),
            "interception": (mutant.claims, "interception"),
        }
        for name, (claim, level) in judged.items():
            if claim is None and mutant.claims == "greedy":
                row[name] = False  # its text has no law but the argmax
                continue
            verdict = check_sampler(sampler, claim, level=level, detect_tv=size.detect_tv)
            row[name] = verdict.status == "rejected"
        yield row


def _off(mutant: Mutant, case: object) -> float:
    floats = case.floats()  # type: ignore[attr-defined]
    return float(tv(chain_law(mutant.rule, floats), exact_law(mutant.claims, floats)))


def others() -> Iterator[dict[str, object]]:
    """A row for every other mutant: what kind, the level that judges it, whether that rejects it."""
    for batch in BATCH_MUTANTS:
        levels: tuple[Level, ...] = ("statistical", "metamorphic")
        for level in levels:
            verdict = check_sampler(batch, "token", level=level, detect_tv=0.03)
            yield _row("batch", batch.name, level, verdict.status == "rejected")
    for wrong in INPUT_MUTANTS:
        verdict = check_sampler(wrong, "token", level=wrong.level, takes=wrong.takes)
        yield _row("input", wrong.name, wrong.level, not verdict.passed)
    for node in NODE_MUTANTS:
        rule = NodeRuleSampler(node.rule)
        verdict = check_node_sampler(rule, node.claims, drafting=node.drafting, detect_tv=0.03)
        yield _row("node", node.name, "joint law of a node", verdict.status == "rejected")
    for name, engine, case in controls():
        yield _row("engine", name, "pipeline", check_pipeline(engine, case).status == "rejected")


def _row(kind: str, name: str, level: str, killed: bool) -> dict[str, object]:  # noqa: FBT001
    return {"kind": kind, "mutant": name, "level": level, "killed": killed}


def speed() -> Iterator[dict[str, object]]:
    """CPU seconds of enumeration and of a whole check; decisions a second; the token rule against bare numpy."""

    def row(what: str, value: float, target: float, *, at_least: bool = False) -> dict[str, object]:
        return {"what": what, "value": round(value, 4), "target": target, "at_least": at_least}

    case = random_case(np.random.default_rng(0), vocab=4, gamma=4)
    for name in ("token", "block"):
        yield row(f"exact law, V=4, gamma=4, {name}, s", _cpu_s(lambda n=name: exact_law(n, case)), 0.2)
        enumerated = _cpu_s(lambda n=name: chain_law(CHAIN_RULES[n], case))
        yield row(f"the same by every branch of the coins, {name}, s", enumerated, 0.2)
    yield row("check_sampler, defaults, s", _cpu_s(lambda: check_sampler(token, "token"), repeats=1), 10.0)
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(8), size=(8192, 5)), rng.dirichlet(np.ones(8), size=(8192, 4))
    x = inverse_cdf(q.reshape(-1, 8), rng.random(8192 * 4)).reshape(8192, 4)
    rate = 8192 * 4 / _cpu_s(lambda: token(p, q, x, rng)) / 1e6
    yield row("token decisions, V=8, million a second", rate, 5.0, at_least=True)
    p, q = rng.dirichlet(np.ones(32_000), size=(64, 5)), rng.dirichlet(np.ones(32_000), size=(64, 4))
    x = rng.integers(0, 32_000, (64, 4))
    whole, bare = _cpu_s(lambda: token(p, q, x, rng)), _cpu_s(lambda: _bare_numpy(p, q))
    yield row("token rule over bare numpy, V=32,000, B=64, G=4", whole / bare, 2.0)


def _bare_numpy(p: Floats, q: Floats) -> Ints:
    """The least that any implementation does a row: one residual, one cumulative sum, one look-up."""
    row = p[:, 0] - q[:, 0]
    np.maximum(row, 0.0, out=row)
    reached = row.cumsum(axis=1)
    return np.array([line.searchsorted(0.5 * line[-1]) for line in reached])


def _cpu_s(run: Callable[[], object], *, repeats: int = 5) -> float:
    """Least CPU seconds of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def report(power: Power) -> str:
    """The tables and the targets in words."""
    k = power.kills
    tests = [*FIELD, *OURS]
    marks = k[["mutant", "tv"]].assign(**{name: np.where(k[name], "x", "") for name in tests})
    marks["tv"] = [f"{value:.1e}" for value in k["tv"]]
    totals = {"mutant": f"killed of {len(k)}", "tv": "", **{name: str(int(k[name].sum())) for name in tests}}
    alive = [f"{o.kind}: {o.mutant} ({o.level})" for o in power.others.itertuples() if not o.killed]
    by_kind = power.others.groupby("kind", sort=False)["killed"].agg(["sum", "size"])
    parts = [
        _table(pd.concat([marks, pd.DataFrame([totals])])),
        "other mutants: " + ", ".join(f"{kind} {row['sum']} of {row['size']}" for kind, row in by_kind.iterrows()),
        *([f"not killed: {'; '.join(alive)}"] if alive else []),
        summary(power.diagnoses),
        "share of right samplers' runs with small p-values (at most the level, but for chance):\n"
        + _table(power.alarms),
        _table(power.speed.assign(at_least=np.where(power.speed["at_least"], "at least", "at most"))),
        "\n".join(f"{'reached' if met else 'MISSED'}: {name}" for name, met in power.reached.items()),
    ]
    return "\n\n".join(parts)


def _table(frame: pd.DataFrame) -> str:
    cells = [[str(name) for name in frame.columns], *([str(x) for x in row] for row in frame.itertuples(index=False))]
    wide = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(f"{x:{w}}" for x, w in zip(line, wide, strict=True)).rstrip() for line in cells)


def main(arguments: list[str] | None = None) -> None:
    """Print the tables; measure first where asked."""
    parser = argparse.ArgumentParser(prog="python -m studies.oracle_power", description=__doc__)
    parser.add_argument("--measure", nargs="?", const=RESULTS, default=None, type=Path, metavar="FOLDER")
    parser.add_argument("--results", default=RESULTS, type=Path, metavar="FOLDER", help="tables to print")
    parser.add_argument("--tiny", action="store_true", help="two mutants and few seeds, for trying it out")
    asked = parser.parse_args(arguments)
    if asked.measure is not None:
        measure(TINY if asked.tiny else Size(), asked.measure, lambda line: print(line, flush=True))
    print(report(read(asked.measure or asked.results)))


if __name__ == "__main__":
    main()
