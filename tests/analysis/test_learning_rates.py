"""Rules about the learning rate, its schedule and clipping, on planted numbers; the oracle is how they were made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.analysis.synthetic import parameter, run_of

from separatrix.analysis import Diagnosis, assess, rules
from separatrix.analysis.trends import start, tracks
from separatrix.runs import Finding, RunWriter, SeriesSpec, open_run

RULES = rules()
STEPS = 400
META = {"parameters": [parameter("0.weight"), parameter("2.weight")]}


def judged(code: str, path: Path, scalars: dict[str, Any], vectors: dict[str, Any] | None = None) -> Diagnosis:
    with run_of(path / "run", scalars, vectors, META, steps=range(1, 9)) as run:
        return assess(run, [RULES[code]])


def only(diagnosis: Diagnosis) -> Finding:
    (finding,) = diagnosis.findings
    return finding


def noisy(level: np.ndarray, spread: float = 0.02, seed: int = 0) -> np.ndarray:
    return level * (1.0 + spread * np.random.default_rng(seed).standard_normal(len(level)))


def steps_of(ratio: float) -> dict[str, Any]:
    return {"update_ratio": ("parameter", {"0.weight": [ratio] * 8, "2.weight": [ratio] * 8})}


FALLING = 0.1 + 2.2 * np.exp(-np.arange(STEPS) / 60)
HARDLY = np.linspace(2.3, 2.2, STEPS)
T = np.arange(STEPS) / STEPS


class TestLearningRateTooLow:
    def test_weights_that_hardly_move_are_found_with_a_higher_rate(self, tmp_path: Path) -> None:
        found = only(judged("lr-too-low", tmp_path, {"loss": noisy(HARDLY), "learning_rate": [1e-6]}, steps_of(1e-5)))
        assert found.severity == "warning"
        assert found.evidence["path"] == pytest.approx(1e-5 * STEPS)
        assert "from 1e-06 towards 0.0001" in found.remedy

    def test_the_peak_of_a_schedule_is_named_and_scaled(self, tmp_path: Path) -> None:
        rates = 1e-6 * (0.1 + 0.45 * (1 + np.cos(np.pi * T)))
        found = only(judged("lr-too-low", tmp_path, {"loss": noisy(HARDLY), "learning_rate": rates}, steps_of(1e-5)))
        typical = np.quantile(rates, 0.75) / 1e-6
        assert found.evidence["learning_rate"] == pytest.approx(1e-6)
        assert found.evidence["suggested"] == pytest.approx(1e-6 * 1e-3 / (1e-5 * typical), rel=1e-3)

    def test_curvature_bounds_the_rate_that_is_advised(self, tmp_path: Path) -> None:
        scalars = {"loss": noisy(HARDLY), "learning_rate": [1e-6], "stability_ratio": [0.05] * 8}
        assert "towards 1e-05" in only(judged("lr-too-low", tmp_path, scalars, steps_of(1e-5))).remedy

    @pytest.mark.parametrize(("loss", "ratio"), [(FALLING, 1e-5), (HARDLY, 1e-3)], ids=["it learns", "it moves"])
    def test_silent(self, loss: np.ndarray, ratio: float, tmp_path: Path) -> None:
        assert not judged(
            "lr-too-low", tmp_path, {"loss": noisy(loss), "learning_rate": [1e-3]}, steps_of(ratio)
        ).findings

    def test_weights_that_converged_moved_enough(self, tmp_path: Path) -> None:
        converged = 2.5 + 1.5 * np.exp(-np.arange(STEPS) / 30)
        scalars = {"loss": noisy(converged), "learning_rate": [1e-3]}
        assert not judged("lr-too-low", tmp_path, scalars, steps_of(1e-5)).findings

    def test_a_weight_that_stands_still_tells_nothing_about_the_rate(self, tmp_path: Path) -> None:
        vectors = {"update_ratio": ("parameter", {"0.weight": [0.0] * 8, "2.weight": [1e-3] * 8})}
        scalars = {"loss": noisy(HARDLY), "learning_rate": [1e-3]}
        assert not judged("lr-too-low", tmp_path, scalars, vectors).findings

    def test_momentum_builds_up(self, tmp_path: Path) -> None:
        # 0.9 ** -1 of the steady step is seen in the first step: 1e-5 there are 1e-4 later.
        vectors = {"update_ratio": ("parameter", {"0.weight": [1e-5 * (1 - 0.9**k) / 0.1 for k in range(1, 9)]})}
        scalars = {"loss": noisy(HARDLY), "learning_rate": [0.01], "momentum": [0.9]}
        assert only(judged("lr-too-low", tmp_path, scalars, vectors)).evidence["update_ratio"] == pytest.approx(1e-4)

    def test_a_schedule_that_ends_early_is_another_fault(self, tmp_path: Path) -> None:
        rates = np.where(np.arange(STEPS) < 20, 1e-4, 1e-8)
        assert not judged(
            "lr-too-low", tmp_path, {"loss": noisy(HARDLY), "learning_rate": rates}, steps_of(1e-5)
        ).findings


class TestLearningRateTooHigh:
    @pytest.mark.parametrize(
        ("loss", "ratio", "how", "usual"),
        [
            (np.where(np.arange(STEPS) < 5, 2.3, np.where(np.arange(STEPS) < 40, 20.0, 2.3)), 0.05, "overshoot", 0.01),
            (np.where(np.arange(STEPS) < 5, 2.3, np.where(np.arange(STEPS) < 40, 20.0, 2.3)), 0.4, "overshoot", 0.02),
            (np.where(np.arange(STEPS) % 2, 1.0, 4.0), 0.15, "bounce", 5e-3),
            (np.full(STEPS, 2.2), 0.5, "stuck", 5e-3),
        ],
    )
    def test_found(self, loss: np.ndarray, ratio: float, how: str, usual: float, tmp_path: Path) -> None:
        scalars = {"loss": noisy(loss), "learning_rate": [0.3], "batch_size": [32.0]}
        found = only(judged("lr-too-high", tmp_path, scalars, steps_of(ratio)))
        assert found.evidence["how"] == how
        assert f"from 0.3 to about {0.3 * usual / ratio:.3g}" in found.remedy

    def test_a_loss_that_leaves_all_numbers_at_once_counts(self, tmp_path: Path) -> None:
        loss = [2.0, 9.0, 300.0, 1e9, *[float("nan")] * 60]
        found = only(judged("lr-too-high", tmp_path / "a", {"loss": loss, "learning_rate": [0.3]}, steps_of(0.05)))
        assert (found.evidence["how"], found.evidence["loss_left"]) == ("overshoot", None)
        once_nothing = [2.0, 9.0, 300.0, 0.0, 1e9, *[float("nan")] * 60]
        scalars = {"loss": once_nothing, "learning_rate": [0.3]}
        assert judged("lr-too-high", tmp_path / "c", scalars, steps_of(0.05)).codes == ("lr-too-high",)
        calm = [2.0, 1.9, 1.8, *[float("nan")] * 60]
        assert not judged(
            "lr-too-high", tmp_path / "b", {"loss": calm, "learning_rate": [0.3]}, steps_of(0.05)
        ).findings

    def test_curvature_of_a_net_that_has_blown_up_tells_nothing_of_the_rate_to_take(self, tmp_path: Path) -> None:
        loss = [2.0, 2.1, 9.0, 300.0, 1e9, *[float("nan")] * 60]
        for ratios, expected in (([3.0, 4.0, *[1e12] * 6], 0.3 / 3.5 / 2), ([*[float("nan")] * 2, *[1e12] * 6], 0.03)):
            scalars = {"loss": loss, "learning_rate": [0.3], "stability_ratio": ratios}
            found = only(judged("lr-too-high", tmp_path / f"{expected:.2g}", scalars, steps_of(0.01)))
            assert found.evidence["how"] == "overshoot"
            assert found.evidence["suggested"] == pytest.approx(expected, rel=0.01)
            assert found.evidence["stability_ratio"] == (3.5 if ratios[0] == 3.0 else None)
        assert found.evidence["suggested"] == pytest.approx(0.03) and "a tenth is the first to try" in found.remedy

    def test_the_peak_of_a_schedule_is_named(self, tmp_path: Path) -> None:
        scalars = {"loss": noisy(np.full(STEPS, 2.2)), "learning_rate": 0.3 * (1 + np.cos(np.pi * T)) / 2}
        found = only(judged("lr-too-high", tmp_path, scalars, steps_of(0.8)))
        assert found.evidence["learning_rate"] == pytest.approx(0.3)
        typical = np.quantile(scalars["learning_rate"], 0.75) / 0.3
        assert found.evidence["suggested"] == pytest.approx(0.3 * 5e-3 / (0.8 * typical), rel=1e-3)

    @pytest.mark.parametrize("blown", [2.0, 10.0, 1e4])
    def test_how_far_it_blew_up_changes_nothing_in_the_rate_that_is_advised(self, blown: float, tmp_path: Path) -> None:
        # A first step of 1.25 weights per unit of rate; the next ones as long as the weights have become.
        loss = [0.7, 0.7, *(0.7 * blown * 1e3 ** np.arange(6)), *[float("nan")] * 60]
        sizes = [1.25 * blown, *(1.25 * blown * blown ** np.arange(1, 8))]
        first = [0.1 * size for size in sizes]
        vectors = {
            "update_ratio": ("parameter", {name: sizes for name in ("0.weight", "2.weight")}),
            "update_rms": ("parameter", {name: first for name in ("0.weight", "2.weight")}),
            "weight_rms": ("parameter", {name: [0.1] * 8 for name in ("0.weight", "2.weight")}),
        }
        found = only(judged("lr-too-high", tmp_path, {"loss": loss, "learning_rate": [blown]}, vectors))
        assert found.evidence["how"] == "overshoot"
        assert found.evidence["suggested"] == pytest.approx(0.02 / 1.25, rel=1e-5)
        assert found.evidence["update_ratio"] == pytest.approx(1.25 * blown, rel=1e-5)

    def test_what_is_left_is_measured_from_the_first_loss_and_not_from_the_overshoot(self, tmp_path: Path) -> None:
        level = np.concatenate([[4.4], np.full(12, 6.5), np.full(STEPS - 13, 3.4)])
        scalars = {"loss": noisy(level), "learning_rate": [0.4], "batch_size": [16.0]}
        assert only(judged("lr-too-high", tmp_path, scalars, steps_of(2.0))).evidence["how"] == "stuck"

    def test_a_step_that_momentum_might_have_become_but_did_not_is_not_long(self, tmp_path: Path) -> None:
        # 0.04 in the first step becomes 0.4 if gradients persist; those around a plateau's weights of zero do not.
        scalars = {"loss": noisy(np.full(STEPS, 0.69)), "learning_rate": [0.2], "momentum": [0.9]}
        for late, expected in ((0.05, ()), (0.4, ("lr-too-high",))):
            vectors = {"update_ratio": ("parameter", {"0.weight": [0.04, 0.08, 0.11, late, late, late, late, late]})}
            assert judged("lr-too-high", tmp_path / str(late), scalars, vectors).codes == expected
        came_back = noisy(np.where((np.arange(STEPS) > 20) & (np.arange(STEPS) < 40), 0.3, 0.69))
        vectors = {"update_ratio": ("parameter", {"0.weight": [0.04, 0.08, 0.11, *[0.05] * 5]})}
        assert judged("lr-too-high", tmp_path / "back", scalars | {"loss": came_back}, vectors).codes == (
            "lr-too-high",
        )

    @pytest.mark.parametrize(("first", "codes"), [(0.3, ("lr-too-high",)), (0.02, ())])
    def test_where_a_step_was_as_long_as_the_weights_less_of_the_loss_may_be_left(
        self, first: float, codes: tuple[str, ...], tmp_path: Path
    ) -> None:
        # Weights of 8 columns: torch's default has an RMS of 1 / sqrt(3 * 8) = 0.2.
        names = ("0.weight", "2.weight")
        vectors = {
            "update_ratio": ("parameter", {name: [first / 0.2, 0.5, *[0.02] * 6] for name in names}),
            "update_rms": ("parameter", {name: [first, 0.05, *[0.01] * 6] for name in names}),
            "weight_rms": ("parameter", {name: [0.2, *[first] * 7] for name in names}),
        }
        overshot = np.concatenate([[2.3, 6.0, 23.0, 28.0, 10.0, 6.0], np.full(STEPS - 6, 0.5)])
        stuck = np.concatenate([[4.5], np.full(STEPS - 1, 2.4)])
        for name, loss in (("overshoot", overshot), ("stuck", stuck)):
            scalars = {"loss": noisy(loss), "learning_rate": [0.05], "batch_size": [32.0]}
            assert judged("lr-too-high", tmp_path / name, scalars, vectors).codes == codes

    def test_a_loss_that_climbs_all_along_has_another_cause_unless_curvature_tells(self, tmp_path: Path) -> None:
        level = noisy(0.7 * np.geomspace(1.0, 1e4, STEPS))
        scalars = {"loss": level, "learning_rate": [3e-3], "batch_size": [32.0]}
        assert judged("lr-too-high", tmp_path / "a", scalars, steps_of(0.2)).codes == ()
        curved = scalars | {"stability_ratio": [1.1] * 8}
        assert judged("lr-too-high", tmp_path / "b", curved, steps_of(0.2)).codes == ("lr-too-high",)
        thrown = scalars | {"loss": noisy(np.where(np.arange(STEPS) < 5, 0.7, 50.0))}
        assert judged("lr-too-high", tmp_path / "c", thrown, steps_of(0.2)).codes == ("lr-too-high",)

    def test_curvature_far_beyond_the_edge_counts_and_the_edge_does_not(self, tmp_path: Path) -> None:
        for ratio, expected in ((1.2, ()), (8.0, ("lr-too-high",))):
            scalars = {"loss": noisy(np.full(STEPS, 2.2)), "learning_rate": [0.3], "stability_ratio": [ratio] * 8}
            assert judged("lr-too-high", tmp_path / str(ratio), scalars, steps_of(0.01)).codes == expected
        assert "stable rate below 0.0375" in only(judged("lr-too-high", tmp_path / "x", scalars, steps_of(0.01))).remedy

    @pytest.mark.parametrize(
        ("loss", "ratio"),
        [
            (FALLING, 0.5),
            (np.concatenate([[2.3, 6.0, 9.0, 6.0], FALLING[4:]]), 0.05),
            (np.full(STEPS, 2.2), 1e-3),
        ],
        ids=["it learns", "catapult", "usual steps"],
    )
    def test_silent(self, loss: np.ndarray, ratio: float, tmp_path: Path) -> None:
        scalars = {"loss": noisy(loss), "learning_rate": [0.3], "batch_size": [32.0]}
        assert not judged("lr-too-high", tmp_path, scalars, steps_of(ratio)).findings


def test_what_comes_after_a_gap_in_the_recording_is_no_beginning(tmp_path: Path) -> None:
    """A loaded machine: the first loss is known, then none until the loss has halved; nothing overshot."""
    steps = np.concatenate([[1], 170 + 3 * np.arange(90)])
    loss = noisy(np.where(steps < 100, 1.1, 0.45))
    writer = RunWriter(tmp_path / "run")
    for name, values in {"loss": loss, "learning_rate": [1e-3]}.items():
        series = writer.series(SeriesSpec(name))
        for step, value in zip(steps, values, strict=False):
            writer.scalar(series, int(step), float(value))
    ratios = writer.series(SeriesSpec("update_ratio", ("parameter",)))
    writer.vector(ratios, 1, np.array([0.02]), positions=writer.positions("parameter", ["a.weight"]))
    writer.meta("parameters", [parameter("a.weight")])
    writer.close()
    with open_run(tmp_path / "run") as run:
        (track,) = tracks(run, "loss")
        assert start(track).tolist() == pytest.approx([loss[0]])
        assert not assess(run, [RULES["lr-too-high"]]).findings


class TestSchedulerMisuse:
    def misuse(self, path: Path, rates: np.ndarray, loss: np.ndarray = HARDLY) -> Diagnosis:
        return judged("scheduler-misuse", path, {"loss": noisy(loss), "learning_rate": rates})

    @pytest.mark.parametrize(
        ("rate_of", "how", "step"),
        [
            (lambda t: 0.9 ** (STEPS * t), "collapse", (40, 50)),
            (lambda t: 0.1 ** np.floor(20 * t), "collapse", (35, 65)),
            (lambda t: (1 + np.cos(np.pi * t * 3.5)) / 2, "rise", (105, 120)),
            (lambda t: t / 50 + 1e-6, "endless warm-up", (0, 1)),
        ],
    )
    def test_found(
        self, rate_of: Callable[[np.ndarray], np.ndarray], how: str, step: tuple[int, int], tmp_path: Path
    ) -> None:
        rates = 0.1 * rate_of(T)
        # What a rate of the first size would have done in 150 steps: the loss stops where the rate does.
        loss = 0.5 + 1.8 * np.exp(-np.cumsum(rates) / 0.1 / 150)
        found = only(self.misuse(tmp_path, rates, loss))
        assert (found.evidence["how"], found.severity) == (how, "warning")
        assert found.step is not None and step[0] <= found.step <= step[1]

    def test_a_jump_counts_if_it_hurts(self, tmp_path: Path) -> None:
        rates = np.where(np.arange(STEPS) < 200, 0.01, 0.1)
        loss = np.where(np.arange(STEPS) < 200, 0.3, 2.0)
        assert only(self.misuse(tmp_path / "a", rates, loss)).evidence["how"] == "jump"
        assert not self.misuse(tmp_path / "b", rates, FALLING).findings

    @pytest.mark.parametrize(
        "rate_of",
        [
            lambda t: np.ones_like(t),
            lambda t: (1 + np.cos(np.pi * t)) / 2,
            lambda t: 1 - t,
            lambda t: 1e-3**t,
            lambda t: 0.1 ** np.floor(3 * t),
            lambda t: np.minimum(20 * t, 1.0),
            lambda t: np.where(t < 0.1, 10 * t, (1 + np.cos(np.pi * (t - 0.1) / 0.9)) / 2),
            lambda t: (1 + np.cos(np.pi * (4 * t % 1))) / 2,
            lambda t: 1e-4 + np.abs(8 * t % 2 - 1),
            lambda t: 1e-5 * 1e6**t,
        ],
        ids=[
            "constant",
            "cosine",
            "line",
            "exponential",
            "steps",
            "warm-up",
            "both",
            "restarts",
            "triangles",
            "rate test",
        ],
    )
    def test_schedules_that_people_want_are_silent(
        self, rate_of: Callable[[np.ndarray], np.ndarray], tmp_path: Path
    ) -> None:
        assert not self.misuse(tmp_path, 0.1 * rate_of(T)).findings

    def test_a_rate_that_follows_a_plateau_does_its_work(self, tmp_path: Path) -> None:
        noise_floor = 0.5 + 1.8 * np.exp(-np.arange(STEPS) / 6)
        assert not self.misuse(tmp_path, 0.1 * 0.1 ** np.floor(8 * np.maximum(T - 0.1, 0.0)), noise_floor).findings

    def test_a_collapse_after_everything_is_learnt_does_no_harm(self, tmp_path: Path) -> None:
        assert not self.misuse(tmp_path, 0.1 * 0.9 ** (STEPS * T), FALLING).findings


class TestClippingAlwaysActive:
    def test_strong_clipping_is_a_warning_weaker_one_is_worth_knowing(self, tmp_path: Path) -> None:
        for factor, severity in ((0.02, "warning"), (0.2, "info")):
            scalars = {"clip_coefficient": [factor] * 100, "gradient_norm": [1 / factor] * 100, "learning_rate": [0.1]}
            found = only(judged("clipping-always-active", tmp_path / severity, scalars))
            assert (found.severity, found.evidence["median_factor"]) == (severity, pytest.approx(factor))
            assert f"acts as {0.1 * factor:.3g}" in found.remedy

    @pytest.mark.parametrize("values", [[0.6] * 100, [1.0] * 100, [0.01] * 10 + [1.0, 0.01, 1.0] * 30])
    def test_silent(self, values: list[float], tmp_path: Path) -> None:
        assert not judged("clipping-always-active", tmp_path, {"clip_coefficient": values}).findings
