"""One line for each mistake: where it is, what was found, what would be right."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

Path = tuple[str | int, ...]

UNITS = ("_s", "_ms", "_us", "_seconds", "_milliseconds")


def mistakes(error: ValidationError, model: type[BaseModel], document: Any) -> Iterator[tuple[Path, str]]:
    """Each mistake of a section as its path within the section and what to say about it."""
    found = [(_path(e["loc"], document), dict(e)) for e in error.errors(include_url=False)]
    meant = _meant(found, model, document)
    for path, e in found:
        if e["type"] == "missing" and path in meant.values():
            continue  # said where the key that was meant stands
        if e["type"] == "too_short" and any(other[: len(path)] == path for other, o in found if o is not e):
            continue  # the list is short because its values are wrong
        if e["type"] == "extra_forbidden":
            yield path, _unknown(path, e["input"], meant.get(path), _fields(model, path[:-1], document))
        else:
            yield path, _sentence(path, e, model, document)


def _meant(found: list[tuple[Path, dict[str, Any]]], model: type[BaseModel], document: Any) -> dict[Path, Path]:
    """For each unknown key the key that was probably meant: the nearest, or the only one that its table lacks."""
    meant: dict[Path, Path] = {}
    for path, e in found:
        if e["type"] != "extra_forbidden":
            continue
        near = nearest(str(path[-1]), _fields(model, path[:-1], document))
        siblings = [p for p, o in found if p[:-1] == path[:-1] and o["type"] in ("missing", "extra_forbidden")]
        lacking = [p for p, o in found if p in siblings and o["type"] == "missing"]
        if near is not None:
            meant[path] = (*path[:-1], near)
        elif len(siblings) == 2 and len(lacking) == 1:
            meant[path] = lacking[0]
    return meant


def _unknown(path: Path, value: Any, meant: Path | None, known: Sequence[str]) -> str:
    if meant is None:
        return f"{shown(value)}: unknown key; known keys: {', '.join(known)}"
    word, near = str(path[-1]), str(meant[-1])
    unit = near.rsplit("_", 1)[-1]
    hint = f" Its unit is {unit}" if word != near and _without_unit(word) == _without_unit(near) != near else ""
    return f"{shown(value)}: unknown key; did you mean {near}?{hint}"


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word most like ``word`` once units are set aside, or None where none is near."""
    bare = {_without_unit(name): name for name in known}
    hit = difflib.get_close_matches(_without_unit(word.lower()), list(bare), n=1, cutoff=0.6)
    return bare[hit[0]] if hit else None


def _alike(word: str, known: Sequence[str]) -> list[str]:
    """The known words that are about as near as the nearest one: a wrong digit at the end leaves several."""
    near = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.6)
    score = [difflib.SequenceMatcher(None, word.lower(), one).ratio() for one in near]
    return [one for one, like in zip(near, score, strict=True) if like > score[0] - 0.1]


def shown(value: Any) -> str:
    """A value as it would stand in the file, cut where long."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return "a list of tables"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def dotted(path: Path) -> str:
    """A path as ``drafter.acceptance.per_position[1]``, counting from 0 within lists."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _path(loc: Sequence[str | int], document: Any) -> Path:
    """The location without the union tags that pydantic puts between a table and its keys."""
    path: list[str | int] = []
    here = document
    for part in loc:
        if isinstance(here, Mapping) and here.get("kind") == part and part not in here:
            continue
        if isinstance(part, int) and not isinstance(here, list):
            break  # a single value where a list may stand
        path.append(part)
        if isinstance(here, Mapping):
            here = here.get(part) if isinstance(part, str) else None
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            here = None
    return tuple(path)


