"""A bound on the seconds that a piece of Python may take."""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Expired(BaseException):
    """Raised inside a thread whose time is up; no ``except Exception`` of its code swallows it."""


class OutOfTime(Exception):  # noqa: N818 - not a mistake
    """A piece of work didn't finish in its time."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """What ``work`` returns or raises; raises OutOfTime after ``seconds``.

    It runs in a thread of its own, is interrupted where it runs Python, and left behind where it doesn't.
    """
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:  # the caller's to see, whatever it is
            done.put((None, error))

    thread = threading.Thread(target=run, daemon=True, name="bounded work")
    thread.start()
    try:
        value, error = done.get(timeout=seconds)
    except queue.Empty:
        raise OutOfTime from None
    finally:  # a caller who was interrupted stops the work too
        interrupt(thread)
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def interrupt(thread: threading.Thread) -> None:
    """Raise ``Expired`` in a thread, at the next line of Python that it runs."""
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Expired))
