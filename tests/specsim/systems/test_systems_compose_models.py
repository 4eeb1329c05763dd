"""Lossy, staged and pooled systems on a scenario: exact chains, priced passes, and conserved counts."""

from __future__ import annotations

import tomllib
from importlib import resources

import numpy as np
import pytest
from composed_models import DEPLOYED, NUMBERS, RATE, composed, deployed, drafter, run

from specsim.errors import InputError
from specsim.planning.comparison import compose
from specsim.planning.deployment import deploy
from specsim.scenario import Scenario
from specsim.simulation.program import Batch, PrefillChunk
from specsim.systems import bild
from specsim.systems.catalogue import system
from specsim.systems.composition import NotApplicable
from specsim.theory.tokens import expected_tokens_iid

ALONE = ["bild", "hsd", "pyramid-sd", "staged", "metasd"]


@pytest.mark.parametrize("name", NUMBERS)
def test_counts_are_conserved(name):
    outcome = run(composed(name), requests=8, output=301)
    result = outcome.result
    assert result.output_tokens.tolist() == [301] * 8
    assert (result.accepted <= result.drafted).all()
    assert (result.accepted + result.rounds >= 300).all()
    assert sum(n for n, _ in result.work.rounds.values()) == result.rounds.sum()
    prompts = sum(new * count for chunks in result.work.chunks.values() for (new, _, _), count in chunks.items())
    assert prompts == 200 * 8


@pytest.mark.parametrize("name", ALONE)
def test_busy_seconds_are_those_of_the_programs_that_ran(name):
    made = composed(name)
    assert made.one_at_a_time
    outcome = run(made, requests=4, output=401)
    work = outcome.result.work
    rounds = sum(n * float(made.programs[k].seconds(Batch(1.0, kv / n))) for k, (n, kv) in work.rounds.items())
    prompts = sum(
        count * float(made.programs[k].seconds(Batch(0.0, 0.0, prefill=(PrefillChunk(*chunk),))))
        for k, chunks in work.chunks.items()
        for chunk, count in chunks.items()
    )
    assert outcome.servers[0].busy_s == pytest.approx(rounds + prompts, rel=2e-3)


@pytest.mark.parametrize(("name", "numbers", "said"), [
    ("bild", {"fallback": 1.5}, "systems.bild.fallback: 1.5; give 0 or more, at most 1"),
    ("bild", {"correlation": 1.0}, "systems.bild.correlation: 1; give 0 or more, at most 0.999"),
    ("adasd", {"distance_correlation": -0.1}, "systems.adasd.distance_correlation"),
    ("adasd", {"warm_up": 0.5}, "systems.adasd.warm_up: 0.5; give a whole number"),
    ("tandem", {"threshold": 2.0}, "systems.tandem.threshold"),
    ("magicdec", {"acceptance_rate": 84.0}, "systems.magicdec.acceptance_rate: 84; give 0 or more, at most 1"),
    ("specformer", {"tokens_per_round": 6.0}, "systems.specformer.tokens_per_round: 6; give 1 or more, at most 5"),
    ("hsd", {"lower_rate": -1.0}, "systems.hsd.lower_rate"),
    ("pyramid-sd", {"draft": 0.0}, "systems.pyramid-sd.draft"),
    ("staged", {"nodes": 1.0}, "systems.staged.nodes"),
    ("metasd", {"exploration": -1.0}, "systems.metasd.exploration"),
    ("bias-mitigation", {"k": 1.5}, "systems.bias-mitigation.k: 1.5; give a whole number"),
])  # fmt: skip
def test_wrong_numbers_are_one_line(name, numbers, said):
    with pytest.raises(InputError) as caught:
        composed(name, **numbers)
    (line,) = caught.value.lines
    assert said in line


