"""The one kind of error a user can cause."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(Exception):
    """A user's mistake: one line that says where, what was found, and what would be right.

    The command line prints ``error: <line>`` for each line and exits with status 2.
    """

    def __init__(self, problem: str, *, file: str | None = None, field: str | None = None) -> None:
        where = ": ".join(part for part in (file, field) if part)
        self.lines: tuple[str, ...] = (f"{where}: {problem}" if where else problem,)
        super().__init__(self.lines[0])

    @classmethod
    def several(cls, errors: Iterable[InputError]) -> InputError:
        """Several mistakes found at once, reported together, one line each."""
        lines = tuple(line for error in errors for line in error.lines)
        combined = cls(lines[0] if lines else "invalid input")
        combined.lines = lines
        combined.args = ("\n".join(lines),)
        return combined
