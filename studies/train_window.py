"""Train the learned window in the simulator, compare it with static and oracle windows, and write its weights.

``python -m studies.train_window`` prints the comparison and replaces ``specsim/drafting/learned_window.json``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import specsim.drafting
from specsim.acceptance.signals import Signals
from specsim.drafting.learned_window import LearnedWindow, Network, counted, train
from specsim.files import replace_file
from specsim.theory.tokens import expected_tokens_iid

LOW, HIGH, SWITCH, MOST = 0.2, 0.97, 0.05, 12
COST_RATIOS = (0.02, 0.05, 0.1, 0.2)


def trained() -> Network:
    return train(requests=2000, rounds=60, low=LOW, high=HIGH, switch=SWITCH, rng=np.random.default_rng(7))


def compare(network: Network, draft_ratio: float, *, requests: int = 2000, rounds: int = 150) -> dict[str, float]:
    """Tokens per target step of the best static window, the learned one, and one that knows the rate."""
    rng = np.random.default_rng(11)
    k = np.arange(1, MOST + 1)
    round_s = 1.0 + draft_ratio * k
    rate = rng.uniform(LOW, HIGH, size=requests)
    policy = LearnedWindow(network, lambda n: 1.0 + draft_ratio * n, MOST)
    state, blank = policy.start(requests), Signals(*(np.zeros((requests, MOST)) for _ in range(3)))
    tokens = {"learned": 0.0, "oracle": 0.0}
    seconds = {"learned": 0.0, "oracle": 0.0}
    static = np.zeros(MOST)
    for _ in range(rounds):
        rate = np.where(rng.random(requests) < SWITCH, rng.uniform(LOW, HIGH, size=requests), rate)
        run = rng.geometric(1.0 - rate) - 1
        best = k[np.argmax(expected_tokens_iid(rate[:, None], k[None, :]) / round_s, axis=1)]
        chosen = policy.lengths(state, blank)
        for name, lengths in (("learned", chosen), ("oracle", best)):
            tokens[name] += float((np.minimum(run, lengths) + 1).sum())
            seconds[name] += float((1.0 + draft_ratio * lengths).sum())
        static += (np.minimum(run[:, None], k[None, :]) + 1).sum(axis=0)
        state = counted(state, chosen, np.minimum(run, chosen))
    speeds = {name: tokens[name] / seconds[name] for name in tokens}
    return {"static": float((static / (requests * rounds * round_s)).max()), **speeds}


def main() -> None:
    network = trained()
    print("tokens per target step: best static window, learned, oracle")
    for c in COST_RATIOS:
        made = compare(network, c)
        print(f"  c = {c:4.2f}   {made['static']:.3f}   {made['learned']:.3f}   {made['oracle']:.3f}")
    path = Path(specsim.drafting.__file__).parent / "learned_window.json"
    replace_file(path, lambda beside: beside.write_text(network.as_json(), encoding="utf-8"))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
