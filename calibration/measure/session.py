"""A measurement within a budget: choose the least known point, time it, keep its samples, until the time is up."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from calibration.measure.device import Device, clocks, free_bytes, pinned
from calibration.measure.points import Point, bytes_needed, roofline_s
from calibration.measure.samples import Samples
from calibration.measure.timers import Prepared, Timing, WrongOutputError, spread, time_kernels
from calibration.measure.uncertainty import Unknown

TOGETHER = 4
"""Points whose samples are taken in turns."""
REPEATS = 5
UNSTEADY = 0.15
"""Spread of a point's samples (quartiles over median) above which they are marked."""
MOST_UNSTEADY = 0.2
"""Share of marked points above which the whole measurement is called disturbed: a throttled or shared device."""
VISIT_NOISE = {"cuda": 0.03, "cpu": 0.1}
"""How far two visits to a point, minutes apart, differ: what a shared processor does that no sample shows."""
KNOWN_SD = 0.02
"""Largest predictive standard deviation at which nothing more is worth measuring."""
SHARE_OF_MEMORY = 0.4
SHARE_OF_BUDGET = 0.02
"""Of the budget that one point may take, all its samples and making its buffers."""
LEAST_ALLOWED_S = 0.5
SAVE_EVERY_S = 5.0


@dataclass
class Outcome:
    """What a session did: visits to points, points it gave up on, unsteady visits, points left, clocks seen."""

    measured: int = 0
    refused: int = 0
    unsteady: int = 0
    resumed: int = 0
    left: int = 0
    worst_sd: float = float("nan")
    seconds: float = 0.0
    clocks: list[dict[str, str]] = field(default_factory=list)

    @property
    def disturbed(self) -> bool:
        """Whether too many points had a spread above the bound."""
        return self.unsteady > MOST_UNSTEADY * max(self.measured + self.resumed, 1)


Make = Callable[[Point], dict[str, Prepared]]


