"""Tests of counts against a law: cells, pooled tails, power, and a test that may be looked at any time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.verification.case import Case, String

Floats = NDArray[np.float64]
Counts = Mapping[String, int]

SMALLEST_CELL = 25.0
"""Expected rows below which cells are pooled: at false alarms of 1e-9 the chi-square tail needs more than the usual
5."""


@dataclass(frozen=True)
class Fit:
    """A test of counts: its p-value (two Bonferroni halves), degrees of freedom, the worst cell, an impossible
    one, and how many rows were expected in pooled cells, within which the test is blind.
    """

    p_value: float
    degrees: int
    worst: tuple[String, float, float, float] | None
    impossible: String | None = None
    pooled: float = 0.0


def fit(counts: Counts, law: Mapping[String, Any]) -> Fit:
    """Chi-square of counts against a law over the same strings, cells under 25 expected rows pooled.

    A pooled cell still under 25 is tested by its Poisson upper tail. A string with probability 0 that was seen makes
    the p-value 0. The worst cell is (string, observed share, expected share, standard errors).
    """
    return fit_together([counts], [law])


def fit_together(several: Sequence[Counts], laws: Sequence[Mapping[String, Any]]) -> Fit:
    """One test of several independent counts, each against its own law: their chi-squares add up."""
    blocks: list[tuple[list[String], Floats, Floats]] = []
    for counts, law in zip(several, laws, strict=True):
        n = sum(counts.values())
        strange = next((s for s, c in counts.items() if c and not law.get(s, 0) > 0), None)
        if strange is not None:
            return Fit(0.0, 0, (strange, counts[strange] / n, 0.0, math.inf), strange)
        if not n:
            continue
        strings = [s for s, mass in law.items() if mass > 0]
        expected = n * np.array([float(law[s]) for s in strings])
        blocks.append((strings, np.array([counts.get(s, 0) for s in strings], dtype=np.float64), expected))
    return _tested(blocks)


def fit_innovations(counts: Counts, case: Case) -> Fit:
    """Tests what losslessness says of emitted strings: after each prefix that was reached, the next token has p's law.

    For all j, rows with at least j tokens and a given prefix of j - 1 give p(. | prefix): the chi-squares of the
    prefixes add up. What N is doesn't matter.
    """
    after: dict[String, dict[int, int]] = {}
    for string, count in counts.items():
        for j in range(len(string)):
            row = after.setdefault(string[:j], {})
            row[string[j]] = row.get(string[j], 0) + count
    blocks = []
    for prefix, row in after.items():
        p = [float(x) for x in case.target[prefix]]
        n = sum(row.values())
        strange = next((x for x, c in row.items() if c and not p[x] > 0), None)
        if strange is not None:
            return Fit(0.0, 0, ((*prefix, strange), row[strange] / n, 0.0, math.inf), (*prefix, strange))
        tokens = [x for x in range(len(p)) if p[x] > 0]
        observed = np.array([row.get(x, 0) for x in tokens], dtype=np.float64)
        blocks.append(([(*prefix, x) for x in tokens], observed, n * np.array([p[x] for x in tokens])))
    return _tested(blocks)


def _tested(blocks: list[tuple[list[String], Floats, Floats]]) -> Fit:
    """Sum of chi-squares of independent blocks, each a multinomial given its total."""
    from scipy.special import chdtrc, pdtrc

    statistic, degrees, small_seen, small_expected, pooled = 0.0, 0, 0.0, 0.0, 0.0
    worst: tuple[String, float, float, float] | None = None
    for strings, observed, expected in blocks:
        total = observed.sum()
        for at in np.flatnonzero(expected > 0):
            share = expected[at] / total
            error = math.sqrt(expected[at] * max(0.0, 1 - share)) or 1.0
            z = float((observed[at] - expected[at]) / error) if share < 1 else 0.0
            if worst is None or abs(z) > abs(worst[3]):
                worst = (strings[at], float(observed[at] / total), float(share), z)
        big = expected >= SMALLEST_CELL
        seen, wanted = list(observed[big]), list(expected[big])
        rest_seen, rest_wanted = float(observed[~big].sum()), float(expected[~big].sum())
        pooled += rest_wanted
        if rest_wanted >= SMALLEST_CELL:
            seen.append(rest_seen)
            wanted.append(rest_wanted)
        else:
            small_seen += rest_seen
            small_expected += rest_wanted
            if wanted and rest_wanted > 0:  # the chi-square is of the rows outside the pooled cell
                wanted = [w * (total - rest_seen) / (total - rest_wanted) for w in wanted]
        if len(wanted) > 1:
            statistic += sum(
                (s - w) ** 2 / w for s, w in zip(seen, wanted, strict=True) if w > 0
            )  # 0: none left outside
            degrees += len(wanted) - 1
    p = float(chdtrc(degrees, statistic)) if degrees else 1.0
    if small_expected > 0:
        p = 2 * min(p, float(pdtrc(small_seen - 1, small_expected)) if small_seen else 1.0, 0.5)
    return Fit(min(p, 1.0), degrees, worst, pooled=pooled)


def noncentrality(degrees: int, alpha: float, power: float) -> float:
    """Noncentrality at which a chi-square test at level alpha rejects with probability ``power``."""
    from scipy.optimize import brentq
    from scipy.special import chdtri, chndtr

    if degrees == 0:
        return 0.0
    critical = float(chdtri(degrees, alpha))

    def missed(noncentral: float) -> float:
        return float(chndtr(critical, degrees, noncentral)) - (1.0 - power)

    return float(brentq(missed, 0.0, 10.0 * critical + 1000.0, xtol=1e-3))


def rows_needed(degrees: int, alpha: float, power: float, detect_tv: float, *, tokens: float = 1.0) -> int:
    """Rows at which every law at a total variation of ``detect_tv`` is rejected with probability ``power``.

    n sum (delta^2 / p) >= 4 n TV^2 (Cauchy-Schwarz). In the test by prefixes the weights of the prefixes sum to the
    mean number of tokens a row (``tokens``), which the same inequality then costs.
    """
    return math.ceil(noncentrality(degrees, alpha, power) * tokens / (4.0 * detect_tv**2))


def rows_wanted(
    masses: Sequence[float], degrees: int, alpha: float, power: float, detect_tv: float, *, tokens: float = 1.0
) -> int:
    """``rows_needed``, and enough more that what small cells hide, pooled, leaves the declared distance detectable."""
    rising = np.sort(np.asarray(masses, dtype=np.float64))
    below = np.concatenate([[0.0], np.cumsum(rising)])
    needed = math.sqrt(noncentrality(degrees, alpha, power) * tokens / 4.0)
    low = high = rows_needed(degrees, alpha, power, detect_tv, tokens=tokens)

    def blind(rows: int) -> float:  # a cell's rows vary: a fifth more than the least
        return needed / math.sqrt(rows) + float(below[np.searchsorted(rising, 1.2 * SMALLEST_CELL / rows)])

    while blind(high) > detect_tv * 1.005:
        low, high = high, 2 * high
    while high - low > 1 + low // 100:
        middle = (low + high) // 2
        low, high = (middle, high) if blind(middle) > detect_tv * 1.005 else (low, middle)
    return high


def detectable(degrees: int, alpha: float, power: float, rows: int, *, tokens: float = 1.0) -> float:
    """The total variation that ``rows`` rows detect: ``rows_needed`` solved for it."""
    return math.sqrt(noncentrality(degrees, alpha, power) * tokens / (4.0 * rows)) if rows else 1.0


def log_evidence(counts: Counts, law: Mapping[String, Any]) -> float:
    """Log e-value against ``law``: a Dirichlet(1/2) mixture's likelihood of the counts over the law's.

    Its mean is 1 under the law at every sample size, so it exceeds 1/alpha at any time with probability at most alpha
    (Ville); Lindon and Malek, arXiv 2011.03567.
    """
    from scipy.special import gammaln

    if any(c and not law.get(s, 0) > 0 for s, c in counts.items()):
        return math.inf
    strings = [s for s, mass in law.items() if mass > 0]
    c = np.array([counts.get(s, 0) for s in strings], dtype=np.float64)
    p = np.array([float(law[s]) for s in strings])
    d = len(p)
    mixture = gammaln(d / 2) - gammaln(c.sum() + d / 2) + (gammaln(c + 0.5) - gammaln(0.5)).sum()
    return float(mixture - (c * np.log(p)).sum())


def log_evidence_of_innovations(counts: Counts, case: Case) -> float:
    """Sum of log e-values of the token after each prefix: their product is an e-value, each fair given the past."""
    after: dict[String, dict[String, int]] = {}
    for string, n in counts.items():
        for j in range(len(string)):
            row = after.setdefault(string[:j], {})
            row[(string[j],)] = row.get((string[j],), 0) + n
    return sum(
        log_evidence(row, {(x,): mass for x, mass in enumerate(case.target[prefix])}) for prefix, row in after.items()
    )


def evidence_detectable(cells: int, alpha: float, rows: int) -> float:
    """Total variation at which the e-value's mean growth has passed 1/alpha: n 2 TV^2 >= log(1/alpha) + (d - 1)/2 log
    n.

    By Pinsker's inequality and the mixture's regret; an estimate of the typical case, not a bound on power.
    """
    if rows < 2:
        return 1.0
    return math.sqrt((math.log(1 / alpha) + (cells - 1) / 2 * math.log(rows)) / (2 * rows))


def evidence_rows(cells: int, alpha: float, detect_tv: float) -> int:
    """Rows at which ``evidence_detectable`` falls to ``detect_tv``."""
    rows = 2.0
    for _ in range(100):  # a contraction: the logarithm hardly moves
        rows = (math.log(1 / alpha) + (cells - 1) / 2 * math.log(max(rows, 2.0))) / (2 * detect_tv**2)
    return math.ceil(rows)
