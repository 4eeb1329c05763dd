"""What one GPU says of verification: its cost by query tokens, its knee, "batch times q", and drafting by depth.

``OUT=FOLDER calibration/run_gpu.sh`` measures; ``python -m studies.verify_surface FOLDER`` prints the answers,
``--figures FOLDER`` draws a picture of each, ``--against FOLDER`` tells how far a second run on such a device agrees.
Every number is a median over repeats of what was timed; nothing is fitted but where a line says so.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from specsim.errors import InputError
from studies.measured_data import run_study

HEADS = ["heads", "kv_heads", "head_dim"]
WHERE = [*HEADS, "kv_tokens", "batch"]
PASS = ["model", "layers", "mode", "kv_tokens", "batch"]
KNEE = 0.1
"""More than one query token costs by which a knee is told."""


@dataclass(frozen=True)
class Measured:
    """Medians in microseconds of one folder.

    attention: by ``WHERE``, query_tokens and kernel; ``default`` is 1 for the kernel that PyTorch takes by itself.
    steps: whole passes by ``PASS`` and query_tokens. machine: the device, versions, date and clocks.
    """

    attention: pd.DataFrame
    steps: pd.DataFrame
    machine: dict[str, Any]

    @property
    def fastest(self) -> pd.DataFrame:
        """Attention through the fastest kernel of each point."""
        return self.attention.loc[self.attention.groupby([*WHERE, "query_tokens"])["latency_us"].idxmin()]

    @property
    def deepest(self) -> pd.DataFrame:
        """Passes of the model with most layers: the target."""
        return self.steps[self.steps["layers"] == self.steps["layers"].max()]


def read(folder: Path) -> Measured:
    """The tables of a folder; InputError where they are missing, empty or of another make."""
    try:
        machine = json.loads((folder / "machine.json").read_text())
        dict(machine["device"]["versions"], name=machine["device"]["name"], of=(machine["dtype"], machine["date"]))
        attention = pd.read_csv(folder / "attention.csv")
        attention = attention[(attention["status"] == "ok") & (attention["op"] == "attention")]
        points = attention.groupby([*WHERE, "query_tokens", "kernel"], as_index=False)
        medians = points.agg({"latency_us": "median", "default": "max"})
        steps = pd.read_csv(folder / "steps.csv")
        passes = steps.groupby([*PASS, "query_tokens"], as_index=False)["latency_us"].median()
    except FileNotFoundError as error:
        problem = f"lacks {Path(error.filename).name}; OUT={folder} calibration/run_gpu.sh measures it"
        raise InputError(problem, file=str(folder)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"is damaged, or no tables of calibration/run_gpu.sh ({error})", file=str(folder)) from None
    if medians.empty or not (medians["latency_us"] > 0.0).all():
        raise InputError("attention.csv holds no times, or times that are not positive", file=str(folder))
    return Measured(medians, passes, machine)


def growth(points: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Time of q query tokens over that of one: a row for each of ``by``, a column for each q, and ``one_us``."""
    table = points.pivot_table(index=by, columns="query_tokens", values="latency_us")
    if 1 not in table:
        raise InputError("no point of one query token was measured, which all others are compared with")
    table = table[table[1].notna()]
    return table.div(table[1], axis=0).assign(one_us=table[1])


def knees(grown: pd.DataFrame) -> pd.Series:
    """Query tokens at which a row of ``growth`` first exceeds 1 + ``KNEE``, interpolated; infinite where none does."""
    queries = np.array([name for name in grown.columns if name != "one_us"], dtype=np.float64)
    return grown.drop(columns="one_us").apply(lambda row: _first_over(queries, row.to_numpy()), axis=1)


def _first_over(queries: np.ndarray, ratios: np.ndarray) -> float:
    known = np.isfinite(ratios)
    queries, ratios = queries[known], ratios[known]
    over = np.flatnonzero(ratios > 1.0 + KNEE)
    if not over.size:
        return np.inf
    last = over[0]  # one query token is never over
    share = (1.0 + KNEE - ratios[last - 1]) / (ratios[last] - ratios[last - 1])
    return float(queries[last - 1] + share * (queries[last] - queries[last - 1]))