@dataclass
class Session:
    """One device, its samples, and how kernels are made; ``clock`` is what a spread is judged by."""

    device: Device
    make: Make
    samples: Samples
    element_bytes: int
    repeats: int = REPEATS
    clock: str = "wall"
    bandwidth_bytes_per_s: float = 1e10
    flops_per_s: float = 5e10
    _budget_s: float = 0.0
    _pace: dict[str, list[float]] = field(default_factory=dict)
    """Seconds that points took over what a roofline says, by kind."""

    def run(
        self, points: Sequence[Point], *, budget_s: float, progress: Callable[[int, int], None] = lambda _d, _t: None
    ) -> Outcome:
        """Measure until the budget is spent, everything is measured, or nothing is unknown enough.

        Points already in the samples are not measured again. Samples are saved every few seconds and at the end, also
        when interrupted.
        """
        begin, saved = time.monotonic(), time.monotonic()
        unknown, outcome = Unknown(points), Outcome(clocks=[clocks(self.device)])
        self._resume(unknown, outcome)
        self._budget_s = budget_s
        try:
            with pinned(self.device):
                while time.monotonic() - begin < budget_s:
                    chosen = self._choose(unknown, outcome)
                    if not chosen:
                        break
                    self._paced(chosen, outcome)
                    if time.monotonic() - saved > SAVE_EVERY_S:
                        self.samples.save()
                        outcome.clocks.append(clocks(self.device))
                        saved = time.monotonic()
                    progress(min(int(time.monotonic() - begin), int(budget_s)), int(budget_s))
        finally:
            outcome.seconds = time.monotonic() - begin
            outcome.clocks.append(clocks(self.device))
            self.samples.save()
        left = unknown.worst()
        outcome.left, outcome.worst_sd = len(unknown.open_points()), left[1] if left else 0.0
        return outcome

    def _resume(self, unknown: Unknown, outcome: Outcome) -> None:
        known = {point.key: point for point in unknown.points}
        visits = {(row[0], row[7]): row[6] for row in self.samples.rows if row[0] in known}
        for (key, _), status in visits.items():
            if status in ("ok", "unsteady"):
                outcome.resumed += 1
                unknown.observe(known[key], VISIT_NOISE[self.device.kind])
            else:
                unknown.drop(known[key])

    def _choose(self, unknown: Unknown, outcome: Outcome) -> list[Point]:
        """The least known points that fit memory and budget, each chosen as if the ones before it were measured."""
        chosen: list[Point] = []
        room = SHARE_OF_MEMORY * free_bytes(self.device)
        while len(chosen) < TOGETHER:
            worst = unknown.worst(chosen)
            if worst is None or worst[1] < KNOWN_SD:
                break
            point = worst[0]
            estimate = self._estimate_s(point)
            if bytes_needed(point, self.element_bytes) > room / TOGETHER:
                self._refuse(unknown, outcome, point, "too large")
            elif estimate > self._limit_s:
                # Not recorded: a rerun with more time may measure it.
                unknown.drop(point)
                outcome.refused += 1
            else:
                unknown.observe(point, VISIT_NOISE[self.device.kind])
                chosen.append(point)
        return chosen

    @property
    def _limit_s(self) -> float:
        return max(SHARE_OF_BUDGET * self._budget_s, LEAST_ALLOWED_S)

    def _estimate_s(self, point: Point) -> float:
        """Seconds that measuring a point takes: a roofline's, times what it took longer for others."""
        once = roofline_s(point, self.element_bytes, bandwidth=self.bandwidth_bytes_per_s, peak=self.flops_per_s)
        return (self.repeats + 2) * once * max(float(np.median(self._pace.get(point.kind, [1.0]))), 1.0)

    def _refuse(self, unknown: Unknown, outcome: Outcome, point: Point, reason: str) -> None:
        unknown.drop(point)
        self.samples.refuse(point, reason, at_s=time.time())
        outcome.refused += 1

    def _paced(self, points: Sequence[Point], outcome: Outcome) -> None:
        """Measure the points, and learn how much longer than a roofline each kind among them takes."""
        expected = {p: self._estimate_s(p) / max(float(np.median(self._pace.get(p.kind, [1.0]))), 1.0) for p in points}
        for point, timings in self._measure(points, outcome).items():
            took = sum(timing.spent_s for timing in timings.values())
            if took > 0.05 * self._limit_s:  # below, fixed costs hide what a larger point would take
                self._pace.setdefault(point.kind, []).append(took / max(expected[point], 1e-6))

    def _measure(self, points: Sequence[Point], outcome: Outcome) -> dict[Point, dict[str, Timing]]:
        """Time the points together and keep their samples; one by one where together they are too much."""
        try:
            found = self._times(points)
        except Exception as error:
            if not out_of_memory(error) and not isinstance(error, WrongOutputError):
                raise
            self._release()
            if len(points) > 1:
                apart = [self._measure([point], outcome) for point in points]
                return {point: timings for each in apart for point, timings in each.items()}
            reason = "oom" if out_of_memory(error) else "wrong output"
            self.samples.refuse(points[0], reason, at_s=time.time())
            outcome.refused += 1
            return {}
        for point in points:
            noisy, now = self._spread(found[point]) > UNSTEADY, time.time()
            for variant, timing in found[point].items():
                self.samples.add(point, variant, timing, status="unsteady" if noisy else "ok", at_s=now)
            outcome.measured += bool(found[point])
            outcome.unsteady += noisy
        return found

    def _times(self, points: Sequence[Point]) -> dict[Point, dict[str, Timing]]:
        made = [(point, variant, kernel) for point in points for variant, kernel in self.make(point).items()]
        kernels = [kernel for _, _, kernel in made]
        timings = time_kernels(kernels, self.device.kind, repeats=self.repeats, limit_s=self._limit_s)
        found: dict[Point, dict[str, Timing]] = {point: {} for point in points}
        for (point, variant, _), timing in zip(made, timings, strict=True):
            found[point][variant] = timing
        return found

    def _spread(self, timings: dict[str, Timing]) -> float:
        if not timings:
            return 0.0
        each = [t.wall_s if self.clock == "wall" else t.busy_s for t in timings.values()]
        return spread(min(each, key=lambda seconds: float(np.median(seconds))))

    def _release(self) -> None:
        gc.collect()
        if self.device.kind == "cuda":
            import torch

            torch.cuda.empty_cache()


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it hides (a graph's capture fails again when it is left), is a lack of memory."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        said = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said:
            return True
        error = error.__cause__ or error.__context__
    return False
