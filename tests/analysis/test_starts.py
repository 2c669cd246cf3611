"""Rules about where a training starts and what keeps it there, on planted numbers."""

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
NAMES = [f"{index}.weight" for index in range(6)]
META = {
    "parameters": [parameter(name, (64, 64)) for name in NAMES],
    "modules": [{"name": str(index), "kind": "Linear"} for index in range(6)],
}
FALLING = 0.1 + 2.2 * np.exp(-np.arange(STEPS) / 60)


def judged(code: str, path: Path, scalars: dict[str, Any], vectors: dict[str, Any] | None = None) -> Diagnosis:
    with run_of(path / "run", scalars, vectors, META, steps=range(1, 9)) as run:
        return assess(run, [RULES[code]])


def only(diagnosis: Diagnosis) -> Finding:
    (finding,) = diagnosis.findings
    return finding


def by(dim: str, names: list[str], values: list[float]) -> tuple[str, dict[str, list[float]]]:
    return dim, {name: [value] * 4 for name, value in zip(names, values, strict=True)}


def weights(*sizes: float) -> tuple[str, dict[str, list[float]]]:
    return by("parameter", NAMES, list(sizes) if len(sizes) > 1 else [sizes[0]] * 6)


HE = (2 / 64) ** 0.5


class TestBadInit:
    def test_equal_units_are_named(self, tmp_path: Path) -> None:
        vectors = {
            "weight_rms": weights(HE),
            "gradient_rms": weights(0.01),
            "repeated_row_share": by("parameter", NAMES, [0, 1, 1, 0, 0, 0]),
        }
        found = only(judged("bad-init", tmp_path, {}, vectors))
        assert (found.evidence["how"], found.evidence["labels"]) == ("symmetric", NAMES[1:3])

    def test_zeros_that_get_a_gradient_differ_soon(self, tmp_path: Path) -> None:
        shares = ("parameter", {name: [float(name == NAMES[2]), 0.0, 0.0, 0.0] for name in NAMES})
        sizes = ("parameter", {name: [0.0 if name == NAMES[2] else HE, HE, HE, HE] for name in NAMES})
        vectors = {"weight_rms": sizes, "gradient_rms": weights(0.01), "repeated_row_share": shares}
        assert not judged("bad-init", tmp_path, {}, vectors).findings

    def test_certainty_without_knowledge(self, tmp_path: Path) -> None:
        labels = ("class", {str(k): [0.1] * 4 for k in range(10)})
        vectors = {"weight_rms": weights(HE), "label_share": labels}
        for entropy, accuracy, codes in (
            (0.4, 0.1, ("bad-init",)),
            (2.0, 0.1, ()),
            (0.4, 0.9, ()),
            (-0.3, 0.1, ()),
        ):
            scalars = {"output_entropy": [entropy] * 3, "accuracy": [accuracy] * 3}
            assert judged("bad-init", tmp_path / f"{entropy}{accuracy}", scalars, vectors).codes == codes

    def test_several_labels_an_example_are_answers_of_their_own(self, tmp_path: Path) -> None:
        labels = ("class", {str(k): [0.3] * 4 for k in range(10)})
        vectors = {"weight_rms": weights(HE), "label_share": labels}
        assert not judged("bad-init", tmp_path, {"output_entropy": [0.69], "accuracy": [0.5]}, vectors).findings

    @pytest.mark.parametrize(("factor", "how"), [(0.1, "fading"), (10.0, "growing"), (0.6, None), (1.5, None)], ids=str)
    def test_the_signal_through_the_layers(self, factor: float, how: str | None, tmp_path: Path) -> None:
        levels = [factor**k for k in range(6)]
        vectors = {"weight_rms": weights(HE), "activation_rms": by("module", [str(k) for k in range(6)], levels)}
        found = judged("bad-init", tmp_path, {}, vectors).findings
        assert [f.evidence["how"] for f in found] == ([how] if how else [])
        if found:
            assert f"by about {factor:.3g}" in found[0].remedy

    @pytest.mark.parametrize(("rms", "codes"), [(1.0, ("bad-init",)), (HE, ()), (0.25, ()), (0.01, ())])
    def test_weights_out_of_scale(self, rms: float, codes: tuple[str, ...], tmp_path: Path) -> None:
        assert judged("bad-init", tmp_path, {}, {"weight_rms": weights(rms)}).codes == codes

    @pytest.mark.parametrize(
        ("rms", "loss", "codes"),
        [
            (0.005, np.where(np.arange(STEPS) < 200, 2.3, 0.1), ("bad-init",)),
            (0.005, np.linspace(2.3, 1.4, STEPS), ("bad-init",)),
            (0.005, FALLING, ()),
            (0.05, np.where(np.arange(STEPS) < 200, 2.3, 0.1), ()),
            (0.0, np.where(np.arange(STEPS) < 200, 2.3, 0.1), ()),
        ],
        ids=["it stood", "much is left", "it learns at once", "in scale", "zero"],
    )
    def test_small_weights_count_where_they_hold_the_training_up(
        self, rms: float, loss: np.ndarray, codes: tuple[str, ...], tmp_path: Path
    ) -> None:
        found = judged("bad-init", tmp_path, {"loss": loss}, {"weight_rms": weights(*[rms] * 4, HE, HE)})
        assert found.codes == codes
        if codes:
            assert (only(found).evidence["how"], only(found).evidence["labels"]) == ("small", NAMES[:4])

    @pytest.mark.parametrize(("level", "codes"), [(0.9, ()), (8.0, ("bad-init",))])
    def test_weights_that_the_forward_pass_divides_are_in_scale(
        self, level: float, codes: tuple[str, ...], tmp_path: Path
    ) -> None:
        outputs = by("module", [str(k) for k in range(6)], [level] * 6)
        vectors = {"weight_rms": weights(1.0), "activation_rms": outputs}
        assert judged("bad-init", tmp_path, {}, vectors).codes == codes

    def test_a_recording_that_begins_late_says_nothing(self, tmp_path: Path) -> None:
        with run_of(tmp_path / "run", {}, {"weight_rms": weights(1.0)}, META, steps=range(100, 104)) as run:
            assert [entry.code for entry in assess(run, [RULES["bad-init"]]).not_assessed] == ["bad-init"]


