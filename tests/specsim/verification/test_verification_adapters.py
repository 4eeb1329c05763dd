"""Adapters: other calling conventions are judged the same."""

from __future__ import annotations

import pytest

from specsim.verification import check_sampler
from specsim.verification.adapters import RowByRow, SampleAndMatch, TokensAndLengths
from specsim.verification.batched import inverse_cdf, token
from specsim.verification.chains import token as token_rule
from specsim.verification.coins import Drawn
from specsim.verification.suite import standard_cases


def test_flat_tokens_and_lengths() -> None:
    def flat(target, draft, drafts, rng):
        tokens, counts = token(target, draft, drafts, rng)
        return tokens[tokens >= 0], counts

    assert check_sampler(TokensAndLengths(flat), "token", detect_tv=0.1).passed

    def torn(target, draft, drafts, rng):
        tokens, counts = token(target, draft, drafts, rng)
        return tokens[tokens >= 0][:-1], counts

    assert check_sampler(TokensAndLengths(torn), "token", detect_tv=0.05).findings[0].name == "raises"


def test_samples_of_the_target_alone_are_matched() -> None:
    sampler = SampleAndMatch(lambda probs, rng: inverse_cdf(probs, rng.random(len(probs))))
    assert check_sampler(sampler, "sample_and_match", detect_tv=0.08).passed
    assert check_sampler(sampler, None, detect_tv=0.08).passed
    assert check_sampler(sampler, "token", detect_tv=0.05).status == "rejected"


def test_one_row_at_a_time() -> None:
    def one(target, draft, drafts, rng):
        coins = Drawn(rng)
        stop = token_rule(target.tolist(), draft.tolist(), tuple(drafts.tolist()), coins)
        return [*stop.tokens, coins.pick(stop.weights)]

    assert check_sampler(RowByRow(one), "token", cases=standard_cases()[:1], detect_tv=0.08).passed


def test_tensors_are_handed_over_and_taken_back() -> None:
    torch = pytest.importorskip("torch")

    def sampler(target, draft, drafts, generator):
        assert isinstance(target, torch.Tensor)
        uniforms = torch.rand(drafts.shape, generator=generator, dtype=target.dtype)
        final = torch.rand(len(drafts), generator=generator, dtype=target.dtype)
        tokens, counts = token.inject(target.numpy(), draft.numpy(), drafts.numpy(), uniforms.numpy(), final.numpy())
        return torch.from_numpy(tokens), torch.from_numpy(counts)

    assert check_sampler(sampler, "token", arrays="torch", detect_tv=0.1).passed
