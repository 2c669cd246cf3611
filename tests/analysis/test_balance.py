"""Rules about what balances a step: Adam's epsilon, weight decay and the batch, on planted numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.analysis.synthetic import parameter, run_of

from separatrix.analysis import Diagnosis, assess, rules
from separatrix.runs import Finding

RULES = rules()
STEPS = 400
NAMES = ["0.weight", "2.weight"]
AT = [1, 2, 4, 8, 40, 100, 200, 400]
FALLING = 0.1 + 2.2 * np.exp(-np.arange(STEPS) / 60)
FLAT = np.full(STEPS, 2.3)


def judged(
    code: str, path: Path, scalars: dict[str, Any], vectors: dict[str, Any] | None = None, kind: str = "SGD"
) -> Diagnosis:
    meta = {
        "parameters": [parameter(name) for name in NAMES],
        "config": {"optimizers": [{"name": "optimizer", "class": kind, "defaults": {}}]},
    }
    with run_of(path / "run", scalars, vectors, meta, steps=AT) as run:
        return assess(run, [RULES[code]])


def only(diagnosis: Diagnosis) -> Finding:
    (finding,) = diagnosis.findings
    return finding


def both(*values: float) -> tuple[str, dict[str, list[float]]]:
    filled = [*values, *[values[-1]] * (len(AT) - len(values))]
    return "parameter", {name: filled for name in NAMES}


class TestEpsilonUnderflow:
    def under(self, path: Path, root: float, share: float, loss: np.ndarray = FLAT) -> Diagnosis:
        vectors = {"epsilon_share": both(share), "adam_second_moment_rms": both(root)}
        return judged("epsilon-underflow", path, {"loss": loss, "epsilon": [1e-8], "learning_rate": [1e-3]}, vectors)

    def test_found_with_the_rate_that_acts(self, tmp_path: Path) -> None:
        found = only(self.under(tmp_path, 1e-10, 1.0))
        assert (found.severity, found.evidence["share_of_weights"]) == ("warning", 1.0)
        assert "learning rate 1e+05" in found.remedy
        assert "up by 1e+04" in found.remedy

    def test_where_it_learns_all_the_same_it_is_worth_knowing(self, tmp_path: Path) -> None:
        assert only(self.under(tmp_path, 1e-10, 1.0, np.maximum(FALLING - 0.1, 0.01))).severity == "info"

    @pytest.mark.parametrize(("root", "share"), [(1e-3, 0.0), (1e-3, 0.9), (2e-8, 0.2)])
    def test_sparse_gradients_are_fine(self, root: float, share: float, tmp_path: Path) -> None:
        assert not self.under(tmp_path, root, share).findings

    def test_a_fitted_network_may_have_no_gradient(self, tmp_path: Path) -> None:
        vectors = {
            "epsilon_share": both(0, 0, 0, 0, 0, 0, 0, 1.0),
            "adam_second_moment_rms": both(1e-3, 1e-3, 1e-3, 1e-3, 1e-4, 1e-5, 1e-6, 1e-12),
        }
        scalars = {"loss": FALLING, "epsilon": [1e-8]}
        assert not judged("epsilon-underflow", tmp_path, scalars, vectors).findings


class TestWeightDecayDominates:
    def decayed(self, path: Path, decay: float, loss: np.ndarray, left: float, kind: str = "SGD") -> Diagnosis:
        sizes = np.geomspace(0.1, 0.1 * left, len(AT))
        scalars = {"loss": loss, "weight_decay": [decay], "learning_rate": [0.01]}
        vectors = {"weight_rms": both(*sizes), "gradient_rms": both(0.01), "update_rms": both(1e-3)}
        return judged("weight-decay-dominates", path, scalars, vectors, kind)

    def test_coupled(self, tmp_path: Path) -> None:
        found = only(self.decayed(tmp_path, 1.0, FLAT, 0.1))
        assert found.evidence["ratio"] > 1 and not found.evidence["decoupled"]
        assert found.evidence["weights_left"] == pytest.approx(0.1, rel=1e-5)

    def test_decoupled_decay_is_compared_with_the_update(self, tmp_path: Path) -> None:
        # 0.01 * 20 * 0.1 = 0.02, twenty updates, in the first measurement.
        found = only(self.decayed(tmp_path / "a", 20.0, FLAT, 0.1, "AdamW"))
        assert found.evidence["decoupled"] and 2 < found.evidence["ratio"] < 20
        assert not self.decayed(tmp_path / "b", 0.1, FLAT, 0.1, "AdamW").findings

    @pytest.mark.parametrize(
        ("decay", "loss", "left"),
        [(5e-4, FLAT, 0.4), (1.0, FALLING, 0.1), (1.0, FLAT, 0.9), (0.0, FLAT, 0.1)],
        ids=["weak", "it fits", "weights stay", "none"],
    )
    def test_silent(self, decay: float, loss: np.ndarray, left: float, tmp_path: Path) -> None:
        assert not self.decayed(tmp_path, decay, loss, left).findings


class TestBatchTooSmall:
    def small(self, path: Path, batch: float, level: np.ndarray, scatter: float, **more: Any) -> Diagnosis:
        loss = level * np.random.default_rng(0).gamma(1 / scatter**2, scatter**2, STEPS)
        return judged("batch-too-small", path, {"loss": loss, "batch_size": [batch] * 3, **more})

    def test_noise_that_stops_progress(self, tmp_path: Path) -> None:
        found = only(self.small(tmp_path, 2, FLAT, 0.7))
        assert found.evidence["scatter"] == pytest.approx(0.7, rel=0.3)
        assert "batches of 32" in found.remedy

    def test_the_noise_scale_says_how_large(self, tmp_path: Path) -> None:
        found = only(self.small(tmp_path, 8, FLAT, 0.4, gradient_noise_scale=[2000.0] * 3))
        assert "batches of 500" in found.remedy and "2e+03 examples" in found.summary

    @pytest.mark.parametrize(
        ("batch", "level", "scatter"),
        [(2, FALLING, 0.7), (2, np.linspace(4.0, 2.0, STEPS), 0.3), (64, FLAT, 0.12)],
        ids=["it learns", "it falls", "usual"],
    )
    def test_silent(self, batch: float, level: np.ndarray, scatter: float, tmp_path: Path) -> None:
        assert not self.small(tmp_path, batch, level, scatter).findings


class TestBatchTooLarge:
    SLOW = np.linspace(2.0, 1.0, 100)

    def large(self, path: Path, batch: float, loss: np.ndarray, **more: Any) -> Diagnosis:
        return judged("batch-too-large", path, {"loss": loss, "batch_size": [batch] * 3, **more})

    def test_few_smooth_steps(self, tmp_path: Path) -> None:
        found = only(self.large(tmp_path, 4096, self.SLOW))
        assert "16 times as many steps" in found.remedy
        assert found.evidence["steps"] == 100

    def test_the_noise_scale_is_a_sign_too(self, tmp_path: Path) -> None:
        loss = self.SLOW * (1 + 0.02 * np.random.default_rng(0).standard_normal(100))
        assert not self.large(tmp_path / "a", 4096, loss).findings
        found = only(self.large(tmp_path / "b", 4096, loss, gradient_noise_scale_high=[40.0] * 3))
        assert "about 160" in found.remedy

    @pytest.mark.parametrize(
        ("batch", "loss"),
        [(64, SLOW), (512, np.linspace(2.0, 1.0, 1000)), (4096, FALLING)],
        ids=["small", "many steps", "finished"],
    )
    def test_silent(self, batch: float, loss: np.ndarray, tmp_path: Path) -> None:
        assert not self.large(tmp_path, batch, loss).findings