class TestSaturatedUnits:
    def test_from_the_start_it_is_a_warning_whatever_the_loss(self, tmp_path: Path) -> None:
        vectors = {"saturation_share": ("module", {"1": [0.8] * 4, "3": [0.1] * 4})}
        found = only(judged("saturated-units", tmp_path, {"loss": FALLING}, vectors))
        assert (found.severity, found.step, found.evidence["labels"]) == ("warning", 1, ["1"])

    def test_late_saturation_counts_where_little_was_learnt(self, tmp_path: Path) -> None:
        vectors = {"saturation_share": ("module", {"1": [0.1, 0.2, 0.7, 0.8, 0.8, 0.8]})}
        assert not judged("saturated-units", tmp_path / "a", {"loss": FALLING}, vectors).findings
        flat = {"loss": np.full(STEPS, 2.3)}
        assert only(judged("saturated-units", tmp_path / "b", flat, vectors)).step == 3

    def test_the_answer_may_be_certain(self, tmp_path: Path) -> None:
        vectors = {"saturation_share": ("module", {"9": [1.0] * 4})}
        meta = {**META, "modules": [*META["modules"], {"name": "9", "kind": "Sigmoid"}]}
        with run_of(tmp_path / "run", {"loss": FALLING}, vectors, meta, steps=range(1, 9)) as run:
            assert not assess(run, [RULES["saturated-units"]]).findings


class TestPlateau:
    @pytest.mark.parametrize(
        ("level", "how", "severity"),
        [
            (np.full(STEPS, 0.69), "never", "warning"),
            (np.where(np.arange(STEPS) < 240, 1.0, 0.1), "at first", "warning"),
            (np.maximum(1.0 - np.arange(STEPS) / 200, 0.6), "in the end", "info"),
        ],
    )
    def test_found(self, level: np.ndarray, how: str, severity: str, tmp_path: Path) -> None:
        noise = 1.0 + 0.03 * np.random.default_rng(0).standard_normal(STEPS)
        found = only(judged("plateau", tmp_path, {"loss": level * noise}))
        assert (found.evidence["how"], found.severity) == (how, severity)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(
        "level",
        [FALLING, np.linspace(2.3, 1.9, STEPS), np.where(np.arange(STEPS) < 80, 1.0, 0.1)],
        ids=["falling", "slowly", "short"],
    )
    def test_silent(self, level: np.ndarray, seed: int, tmp_path: Path) -> None:
        noise = 1.0 + 0.03 * np.random.default_rng(seed).standard_normal(STEPS)
        assert not judged("plateau", tmp_path, {"loss": level * noise}).findings

    def test_a_warm_up_is_no_plateau(self, tmp_path: Path) -> None:
        late = np.where(np.arange(STEPS) < 240, 1.0, 0.1)
        rates = np.where(np.arange(STEPS) < 200, 1e-5, 0.1)
        assert not judged("plateau", tmp_path, {"loss": late, "learning_rate": rates}).findings

    def test_a_finished_network_that_is_trained_on_is_no_plateau(self, tmp_path: Path) -> None:
        scalars = {"loss": np.full(STEPS, 0.2), "accuracy": [0.95] * 3}
        labels = {"label_share": ("class", {str(k): [0.1] * 3 for k in range(10)})}
        assert not judged("plateau", tmp_path, scalars, labels).findings
