"""The oracle: right samplers pass, each at its own claim and parameters, and what a verdict says and asks for."""

from __future__ import annotations

import itertools
import json
from functools import partial

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.verification import (
    Case,
    SamplerRejected,
    assert_law,
    assert_lossless,
    check_sampler,
    exact_law,
    random_case,
    statistics,
    tv,
)
from specsim.verification.batched import LOSSLESS, token
from specsim.verification.chains import Stop
from specsim.verification.guarded import Guarded
from specsim.verification.interception import intercepted_law
from specsim.verification.lookup import RuleSampler
from specsim.verification.mutants import MUTANTS
from specsim.verification.suite import Group, groups, small_cases, standard_cases

QUICK = {"detect_tv": 0.03, "budget_s": 60.0}


@pytest.mark.parametrize("name", LOSSLESS)
def test_right_samplers_pass_at_their_own_claim(name: str) -> None:
    verdict = assert_law(LOSSLESS[name], name, **QUICK)
    assert verdict.controls
    assert verdict.min_detectable_tv is not None
    assert verdict.min_detectable_tv <= 0.03 * 1.02
    assert ("interception" in verdict.levels) == hasattr(LOSSLESS[name], "inject")


@pytest.mark.parametrize("name", [name for name in LOSSLESS if name != "greedy"])
def test_right_samplers_are_lossless(name: str) -> None:
    assert assert_lossless(LOSSLESS[name], detect_tv=0.06).passed


def test_lossless_but_slow_passes_one_test_and_fails_the_other() -> None:
    slow = next(m for m in MUTANTS if m.name == "accepts nothing").sampler()
    assert assert_lossless(slow, **QUICK).passed
    with pytest.raises(SamplerRejected, match="accepts nothing") as rejected:
        assert_law(slow, "token", **QUICK)
    assert rejected.value.verdict.witness is not None


def test_anytime_mode_passes_and_stops_early_on_a_wrong_one() -> None:
    passed = check_sampler(token, "token", level="anytime", detect_tv=0.03)
    assert passed.passed
    wrong = next(m for m in MUTANTS if m.name == "target residual").sampler()
    rejected = check_sampler(wrong, "token", level="anytime", detect_tv=0.03)
    assert rejected.status == "rejected"
    assert rejected.rows < passed.rows / 10
    assert check_sampler(token, None, level="anytime", detect_tv=0.05).passed


def test_a_check_without_enough_rows_is_inconclusive_and_says_what_it_would_see() -> None:
    verdict = check_sampler(token, "token", level="statistical", max_rows=20_000)
    assert verdict.status == "inconclusive"
    assert verdict.exit_code == 3
    assert str(verdict).startswith("inconclusive whether tokens and counts")
    assert [finding.name for finding in verdict.findings] == ["power_not_reached"]
    assert verdict.min_detectable_tv is not None
    assert verdict.min_detectable_tv > 0.01


def test_what_the_sampler_raised_is_the_cause_and_its_own_line_is_said() -> None:
    def careless(target, draft, tokens, rng):
        return np.take_along_axis(target, tokens, 0)  # numpy raises, below this line

    with pytest.raises(
        SamplerRejected, match=r"raises: ValueError: .*\(test_verification_oracle.py, line \d+\)"
    ) as seen:
        assert_law(careless, "token")
    assert isinstance(seen.value.__cause__, ValueError)
    assert seen.value.__cause__.__traceback__.tb_frame.f_code is careless.__code__
    assert "error" not in json.loads(seen.value.verdict.to_json())


async def later(target, draft, tokens, rng):
    return token(target, draft, tokens, rng)


@pytest.mark.filterwarnings("error")
def test_a_coroutine_is_no_answer() -> None:
    verdict = check_sampler(later, "token")
    assert verdict.status == "inconclusive"
    assert "returned coroutine" in str(verdict)


def test_a_pass_needs_its_negative_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    from specsim.verification import mutants

    monkeypatch.setattr(mutants.Mutant, "sampler", lambda self: RuleSampler(exact_rule))
    verdict = check_sampler(token, "token", level="statistical", detect_tv=0.05)
    assert verdict.status == "inconclusive"
    assert "control_survived" in {finding.name for finding in verdict.findings}


def exact_rule(p, q, d, coins):
    from specsim.verification.chains import token as rule

    return rule(p, q, d, coins)


