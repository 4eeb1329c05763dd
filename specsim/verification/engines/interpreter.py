"""Triton kernels run as Python on the CPU, in a process of their own.

triton decides between compiling and interpreting when it is imported, once for a whole process; the caller's process,
which may compile, is left alone.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

from specsim.errors import InputError
from specsim.verification.engines.published import one_line, required

TESTED = "3.9.0"


class Interpreted:
    """What ``factory`` ("module:function") makes of ``arguments`` in a process that interprets triton, to be called.

    Arguments and results go through pickle. Raises InputError where the factory does; what a call raises there is a
    RuntimeError here. The process ends with this object.
    """

    def __init__(self, factory: str, *arguments: str) -> None:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", __name__, factory, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        )
        weakref.finalize(self, _end, self._process)
        self._answer()

    def __call__(self, *arguments: Any) -> Any:
        """What it returns for these arguments."""
        assert self._process.stdin is not None
        pickle.dump(arguments, self._process.stdin)
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        try:
            worked, value = pickle.load(self._process.stdout)
        except EOFError:
            raise RuntimeError(f"the process that interprets triton ended with {self._process.wait()}") from None
        if not worked:
            raise value
        return value


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def interpreted_triton() -> Any:
    """The triton package in a process that interprets its kernels. Raises InputError elsewhere."""
    triton = required("triton", f"pip install triton=={TESTED}")
    language = required("triton.language", f"pip install triton=={TESTED}")
    if type(language.max).__name__ != "InterpretedFunction":
        raise InputError("compiles in this process: start it with TRITON_INTERPRET=1", field="triton")
    return triton


def _serve(factory: str, *arguments: str) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what somebody's code prints isn't an answer

    def send(answer: tuple[bool, Any]) -> None:
        pickle.dump(answer, answers)
        answers.flush()

    module, _, name = factory.partition(":")
    try:
        call = getattr(importlib.import_module(module), name)(*arguments)
    except InputError as error:
        return send((False, error))
    send((True, None))
    while True:
        try:
            given = pickle.load(sys.stdin.buffer)
        except EOFError:
            return None
        try:
            send((True, call(*given)))
        except Exception as error:  # whatever somebody else's code raises
            send((False, RuntimeError(f"{type(error).__name__}: {one_line(error)}")))


if __name__ == "__main__":
    _serve(*sys.argv[1:])
