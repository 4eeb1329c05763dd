"""A progress bar where someone watches, silence where a program reads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[float, str], None]
"""Called with the share that is done, 0 to 1, and what comes next."""


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A callback that draws a bar on stderr while it is a terminal, and does nothing otherwise."""
    if not sys.stderr.isatty():
        yield lambda _share, _next: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share, what_next: bar.update(task, completed=share, description=what_next)
