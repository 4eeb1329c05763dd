"""Samplers that break are findings, and rounding is none."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from specsim.verification import (
    Case,
    batched,
    check_sampler,
    exact_law,
)
from specsim.verification.batched import LOSSLESS, Sampler, token
from specsim.verification.suite import Group, standard_cases

QUICK = {"detect_tv": 0.03, "budget_s": 60.0}


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


def test_interception_asks_for_injection() -> None:
    verdict = check_sampler(LOSSLESS["coupled"], "coupled", level="interception")
    assert verdict.status == "inconclusive"
    assert verdict.findings[0].name == "not_injectable"


def test_a_sampler_that_fails_on_equal_rows_is_found() -> None:
    def sampler(target, draft, tokens, rng):
        rest = np.maximum(target[:, :-1] - draft, 0.0)
        if not (rest.sum(axis=2) > 0).all():
            raise ValueError("probability tensor contains nan")
        return token(target, draft, tokens, rng)

    verdict = check_sampler(sampler, "token", cases=standard_cases()[:1], **QUICK)
    assert "fails_on_equal_rows" in {finding.name for finding in verdict.findings}
    assert not verdict.passed


def test_a_case_that_leaves_nothing_to_chance_is_no_ignored_seed() -> None:
    """Every seed must agree there; that was once called a finding."""
    sure = Case({(): (1, 0), (0,): (0, 1), (1,): (1, 0)}, {(): (1, 0)}, gamma=1, name="sure")
    verdict = check_sampler(token, "token", cases=[sure], level="metamorphic")
    assert "seed_ignored" not in {finding.name for finding in verdict.findings}
