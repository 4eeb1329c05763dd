from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from studies.fidelity_kernels import layer, predicted_s, run


@pytest.mark.data
def test_growth_with_tokens_agrees_with_another_project_on_the_same_gpu(shared_data: Path) -> None:
    rows = [row for row in run(shared_data) if row.source == "LLMServingSim"]
    assert {(row.model, row.tensor_parallel) for row in rows} == {
        ("Llama-3.1-8B", 1),
        ("Llama-3.1-8B", 2),
        ("Llama-3.1-70B", 4),
    }
    for row in rows:
        assert np.median(np.abs(row.time)) < 0.05
        assert abs(np.median(row.growth)) < 0.03
        assert np.median(np.abs(row.growth)) < 0.05


def test_fused_and_separate_products_do_the_same_work() -> None:
    fused, separate = (layer("Llama-3.1-8B", 2, fused=f) for f in (True, False))
    assert sum(x.n * x.k for x in fused.linears) == sum(x.n * x.k for x in separate.linears)
    tokens = np.array([1.0, 64.0, 512.0])
    assert (predicted_s("h100_sxm", fused, tokens) < predicted_s("h100_sxm", separate, tokens)).all()
