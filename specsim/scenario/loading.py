"""From a file (and flags) to a scenario, with every mistake reported at once."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import ValidationError

from specsim.errors import InputError
from specsim.scenario.checks import CHECKS, Sections
from specsim.scenario.drafters import Acceptance, Drafter
from specsim.scenario.fields import Section
from specsim.scenario.messages import dotted, mistakes, nearest, shown
from specsim.scenario.overrides import Overrides, overridden
from specsim.scenario.scenario import SECTIONS, Scenario
from specsim.scenario.sections import Serving
from specsim.scenario.system_numbers import system_numbers

EXAMPLE, SYSTEMS_EXAMPLE = "llama31_8b_h100.toml", "llama31_8b_systems.toml"
_EXAMPLES = {
    EXAMPLE: ("the shipped example", ()),
    SYSTEMS_EXAMPLE: (
        "the shipped example of systems",
        (f"Much of this example is assumed: comments in specsim/examples/{SYSTEMS_EXAMPLE} say what.",),
    ),
}
"""What messages call each shipped scenario, and what its reader should know."""

Path = tuple[str | int, ...]
S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Loaded:
    """A scenario, where it came from, and what the reader should know about how it was put together."""

    scenario: Scenario
    source: str
    notes: tuple[str, ...] = ()


def load_scenario(
    path: str | FilePath | None = None, flags: Overrides | None = None, *, example: str = EXAMPLE
) -> Loaded:
    """The scenario in a TOML (or resolved JSON) file, or a shipped ``example`` where ``path`` is None, under ``flags``.

    Relative paths in the file count from the file, those in flags from the working directory.
    Raises InputError with one line for each mistake.
    """
    if path is None:
        (name, known), directory = _EXAMPLES[example], FilePath.cwd()
        document = tomllib.loads(example_text(example))
    else:
        name, directory = str(path), FilePath(path).expanduser().resolve().parent
        document, known = _read(FilePath(path).expanduser(), name), ()
    document = _absolute(document, directory)
    notes: tuple[str, ...] = ()
    origins: Mapping[Path, str] = {}
    if flags is not None:
        document, origins, notes = overridden(document, flags)
        document = _absolute(document, FilePath.cwd())
    return Loaded(scenario_of(document, file=name, origins=origins), name, (*known, *notes))


@contextmanager
def told_of(loaded: Loaded) -> Iterator[None]:
    """Name the scenario's file in mistakes that only show once it is priced or run."""
    try:
        yield
    except InputError as error:
        raise InputError.several(InputError(line, file=loaded.source) for line in error.lines) from None


def example_text(example: str = EXAMPLE) -> str:
    """A shipped example, as a scenario file."""
    return resources.files("specsim.examples").joinpath(example).read_text(encoding="utf-8")


def scenario_of(
    document: Mapping[str, Any],
    *,
    file: str | None = None,
    origins: Mapping[Path, str] | None = None,
) -> Scenario:
    """A scenario from the tables of a file. ``origins`` names the flag that set a path, for messages."""
    report = _Report(file, dict(origins or {}))
    sections = Sections()
    tables = (*SECTIONS, "acceptance", "systems")
    unknown = [key for key in document if key not in tables]
    for key in unknown:
        near = nearest(key, tables)
        report.add((key,), f"unknown table; {f'did you mean [{near}]?' if near else 'known are ' + ', '.join(tables)}")
    for key, model in SECTIONS.items():
        if key == "drafter" or key not in document:
            continue
        if (section := _section(model, document[key], (key,), report)) is not None:
            setattr(sections, key, section)
    if "target" not in document and not any(nearest(key, ("target",)) for key in unknown):
        report.add(("target",), "is missing; name the model and the hardware under [target]")
    if "serving" not in document:
        sections.serving = Serving()
    if "systems" in document:
        sections.systems, problems = system_numbers(document["systems"])
        for path, problem in problems:
            report.add(path, problem)
    sections.drafters = tuple(_drafters(document, report))
    for check in CHECKS:
        for path, problem in check(sections):
            report.add(_as_written(path, document), problem)
    report.finish()
    return sections.scenario()


@dataclass
class _Report:
    file: str | None
    origins: dict[Path, str]
    errors: list[InputError] = field(default_factory=list)

    def add(self, path: Path, problem: str) -> None:
        for depth in range(len(path), 0, -1):
            if flag := self.origins.get(path[:depth]):
                self.errors.append(InputError(problem, field=flag))
                return
        self.errors.append(InputError(problem, file=self.file, field=_where(path)))

    def finish(self) -> None:
        lines = dict.fromkeys(line for error in self.errors for line in error.lines)
        if lines:
            raise InputError.several(InputError(line) for line in lines)


