"""``specsim compare``: published systems on one scenario, side by side."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specsim.errors import InputError
from specsim.files import folder_to_write, replace_file
from specsim.report.progress import progress
from specsim.scenario import SYSTEMS_EXAMPLE, Overrides, load_scenario, told_of

if TYPE_CHECKING:
    from specsim.planning.comparison import Comparison


def run(
    path: str | None,
    flags: Overrides,
    *,
    systems: Sequence[str],
    concurrencies: Sequence[int] | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Run the systems on the scenario and print tables, chart, assumptions, and what does not apply."""
    from specsim.systems.catalogue import SYSTEMS, system

    named = [name.strip() for word in systems for name in word.split(",") if name.strip()]
    if systems and not named:
        raise InputError("names no system; give names, or all", field="--systems")
    everything = not named or "all" in named
    names = [one.name for one in SYSTEMS] if everything else [system(name, field="--systems").name for name in named]
    folder = None if out is None else folder_to_write(out)
    loaded = load_scenario(path, flags, example=SYSTEMS_EXAMPLE)
    from specsim.planning.comparison import compare

    with told_of(loaded), progress("comparing") as report:
        made = compare(loaded.scenario, names, concurrencies=concurrencies, processes=os.cpu_count() or 1, done=report)
    if not everything:
        _something_applies(made, names)
    files = [] if folder is None else _write(made, folder, title=f"{loaded.scenario.target.model}, {loaded.source}")
    if as_json:
        json.dump(_finite(made.to_dict() | {"scenario": loaded.scenario.to_dict()}), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    from specsim.report.comparison import print_comparison

    print_comparison(made, loaded, files=files)


def _something_applies(made: Comparison, names: Sequence[str]) -> None:
    shown = {row.system for row in made.rows}
    if not any(name in shown for name in names):
        lines = [InputError(made.left_out[name], field=name) for name in names]
        raise InputError.several(lines)


def _write(made: Comparison, folder: Path, *, title: str) -> list[Path]:
    """Tables and, where matplotlib is there, the picture; each beside its place and renamed."""
    flat = [
        {
            **{key: value for key, value in asdict(row).items() if key not in ("sweep", "stretch_tpot_s")},
            "hardware": " + ".join(row.hardware),
            "speedup": row.speedup.value,
            "speedup_low": row.speedup.low,
            "speedup_high": row.speedup.high,
            "assumed": "; ".join(row.assumed),
        }
        for row in made.rows
    ]
    points = [{"system": row.system, "gpus": row.gpus, **asdict(p)} for row in made.rows for p in row.sweep]
    texts = {
        "compare.csv": _csv(flat),
        "compare.json": json.dumps(_finite(made.to_dict()), indent=2) + "\n",
        "sweep.csv": _csv(points),
    }
    files = []
    for name, text in texts.items():
        if text:
            replace_file(folder / name, partial(Path.write_text, data=text, encoding="utf-8"))
            files.append(folder / name)
    if not points:
        return files
    from specsim.report.figure import draw, require_matplotlib

    try:
        require_matplotlib()
    except InputError as missing:
        print(missing.lines[0], file=sys.stderr)
        return files
    picture = folder / "latency_throughput.png"
    draw(made, picture, title=title)
    return [*files, picture]


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _finite(value: Any) -> Any:
    """JSON has no NaN: a mean of nothing becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value
