"""The pictures of ``studies.verify_surface``: one for each question (needs matplotlib, the extra ``plot``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from specsim.errors import InputError
from specsim.files import replace_file
from specsim.report.figure import require_matplotlib
from studies.verify_surface import HEADS, KNEE, Measured, growth, knees, rule

MOST_PANELS = 4


def draw(found: Measured, folder: Path) -> list[Path]:
    """Write every picture whose points were measured (PNG), each beside its place and renamed; where they are."""
    require_matplotlib()
    heads = found.attention.groupby(HEADS).size().idxmax()
    points, fastest = (table[(table[HEADS] == list(heads)).all(axis=1)] for table in (found.attention, found.fastest))
    device = f"{found.machine['device']['name']}, {found.machine['dtype']}"
    layout = f"{device}, {heads[0]}/{heads[1]} heads of {heads[2]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror}); give another folder", file=str(folder)) from None
    pictures: dict[str, Callable[[Any], bool]] = {
        "verify-growth": lambda figure: _growth(figure, points, fastest),
        "verify-knee": lambda figure: _knee(figure, fastest),
        "verify-rule": lambda figure: _rule(figure, fastest, found.deepest),
        "draft-depth": lambda figure: _depth(figure, found.steps),
    }
    written = []
    for name, picture in pictures.items():
        figure = _figure(device if name == "draft-depth" else layout)
        if picture(figure):
            path = folder / f"{name}.png"
            replace_file(path, lambda beside, figure=figure: figure.savefig(beside, dpi=130, format="png"))
            written.append(path)
    return written


def _figure(title: str) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    return figure


def _growth(figure: Any, points: pd.DataFrame, fastest: pd.DataFrame) -> bool:
    """Above by sequences through the fastest kernel, below by kernel at one number of sequences."""
    cached = _spread(fastest["kv_tokens"].unique())
    axes = figure.subplots(2, len(cached), sharex=True, sharey="row", squeeze=False)
    by_batch = growth(fastest, ["kv_tokens", "batch"])
    batches = fastest.groupby("batch")["kv_tokens"].nunique()
    middle = batches[batches == batches.max()].index
    shown = int(middle[len(middle) // 2])
    one = fastest[(fastest["batch"] == shown) & (fastest["query_tokens"] == 1)].set_index("kv_tokens")["latency_us"]
    for column, length in enumerate(cached):
        for batch in _spread(by_batch.loc[length].index, most=8):
            _line(axes[0, column], by_batch.loc[(length, batch)].drop("one_us"), f"batch {batch}")
        for kernel, part in points[(points["kv_tokens"] == length) & (points["batch"] == shown)].groupby("kernel"):
            _line(axes[1, column], part.set_index("query_tokens")["latency_us"] / one.get(length, np.nan), str(kernel))
        axes[0, column].set_title(f"{length} cached tokens each", fontsize=9)
        axes[1, column].set_title(f"by kernel, batch {shown}", fontsize=9)
        axes[1, column].set_xlabel("query tokens a sequence")
    for row in axes:
        row[0].set_ylabel("time over one query token's")
        row[0].legend(fontsize=7, frameon=False)
    for each in axes.flat:
        each.grid(visible=True, alpha=0.25)
        each.set_ylim(bottom=0.0)
    return True


def _knee(figure: Any, fastest: pd.DataFrame) -> bool:
    """Query tokens at which the cost is ``KNEE`` above one token's, by sequences and cached tokens."""
    known = knees(growth(fastest, ["batch", "kv_tokens"])).rename("knee").reset_index()
    table = known.pivot_table(index="batch", columns="kv_tokens", values="knee", dropna=False)
    most = float(fastest["query_tokens"].max())
    axes = figure.subplots()
    axes.imshow(np.minimum(table.to_numpy(), most), aspect="auto", cmap="viridis", vmin=1.0, vmax=most, origin="lower")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        text = "" if np.isnan(value) else f"> {most:.0f}" if np.isinf(value) else f"{value:.1f}"
        axes.text(column, row, text, ha="center", va="center", color="white" if not value > most / 2 else "black")
    axes.set_xticks(range(table.shape[1]), table.columns)
    axes.set_yticks(range(table.shape[0]), table.index)
    axes.set_xlabel("cached tokens a sequence")
    axes.set_ylabel("sequences")
    axes.set_title(f"query tokens at which attention costs {KNEE:.0%} more than with one", fontsize=9)
    return True


def _rule(figure: Any, fastest: pd.DataFrame, steps: pd.DataFrame) -> bool:
    """What "batch times q" predicts over what was measured: attention left, whole passes right."""
    sides = {
        "attention alone": rule(fastest, ["kv_tokens"]),
        "whole passes": rule(steps, ["model", "mode", "kv_tokens"]),
    }
    sides["attention alone"] = sides["attention alone"][~sides["attention alone"]["extended"].astype(bool)]
    if all(side.empty for side in sides.values()):
        return False
    for axes, (name, side) in zip(figure.subplots(1, 2), sides.items(), strict=True):
        side = side.assign(off=side["ruled"] / side["measured"])
        keys = ["kv_tokens"] if name == "attention alone" else ["mode", "kv_tokens", "batch"]
        for case, part in side.groupby(keys):
            label = f"{case[0]} cached" if len(keys) == 1 else f"{case[0]}, {case[2]} x {case[1]}"
            _line(axes, part.groupby("query_tokens")["off"].median(), label)
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_title(f"{name}: the rule's cost over the measured one", fontsize=9)
        axes.set_xlabel("query tokens a sequence")
        axes.grid(visible=True, alpha=0.25)
        if len(side):
            axes.legend(fontsize=7, frameon=False)
    return True


def _depth(figure: Any, steps: pd.DataFrame) -> bool:
    """A pass of one token by layers, for each mode and number of sequences."""
    if steps.empty:
        return False
    axes = figure.subplots()
    single = steps[steps["query_tokens"] == 1]
    loads = list(single.groupby(["kv_tokens", "batch"]).groups)
    for (mode, *load), part in single.groupby(["mode", "kv_tokens", "batch"]):
        points = part.sort_values("layers")
        style, color = "-" if mode == "graph" else "--", f"C{loads.index(tuple(load)) % 10}"
        label = f"{mode}, batch {load[1]}, {load[0]} cached"
        axes.plot(
            points["layers"], points["latency_us"] / 1e3, style, marker="o", markersize=4, color=color, label=label
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("layers (models of several widths)")
    axes.set_ylabel("ms a pass of one token a sequence")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=7, frameon=False)
    return True


def _line(axes: Any, values: pd.Series, label: str) -> None:
    known = values.dropna().sort_index()
    axes.plot(known.index.astype(float), known.to_numpy(dtype=float), marker="o", markersize=3.5, label=label)


def _spread(values: Any, most: int = MOST_PANELS) -> list[Any]:
    """At most that many of the values, from the first to the last."""
    known = sorted(values)
    if len(known) <= most:
        return known
    return [known[round(i * (len(known) - 1) / (most - 1))] for i in range(most)]
