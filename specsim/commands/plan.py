"""``specsim plan``: load, plan, print."""

from __future__ import annotations

import json
import sys
from typing import Any

from specsim.report.progress import progress
from specsim.scenario import Overrides, load_scenario, told_of


def run(path: str | None, flags: Overrides, *, as_json: bool) -> None:
    """Plan the scenario at ``path`` (None: the shipped example) and print it as a report or as JSON."""
    loaded = load_scenario(path, flags)
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
