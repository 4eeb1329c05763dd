"""One line for each mistake: where it is, what was found, what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

Path = tuple[str | int, ...]

UNITS = ("_s", "_ms", "_us", "_seconds", "_milliseconds")


def mistakes(error: ValidationError, model: type[BaseModel], document: Any) -> Iterator[tuple[Path, str]]:
    """Each mistake of a section as its path within the section and what to say about it."""
    found = [(_path(e["loc"], document), e) for e in error.errors(include_url=False)]
    replaced = {
        (*path[:-1], near)
        for path, e in found
        if e["type"] == "extra_forbidden" and (near := nearest(str(path[-1]), _fields(model, path[:-1], document)))
    }
    for path, e in found:
        if e["type"] == "missing" and path in replaced:
            continue
        yield path, _sentence(path, dict(e), model, document)


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word most like ``word`` once units are set aside, or None where none is near."""
    bare = {_without_unit(name): name for name in known}
    hit = difflib.get_close_matches(_without_unit(word.lower()), list(bare), n=1, cutoff=0.6)
    return bare[hit[0]] if hit else None


def shown(value: Any) -> str:
    """A value as it would stand in the file, cut where long."""
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else None
    text = text or (f'"{value}"' if isinstance(value, str) else "a table" if isinstance(value, Mapping) else str(value))
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
    if kind == "extra_forbidden":
        known = _fields(model, path[:-1], document)
        near = nearest(str(path[-1]), known)
        hint = f"did you mean {near}?" if near else f"known keys: {', '.join(known)}"
        if near and _without_unit(near) == _without_unit(str(path[-1])) and near != path[-1]:
            hint += f" Its unit is {near.rsplit('_', 1)[-1]}"
        return f"{shown(value)}: unknown key; {hint}"
    about = _about(model, path, document)
    if kind == "missing":
        return f"is missing{about}"
    if kind == "union_tag_not_found":
        return f"{shown(value)}: kind is missing; give kind = one of {limits_tags(model, path)}"
    if kind == "union_tag_invalid":
        tags = [tag.strip().strip("'") for tag in str(limits["expected_tags"]).split(",")]
        near = nearest(str(limits["tag"]), tags)
        hint = f'did you mean "{near}"?' if near else f"one of {', '.join(tags)}"
        return f'kind = "{limits["tag"]}" is unknown; {hint}'
    if kind == "literal_error":
        allowed = [tag.strip(" '") for tag in str(limits["expected"]).replace(" or ", ", ").split(",")]
        near = nearest(str(value), allowed)
        hint = f'; did you mean "{near}"?' if near else ""
        return f"{shown(value)} must be one of {', '.join(allowed)}{hint}"
    return f"{shown(value)} {_rule(kind, e['msg'], value, limits)}{about}" if kind in RULES else str(e["msg"])


RULES = {
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "greater_than": "must be above {gt}",
    "less_than": "must be below {lt}",
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


def _rule(kind: str, message: str, value: Any, limits: Mapping[str, Any]) -> str:
    rule = RULES[kind].format(**limits) if kind in RULES else message
    if kind in ("less_than_equal",) and limits.get("le") == 1 and isinstance(value, int | float) and 1 < value <= 100:
        rule = f"must be a share between 0 and 1; did you mean {value / 100:g}?"
    if kind in ("int_type", "int_from_float") and isinstance(value, float) and value.is_integer():
        rule += f"; did you mean {int(value)}?"
    if kind in ("int_type", "float_type") and isinstance(value, str):
        rule += ", without quotes"
    return rule


def _about(model: type[BaseModel], path: Path, document: Any) -> str:
    info = _field(model, path, document)
    return f" ({info.description})" if info is not None and info.description else ""


def limits_tags(model: type[BaseModel], path: Path) -> str:
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
