"""A real speculative-decoding run on a CPU, and its prediction from a profile of microbenchmarks alone.

``python -m studies.fidelity_live`` prints the comparison from the committed raw results;
``--measure [FOLDER]`` measures anew on this machine first (half an hour; ``--tiny`` in seconds), ``--fit`` makes the
profiles again from the samples that are there.

Kernels are measured as ``specsim calibrate`` does, interleaved with the live runs; a profile is fitted to them, and
rounds are priced from it as ``specsim calibrate check`` does. Acceptance comes from the imposed curve, or from the
counted pair's laws run without a transformer. No live time enters a prediction. Beside it stands the prediction from
passes that were timed as a whole: what the two differ by is lost by composing kernels.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from calibration.live.pairs import PAIRS
from calibration.measure.samples import middle_mean
from specsim.errors import InputError
from studies.live_experiment import TINY, Grid, fit, measure
from studies.live_prediction import Costs, WholePasses, predict

RESULTS = Path(__file__).parent / "results" / "fidelity_live"
CASE = ["pair", "context", "batch"]
MEDIAN, OF_SPREAD, P95, WITHIN, CASES = 0.05, 1.5, 0.12, 0.03, 15 / 16
WAYS = {"predicted": "from kernels, through the profile", "whole": "from passes timed as a whole"}
"""Predictions by the prefix of their columns: the one that is judged, and the one beside it."""


@dataclass(frozen=True)
class Comparison:
    """cells: a row for every case and K, measured and predicted. spread: of repeated measurements of the speedup."""

    cells: pd.DataFrame
    choices: pd.DataFrame
    spread: float
    machine: dict[str, object]

    @property
    def errors(self) -> pd.Series:
        """|predicted / measured - 1| of the speedup over plain decoding, K > 0."""
        return self.errors_of("predicted")

    def errors_of(self, way: str) -> pd.Series:
        """The same of one of ``WAYS``."""
        cells = self.cells[self.cells["k"] > 0]
        return (cells[f"{way}_speedup"] / cells["speedup"] - 1.0).abs()

    @property
    def chosen_well(self) -> int:
        """Cases in which the K that is predicted best is within 3 % of the best measured throughput."""
        return int((self.choices["regret"] <= WITHIN).sum())

    @property
    def reached(self) -> dict[str, bool]:
        """Each target by name."""
        return {
            "median": bool(self.errors.median() <= max(MEDIAN, OF_SPREAD * self.spread)),
            "p95": bool(self.errors.quantile(0.95) <= P95),
            "best K": bool(self.chosen_well >= CASES * len(self.choices)),
        }


def compare(folder: Path = RESULTS) -> Comparison:
    """Read raw results and predict every cell; InputError where there are none."""
    try:
        live, passes, lookups, acceptance = (
            pd.read_parquet(folder / f"{name}.parquet") for name in ("live", "passes", "lookups", "acceptance")
        )
        machine = json.loads((folder / "machine.json").read_text())
    except FileNotFoundError as error:
        problem = f"no raw results here ({error.filename} is missing); measure with --measure"
        raise InputError(problem, file=str(folder)) from error
    cells = _measured(live)
    cells = cells.join(_predicted(cells, folder, passes, lookups, acceptance, machine["grid"]["rounds"])).reset_index()
    return Comparison(cells, _choices(cells), float(cells.loc[cells["k"] > 0, "spread"].median()), machine)


def _predicted(
    cells: pd.DataFrame,
    folder: Path,
    passes: pd.DataFrame,
    lookups: pd.DataFrame,
    acceptance: pd.DataFrame,
    rounds: int,
) -> pd.DataFrame:
    """Tokens a second, speedup and parts of a round of every cell, both ways."""
    rows = []
    for pair in PAIRS:
        costs = Costs.read(folder, pair, lookups)
        whole = WholePasses.of(passes[passes["pair"] == pair.name])
        for name, context, batch, k in cells.index:
            if name != pair.name:
                continue
            row = {"pair": name, "context": context, "batch": batch, "k": k}
            how = {"batch": batch, "context": context, "k": k, "rounds": rounds}
            for way, of in (("predicted", None), ("whole", whole)):
                rate, parts = predict(costs, of, **how, tokens_per_round=_tokens_per_round(name, k, acceptance))
                row |= {f"{way}_per_s": rate} | {f"{way}_{part}_s": value for part, value in parts.items()}
            rows.append(row)
    table = pd.DataFrame(rows).set_index([*CASE, "k"])
    for way in WAYS:
        plain = table.xs(0, level="k")[f"{way}_per_s"].rename("plain")
        table[f"{way}_speedup"] = table[f"{way}_per_s"] / table.join(plain, on=CASE)["plain"]
    return table


def _measured(live: pd.DataFrame) -> pd.DataFrame:
    """Throughput, speedup and seconds of a round by part of every cell; ``spread`` between repeats over the mean.

    Of every repeat the median round, as a visit to a kernel is its median sample; of repeats, as of visits, the middle
    mean. Tokens a round are counted over all contexts and batches, since one cell has few rounds and acceptance depends
    on neither (of an n-gram on the last bytes, where it is imposed on nothing).
    """
    parts = [c for c in live.columns if c.endswith("_s") and c != "wall_s"]
    live = live.astype(dict.fromkeys([*parts, "wall_s"], float)).fillna({"draft_s": 0.0})
    live["busy_s"] = live[parts].sum(axis=1)
    where = [*CASE, "k"]
    repeats = live.groupby([*where, "repeat"])[[*parts, "busy_s", "wall_s"]].median()
    cells = repeats.groupby(where).agg(lambda x: middle_mean(x.to_numpy()))
    gained = live.groupby(["pair", "k"])[["tokens", "batch"]].sum()
    cells = cells.join((gained["tokens"] / gained["batch"]).rename("per_round"), on=["pair", "k"])
    cells["per_s"] = cells["per_round"] * cells.index.get_level_values("batch") / cells["busy_s"]
    cells["stolen"] = 1.0 - cells["busy_s"] / cells["wall_s"]
    each = cells["per_round"].reindex(repeats.index.droplevel("repeat")).to_numpy() / repeats["busy_s"]
    speedups = _speedup(each, [*CASE, "repeat"]).groupby(where)
    cells["speedup"] = speedups.agg(lambda x: middle_mean(x.to_numpy()))  # of one visit: visits differ more than K do
    cells["spread"] = speedups.std() / speedups.mean()
    return cells


def _speedup(rate: pd.Series, case: list[str]) -> pd.Series:
    plain = rate.xs(0, level="k").rename("plain")
    return rate / rate.to_frame("rate").join(plain, on=case)["plain"]


def _tokens_per_round(pair: str, k: int, acceptance: pd.DataFrame) -> float:
    real = acceptance[acceptance["pair"] == pair]
    if k == 0:
        return 1.0
    if not real.empty:
        return 1.0 + float(real.loc[real["k"] == k, "survival"].sum())
    return 1.0 + sum(0.8 ** (i + 1) for i in range(k))


def _choices(cells: pd.DataFrame) -> pd.DataFrame:
    """The K of the highest predicted throughput in each case, and what it loses of the highest measured.

    By throughput over plain decoding of the same visit: visits differ in speed by more than K near the best do.
    """
    rows = []
    for case, part in cells.groupby(CASE):
        part = part.set_index("k")
        chosen, best = part["predicted_speedup"].idxmax(), part["speedup"].idxmax()
        regret = 1.0 - part.loc[chosen, "speedup"] / part.loc[best, "speedup"]
        rows.append(dict(zip(CASE, case, strict=True)) | {"chosen": chosen, "best": best, "regret": regret})
    return pd.DataFrame(rows)


def report(found: Comparison) -> str:
    """The tables, every group, targets beside measured values."""
    machine, cells, errors = found.machine, found.cells, found.errors
    device = machine["device"]
    loads, repeats = [load[0] for load in machine["load_average"]], machine["grid"]["repeats"]
    out = [
        (
            f"{device['name']}, {device['threads']} thread, torch {device['versions']['torch']}, {machine['date']}; "
            f"clock: {machine['clock']}"
        ),
        (
            f"load average {min(loads):.2f} to {max(loads):.2f} while measuring (1 is this run); "
            f"wall time taken by others: median {cells['stolen'].median():.1%}, most {cells['stolen'].max():.1%}"
        ),
        (
            f"spread of the speedup between repeats: median {found.spread:.1%}, most {cells['spread'].max():.1%}; "
            f"of their mean over {repeats} repeats {found.spread / repeats**0.5:.1%}"
        ),
        "",
        "speedup over plain decoding, measured / predicted, and tokens/s of plain decoding",
    ]
    for pair, part in cells.groupby("pair", sort=False):
        ks = sorted(k for k in part["k"].unique() if k)
        out += ["", f"  {pair}", "  context batch  K=0 tokens/s   " + "".join(f"{f'K={k}':>13}" for k in ks)]
        for (context, batch), case in part.groupby(["context", "batch"]):
            case = case.set_index("k")
            line = f"  {context:7d} {batch:5d}  {case.loc[0, 'per_s']:5.0f} / {case.loc[0, 'predicted_per_s']:5.0f}  "
            out.append(
                line + "".join(f"{case.loc[k, 'speedup']:7.2f}/{case.loc[k, 'predicted_speedup']:5.2f}" for k in ks)
            )
    groups = {"all": cells.index == cells.index} | {
        f"{name} {value}": (cells[name] == value).to_numpy()
        for name in ("pair", "batch", "context", "k")
        for value in cells[name].unique()
    }
    for way, what in WAYS.items():
        out += ["", f"error {what}", f"  {'':42}{'speedup':>16}{'tokens/s':>16}" + "".join(f"{p:>10}" for p in SHOWN)]
        rate, speedup = (cells[f"{way}_per_s"] / cells["per_s"] - 1.0).abs(), found.errors_of(way)
        for name, mask in groups.items():
            speed = speedup[mask[speedup.index]]
            texts = [f"{q.median():6.1%} / {q.quantile(0.95):5.1%}" if len(q) else "" for q in (speed, rate[mask])]
            shares = [_share(cells[mask], way, part) for part in SHOWN]
            out.append(f"  {name:42}" + "".join(f"{t:>16}" for t in texts) + "".join(f"{x:10.1%}" for x in shares))
    out.append("  (speedup and tokens/s: median / p95 of |error|; parts: mean signed error as a share of the round)")
    out += ["", "K chosen by the prediction, and what it loses against the best measured"]
    for row in found.choices.itertuples():
        mark = "" if row.regret <= WITHIN else "  <- more than 3 %"
        out.append(
            f"  {row.pair:42} context {row.context:4d} batch {row.batch}: chose {row.chosen}, best {row.best}, "
            f"loses {row.regret:5.1%}{mark}"
        )
    reached, limit = found.reached, max(MEDIAN, OF_SPREAD * found.spread)
    verdict = {True: "reached", False: "MISSED"}
    composed, whole = errors.median(), found.errors_of("whole").median()
    gaps = {part: _share(cells, "predicted", part) for part in SHOWN}
    worst = max(gaps, key=lambda part: abs(gaps[part]))
    out += [
        "",
        f"median error of speedup {composed:.1%}, target <= {limit:.1%}: {verdict[reached['median']]}",
        f"p95 error of speedup {errors.quantile(0.95):.1%}, target <= {P95:.0%}: {verdict[reached['p95']]}",
        (
            f"best K within 3 % in {found.chosen_well} of {len(found.choices)} cases, "
            f"target {CASES * len(found.choices):.0f}: {verdict[reached['best K']]}"
        ),
        f"passes timed as a whole: median error {whole:.1%}; composing kernels adds {composed - whole:+.1%}",
        f"most of what rounds from kernels miss is {worst}: {gaps[worst]:+.1%} of a round",
    ]
    return "\n".join(out)


SHOWN = ("draft", "verify", "sampling", "host")
"""Parts that the engine's stopwatch tells apart; attention is inside ``verify``."""


