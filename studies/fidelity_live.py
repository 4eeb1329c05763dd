"""A real speculative-decoding run on a CPU, and its prediction from microbenchmarks alone.

``python -m studies.fidelity_live`` prints the comparison from the committed raw results;
``--measure [FOLDER]`` measures anew on this machine first (about a quarter of an hour; ``--tiny`` in seconds).

Costs of passes and of the host come from microbenchmarks that were interleaved with the live runs; acceptance from the
imposed curve, or from the counted pair's laws run without a transformer. No live time enters a prediction.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from specsim.errors import InputError
from studies.live_experiment import TINY, Grid, measure
from studies.live_prediction import Costs, predict

RESULTS = Path(__file__).parent / "results" / "fidelity_live"
CASE = ["pair", "context", "batch"]
MEDIAN, OF_SPREAD, P95, WITHIN, CASES = 0.05, 1.5, 0.12, 0.03, 15 / 16


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
        cells = self.cells[self.cells["k"] > 0]
        return (cells["predicted_speedup"] / cells["speedup"] - 1.0).abs()

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
        names = ("live", "passes", "host", "acceptance")
        live, passes, host, acceptance = (pd.read_parquet(folder / f"{name}.parquet") for name in names)
        machine = json.loads((folder / "machine.json").read_text())
    except FileNotFoundError as error:
        problem = f"no raw results here ({error.filename} is missing); measure with --measure"
        raise InputError(problem, file=str(folder)) from error
    visits = _measured(live)
    visits = visits.join(_predicted(visits, passes, host, acceptance, machine["grid"]["rounds"]))
    cells = _typical(visits)
    spread = float(cells.loc[cells["k"] > 0, "spread"].median())
    return Comparison(cells, _choices(cells), spread, machine)


def _predicted(
    visits: pd.DataFrame, passes: pd.DataFrame, host: pd.DataFrame, acceptance: pd.DataFrame, rounds: int
) -> pd.DataFrame:
    """Every visit's cells from the microbenchmarks of the same visit, which were interleaved with its live rounds."""
    where = [*CASE, "repeat"]
    micro = dict(iter(passes.groupby(where))), dict(iter(host.groupby(where)))
    rows = []
    for case, part in visits.groupby(where):
        costs = Costs.of(micro[0][case], micro[1][case])
        pair, context, batch, repeat = case
        for k in part.index.get_level_values("k"):
            each = _tokens_per_round(pair, k, acceptance)
            how = {"batch": batch, "context": context, "k": k, "rounds": rounds}
            rate, phases = predict(costs, **how, tokens_per_round=each)
            seconds = {f"predicted_{name}_s": value for name, value in phases.items()}
            rows.append(
                dict(zip(CASE, case[:3], strict=True)) | {"k": k, "repeat": repeat, "predicted_per_s": rate} | seconds
            )
    table = pd.DataFrame(rows).set_index([*CASE, "k", "repeat"])
    plain = table.xs(0, level="k")["predicted_per_s"].rename("plain_predicted")
    table = table.join(plain, on=where)
    table["predicted_speedup"] = table["predicted_per_s"] / table.pop("plain_predicted")
    return table


def _measured(live: pd.DataFrame) -> pd.DataFrame:
    """Throughput, speedup and seconds of a round by phase, of each visit."""
    live = live.astype({c: float for c in live.columns if c.endswith("_s")})
    live["draft_s"] = live["draft_s"].fillna(0.0)
    live["host_s"] += live.pop("sampling_s")
    live["busy_s"] = live["draft_s"] + live["verify_s"] + live["host_s"]
    visits = live.groupby([*CASE, "k", "repeat"]).agg(
        tokens=("tokens", "sum"), rounds=("tokens", "size"), busy_s=("busy_s", "sum"), wall_s=("wall_s", "sum"),
        draft_s=("draft_s", "mean"), verify_s=("verify_s", "mean"), host_s=("host_s", "mean"),
    )  # fmt: skip
    visits["per_s"] = visits["tokens"] / visits["busy_s"]
    visits["per_round"] = visits["tokens"] / visits["rounds"] / visits.index.get_level_values("batch")
    visits["stolen"] = 1.0 - visits["busy_s"] / visits["wall_s"]
    plain = visits.xs(0, level="k")["per_s"].rename("plain")
    visits = visits.join(plain, on=[*CASE, "repeat"])
    visits["speedup"] = visits["per_s"] / visits["plain"]
    return visits


