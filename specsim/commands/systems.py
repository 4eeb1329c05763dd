"""``specsim systems`` and ``specsim reproduce``: the published systems, and their papers' numbers beside ours."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from specsim.errors import InputError
from specsim.files import folder_to_write, replace_file
from specsim.systems.catalogue import SYSTEMS, system
from specsim.systems.descriptor import Parameter, System

if TYPE_CHECKING:
    from specsim.systems.reproduction import Reproduction


def systems(*, as_json: bool) -> None:
    """List the systems."""
    if as_json:
        _print_json([_described(one.name) for one in SYSTEMS])
        return
    from specsim.report.layout import Column, print_table

    print_table(
        "Which published systems run here?",
        [Column("system", whole=True), Column("paper"), Column("year"), Column("lossless"), Column("topology")],
        [[one.name, _paper(one), str(one.year), one.lossless, one.topology] for one in SYSTEMS],
        note="specsim systems show NAME explains one, specsim compare runs them on a scenario, specsim reproduce NAME"
        " reruns a paper's numbers.",
    )


def show(name: str, *, as_json: bool) -> None:
    """Explain one system: its pipeline, rule, parameters and assumptions."""
    one = system(name)
    if as_json:
        _print_json(_described(name))
        return
    from specsim.report.layout import Column, bullets, heading, paragraph, print_table

    heading(f"{one.name}: {one.title}")
    paragraph(f"{_paper(one)} ({one.year}). Lossless: {one.lossless}. Runs on: {one.topology}.")
    heading("What happens in a round?")
    paragraph(f"  {one.pipeline}")
    paragraph(f"Rule: {one.rule}.")
    paragraph(f"Several requests: {one.batches}.")
    columns = [
        Column("parameter", whole=True),
        Column("default", right=True),
        Column("meaning"),
        Column("default from"),
    ]
    if one.parameters:
        print_table("With which parameters, in the paper's setting?", columns, _parameters(one.parameters))
    if one.inputs:
        words = [[c.name, c.options[0], f"{c.meaning}: {', '.join(c.options)}", c.source] for c in one.choices]
        print_table(f"What does [systems.{one.key}] of a scenario set?", columns, _parameters(one.inputs) + words)
    heading("What is assumed?")
    bullets(one.assumptions)


def _paper(one: System) -> str:
    return f"arXiv {one.paper}" if one.paper else "no paper"


def _parameters(parameters: Sequence[Parameter]) -> list[list[str]]:
    return [[p.name, "required" if p.default is None else f"{p.default:g}", p.meaning, p.source] for p in parameters]


def reproduce(names: list[str], *, out: str | None, as_json: bool) -> None:
    """Rerun papers' numbers (``all``: every system), print them, and write a Markdown page each under ``out``."""
    wanted = [one.name for one in SYSTEMS if one.study] if "all" in names else [system(name).name for name in names]
    folder = None if out is None else folder_to_write(out)
    made = _all(wanted)
    if folder is not None:
        for one in made:
            replace_file(folder / f"{one.name}.md", partial(Path.write_text, data=one.markdown(), encoding="utf-8"))
    if as_json:
        _print_json([_numbers(one) for one in made])
        return
    for one in made:
        _print(one)
    missed = [f"{one.name}: {what}" for one in made for what in one.missed]
    if missed:
        from specsim.report.layout import bullets, heading

        heading("Not reached")
        bullets(missed)


def run(name: str) -> Reproduction:
    """The numbers of one system's paper. Raises InputError where no published table comes with its inputs."""
    study = system(name).study
    if study is None:
        raise InputError(
            "no published table with its inputs is known, so there is nothing to rerun; specsim compare runs it on a"
            " scenario, and specsim reproduce spec-bench reruns a survey's EAGLE, Medusa and lookup rows",
            field=name,
        )
    module = importlib.import_module(f"studies.papers.{study}")
    made: Reproduction = module.reproduce()
    return made


def _all(names: list[str]) -> list[Reproduction]:
    cores = min(len(names), os.cpu_count() or 1)
    if cores <= 1:
        return [run(name) for name in names]
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(run, names))


def _print(one: Reproduction) -> None:
    from specsim.report.layout import Column, paragraph, print_table
    from specsim.systems.reproduction import row_cells

    if one.rows:
        columns = [Column(one.name), Column("published", right=True), Column("ours", right=True)]
        columns += [Column("error", right=True), Column("within", right=True), Column("")]
        print_table(f"{one.name}: {one.title}", columns, [list(row_cells(row)) for row in one.rows])
    if one.checks:
        print_table(
            f"{one.name}: what must hold",
            [Column("statement"), Column("found"), Column("")],
            [[c.what, c.found, "ok" if c.holds else "missed"] for c in one.checks],
        )
    print_table(
        f"{one.name}: where the inputs come from",
        [Column("input"), Column("value"), Column("is"), Column("from")],
        [[g.name, g.value, g.status, g.source] for g in one.inputs],
    )
    for note in one.notes:
        paragraph(note, style="dim")


def _described(name: str) -> dict[str, object]:
    one = system(name)
    fields = ("name", "title", "paper", "year", "lossless", "topology", "pipeline", "rule", "batches")
    numbers = {
        name: [
            {"name": p.name, "default": _finite(p.default), "meaning": p.meaning, "source": p.source} for p in listed
        ]
        for name, listed in (("parameters", one.parameters), ("inputs", one.inputs))
    }
    words = [{"name": c.name, "options": c.options, "meaning": c.meaning, "source": c.source} for c in one.choices]
    return {f: getattr(one, f) for f in fields} | numbers | {"choices": words} | {"assumptions": list(one.assumptions)}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _numbers(one: Reproduction) -> dict[str, object]:
    rows = [
        {
            "what": r.what,
            "of": r.of,
            "reference": r.reference,
            "ours": r.ours,
            "error": r.error,
            "tolerance": r.tolerance,
            "verdict": r.verdict,
        }
        for r in one.rows
    ]
    checks = [{"what": c.what, "found": c.found, "holds": c.holds} for c in one.checks]
    inputs = [{"name": g.name, "value": g.value, "status": g.status, "source": g.source} for g in one.inputs]
    return {"name": one.name, "title": one.title, "rows": rows, "checks": checks, "inputs": inputs}


def _print_json(what: object) -> None:
    json.dump(what, sys.stdout, indent=2)
    sys.stdout.write("\n")
