"""How study 118 compares scores, on outcomes made up so that the answer is known."""

from __future__ import annotations

import numpy as np

from separatrix.reconstruct.benchmark import Outcome
from separatrix.studies import scale_and_knowledge


def _compared(valid_times: list[float], distances: list[float]) -> scale_and_knowledge._Compared:
    scores = {
        (f"model-{index}", "many"): Outcome(
            valid_time=time, smape=100.0 - time, divergence=5.0 - time, spectrum_distance=distance
        )
        for index, (time, distance) in enumerate(zip(valid_times, distances, strict=True))
    }
    return scale_and_knowledge._Compared("Lorenz", scores)


def test_scores_that_order_models_alike_agree_and_one_that_does_not_shows() -> None:
    alike = _compared([0.1, 2.0, 4.0, 3.0], [0.9, 0.5, 0.1, 0.3])
    opposed = _compared([0.1, 2.0, 4.0, 3.0], [0.1, 0.5, 0.9, 0.7])
    assert np.isclose(scale_and_knowledge._agreement([alike]), 1.0)
    assert np.isclose(scale_and_knowledge._agreement([opposed]), -1.0)
    assert np.isclose(scale_and_knowledge._agreement([alike, opposed]), 0.0)


def test_shuffled_scores_agree_no_more_than_by_chance() -> None:
    generator = np.random.default_rng(0)
    alike = [_compared(row.tolist(), (1.0 - row / 8).tolist()) for row in generator.uniform(0.0, 8.0, (40, 12))]
    assert abs(scale_and_knowledge._agreement(alike, generator)) < 0.2  # of 40 means of 12, four times the spread
