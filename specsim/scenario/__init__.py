"""Scenario files: read, checked, resolved."""

from __future__ import annotations

from specsim.scenario.loading import Loaded, example_text, load_scenario, told_of
from specsim.scenario.overrides import Overrides
from specsim.scenario.scenario import Scenario

__all__ = ["Loaded", "Overrides", "Scenario", "example_text", "load_scenario", "told_of"]
