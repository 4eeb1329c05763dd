"""The rules on arrays: the law of the pure form, at any batch, and with every kind of input."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.verification import batched, check_sampler, random_case, statistics
from specsim.verification import drafting as draw
from specsim.verification.batched_lossy import LOSSY
from specsim.verification.batched_nodes import SAMPLERS, traverse
from specsim.verification.coins import law_of
from specsim.verification.lookup import NodeRuleSampler
from specsim.verification.node_mutants import NODE_MUTANTS
from specsim.verification.node_oracle import check_node_sampler
from specsim.verification.suite import standard_cases
from specsim.verification.trees import traversal_law
from studies.false_alarms import PARAMETERS


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_samplers_have_their_rules_law(name: str) -> None:
    options = PARAMETERS[name]
    verdict = check_sampler(LOSSY[name](**options), name, level="interception", **options)
    assert verdict.status == "consistent", str(verdict)


@pytest.mark.parametrize("divergence", ["js", "kl"])
def test_divergences_on_arrays(divergence: str) -> None:
    options = {"threshold": 0.05, "divergence": divergence}
    verdict = check_sampler(LOSSY["fuzzy"](**options), "fuzzy", level="interception", **options)
    assert verdict.status == "consistent", str(verdict)


@pytest.mark.parametrize("k", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_node_samplers_have_their_rules_law(name: str, k: int) -> None:
    if name == "hub_transport" and k != 2:
        pytest.skip("the hub is of two drafts")
    detect = 0.15 if name == "optimal_transport" else 0.05
    verdict = check_node_sampler(SAMPLERS[name], name, k=k, detect_tv=detect)
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("mutant", NODE_MUTANTS, ids=lambda mutant: mutant.name)
def test_wrong_node_samplers_are_rejected(mutant) -> None:
    verdict = check_node_sampler(NodeRuleSampler(mutant.rule), mutant.claims, drafting=mutant.drafting, detect_tv=0.06)
    assert verdict.status == "rejected"
    assert verdict.witness is not None


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        (lambda t, a, p: (t + 0.5, a), "wrong_dtype"),
        (lambda t, a, p: (t * np.nan, a), "wrong_dtype"),
        (lambda t, a, p: (t[1:], a), "wrong_shape"),
        (lambda t, a, p: (t + 9, a), "out_of_vocabulary"),
        (lambda t, a, p: (t, a + 5), "count_out_of_range"),
        (lambda t, a, p: t, "wrong_answer"),
        (lambda t, a, p: p.fill(0.0) or (t, a), "mutates_inputs"),
    ],
)
def test_an_impossible_answer_at_a_node_is_a_named_finding(spoil, finding: str) -> None:
    def sampler(p, q, drafts, rng):
        return spoil(*SAMPLERS["recursive"](p, q, drafts, rng), p)

    verdict = check_node_sampler(sampler, "recursive", detect_tv=0.1)
    assert [found.name for found in verdict.findings] == [finding]
    assert not verdict.passed


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (((0.5, 0.2), (0.5, 0.5)), "sums to"),
        (((0.5, 0.5), (1.5, -0.5)), "0 or more"),
        (((0.5, 0.5), (0.2, 0.3, 0.5)), "probabilities"),
    ],
)
def test_pairs_that_are_no_laws_are_refused(pair, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_node_sampler(SAMPLERS["recursive"], "recursive", pairs=[pair])


@pytest.mark.parametrize("shape", [(2,), (1, 1), (2, 1), (1, 2), (2, 2)])
def test_traversal_on_arrays_has_the_law_of_the_pure_form(shape) -> None:
    case = random_case(np.random.default_rng(0), vocab=3, gamma=len(shape), zeros=0.1)
    n = 20_000
    rng = np.random.default_rng(1)

    def grow(path, depth, coins):
        node = [path]
        for x in draw.without_replacement(case.draft[path], shape[depth], coins) if depth < len(shape) else ():
            node += grow((*path, x), depth + 1, coins)
        return node

    def padded(tree, path=(), depth=0):
        rows = [path if path in tree else None]
        if depth < len(shape):
            children = [s for s in tree if path is not None and len(s) == depth + 1 and s[:depth] == path]
            for child in (*children, *[None] * (shape[depth] - len(children))):
                rows += padded(tree, child, depth + 1)
        return rows

    law = law_of(lambda coins: tuple(grow((), 0, _keyed(coins))))
    trees = list(law)
    which = rng.choice(len(trees), size=n, p=np.array([float(m) for m in law.values()]))
    rows = [padded(tree) for tree in trees]
    uniform = [1 / 3] * 3
    target = np.array([[[float(x) for x in case.target.get(s, uniform)] for s in row] for row in rows])
    draft = np.array([[[float(x) for x in case.draft.get(s, uniform)] for s in row] for row in rows])
    tokens = np.array([[-1 if not s else s[-1] for s in row] for row in rows])
    strings, counts = traverse(target[which], draft[which], tokens[which], shape, rng)
    seen = Counter(tuple(int(x) for x in s[:c]) for s, c in zip(strings, counts, strict=True))
    assert statistics.fit(seen, traversal_law(case, shape)).p_value > 1e-6


def _keyed(coins):
    return coins


@pytest.mark.parametrize("name", ["token", "point_mass", "block", "sample_and_match", "coupled", "greedy"])
def test_no_drafts_and_one_token_vocabularies(name: str) -> None:
    rng = np.random.default_rng(0)
    sampler = batched.LOSSLESS[name]
    target = np.array([[[0.25, 0.75]]] * 4000)
    tokens, counts = sampler(target, np.empty((4000, 0, 2)), np.empty((4000, 0), dtype=np.int64), rng)
    assert (counts == 1).all()
    share = (tokens[:, 0] == 1).mean()
    assert share == 1.0 if name == "greedy" else abs(share - 0.75) < 0.04
    one = np.ones((5, 3, 1))
    tokens, counts = sampler(one, one[:, :2], np.zeros((5, 2), dtype=np.int64), rng)
    assert (counts == 3).all()
    assert (tokens == 0).all()


@pytest.mark.parametrize("name", ["token", "point_mass", "block", "sample_and_match", "coupled", "greedy"])
def test_rows_that_end_early(name: str) -> None:
    case = standard_cases()[0].floats()
    rng = np.random.default_rng(0)
    n = 40_000
    p, q = case.rows((0, 1))
    target, draft = np.tile(np.array(p), (n, 1, 1)), np.tile(np.array(q), (n, 1, 1))
    tokens, counts = batched.LOSSLESS[name](target, draft, np.tile([0, -1], (n, 1)), rng)
    from specsim.verification.chains import law_given_drafts
    from specsim.verification.exact import CHAIN_RULES

    law = law_given_drafts(CHAIN_RULES[name], p, q, (0, -1), unit=1.0)
    seen = Counter(tuple(int(x) for x in s[:c]) for s, c in zip(tokens, counts, strict=True))
    assert statistics.fit(seen, law).p_value > 1e-6


def test_equal_rows_accept_everything_and_never_fail() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), size=(2000, 3))
    x = batched.inverse_cdf(p[:, :2].reshape(-1, 5), rng.random(4000)).reshape(2000, 2)
    for name in ("token", "block", "coupled"):
        tokens, counts = batched.LOSSLESS[name](p, p[:, :2].copy(), x, rng)
        assert (counts == 3).all()
        np.testing.assert_array_equal(tokens[:, :2], x)
    for q in (np.nextafter(p, 1.0), np.nextafter(p, 0.0)):
        for name in ("token", "block"):
            tokens, counts = batched.LOSSLESS[name](p, np.ascontiguousarray(q[:, :2]), x, rng)
            assert ((counts >= 1) & (counts <= 3)).all()


def test_inverse_of_the_cumulative_weights_at_its_ends() -> None:
    rows = np.array([[0.0, 1.0, 0.0], [0.3, 0.0, 0.7], [0.1, 0.2, 0.0]])
    assert batched.inverse_cdf(rows, np.zeros(3)).tolist() == [1, 0, 0]
    assert batched.inverse_cdf(rows, np.full(3, 1 - 2**-53)).tolist() == [1, 2, 1]
    assert batched.inverse_cdf(rows, np.ones(3)).tolist() == [1, 2, 1]
    long = np.zeros((2, 5000))
    long[:, 4000] = 1.0
    assert batched.inverse_cdf(long, np.array([0.0, 1.0])).tolist() == [4000, 4000]


def test_a_batch_is_its_rows() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(6), size=(50, 4)), rng.dirichlet(np.ones(6), size=(50, 3))
    x = rng.integers(0, 6, (50, 3))
    u, w = rng.random((50, 3)), rng.random(50)
    for sampler in (batched.token, batched.block, batched.point_mass):
        whole = sampler.inject(p, q, x, u, w)
        for row in range(50):
            at = slice(row, row + 1)
            for a, b in zip(whole, sampler.inject(p[at], q[at], x[at], u[at], w[at]), strict=True):
                np.testing.assert_array_equal(a[at], b)
