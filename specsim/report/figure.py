"""Latency against throughput as a picture, by matplotlib (the extra ``plot``)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from specsim.errors import InputError
from specsim.files import replace_file
from specsim.planning.comparison import Comparison

MARKERS = "osD^vP<>X*ph"


def require_matplotlib() -> None:
    """InputError that says what is missing."""
    try:
        import_module("matplotlib")
    except ImportError:
        raise InputError("no picture without matplotlib; pip install 'llm-specsim[plot]'", field="--out") from None


def draw(made: Comparison, path: Path, *, title: str) -> None:
    """Write the picture (PNG) beside its place and rename it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(9.6, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, row in enumerate(one for one in made.rows if one.sweep):
        throughput = [p.output_tokens_per_s / row.gpus for p in row.sweep]
        latency = [1000 * p.tpot_s for p in row.sweep]
        plain = number == 0
        axes.plot(
            throughput,
            latency,
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=2.2 if plain else 1.3,
            color="black" if plain else f"C{(number - 1) % 10}",
            linestyle="-" if number <= 10 else "--",
            label=f"{row.system} ({row.ran_with})",
        )
        if plain:
            for p, x, y in zip(row.sweep, throughput, latency, strict=True):
                axes.annotate(str(p.concurrency), (x, y), textcoords="offset points", xytext=(-6, 7), fontsize=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("output tokens/s a GPU")
    axes.set_ylabel("mean time per output token after the first, ms")
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True, which="both", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    replace_file(path, lambda beside: figure.savefig(beside, dpi=130, format="png"))
