"""How far simple acceptance models miss real requests: ``python -m studies.acceptance_models``.

Llama-3.1-8B, EAGLE-3 and n-gram, four data sets, from the shipped per-position figures. Three questions: what the
i.i.d. curve promises at other K than the one it was read at; what rates measured at the longest draft promise for
shorter ones; and whether one logit spread between requests, read at one K, explains the spread of their lengths at the
others.
"""

from __future__ import annotations

from dataclasses import dataclass

from specsim.acceptance.acceptance_file import shipped_evidence
from specsim.acceptance.chains import ByDraftLength, LengthOnly, PerPosition
from specsim.acceptance.fit import spread_for_length_sd
from specsim.acceptance.heterogeneous import Heterogeneous
from studies.measured_data import run_study

DATASETS = ("gsm8k", "cnn", "sharegpt", "instructcoder")
METHODS = ("eagle3", "ngram")
TARGET = {"eagle3": (0.09, 0.15), "ngram": (-0.19, -0.05)}
"""Error of i.i.d. tokens per round at K = 8 that was reported on these traces."""


@dataclass(frozen=True)
class Misses:
    method: str
    dataset: str
    iid_from_1_at_8: float
    iid_from_3_at_10: float
    longest_at_1: float
    spread: float
    sd_measured: dict[int, float]
    sd_predicted: dict[int, float]


def length(process: ByDraftLength | LengthOnly | PerPosition, k: int) -> float:
    return 1.0 + float(process.survival(k).sum())


def misses(method: str, dataset: str) -> Misses:
    """Relative errors of tokens per round, and standard deviations of requests' lengths, of one drafter on one set."""
    real = shipped_evidence(method=method, dataset=dataset).process()
    if not isinstance(real, ByDraftLength):
        raise TypeError(real.name)
    measured = {row.k: row.sample.request_length_sd for row in real.rows if row.sample is not None}
    sds = {k: sd for k, sd in measured.items() if sd is not None}
    spread = spread_for_length_sd(real, 3, sds[3])
    model = Heterogeneous(real, spread)
    return Misses(
        method=method,
        dataset=dataset,
        iid_from_1_at_8=length(LengthOnly(length(real, 1), 1), 8) / length(real, 8) - 1.0,
        iid_from_3_at_10=length(LengthOnly(length(real, 3), 3), 10) / length(real, 10) - 1.0,
        longest_at_1=length(PerPosition(real.rows[-1].conditional), 1) / length(real, 1) - 1.0,
        spread=spread,
        sd_measured=sds,
        sd_predicted={k: model.length_sd(k) for k in sds},
    )


def table() -> list[Misses]:
    return [misses(method, dataset) for method in METHODS for dataset in DATASETS]


def main() -> None:
    rows = table()
    print("tokens per round: what a simple model promises over what was measured")
    heads = ("iid K=1 -> 8", "reported", "iid K=3 -> 10", "K=10 rates at 1")
    print(f"{'drafter':8} {'data set':14} {heads[0]:>13} {heads[1]:>15} {heads[2]:>14} {heads[3]:>16}")
    for row in rows:
        low, high = TARGET[row.method]
        print(
            f"{row.method:8} {row.dataset:14} {row.iid_from_1_at_8:+13.1%} {low:+7.0%} to{high:+5.0%}"
            f" {row.iid_from_3_at_10:+14.1%} {row.longest_at_1:+16.1%}"
        )
    print("\nspread between requests: logit sd solved at K = 3, and the length sd it predicts / measured at each K")
    for row in rows:
        pairs = [f"K={k}: {row.sd_predicted[k]:.2f}/{sd:.2f}" for k, sd in row.sd_measured.items()]
        print(f"{row.method:8} {row.dataset:14} sd {row.spread:.2f}   {'  '.join(pairs)}")
    print("\nThe measured sd holds the noise of finitely many rounds too, so the logit sd is an upper estimate.")


if __name__ == "__main__":
    run_study(main)
