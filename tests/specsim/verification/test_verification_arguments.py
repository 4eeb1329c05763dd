"""What a user gets wrong is one line: arguments, rows, and rules that return what can't be emitted."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.verification import Case, check_sampler, exact_law, optimal_acceptance, random_case
from specsim.verification.batched import token
from specsim.verification.chains import Stop

CASE = random_case(np.random.default_rng(0), vocab=2, gamma=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"algorithm": 3}, "algorithm: 3 is not a rule"),
        ({"algorithm": lambda p, q: None}, "is called as rule.p, q, drafts, coins."),
        ({"alpha": "x"}, "alpha: 'x': must be between 0 and 1"),
        ({"cases": CASE}, "cases: of type Case"),
        ({"cases": [1]}, "cases: 1 is of type int"),
        ({"max_rows": 0}, "max_rows: 0: give a whole number from 1"),
        ({"seed": -1}, "seed: -1: give a whole number from 0"),
        ({"seed": 1.5}, "seed: 1.5"),
        ({"seed": None}, "seed: None"),
        ({"budget_s": "a"}, "budget_s: 'a': give a number of seconds"),
        ({"budget_s": float("nan")}, "budget_s: nan"),
        ({"budget_s": -1}, "budget_s: -1"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said) as wrong:
        check_sampler(token, **arguments)
    assert "\n" not in str(wrong.value)


def test_a_sampler_that_is_not_to_be_called_is_said() -> None:
    with pytest.raises(InputError, match="sampler: 'eng:good': give something to call"):
        check_sampler("eng:good")  # type: ignore[arg-type]


def returning(stop):
    def rule(p, q, drafts, coins):
        return stop(p, q, drafts) if callable(stop) else stop

    return rule


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (lambda p, q, d: Stop((), [a - b for a, b in zip(p[0], q[0], strict=True)]), "the weight -0.2.* for token 1"),
        (Stop((), [2, -1]), r"the weight -1 for token 1 after \[\], for the drafts \[0\]"),
        (Stop((1,), [float("nan"), 1.0]), r"the weight nan for token 0 after \[1\]"),
        (Stop((), [0, 0]), "no weight above 0"),
        (Stop((), [Fraction(1, 3)] * 3), "3 weights after .*the vocabulary has 2"),
        (Stop((2,), None), "emitted token 2; the vocabulary has 2"),
        (Stop((0, 1), [1, 1]), "3 tokens, more than drafts and one"),
        (None, "a NoneType, not a Stop"),
        (((0,), [1, 1]), "a tuple, not a Stop"),
    ],
)
def test_what_a_rule_may_not_return_names_rule_prefix_and_token(stop, said: str) -> None:
    for case in (CASE, CASE.floats()):
        with pytest.raises(InputError, match=f"^the rule 'rule': (returned|emitted) {said.removeprefix('emitted ')}"):
            exact_law(returning(stop), case)


def test_what_rounding_leaves_below_0_is_no_weight() -> None:
    law = exact_law(returning(Stop((), [1.0, -1e-17])), CASE.floats())
    assert law == {(0,): 1.0}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: exact_law(lambda p, q, d: Stop(d, None), CASE), "is called as rule"),
        (lambda: exact_law("token", {}), "case: is a dict, not a Case"),
        (lambda: exact_law("recursive", CASE, shape=2), "shape: 2: give the children"),
        (lambda: exact_law("recursive", CASE, shape=(2, 2, 2)), "up to 1 deep"),
        (lambda: random_case(0, vocab=2, gamma=1), "rng: is a int"),
        (lambda: random_case(np.random.default_rng(0), vocab=0, gamma=1), "vocab: 0"),
        (lambda: Case({(): ("a", "b")}, {}, 0), "must be numbers"),
        (lambda: optimal_acceptance([0.5, 0.5], [0.2, 0.3, 0.5], 1), "q: has 3 probabilities, the vocabulary 2"),
        (lambda: optimal_acceptance([0.5, 0.6], [0.2, 0.8], 1), "p: sums to"),
        (lambda: optimal_acceptance([0.5, 0.5], [0.2, 0.8], 0), "k: 0"),
    ],
)
def test_wrong_laws_and_shapes_are_one_line(call, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()
