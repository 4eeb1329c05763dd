"""Command line: parse, call, print."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``specsim`` command."""