def _as_written(path: Path, document: Mapping[str, Any]) -> Path:
    """Where a drafter's field stands in the file: a single [drafter], or [acceptance] at the top."""
    if path[:1] != ("drafter",):
        return path
    if "acceptance" in document and path[2:3] == ("acceptance",):
        return path[2:]
    drafters = document.get("drafter")
    return path if isinstance(drafters, list) and len(drafters) > 1 else ("drafter", *path[2:])


def _where(path: Path) -> str:
    if path[:1] == ("drafter",) and len(path) > 1 and isinstance(path[1], int):
        rest = dotted(path[2:])
        return f"drafter #{path[1] + 1}" + (f".{rest}" if rest else "")
    return dotted(path)


def _section(model: type[S], table: Any, path: Path, report: _Report) -> S | None:
    """The section that a table makes, or None with its mistakes in the report."""
    if not isinstance(table, Mapping):
        report.add(path, f"{shown(table)} must be a table: [{path[0]}]")
        return None
    try:
        return model.model_validate(dict(table))
    except ValidationError as error:
        for inner, problem in mistakes(error, model, table):
            report.add((*path, *inner), problem)
        return None


def _drafters(document: Mapping[str, Any], report: _Report) -> Iterator[Drafter | None]:
    """Every drafter of the file, None for those with mistakes; a top-level [acceptance] goes to the only one."""
    given = document.get("drafter", [])
    tables = list(given) if isinstance(given, list) else [given]
    paths: list[Path] = (
        [("drafter", i) for i in range(len(tables))] if len(tables) > 1 else [("drafter",)] * len(tables)
    )
    if "acceptance" in document:
        speculating = [i for i, t in enumerate(tables) if not (isinstance(t, Mapping) and t.get("method") == "none")]
        only = tables[speculating[0]] if len(speculating) == 1 else None
        if only is None:
            report.add(
                ("acceptance",),
                f"is about one drafter, and there are {len(speculating)}; give each [[drafter]] its own acceptance",
            )
        elif isinstance(only, Mapping) and "acceptance" in only:
            report.add(("acceptance",), "is given at the top and in the drafter; keep one of them")
        elif isinstance(only, Mapping):
            section = _section(Acceptance, document["acceptance"], ("acceptance",), report)
            if section is not None:
                tables[speculating[0]] = {**only, "acceptance": section}
    for table, path in zip(tables, paths, strict=True):
        yield _section(Drafter, table, path, report)


def _read(path: FilePath, name: str) -> dict[str, Any]:
    """The tables of a TOML file, or of the JSON of a resolved scenario."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError("no such file; without a file the shipped example runs", file=name) from None
    except IsADirectoryError:
        raise InputError("is a directory; give a scenario file (TOML)", file=name) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=name) from None
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text (byte {error.start}); give a scenario file (TOML)", file=name) from None
    if path.suffix == ".json":
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"line {error.lineno}, column {error.colno}: {error.msg}", file=name) from None
        if not isinstance(document, dict):
            raise InputError("holds no tables; give a scenario", file=name)
        return document
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{_place(str(error), text)}; the file is not valid TOML", file=name) from None


def _place(message: str, text: str) -> str:
    """A TOML error with its place first."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message)
    if not found:
        return message
    line = found[2] or str(text.count("\n") + 1)
    column = found[3] or str(len(text.rsplit("\n", 1)[-1]) + 1)
    return f"line {line}, column {column}: {found[1]}"


def is_path(value: str) -> bool:
    """Whether a model, profile or file is given by its path: names never end in .json or .toml, or begin with . / ~."""
    return value.endswith((".json", ".toml")) or value.startswith((".", "/", "~"))


def _absolute(document: Mapping[str, Any], directory: FilePath) -> dict[str, Any]:
    """The document with relative paths counted from ``directory``."""
    tables = copy.deepcopy(dict(document))

    def resolve(table: Any, key: str, *, always: bool) -> None:
        if (
            isinstance(table, dict)
            and isinstance(table.get(key), str)
            and table[key]
            and (always or is_path(table[key]))
        ):
            table[key] = str((directory / FilePath(table[key]).expanduser()).resolve())

    resolve(tables.get("target"), "model", always=False)
    resolve(tables.get("target"), "hardware", always=False)
    resolve(tables.get("network"), "draft_hardware", always=False)
    resolve(tables.get("acceptance"), "file", always=True)
    workload = tables.get("workload")
    if isinstance(workload, dict):
        resolve(workload.get("arrivals"), "file", always=True)
    drafters = tables.get("drafter")
    for drafter in drafters if isinstance(drafters, list) else [drafters]:
        if isinstance(drafter, dict):
            resolve(drafter, "model", always=False)
            resolve(drafter.get("acceptance"), "file", always=True)
    return tables