def test_lossy_rules_are_judged_with_their_parameters() -> None:
    from fractions import Fraction

    from specsim.verification.exact import chain_rule

    sampler = RuleSampler(chain_rule("lenience", factor=0.8))
    assert assert_law(sampler, "lenience", factor=Fraction(4, 5), **QUICK).controls
    assert check_sampler(sampler, "lenience", factor=Fraction(9, 10), **QUICK).status == "rejected"
    assert check_sampler(sampler, None, **QUICK).status == "rejected"


def test_rules_by_token_are_judged_where_their_vocabulary_is() -> None:
    from specsim.verification.exact import chain_rule

    sampler = RuleSampler(chain_rule("judge", good=[True, False, True]))
    assert check_sampler(sampler, "judge", good=[True, False, True], **QUICK).passed
    assert check_sampler(sampler, "judge", good=[True, True, True], **QUICK).status == "rejected"


@pytest.mark.parametrize("level", ["metamorphic", "hostile", "ragged"])
def test_a_level_that_judges_no_law_closely_says_what_it_judged(level) -> None:
    line = str(check_sampler(token, "token", level=level)).splitlines()[0]
    assert line.startswith("consistent: ")
    assert "consistent: tokens and counts have the law" not in line
    assert {"metamorphic": "no law closely", "hostile": "no law was judged", "ragged": "coarsely judged"}[level] in line
    blind = next(m for m in MUTANTS if m.name == "target residual").sampler()
    if level == "hostile":
        assert check_sampler(blind, "token", level=level).claim == check_sampler(token, "block", level=level).claim


def hopeful(p, q, d, coins, *, odds=0.9):
    for i in range(len(d)):
        if not coins.accept(i).below(odds):
            return Stop(d[:i], p[i])
    return Stop(d, p[len(d)])


def test_a_rule_of_ones_own_is_a_claim() -> None:
    verdict = check_sampler(RuleSampler(hopeful), hopeful, **QUICK)
    assert verdict.passed
    assert verdict.controls
    assert "the law of the 'hopeful' rule" in verdict.claim
    assert check_sampler(RuleSampler(hopeful), hopeful, odds=0.8, **QUICK).status == "rejected"
    rejected = check_sampler(token, hopeful, **QUICK)
    assert rejected.causes == ("it runs the token rule",)
    with pytest.raises(InputError, match=r"is called as rule.p, q, drafts, coins, chance=...."):
        check_sampler(token, hopeful, chance=0.5)


def test_interception_of_a_right_sampler_is_exact() -> None:
    for group in groups(small_cases()):
        for c, case in enumerate(group.cases):
            for name in ("token", "block"):
                guarded = Guarded(LOSSLESS[name], budget_s=60)
                law = intercepted_law(guarded, group, c)
                guarded.close()
                assert float(tv(law, exact_law(name, case))) < 1e-8


def test_float32_samplers_pass() -> None:
    class Single:
        def __call__(self, target, draft, tokens, rng):
            return token(target.astype(np.float32), draft.astype(np.float32), tokens, rng)

        def inject(self, target, draft, tokens, uniforms, final):
            single = [a.astype(np.float32) for a in (target, draft, uniforms, final)]
            return token.inject(single[0], single[1], tokens, single[2], single[3])

    assert check_sampler(Single(), "token", **QUICK).passed


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"algorithm": "tokens"}, "algorithm"),
        ({"alpha": 0.0}, "alpha"),
        ({"detect_tv": 1.5}, "detect_tv"),
        ({"level": "deep"}, "level"),
        ({"cases": []}, "cases"),
        ({"arrays": "jax"}, "arrays"),
        ({"takes": "scores"}, "takes"),
        ({"detct_tv": 0.1}, "did you mean 'detect_tv'"),
        ({"algorithm": None, "factor": 0.5}, "factor"),
        ({"algorithm": "lenience"}, "factor"),
        ({"algorithm": "lenience", "facto": 0.5}, "did you mean 'factor'"),
        ({"algorithm": "lenience", "factor": 0}, "from 0 .not itself. to 1"),
        ({"algorithm": "lenience", "factor": "much"}, "factor"),
        ({"algorithm": "lenience", "factor": float("nan")}, "factor"),
        ({"algorithm": "token", "factor": 0.5}, "takes no parameters"),
        ({"algorithm": "fuzzy", "threshold": 0.1, "divergence": "hellinger"}, "tv, js, kl"),
        ({"algorithm": "fly", "entropy_above": 1.0, "window": 1.5}, "window"),
        ({"algorithm": "judge", "good": True}, "good"),
        ({"algorithm": "judge", "good": [True]}, "dense"),
        ({"algorithm": "reward", "keep": [0.5, 2.0, 0.5]}, "keep"),
        ({"cases": [standard_cases()[0]] * 2}, "cases"),
    ],
)
def test_wrong_arguments_are_the_callers_mistake(arguments: dict, field: str) -> None:
    with pytest.raises(InputError, match=field):
        check_sampler(token, **arguments)