def _typical(visits: pd.DataFrame) -> pd.DataFrame:
    """Middle means over visits; ``spread`` is the standard deviation of the measured speedup over its mean."""
    groups = visits.groupby([*CASE, "k"])
    cells = groups.agg(_middle_mean)
    cells["spread"] = groups["speedup"].std() / groups["speedup"].mean()
    return cells.reset_index()


def _middle_mean(values: pd.Series) -> float:
    """Mean without the lowest and highest quarter: one disturbed visit counts for nothing."""
    ordered = np.sort(values.to_numpy())
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


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
    loads = [load[0] for load in machine["load_average"]]
    out = [
        (
            f"{machine['cpu']}, {machine['threads']} thread, torch {machine['torch']}, {machine['date']}; "
            f"clock: {machine['clock']}"
        ),
        (
            f"load average {min(loads):.2f} to {max(loads):.2f} while measuring (1 is this run); "
            f"wall time taken by others: median {cells['stolen'].median():.1%}, most {cells['stolen'].max():.1%}"
        ),
        f"spread of the speedup between repeats: median {found.spread:.1%}, most {cells['spread'].max():.1%}",
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
    out += ["", "error by group", f"  {'':42}{'speedup':>16}{'tokens/s':>16}{'draft':>9}{'verify':>9}{'host':>9}"]
    rate = (cells["predicted_per_s"] / cells["per_s"] - 1.0).abs()
    groups = {"all": cells.index == cells.index} | {
        f"{name} {value}": cells[name] == value for name in ("pair", "batch", "context", "k") for value in
        cells[name].unique()
    }  # fmt: skip
    for name, mask in groups.items():
        speed = errors[mask[errors.index] if isinstance(mask, pd.Series) else slice(None)]
        parts = [
            (cells.loc[mask, f"predicted_{p}_s"] / cells.loc[mask, f"{p}_s"].replace(0.0, np.nan)).median() - 1.0
            for p in ("draft", "verify", "host")
        ]
        texts = [f"{q.median():6.1%} / {q.quantile(0.95):5.1%}" if len(q) else "" for q in (speed, rate[mask])]
        out.append(f"  {name:42}" + "".join(f"{t:>16}" for t in texts) + "".join(f"{p:9.1%}" for p in parts))
    out.append("  (speedup and tokens/s: median / p95 of |error|; phases: median signed error of seconds a round)")
    out += ["", "K chosen by the prediction, and what it loses against the best measured"]
    for row in found.choices.itertuples():
        mark = "" if row.regret <= WITHIN else "  <- more than 3 %"
        out.append(
            f"  {row.pair:42} context {row.context:4d} batch {row.batch}: chose {row.chosen}, best {row.best}, "
            f"loses {row.regret:5.1%}{mark}"
        )
    reached, limit = found.reached, max(MEDIAN, OF_SPREAD * found.spread)
    verdict = {True: "reached", False: "MISSED"}
    out += [
        "",
        f"median error of speedup {errors.median():.1%}, target <= {limit:.1%}: {verdict[reached['median']]}",
        f"p95 error of speedup {errors.quantile(0.95):.1%}, target <= {P95:.0%}: {verdict[reached['p95']]}",
        (
            f"best K within 3 % in {found.chosen_well} of {len(found.choices)} cases, "
            f"target {CASES * len(found.choices):.0f}: {verdict[reached['best K']]}"
        ),
    ]
    return "\n".join(out)


def main(arguments: list[str] | None = None) -> None:
    """Print the comparison; measure first where asked."""
    parser = argparse.ArgumentParser(prog="python -m studies.fidelity_live", description=__doc__)
    parser.add_argument("--measure", nargs="?", const=RESULTS, default=None, type=Path, metavar="FOLDER")
    parser.add_argument("--results", default=RESULTS, type=Path, metavar="FOLDER", help="raw results to print")
    parser.add_argument("--tiny", action="store_true", help="a few seconds of measuring, for trying it out")
    asked = parser.parse_args(arguments)
    if asked.measure is not None:
        measure(TINY if asked.tiny else Grid(), asked.measure, lambda line: print(line, flush=True))
    print(report(compare(asked.measure or asked.results)))


if __name__ == "__main__":
    main()