@pytest.mark.parametrize(("name", "drafters", "said"), [
    ("bild", [drafter("eagle3")], "draft_model"),
    ("tandem", [drafter("ngram", 0.3)], "draft_model"),
    ("hsd", [drafter(), drafter("eagle3")], "stacks two drafters"),
    ("hsd", [drafter(acceptance=None), drafter("ngram", 0.3)], "needs the acceptance of"),
    ("staged", [drafter(acceptance={"rate": 0.7})], "by_rank"),
    ("metasd", [drafter()], "picks from a pool"),
    ("bias-mitigation", [drafter("eagle3")], "two small models"),
])  # fmt: skip
def test_what_a_scenario_lacks_is_named(name, drafters, said):
    given_ = [{k: v for k, v in one.items() if v is not None} for one in drafters]
    with pytest.raises(NotApplicable, match=said):
        composed(name, deployed(*given_))


def test_the_shipped_example_has_what_systems_need():
    text = resources.files("specsim.examples").joinpath("llama31_8b_systems.toml").read_text(encoding="utf-8")
    deployment = deploy(Scenario.from_dict(tomllib.loads(text)))
    elsewhere = ("dsd", "sled", "decentralized", "edge-network", "seed", "speed", "rsd", "dsbd", "ssbd")
    for name in (*NUMBERS, *elsewhere, "specdec++", "sequoia", "pearl", "dsi"):
        made, _ = compose(system(name), deployment)
        assert made.programs


# Signals


@pytest.mark.parametrize("name", ["bild", "adasd", "tandem"])
def test_a_prompt_waits_for_no_long_draft(name):
    """Its iteration drafts one token, whatever the longest draft is."""
    short, long = (run(composed(name, most=most), requests=1, output=2) for most in (2, 12))
    assert long.result.ttft_s[0] == pytest.approx(short.result.ttft_s[0])


@pytest.mark.parametrize("tolerated", [0.0, 0.5])
def test_bild_without_correlation_is_its_exact_chain(tolerated):
    outcome = run(composed("bild", tolerated=tolerated), requests=10, output=8001)
    exact = bild.per_token(bild.Fates(0.2, (1 - RATE) * (1 - tolerated)))
    tokens = float((outcome.result.output_tokens - 1).sum())
    assert outcome.result.rounds.sum() / tokens == pytest.approx(exact.large, rel=0.01)
    assert outcome.result.drafted.sum() / tokens == pytest.approx(exact.small, rel=0.01)


def test_bilds_extra_pass_is_a_plain_step():
    made = composed("bild")
    batch = Batch(1.0, 500.0)
    plain = float(DEPLOYED.program(None, 0).seconds(batch))
    assert float(made.programs[bild.LARGE_AGAIN].seconds(batch)) == plain
    steps = [float(made.programs[n + 1].seconds(batch)) for n in range(bild.MOST + 1)]
    assert steps == sorted(steps)
    assert steps[0] > plain


def test_adasd_settles_at_the_mean_entropy_and_then_drafts_geometrically():
    """Independent entropies: T tends to their mean, so a token is the last with 1/e; the densities never speak."""
    outcome = run(composed("adasd", warm_up=10**6), requests=8, output=8001, users=8)
    i = np.arange(1, 9)
    expected = 1 + float((RATE**i * (1 - np.exp(-1)) ** (i - 1)).sum())
    assert outcome.tokens_per_round == pytest.approx(expected, rel=0.03)


def test_densities_only_ever_keep_more_and_keep_all_where_distance_says_nothing():
    def share(**numbers):
        result = run(composed("adasd", **numbers), requests=8, output=1001, users=8).result
        return result.accepted.sum() / result.drafted.sum()

    strict, mild, blind = share(warm_up=10**6), share(distance_correlation=0.6), share(distance_correlation=0.0)
    assert strict < mild < blind
    assert blind > 0.97


@pytest.mark.parametrize(("threshold", "length"), [(0.6, 17), (0.8, 1)])
def test_a_stop_network_that_knows_nothing_drafts_all_or_one(threshold, length):
    made = composed("tandem", correlation=0.0, threshold=threshold)
    outcome = run(made, requests=8, output=4001)
    assert set(outcome.result.work.rounds) == {length}
    assert outcome.tokens_per_round == pytest.approx(float(expected_tokens_iid(RATE, length)), rel=0.02)