def test_own_cases_are_used() -> None:
    strings = [s for n in range(2) for s in itertools.product(range(2), repeat=n)]
    same = Case(dict.fromkeys(strings, (0.5, 0.5)), dict.fromkeys(strings, (0.5, 0.5)), 1, name="fair")
    verdict = check_sampler(token, "token", cases=[same], **QUICK)
    assert verdict.passed
    everything = next(m for m in MUTANTS if m.name == "accepts everything").sampler()
    assert check_sampler(everything, "token", cases=[same], **QUICK).passed  # right on this case
    assert "no_controls" in {finding.name for finding in verdict.findings}


def test_the_verdict_prints_and_serialises() -> None:
    verdict = check_sampler(MUTANTS[0].sampler(), "token", level="statistical", detect_tv=0.05)
    text = str(verdict)
    assert text.startswith("rejected the claim that tokens and counts")
    assert "witness" in text
    document = json.loads(verdict.to_json())
    assert document["passed"] is False
    assert document["witness"]["case"]


def test_a_rejection_can_be_repeated_from_what_it_prints() -> None:
    sampler = MUTANTS[1].sampler()
    verdict = check_sampler(sampler, "token", level="statistical", detect_tv=0.05, seed=7)
    again = eval(verdict.call, {"check_sampler": check_sampler, "sampler": sampler})
    assert again == verdict
    assert f"again: {verdict.call}" in str(verdict)
    document = json.loads(verdict.to_json())
    assert document["seed"] == 7
    case = next(case for case in standard_cases() if case.name == document["witness"]["case"])
    prefix = tuple(document["witness"]["prefix"])
    assert document["witness"]["target"] == [
        [float(x) for x in case.target[prefix[:i]]] for i in range(len(prefix) + 1)
    ]
    assert document["witness"]["draft"][0] == [float(x) for x in case.draft[()]]


def test_the_suite_tells_prefixes_apart_and_rows_of_a_group_are_what_they_say() -> None:
    cases = standard_cases()
    assert len({case.name for case in cases}) == len(cases)
    group = Group(cases[:2])
    case, batch = group.draw(np.array([500, 700]), np.random.default_rng(0))
    assert np.bincount(case).tolist() == [500, 700]
    for row in range(0, 1200, 97):
        drafts = tuple(int(x) for x in batch.tokens[row])
        p, q = cases[case[row]].rows(drafts)
        np.testing.assert_allclose(batch.target[row], [[float(x) for x in r] for r in p])
        np.testing.assert_allclose(batch.draft[row], [[float(x) for x in r] for r in q])
    dense = cases[0]
    assert len({dense.target[s] for s in dense.prefixes(2)}) > 8


