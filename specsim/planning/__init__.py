"""Ask a scenario: the grid, the schedule, the capacity, and why."""

from __future__ import annotations

from specsim.planning.plan import Plan, plan

__all__ = ["Plan", "plan"]