def _sentence(path: Path, e: dict[str, Any], model: type[BaseModel], document: Any) -> str:
    kind, value, limits = e["type"], e["input"], e.get("ctx", {})
    about = _about(model, path, document)
    if kind == "missing":
        return f"is missing{about}"
    if kind == "union_tag_not_found":
        return f"kind is missing; give kind = one of {_tags(model, path)}"
    if kind == "union_tag_invalid":
        tags = [tag.strip().strip("'") for tag in str(limits["expected_tags"]).split(",")]
        near = nearest(str(limits["tag"]), tags)
        hint = f'did you mean "{near}"?' if near else f"one of {', '.join(tags)}"
        return f'kind = "{limits["tag"]}" is unknown; {hint}'
    if kind == "literal_error":
        allowed = [tag.strip(" '") for tag in str(limits["expected"]).replace(" or ", ", ").split(",")]
        alike = " or ".join(json.dumps(one) for one in _alike(str(value), allowed))
        hint = f"; did you mean {alike}?" if alike else ""
        return f"{shown(value)} must be one of {', '.join(allowed)}{hint}"
    return f"{shown(value)} {_rule(kind, str(path[-1]), value, limits)}{about}" if kind in RULES else str(e["msg"])


RULES = {
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "greater_than": "must be above {gt:g}",
    "less_than": "must be below {lt:g}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be a text in quotes",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list",
    "too_short": "must hold at least {min_length} value(s)",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "dict_type": "must be a table",
}


def _rule(kind: str, field: str, value: Any, limits: Mapping[str, Any]) -> str:
    rule = RULES[kind].format(**limits)
    if kind in ("less_than_equal",) and limits.get("le") == 1 and isinstance(value, int | float) and 1 < value <= 100:
        rule = f"must be a share between 0 and 1; did you mean {value / 100:g}?"
    if kind == "greater_than_equal" and field.endswith("_ms") and isinstance(value, float) and value > 0:
        rule += f", in milliseconds; did you mean {value * 1000:g}?"
    if kind in ("int_type", "int_from_float") and isinstance(value, float) and value.is_integer():
        rule += f"; did you mean {int(value)}?"
    if kind in ("int_type", "float_type") and isinstance(value, str):
        rule += ", without quotes"
    return rule


def _about(model: type[BaseModel], path: Path, document: Any) -> str:
    info = _field(model, path, document)
    return f" ({info.description})" if info is not None and info.description else ""


def _tags(model: type[BaseModel], path: Path) -> str:
    """The kinds that a tagged table may have."""
    return ", ".join(kind for option in _options(model.model_fields[str(path[-1])]) for kind in _kinds(option))


def _fields(model: type[BaseModel], path: Path, document: Any) -> tuple[str, ...]:
    inner = _model(model, path, document)
    return tuple(inner.model_fields) if inner else ()


def _field(model: type[BaseModel], path: Path, document: Any) -> FieldInfo | None:
    names = [part for part in path if isinstance(part, str)]
    if not names:
        return None
    depth = path.index(names[-1])
    inner = _model(model, path[:depth], document)
    return inner.model_fields.get(names[-1]) if inner else None


def _model(model: type[BaseModel], path: Path, document: Any) -> type[BaseModel] | None:
    """The section that holds the keys at ``path``, following ``kind`` where tables of several kinds may stand."""
    here: Any = document
    for part in path:
        here = here.get(part) if isinstance(here, Mapping) and isinstance(part, str) else None
        info = model.model_fields.get(str(part))
        options = _options(info) if info else []
        kind = here.get("kind") if isinstance(here, Mapping) else None
        chosen = [option for option in options if "kind" not in option.model_fields or kind in _kinds(option)]
        if not chosen:
            return None
        model = chosen[0]
    return model


def _kinds(option: type[BaseModel]) -> tuple[str, ...]:
    return get_args(option.model_fields["kind"].annotation)


def _options(info: FieldInfo) -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []
    waiting: list[Any] = [info.annotation]
    while waiting:
        annotation = waiting.pop(0)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        else:
            waiting.extend(get_args(annotation))
    return found


def _without_unit(name: str) -> str:
    for unit in UNITS:
        if name.endswith(unit) and not name.endswith("per_s"):
            return name[: -len(unit)]
    return name