def test_lookup_sampler_draws_its_rules_law_and_follows_injected_coins() -> None:
    group = Group(standard_cases()[:2])
    _, batch = group.draw(np.array([400, 400]), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    u, w = rng.random((800, 2)), rng.random(800)
    looked = RuleSampler(partial(exact_rule)).inject(batch.target, batch.draft, batch.tokens, u, w)
    direct = token.inject(batch.target, batch.draft, batch.tokens, u, w)
    for a, b in zip(looked, direct, strict=True):
        np.testing.assert_array_equal(a, b)


def ended(vocab: int, gamma: int, eos: int, seed: int) -> Case:
    """A case whose text may end: no law follows the end."""
    rng = np.random.default_rng(seed)
    strings = [s for n in range(gamma + 1) for s in itertools.product(range(vocab), repeat=n) if eos not in s]
    target, draft = ({s: tuple(rng.dirichlet(np.ones(vocab))) for s in strings} for _ in range(2))
    return Case(target, {s: row for s, row in draft.items() if len(s) < gamma}, gamma, eos, f"ends {vocab} {gamma}")


ENDED = (ended(3, 2, 1, 0), ended(2, 3, 0, 1))


@pytest.mark.parametrize("level", ["auto", "ragged", "anytime"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_texts_that_end_are_judged_to_their_end(name: str, level) -> None:
    verdict = check_sampler(LOSSLESS[name], name, cases=ENDED, level=level, detect_tv=0.05)
    assert verdict.passed
    assert not verdict.findings


@pytest.mark.parametrize("level", ["interception", "statistical"])
def test_wrong_samplers_show_where_texts_end_with_their_cause(level) -> None:
    for name in ("target residual", "residual of the next row", "accepts nothing"):
        wrong = next(m for m in MUTANTS if m.name == name).sampler()
        verdict = check_sampler(wrong, "token", cases=ENDED, level=level, detect_tv=0.05)
        assert verdict.status == "rejected"
        assert name in verdict.causes
    assert check_sampler(token, None, cases=ENDED, detect_tv=0.05).passed


def test_nothing_is_counted_after_the_end() -> None:
    (group,) = groups(ENDED[:1])
    assert (group.codes(np.array([[1, -1, -1], [1, 2, 0], [1, 1, 1]])) == group.codes(np.array([[1, -1, -1]]))).all()
    assert group.string_of(int(group.codes(np.array([[2, 1, 0]]))[0])) == (2, 1)
    mass, batch = group.every(0)
    assert mass.sum() == pytest.approx(1.0)
    assert len(mass) == len(list(ENDED[0].drafts()))
    assert {tuple(d) for d in batch.tokens.tolist() if d[0] == 1} == {(1, 1)}


@pytest.mark.parametrize("level", ["auto", "statistical", "metamorphic", "interception"])
def test_the_budget_bounds_a_check_on_a_wide_vocabulary_too(level) -> None:
    """Its law alone takes longer to enumerate: without a bound this test doesn't end."""
    row = tuple([1 / 1500] * 1500)
    wide = Case({(): row, **{(x,): row for x in range(1500)}}, {(): row}, 1, name="wide")
    verdict = check_sampler(token, "token", cases=[wide], level=level, detect_tv=0.05, budget_s=1.0)
    assert verdict.status == "inconclusive"
    assert [finding.name for finding in verdict.findings] == ["time_budget"]
    assert "give cases of fewer tokens or drafts, raise budget_s" in str(verdict)


def test_a_rejection_stands_when_the_time_runs_out_on_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    from specsim.verification import oracle

    def endless(*_):
        while True:
            pass

    monkeypatch.setattr(oracle, "_explained", endless)
    wrong = MUTANTS[0].sampler()
    verdict = check_sampler(wrong, "token", level="statistical", cases=standard_cases()[:1], budget_s=2.0)
    assert verdict.status == "rejected"
    assert verdict.witness is not None
    assert [(f.name, f.weight) for f in verdict.findings][1:] == [("time_budget", "note")]


def test_what_small_cells_hide_counts_against_the_power() -> None:
    """No test of 1,000 rows tells laws over 1,000 equal cells apart: all are pooled."""
    law = {(x,): 1 / 1000 for x in range(1000)}
    assert statistics.fit({(x,): 1 for x in range(1000)}, law).pooled == pytest.approx(1000)
    masses = list(law.values())
    rows = statistics.rows_wanted(masses, 999, 1e-9, 0.99, 0.1)
    assert rows >= 1000 * statistics.SMALLEST_CELL > statistics.rows_needed(999, 1e-9, 0.99, 0.1)
    assert statistics.rows_wanted([0.5, 0.5], 1, 1e-9, 0.99, 0.1) == statistics.rows_needed(1, 1e-9, 0.99, 0.1)
    case = random_case(np.random.default_rng(0), vocab=20, gamma=1)
    for claim in ("token", None):
        verdict = check_sampler(token, claim, cases=[case], level="statistical", detect_tv=0.1)
        assert verdict.passed
        assert verdict.controls
        assert verdict.min_detectable_tv is not None
        assert verdict.min_detectable_tv <= 0.101


def test_a_pass_says_what_range_it_covered() -> None:
    verdict = check_sampler(token, "token", detect_tv=0.1)
    assert "covered: 2 to 8 tokens (hidden among 257), 1 to 5 drafts of probabilities from 0.005" in str(verdict)
    told = json.loads(verdict.to_json())["covered"]
    assert told == {"tokens": [2, 8], "drafts": [1, 5], "widest": 257, "smallest_draft": 0.005}
    assert "covered: 3 tokens, 2 drafts" in str(
        check_sampler(token, "token", cases=standard_cases()[:1], level="statistical", detect_tv=0.1)
    )