def _share(cells: pd.DataFrame, way: str, part: str) -> float:
    """Mean of (predicted - measured) over the measured round."""
    inside = [part, "attention"] if part == "verify" else [part]
    predicted = sum(cells[f"{way}_{name}_s"] for name in inside)
    return float(((predicted - cells[f"{part}_s"]) / cells["busy_s"]).mean())


def main(arguments: list[str] | None = None) -> None:
    """Print the comparison; measure first where asked."""
    parser = argparse.ArgumentParser(prog="python -m studies.fidelity_live", description=__doc__)
    parser.add_argument("--measure", nargs="?", const=RESULTS, default=None, type=Path, metavar="FOLDER")
    parser.add_argument("--fit", action="store_true", help="make the profiles again from the kernels' samples")
    parser.add_argument("--results", default=RESULTS, type=Path, metavar="FOLDER", help="raw results to print")
    parser.add_argument("--tiny", action="store_true", help="a few seconds of measuring, for trying it out")
    asked = parser.parse_args(arguments)
    if asked.measure is not None:
        measure(TINY if asked.tiny else Grid(), asked.measure, lambda line: print(line, flush=True))
    folder = asked.measure or asked.results
    if asked.measure is not None or asked.fit:
        fit(folder)
    print(report(compare(folder)))


if __name__ == "__main__":
    main()
