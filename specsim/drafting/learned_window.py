"""A window that is learned: a small network predicts the next round's acceptance from the rounds so far.

The network is trained on simulated requests whose acceptance switches between regimes, by maximum likelihood of the
tokens that were tested; the window is then the K with most tokens per second at the predicted rate.
``python -m studies.train_window`` trains it again and writes the weights that ship.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.signals import Ints, Signals
from specsim.errors import InputError
from specsim.theory.tokens import expected_tokens_iid

Floats = NDArray[np.float64]

FAST, SLOW = 0.6, 0.95
"""What a round leaves of the two running counts of accepted and tested tokens."""

FEATURES, HIDDEN = 4, 8


@dataclass(frozen=True)
class Network:
    """Features -> tanh layer -> logit of the acceptance rate. Shapes (4, 8), (8,), (8,), ()."""

    inner: Floats
    inner_bias: Floats
    outer: Floats
    outer_bias: float

    def logit(self, features: Floats) -> Floats:
        """Predicted logit of each row."""
        return np.asarray(np.tanh(features @ self.inner + self.inner_bias) @ self.outer + self.outer_bias)

    def as_json(self) -> str:
        """The weights as a document."""
        parts = {"inner": self.inner.tolist(), "inner_bias": self.inner_bias.tolist(), "outer": self.outer.tolist()}
        return json.dumps({**parts, "outer_bias": self.outer_bias}, indent=1) + "\n"


def shipped() -> Network:
    """The weights in the package."""
    given = json.loads(resources.files("specsim.drafting").joinpath("learned_window.json").read_text(encoding="utf-8"))
    inner, bias, outer = (np.array(given[name], dtype=np.float64) for name in ("inner", "inner_bias", "outer"))
    return Network(inner, bias, outer, float(given["outer_bias"]))


@dataclass(frozen=True)
class LearnedWindow:
    """A length controller: K = argmax of expected tokens at the predicted rate over ``round_s(K)``, least..most.

    State of a request: fast and slow counts of accepted and tested tokens, and the last round's accepted share.
    """

    network: Network
    round_s: Callable[[Ints], Floats]
    most: int
    least: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise InputError(f"needs 1 <= least <= most, got {self.least} and {self.most}", field="least, most")

    def start(self, n: int) -> Floats:
        """One tested token of rate 0.5 in either count, shape (n, 5)."""
        return np.tile([0.5, 1.0, 0.5, 1.0, 0.5], (n, 1))

    def rates(self, state: Floats) -> Floats:
        """Predicted acceptance of the next round."""
        return np.asarray(1.0 / (1.0 + np.exp(-self.network.logit(features(state)))))

    def lengths(self, state: Floats, signals: Signals) -> Ints:  # noqa: ARG002 (the interface's argument)
        """The best window at the predicted rate."""
        return self.fastest(state)[0]

    def fastest(self, state: Floats) -> tuple[Ints, Floats]:
        """The best window at the predicted rate, and its tokens a second."""
        k = np.arange(self.least, self.most + 1)
        speed = expected_tokens_iid(self.rates(state)[:, None], k[None, :]) / self.round_s(k)[None, :]
        return np.asarray(k[np.argmax(speed, axis=1)], dtype=np.int64), np.asarray(speed.max(axis=1))

    def learn(self, state: Floats, signals: Signals, drafted: Ints, accepted: Ints) -> Floats:  # noqa: ARG002
        """Forget a little, and add what was accepted and tested."""
        return counted(state, drafted, accepted)


def counted(state: Floats, drafted: Ints, accepted: Ints) -> Floats:
    """The state after a round; a round tests up to its first rejection."""
    tested = np.minimum(accepted + 1, drafted)
    fast = FAST * state[:, :2] + np.column_stack([accepted, tested])
    slow = SLOW * state[:, 2:4] + np.column_stack([accepted, tested])
    return np.column_stack([fast, slow, accepted / np.maximum(drafted, 1)])


def features(state: Floats) -> Floats:
    """Fast and slow rates, last share, and how much the slow count rests on, each around 0; shape (n, 4)."""
    fast, slow = state[:, 0] / state[:, 1], state[:, 2] / state[:, 3]
    return np.column_stack([fast - 0.5, slow - 0.5, state[:, 4] - 0.5, np.log(state[:, 3]) / 4.0 - 0.5])


def train(
    *, requests: int, rounds: int, low: float, high: float, switch: float, rng: np.random.Generator, steps: int = 600
) -> Network:
    """Fit the network on simulated requests by Adam (full batch), maximising the likelihood of tested tokens.

    Each request's rate is uniform in low..high and drawn anew with probability ``switch`` a round; windows are random,
    so that the data cover every length.
    """
    seen, accepted_next, tested_next = _rounds(requests, rounds, low, high, switch, rng)
    sizes = ((FEATURES, HIDDEN), (HIDDEN,), (HIDDEN,), ())
    weights = [rng.standard_normal(s) * 0.5 for s in sizes]
    first, second = [np.zeros(s) for s in sizes], [np.zeros(s) for s in sizes]
    for step in range(1, steps + 1):
        hidden = np.tanh(seen @ weights[0] + weights[1])
        rate = 1.0 / (1.0 + np.exp(-(hidden @ weights[2] + weights[3])))
        error = (tested_next * rate - accepted_next) / len(seen)
        back = (error[:, None] * weights[2]) * (1.0 - hidden**2)
        slopes = [seen.T @ back, back.sum(axis=0), hidden.T @ error, error.sum()]
        for i, slope in enumerate(slopes):
            first[i] = 0.9 * first[i] + 0.1 * slope
            second[i] = 0.999 * second[i] + 0.001 * np.square(slope)
            move = first[i] / (1 - 0.9**step) / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-9)
            weights[i] = weights[i] - 0.02 * move
    return Network(weights[0], weights[1], weights[2], float(weights[3]))


def _rounds(
    requests: int, rounds: int, low: float, high: float, switch: float, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Features before each round, and what the round accepted and tested; rows are (request, round)."""
    state = np.tile([0.5, 1.0, 0.5, 1.0, 0.5], (requests, 1))
    rate = rng.uniform(low, high, size=requests)
    seen, accepted_all, tested_all = [], [], []
    for _ in range(rounds):
        rate = np.where(rng.random(requests) < switch, rng.uniform(low, high, size=requests), rate)
        drafted = rng.integers(1, 9, size=requests)
        accepted = np.minimum(rng.geometric(1.0 - rate) - 1, drafted)
        seen.append(features(state))
        accepted_all.append(accepted)
        tested_all.append(np.minimum(accepted + 1, drafted))
        state = counted(state, drafted, accepted)
    return np.concatenate(seen), np.concatenate(accepted_all).astype(float), np.concatenate(tested_all).astype(float)
