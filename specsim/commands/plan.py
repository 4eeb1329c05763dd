"""``specsim plan``: load, plan, print."""

from __future__ import annotations

import json
import sys
from typing import Any

from specsim.errors import InputError
from specsim.report.progress import progress
from specsim.scenario import Loaded, Overrides, load_scenario, told_of


def run(path: str | None, flags: Overrides, *, as_json: bool) -> None:
    """Plan the scenario at ``path`` (None: the shipped example) and print it as a report or as JSON."""
    loaded = load_scenario(path, flags)
    _check_lengths(loaded)
    from specsim.planning import plan

    with told_of(loaded), progress("planning") as report:
        planned: dict[str, Any] = plan(loaded.scenario, progress=report).to_dict()
    planned["warnings"] = [*loaded.notes, *planned.get("warnings", [])]
    if as_json:
        json.dump(planned, sys.stdout, indent=2, allow_nan=False)
        sys.stdout.write("\n")
        return
    from specsim.report.terminal import print_plan

    print_plan(planned, loaded)


def _check_lengths(loaded: Loaded) -> None:
    """A plan compares with plain decoding anyway; a drafter of length 0 alone would leave nothing to compare."""
    for drafter in loaded.scenario.drafters:
        if drafter.method != "none" and drafter.num_speculative_tokens == (0,):
            problem = f"0 alone leaves {drafter.label} nothing to draft; give lengths of at least 1, as 1-8"
            raise InputError(problem, file=loaded.source, field="drafter.num_speculative_tokens")
