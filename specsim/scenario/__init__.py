"""Scenario files: read, checked, resolved."""

from __future__ import annotations

from specsim.scenario.loading import SYSTEMS_EXAMPLE, Loaded, example_text, load_scenario, told_of
from specsim.scenario.overrides import Overrides
from specsim.scenario.scenario import Scenario

__all__ = ["SYSTEMS_EXAMPLE", "Loaded", "Overrides", "Scenario", "example_text", "load_scenario", "told_of"]
