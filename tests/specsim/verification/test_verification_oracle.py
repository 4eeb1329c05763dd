"""The oracle: right samplers pass, wrong ones are rejected with a witness, broken ones are findings."""

from __future__ import annotations

import itertools
import json
import time
from functools import partial

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.verification import (
    Case,
    SamplerRejected,
    assert_law,
    assert_lossless,
    batched,
    check_sampler,
    distortion,
    exact_law,
    expected_tokens,
    statistics,
    tv,
)
from specsim.verification.batch_mutants import BATCH_MUTANTS
from specsim.verification.batched import LOSSLESS, Sampler, token
from specsim.verification.chains import chain_law
from specsim.verification.diagnosis import mixed_laws
from specsim.verification.engine import FAULTS
from specsim.verification.guarded import Guarded
from specsim.verification.interception import intercepted_law
from specsim.verification.lookup import RuleSampler
from specsim.verification.mutants import MUTANTS
from specsim.verification.node_mutants import NODE_MUTANTS
from specsim.verification.suite import Group, groups, small_cases, standard_cases

QUICK = {"detect_tv": 0.03, "budget_s": 60.0}
FLOATS = [case.floats() for case in standard_cases()]


def off_claim(mutant) -> float:
    return max(off_on(mutant, case) for case in FLOATS)


def off_on(mutant, case) -> float:
    return float(tv(chain_law(mutant.rule, case), exact_law(mutant.claims, case)))


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


def test_there_are_enough_wrong_samplers() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 45
    assert len(MUTANTS) + len(BATCH_MUTANTS) + len(NODE_MUTANTS) + len(FAULTS) >= 90


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_interception_rejects_every_law_that_differs_at_all(mutant) -> None:
    shown = max(small_cases(), key=lambda case: off_on(mutant, case.floats()))
    worst = off_on(mutant, shown.floats())
    assert worst > 1e-5
    verdict = check_sampler(mutant.sampler(), mutant.claims, cases=[shown], level="interception")
    assert verdict.status == "rejected"
    assert verdict.details["interception_tv"] == pytest.approx(worst, abs=2e-6)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_statistics_reject_every_law_at_the_declared_distance(mutant) -> None:
    verdict = check_sampler(mutant.sampler(), mutant.claims, level="statistical", detect_tv=0.03)
    if off_claim(mutant) >= 0.03:
        assert verdict.status == "rejected"
        assert verdict.witness is not None
    else:
        assert verdict.status in ("rejected", "consistent")


@pytest.mark.parametrize("mutant", BATCH_MUTANTS, ids=lambda m: m.name)
def test_mixed_batches_are_rejected(mutant) -> None:
    verdict = check_sampler(mutant, "token", level="statistical", detect_tv=0.03)
    assert verdict.status == "rejected"
    verdict = check_sampler(mutant, "token", level="metamorphic")
    assert {"row_order_matters", "batch_dependence"} & {finding.name for finding in verdict.findings}


def test_law_of_a_mixed_batch_is_the_one_that_is_seen() -> None:
    group = next(iter(groups(standard_cases()[:3])))
    mutant = BATCH_MUTANTS[0]
    case, batch = group.draw(np.full(3, 60_000), np.random.default_rng(0))
    tokens, _ = mutant(batch.target, batch.draft, batch.tokens, np.random.default_rng(1))
    for c, law in enumerate(mixed_laws(mutant, group.cases)):
        codes = np.bincount(group.codes(tokens[case == c]), minlength=group.code_space)
        counts = {group.string_of(int(code)): int(codes[code]) for code in np.flatnonzero(codes)}
        assert statistics.fit(counts, law).p_value > 1e-6


EXPLAINED = (
    "softmaxed residual",
    "target residual",
    "residual subtracts one element",
    "lenient by a tenth",
    "acceptance by the next row",
    "one coin for all positions",
    "sample and match",
    "bonus from the draft",
    "counts later acceptances",
)


@pytest.mark.parametrize("name", EXPLAINED)
def test_the_likeliest_explanation_is_the_true_one(name: str) -> None:
    mutant = next(m for m in MUTANTS if m.name == name)
    verdict = check_sampler(mutant.sampler(), "token", level="statistical", detect_tv=0.02)
    assert verdict.explanation is not None
    assert verdict.explanation.startswith(name)


def test_token_verification_sold_as_block_is_named() -> None:
    verdict = check_sampler(token, "block", **QUICK)
    assert verdict.status == "rejected"
    assert verdict.explanation is not None
    assert verdict.explanation.startswith(("block: ignored", "it runs the token rule"))


