"""Models by name: what ships, and any Hugging Face configuration."""

from __future__ import annotations

import difflib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from specsim.cost.hf_config import read_config, shape_from_config
from specsim.cost.model_shape import ModelShape
from specsim.errors import InputError

__all__ = ["ModelShape", "load_model", "model_names"]


def load_model(name_or_path: str | Path) -> ModelShape:
    """The model of a shipped name, or of a path.

    Names are Hugging Face's (``meta-llama/Llama-3.1-8B-Instruct``); case does not matter and the organisation may be
    left out. A path leads to a ``config.json`` or to the folder that holds one.
    Raises InputError naming the nearest shipped model for an unknown name.
    """
    text = str(name_or_path)
    path = Path(text)
    if text.endswith(".json") or path.is_dir():
        return read_config(path)
    key = _aliases().get(text.lower())
    if key is None:
        short = {alias: full for alias, full in _aliases().items() if "/" in alias} if "/" in text else _aliases()
        near = difflib.get_close_matches(text.lower(), short, n=1, cutoff=0.5)
        hint = f"; did you mean {_aliases()[near[0]]!r}?" if near else ""
        raise InputError(
            f"no model {text!r} ships{hint} (see `specsim models`, or give the path of a config.json)", field="model"
        )
    return _shipped(key)


def model_names() -> tuple[str, ...]:
    """Full names of the models that ship, in the catalogue's order."""
    return tuple(_catalogue())


@cache
def _shipped(name: str) -> ModelShape:
    entry = _catalogue()[name]
    return shape_from_config(entry["config"], name=name, source=entry["source"])


@cache
def _aliases() -> dict[str, str]:
    table: dict[str, str] = {}
    for name, entry in _catalogue().items():
        for alias in (name, *entry.get("aliases", ())):
            table[alias.lower()] = name
            table.setdefault(alias.rpartition("/")[2].lower(), name)
    return table


@cache
def _catalogue() -> dict[str, dict[str, Any]]:
    text = resources.files("specsim.cost").joinpath("models.json").read_text(encoding="utf-8")
    models: dict[str, dict[str, Any]] = json.loads(text)["models"]
    return models
