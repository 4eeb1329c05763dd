"""Whether the oracle names the mistake it rejects: every listed one, and some that are on no list.

A listed mistake is named rightly if it is alone, or among several that fit about as well; an unlisted one if it is said
to be none of those known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from specsim.verification import chains
from specsim.verification import wrong_chains as wrong
from specsim.verification.chains import ChainRule, Rows, Stop, argmax, greedy, ratio
from specsim.verification.coins import Coins, pick_with
from specsim.verification.lookup import RuleSampler
from specsim.verification.mutants import Mutant
from specsim.verification.oracle import Level, check_sampler
from specsim.verification.verdict import Verdict

HOW: Mapping[str, Level] = {"by counts": "statistical", "by interception": "interception"}


def _greedy_half_of_the_time(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    return Stop((0,), None) if coins.accept(0).below(0.5) else greedy(p, q, d, coins)


def _bonus_by_the_first_coin(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    stop = chains.token(p, q, d, coins)
    return Stop((*d, pick_with(coins.accept(0), p[-1])), None) if len(stop.tokens) == len(d) else stop


def _leaking_residual(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    stop = chains.token(p, q, d, coins)
    if len(stop.tokens) == len(d) or stop.weights is None:
        return stop
    return Stop(stop.tokens, [float(x) + 1e-3 for x in stop.weights])


def _unnormalised_residual(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    stop = chains.token(p, q, d, coins)
    if len(stop.tokens) == len(d) or stop.weights is None:
        return stop
    *first, last = stop.weights
    return Stop(stop.tokens, [*first, last + 1 - sum(stop.weights)])


UNLISTED: Mapping[str, ChainRule] = {
    "greedy half of the time": _greedy_half_of_the_time,
    "target at temperature 0.9": wrong.at_temperature(1 / 0.9),
    "draft at temperature 0.9": wrong.with_draft_at_temperature(1 / 0.9),
    "accepts with a power of the ratio": wrong.token_with(
        accept=wrong.by(lambda p, q, d, i: float(min(1, ratio(p[i][d[i]], q[i][d[i]]))) ** 1.05)
    ),
    "accepts the argmax outright": wrong.token_with(
        accept=wrong.by(lambda p, q, d, i: 1 if d[i] == argmax(p[i]) else ratio(p[i][d[i]], q[i][d[i]]))
    ),
    "the first coin picks the bonus": _bonus_by_the_first_coin,
    "residual with a thousandth more everywhere": _leaking_residual,
    "residual not normalised, the last token takes the rest": _unnormalised_residual,
    "lenient by a twentieth": wrong.token_with(
        accept=wrong.by(lambda p, q, d, i: 21 * ratio(p[i][d[i]], q[i][d[i]]) / 20)
    ),
    "a coin of 6 bits": wrong.token_with(accept=wrong.uniform_of_bits(6)),
}
"""Mistakes about the token rule that no mutant makes, several of them near one that does."""


def diagnoses(mutants: Sequence[Mutant], detect_tv: float) -> Iterator[dict[str, object]]:
    """A row for every mutant and every unlisted mistake: what is said of it by counts and by interception."""
    for mutant in mutants:
        yield _row(mutant.name, mutant.claims, mutant.sampler(), detect_tv, listed=True)
    for name, rule in UNLISTED.items():
        yield _row(name, "token", RuleSampler(rule), detect_tv, listed=False)


def _row(name: str, claims: str, sampler: RuleSampler, detect_tv: float, *, listed: bool) -> dict[str, object]:
    row: dict[str, object] = {"sampler": name, "claims": claims, "listed": listed}
    for how, level in HOW.items():
        verdict = check_sampler(sampler, claims, level=level, detect_tv=detect_tv)
        row[how] = _said(name, verdict)
        row[f"others {how}"] = "; ".join(cause for cause in verdict.causes if cause != name)
    return row


def _said(name: str, verdict: Verdict) -> str:
    if verdict.status != "rejected":
        return "not rejected"
    if verdict.causes == (name,):
        return "alone"
    if name in verdict.causes:
        return "among several"
    return "another" if verdict.causes else "none"


def summary(table: pd.DataFrame) -> str:
    """How many mistakes are named rightly, in words."""
    lines = []
    for how in HOW:
        said = {listed: part[how].value_counts().to_dict() for listed, part in table.groupby("listed")}
        for listed, title in ((True, "known mistakes"), (False, "unlisted mistakes")):
            counts = said.get(listed, {})
            told = ", ".join(f"{counts[name]} {name}" for name in _ORDER if name in counts)
            lines.append(f"what {title} are said to be {how}, of {sum(counts.values())}: {told}")
    return "\n".join(lines)


_ORDER = ("alone", "among several", "none", "another", "not rejected")


def named_rightly(table: pd.DataFrame) -> bool:
    """Whether no rejected mistake is given another's name, and no listed one is said to be none by counts."""
    known, unlisted = table[table["listed"]], table[~table["listed"]]
    return bool(
        known["by counts"].isin(("alone", "among several", "not rejected")).all()
        and (known["by interception"] != "another").all()
        and all(unlisted[how].isin(("none", "not rejected")).all() for how in HOW)
    )