def test_an_unknown_mistake_is_not_given_a_name() -> None:
    def odd(p, q, d, coins):
        from specsim.verification.chains import Stop, greedy

        return Stop((0,), None) if coins.accept("odd").below(0.5) else greedy(p, q, d, coins)

    verdict = check_sampler(RuleSampler(odd), "token", level="statistical", detect_tv=0.03)
    assert verdict.status == "rejected"
    assert verdict.explanation is not None
    assert verdict.explanation.startswith("none of the known mistakes")


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
    assert verdict.exit_code == 2
    assert [finding.name for finding in verdict.findings] == ["power_not_reached"]
    assert verdict.min_detectable_tv is not None
    assert verdict.min_detectable_tv > 0.01


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
    assert check_sampler(sampler, "lenience", factor=Fraction(4, 5), **QUICK).passed
    assert check_sampler(sampler, "lenience", factor=Fraction(9, 10), **QUICK).status == "rejected"
    assert check_sampler(sampler, None, **QUICK).status == "rejected"


def test_rules_by_token_are_judged_where_their_vocabulary_is() -> None:
    from specsim.verification.exact import chain_rule

    sampler = RuleSampler(chain_rule("judge", good=[True, False, True]))
    assert check_sampler(sampler, "judge", good=[True, False, True], **QUICK).passed
    assert check_sampler(sampler, "judge", good=[True, True, True], **QUICK).status == "rejected"


def broken(kind: str):
    def sampler(target, draft, tokens, rng):
        if kind == "raises":
            raise RuntimeError("no\nkernel")
        if kind == "exits":
            raise SystemExit(3)
        out, counts = token(target, draft, tokens, rng)
        if kind == "out_of_vocabulary":
            out[0, 0] = target.shape[2]
        elif kind == "count_out_of_range":
            counts[0] = tokens.shape[1] + 2
        elif kind == "zero":
            counts[:] = 0
        elif kind == "wrong_shape":
            return out[:, :-1], counts
        elif kind == "wrong_answer":
            return out
        elif kind == "none":
            return None
        elif kind == "wrong_dtype":
            return out + 0.5, counts
        elif kind == "objects":
            return [["a"]], counts
        elif kind == "mutates_inputs":
            target *= 0.5
        elif kind == "nan":
            return np.full(out.shape, np.nan), counts
        elif kind == "seed_ignored":
            return token(target, draft, tokens, np.random.default_rng(0))
        return out, counts

    return sampler


@pytest.mark.parametrize(
    ("kind", "finding", "status"),
    [
        ("raises", "raises", "inconclusive"),
        ("exits", "raises", "inconclusive"),
        ("out_of_vocabulary", "out_of_vocabulary", "rejected"),
        ("count_out_of_range", "count_out_of_range", "rejected"),
        ("zero", "count_out_of_range", "rejected"),
        ("wrong_shape", "wrong_shape", "inconclusive"),
        ("wrong_answer", "wrong_answer", "inconclusive"),
        ("none", "wrong_answer", "inconclusive"),
        ("wrong_dtype", "wrong_dtype", "inconclusive"),
        ("objects", "wrong_answer", "inconclusive"),
        ("mutates_inputs", "mutates_inputs", "rejected"),
        ("nan", "wrong_dtype", "inconclusive"),
        ("seed_ignored", "seed_ignored", "rejected"),
    ],
)
def test_every_fault_is_a_named_finding(kind: str, finding: str, status: str) -> None:
    verdict = check_sampler(broken(kind), "token", **QUICK)
    assert finding in [found.name for found in verdict.findings]
    assert verdict.status == status
    assert "\n" not in verdict.findings[0].line
    json.loads(verdict.to_json())


@pytest.mark.parametrize("sleeps", ["busily", "asleep"])
def test_a_sampler_that_never_returns_costs_its_budget_only(sleeps: str) -> None:
    def sampler(target, draft, tokens, rng):
        while True:
            if sleeps == "asleep":
                time.sleep(0.01)

    verdict = check_sampler(sampler, "token", budget_s=0.3)
    assert verdict.status == "inconclusive"
    assert [finding.name for finding in verdict.findings] == ["time_budget"]


def test_coins_at_their_ends_show_an_impossible_token() -> None:
    """u <= ratio accepts a token of probability 0 when the coin is 0: too rare to be seen, and plain to an injected
    coin."""

    def judge(target, draft, tokens, uniforms):
        accepted = batched.leading(uniforms * batched.at_tokens(draft, tokens) <= batched.at_tokens(target, tokens))
        return accepted, lambda n: batched._residual(target, draft, tokens, n)

    verdict = check_sampler(Sampler(judge, "non-strict"), "token", level="interception")
    assert verdict.status == "rejected"
    assert [finding.name for finding in verdict.findings] == ["impossible_at_boundary"]