def rule(points: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The rule "batch times q": a pass of b sequences with q tokens costs what b q sequences with one do.

    ``by`` names what else must be equal. Columns ``measured`` and ``ruled`` are both over b sequences with one token;
    ``extended`` where b q sequences were not measured and a line through those with one token stands in (three needed).
    """
    single = points[points["query_tokens"] == 1]
    rows = []
    for case, part in points[points["query_tokens"] > 1].groupby(by):
        known = single[(single[by] == list(case)).all(axis=1)].set_index("batch")["latency_us"].sort_index()
        line = np.polyfit(known.index, known, 1) if len(known) >= 3 else None
        for batch, queries, micros in part[["batch", "query_tokens", "latency_us"]].itertuples(index=False):
            wanted = batch * queries
            if batch not in known.index or (wanted not in known.index and (line is None or wanted < known.index.max())):
                continue
            extended = wanted not in known.index
            ruled = float(np.polyval(line, wanted)) if extended else known[wanted]
            row = dict(zip(by, case, strict=True)) | {"batch": batch, "query_tokens": queries, "extended": extended}
            rows.append(row | {"measured": micros / known[batch], "ruled": ruled / known[batch]})
    columns = [*by, "batch", "query_tokens", "extended", "measured", "ruled"]
    return pd.DataFrame(rows, columns=columns)


def depths(steps: pd.DataFrame) -> pd.DataFrame:
    """Drafting passes of one query token: microseconds by layers, mode and sequences, and models of one width as lines.

    Columns: one for each model; ``constant_us`` and ``layer_us`` of the least squares line through the models that are
    layers of one target (``... of NAME``), where two or more are.
    """
    single = steps[steps["query_tokens"] == 1].copy()
    single["family"] = single["model"].str.replace(r"^\d+ layers? of ", "", regex=True)
    counts = single.groupby("family")["layers"].nunique()
    deep = single[single["family"] == counts.idxmax()] if len(counts) and counts.max() > 1 else single.iloc[:0]
    rows = []
    for (mode, cached, batch), part in single.groupby(["mode", "kv_tokens", "batch"]):
        row: dict[str, Any] = {"mode": mode, "kv_tokens": cached, "batch": batch}
        row |= {f"{name} ({layers})": us for name, layers, us in part[["model", "layers", "latency_us"]].to_numpy()}
        mine = deep[(deep["mode"] == mode) & (deep["kv_tokens"] == cached) & (deep["batch"] == batch)]
        if len(mine) > 1:
            row["layer_us"], row["constant_us"] = np.polyfit(mine["layers"], mine["latency_us"], 1)
        rows.append(row)
    return pd.DataFrame(rows)


def agreement(one: Measured, other: Measured) -> pd.DataFrame:
    """Ratios of the second run's times to the first's where both measured: count, median, 5th and 95th percentile."""
    rows = []
    for name, keys in (("attention", [*WHERE, "query_tokens", "kernel"]), ("steps", [*PASS, "query_tokens"])):
        first, second = (getattr(run, name).set_index(keys)["latency_us"] for run in (one, other))
        ratio = (second / first).dropna()
        if len(ratio):
            low, middle, high = ratio.quantile([0.05, 0.5, 0.95])
            rows.append({"table": name, "points": len(ratio), "p5": low, "median": middle, "p95": high})
    if not rows:
        raise InputError("the two runs have no point in common", field="--against")
    return pd.DataFrame(rows)


def report(found: Measured, other: Measured | None = None) -> str:
    """All answers as text."""
    device = found.machine["device"]
    versions = ", ".join(f"{name} {value}" for name, value in device["versions"].items())
    out = [f"{device['name']}, {found.machine['dtype']}, {found.machine['date']}; {versions}"]
    queries = sorted(found.attention["query_tokens"].unique())
    grown = growth(found.fastest, WHERE)
    grown["knee"] = knees(grown)
    for heads, part in grown.groupby(HEADS):
        out += ["", f"attention of {_heads(heads)}: q query tokens over one (fastest kernel of each), and the knee"]
        out.append(
            f"{'cached':>9}{'batch':>7}{'q=1, us':>10}" + "".join(f"{f'q={q}':>7}" for q in queries[1:]) + "   knee"
        )
        for (cached, batch), row in part.droplevel(HEADS).iterrows():
            cells = "".join(f"{row[q]:7.2f}" if np.isfinite(row[q]) else f"{'':7}" for q in queries[1:])
            knee = f"{row['knee']:7.1f}" if np.isfinite(row["knee"]) else "   none"
            out.append(f"{cached:9d}{batch:7d}{row['one_us']:10.1f}{cells}{knee}")
    out += [f"knee: query tokens at which the cost is {KNEE:.0%} above one token's", "", *_kernels(found)]
    out += ["", *_rules(found), "", *_depths(found)]
    if other is not None:
        out += ["", f"second run, {other.machine['date']}, over the first", *_lines(agreement(found, other))]
    return "\n".join(out)


def _kernels(found: Measured) -> list[str]:
    best = found.fastest.set_index([*WHERE, "query_tokens"])["latency_us"].rename("best")
    points = found.attention.join(best, on=[*WHERE, "query_tokens"])
    points["over"] = points["latency_us"] / points["best"]
    rows = []
    for kernel, part in points.groupby("kernel"):
        row = {"kernel": kernel, "points": len(part), "fastest in": f"{(part['over'] == 1.0).mean():.0%}"}
        row |= {"taken by itself in": f"{part['default'].mean():.0%}"}
        rows.append(row | {"over the fastest, median": part["over"].median(), "p95": part["over"].quantile(0.95)})
    return ["kernels of attention", *_lines(pd.DataFrame(rows))]


def _rules(found: Measured) -> list[str]:
    out = ['"batch times q": b sequences with q tokens priced as b q sequences with one; ratio of the two costs']
    attention = rule(found.fastest, [*HEADS, "kv_tokens"])
    attention = attention[~attention["extended"].astype(bool)]
    rows = []
    for (cached, queries), part in attention.groupby(["kv_tokens", "query_tokens"]):
        off = part["ruled"] / part["measured"]
        row = {
            "attention, cached": cached,
            "q": queries,
            "points": len(part),
            "rule over measured, median": off.median(),
        }
        rows.append(row | {"least": off.min(), "most": off.max()})
    out += _lines(pd.DataFrame(rows)) if rows else ["  no two points of attention to compare"]
    passes = rule(found.deepest, ["model", "mode", "kv_tokens"])
    if len(passes):
        passes["rule over measured"] = passes["ruled"] / passes["measured"]
        passes["extended"] = np.where(passes["extended"].astype(bool), "by a line", "")
        out += ["whole passes, over b sequences with one token each", *_lines(passes)]
    return out


def _depths(found: Measured) -> list[str]:
    table = depths(found.steps)
    lines = ["a drafting pass of one token a sequence, microseconds by model (layers)"]
    return [*lines, *(_lines(table) if len(table) else ["  none measured"])]


def _heads(heads: tuple[int, int, int]) -> str:
    return f"{heads[0]}/{heads[1]} heads of {heads[2]}"


def _lines(table: pd.DataFrame) -> list[str]:
    return table.to_string(index=False, float_format=lambda x: f"{x:.2f}", na_rep="").splitlines()


def main(arguments: list[str] | None = None) -> None:
    """Print the answers, and draw them where asked."""
    parser = argparse.ArgumentParser(prog="python -m studies.verify_surface", description=__doc__)
    parser.add_argument("folder", type=Path, help="what calibration/run_gpu.sh wrote")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw one picture of each answer there")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a second run of the same kind of device")
    asked = parser.parse_args(arguments)
    found = read(asked.folder)
    print(report(found, None if asked.against is None else read(asked.against)))
    if asked.figures is not None:
        from studies.surface_figures import draw

        for path in draw(found, asked.figures):
            print(path)


if __name__ == "__main__":
    run_study(main)