class Single:
    """Token verification in float32 from logits, the target's with a constant added: right but for rounding."""

    def __call__(self, target, draft, tokens, rng):
        return self.inject(target, draft, tokens, rng.random(tokens.shape), rng.random(len(tokens)))

    def inject(self, target, draft, tokens, uniforms, final):
        p, q = self.softmax(target, 2), self.softmax(draft, 0)
        return token.inject(p, q, tokens, uniforms.astype(np.float32), final.astype(np.float32))

    def softmax(self, rows, shift):
        with np.errstate(divide="ignore"):
            odds = np.exp(np.log(rows).astype(np.float32) + np.float32(shift))
        return odds / odds.sum(axis=2, keepdims=True)


def test_a_residual_of_which_rounding_leaves_a_hair_is_no_fault() -> None:
    """Where p and q agree on a token nothing is left of it, in float32 1e-8, which the largest coin finds."""
    case = next(case for case in standard_cases() if case.name == "near equal")
    group = Group((case,))
    _, rows = group.every(0)
    ends = np.full((len(rows.tokens), 3), 1 - 2.0**-24)
    tokens, counts = Single().inject(rows.target, rows.draft, rows.tokens, ends[:, :2], ends[:, 2])
    emitted = {tuple(row[:count].tolist()) for row, count in zip(tokens, counts, strict=True)}
    assert emitted - {string for string, mass in exact_law("token", case).items() if mass > 0} == {(2,)}
    verdict = check_sampler(Single(), "token", level="interception")
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("name", ["near equal", "sparse"])
def test_a_token_that_no_rounding_allows_is_a_fault_at_a_coins_end(name: str) -> None:
    """A coin of 0 picks the first token: one that the draft exceeds by a tenth, or one that the target excludes."""

    class First(Single):
        def inject(self, target, draft, tokens, uniforms, final):
            out, counts = super().inject(target, draft, tokens, uniforms, final)
            out[np.arange(len(out)), counts - 1] = np.where(final == 0, 0, out[np.arange(len(out)), counts - 1])
            return out, counts

    cases = [case for case in standard_cases() if case.name == name]
    verdict = check_sampler(First(), "token", cases=cases, level="interception")
    assert [finding.name for finding in verdict.findings] == ["impossible_at_boundary"]


def test_interception_of_a_right_sampler_is_exact() -> None:
    for group in groups(small_cases()):
        for c, case in enumerate(group.cases):
            for name in ("token", "block"):
                guarded = Guarded(LOSSLESS[name], budget_s=60)
                law = intercepted_law(guarded, group, c)
                guarded.close()
                assert float(tv(law, exact_law(name, case))) < 1e-8


def test_interception_asks_for_injection() -> None:
    verdict = check_sampler(LOSSLESS["coupled"], "coupled", level="interception")
    assert verdict.status == "inconclusive"
    assert verdict.findings[0].name == "not_injectable"


def test_float32_samplers_pass() -> None:
    class Single:
        def __call__(self, target, draft, tokens, rng):
            return token(target.astype(np.float32), draft.astype(np.float32), tokens, rng)

        def inject(self, target, draft, tokens, uniforms, final):
            single = [a.astype(np.float32) for a in (target, draft, uniforms, final)]
            return token.inject(single[0], single[1], tokens, single[2], single[3])

    assert check_sampler(Single(), "token", **QUICK).passed


def test_a_sampler_that_fails_on_equal_rows_is_found() -> None:
    def sampler(target, draft, tokens, rng):
        rest = np.maximum(target[:, :-1] - draft, 0.0)
        if not (rest.sum(axis=2) > 0).all():
            raise ValueError("probability tensor contains nan")
        return token(target, draft, tokens, rng)

    verdict = check_sampler(sampler, "token", cases=standard_cases()[:1], **QUICK)
    assert "fails_on_equal_rows" in {finding.name for finding in verdict.findings}
    assert not verdict.passed


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
    assert text.startswith("rejected")
    assert "witness" in text
    document = json.loads(verdict.to_json())
    assert document["passed"] is False
    assert document["witness"]["case"]


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


def test_mutants_that_are_lossless_are_so_exactly() -> None:
    harmless = {m.name for m in MUTANTS if all(distortion(chain_law(m.rule, case), case) < 1e-9 for case in FLOATS)}
    assert harmless == {
        "accepts nothing",
        "no bonus",
        "sample and match",
        "drafts taken as certain",
        "block: ignored",
        "coupled: fresh noise",
    }
    for mutant in MUTANTS:
        if mutant.name in harmless:
            slow, right = chain_law(mutant.rule, FLOATS[0]), exact_law(mutant.claims, FLOATS[0])
            assert expected_tokens(slow) < expected_tokens(right)


def test_a_case_that_leaves_nothing_to_chance_is_no_ignored_seed() -> None:
    """Every seed must agree there; that was once called a finding."""
    sure = Case({(): (1, 0), (0,): (0, 1), (1,): (1, 0)}, {(): (1, 0)}, gamma=1, name="sure")
    verdict = check_sampler(token, "token", cases=[sure], level="metamorphic")
    assert "seed_ignored" not in {finding.name for finding in verdict.findings}
