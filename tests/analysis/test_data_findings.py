"""Rules about data, losses, modes, attention and laziness on planted numbers, and their estimators on known truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.analysis.synthetic import Vectors, parameter, run_of

from separatrix.analysis import assess, rules
from separatrix.analysis.findings.class_imbalance import _chance
from separatrix.analysis.findings.label_noise import two_groups
from separatrix.analysis.findings.unshuffled_data import correlation_of_classes, correlation_of_numbers
from separatrix.runs import Finding, Run, RunWriter, SeriesSpec, open_run

RNG = np.random.default_rng
FALLING = [2.3 * 0.97**step for step in range(200)]


def found(code: str, run: Run) -> tuple[Finding, ...]:
    diagnosis = assess(run, [rules()[code]])
    assert not [m for entry in diagnosis.not_assessed for m in entry.missing if "error" in m]
    return diagnosis.findings


def losses(name: str = "cross_entropy", outputs: Sequence[int] = (32, 10), **facts: Any) -> list[dict[str, Any]]:
    usual = {"targets": [outputs[0]], "target_dtype": "int64", "broadcast": False, "target_values": None}
    return [{"name": name, "outputs": list(outputs), "target_range": [0.0, 1.0], **usual, **facts}]


def shares(matrix: np.ndarray) -> tuple[str, dict[str, Sequence[float]]]:
    return "class", {str(i): column for i, column in enumerate(matrix.T.tolist())}


# --- modes ---


def modes(path: Path, training: Sequence[float], evaluation: Sequence[float], effect: str, **facts: Any) -> Run:
    module = {"name": "drop", "kind": "Dropout", "mode_effect": effect}
    meta = {"modules": [module], "parameters": [parameter("fc.weight", **facts)]}
    return run_of(path, {"loss": FALLING, "training_mode": training, "eval_mode": evaluation}, meta=meta)


def test_a_mode_that_an_evaluation_left_behind_is_a_fault_only_where_it_matters(tmp_path: Path) -> None:
    left = [1.0] * 60 + [0.0] * 140
    (finding,) = found("eval-mode-training", modes(tmp_path / "a", left, [1.0] * 200, "dropout"))
    assert (finding.severity, finding.step) == ("warning", 60)
    assert finding.evidence["share_of_steps"] == pytest.approx(0.7, abs=0.01)
    assert found("eval-mode-training", modes(tmp_path / "b", left, [1.0] * 200, "")) == ()
    assert found("eval-mode-training", modes(tmp_path / "c", [1.0] * 200, [1.0] * 200, "dropout")) == ()
    frozen = modes(tmp_path / "d", [0.0] * 200, [1.0] * 200, "batch statistics", requires_grad=False)
    assert [f.severity for f in found("eval-mode-training", frozen)] == ["info"]


def test_evaluations_in_training_mode_are_told_from_metrics_of_training(tmp_path: Path) -> None:
    (finding,) = found("eval-mode-training", modes(tmp_path / "a", [1.0] * 200, [0.0] * 10, "dropout"))
    assert finding.evidence["how"] == "evaluation in training mode"
    assert found("eval-mode-training", modes(tmp_path / "b", [1.0] * 200, [0.0, 1.0] * 5, "dropout")) == ()


# --- losses ---


@pytest.mark.parametrize(
    ("way", "facts", "series", "kind"),
    [
        ("softmax before cross_entropy", losses(), {"distribution_share": [1.0] * 5}, "Softmax"),
        (
            "sigmoid before binary_cross_entropy_with_logits",
            losses("binary_cross_entropy_with_logits", (32, 1)),
            {"unit_interval_share": [1.0] * 5, "target_mean": [0.5] * 5},
            "Sigmoid",
        ),
        (
            "logits in nll_loss",
            losses("nll_loss"),
            {"log_probability_error": [2.3, 4.0], "output_min": [-3.0]},
            "Linear",
        ),
        (
            "probabilities in nll_loss",
            losses("nll_loss"),
            {"log_probability_error": [2.4, 2.5], "output_min": [0.0], "output_max": [1.0]},
            "Softmax",
        ),
        ("shapes", losses("mse_loss", (32, 1), targets=[32], broadcast=True), {}, "Linear"),
        ("targets out of range", losses("binary_cross_entropy", target_range=[0.0, 16.0]), {}, "Sigmoid"),
        (
            "sigmoid twice",
            losses("binary_cross_entropy", target_range=[0.0, 1.0]),
            {"output_min": [0.51] * 4, "output_max": [0.72] * 4, "target_mean": [0.4] * 4},
            "Sigmoid",
        ),
        (
            "outputs out of reach",
            losses("mse_loss", (32, 1), target_range=[-1.0, 11.0]),
            {"output_min": [0.1] * 4, "output_max": [0.9] * 4, "target_mean": [5.0] * 4, "target_std": [2.0] * 4},
            "Sigmoid",
        ),
        ("class labels as numbers", losses("mse_loss", (32, 1), target_values=list(range(10))), {}, "Linear"),
    ],
)
def test_what_the_loss_function_does_not_expect_is_named(
    way: str, facts: list[dict[str, Any]], series: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    meta = {"losses": facts, "modules": [{"name": "last", "kind": kind}]}
    (finding,) = found("loss-mismatch", run_of(tmp_path / "run", {"loss": [2.3] * 200, **series}, meta=meta))
    assert finding.evidence["how"] == way
    assert finding.severity in ("warning", "error")


@pytest.mark.parametrize(
    ("facts", "series"),
    [
        (losses(), {"distribution_share": [0.0, 0.0, 0.01]}),
        (losses("nll_loss"), {"log_probability_error": [1e-7, 0.01]}),
        (losses("binary_cross_entropy_with_logits"), {"unit_interval_share": [1.0, 0.4], "target_mean": [0.5]}),
        (losses("binary_cross_entropy", target_range=[0.0, 1.0]), {"output_min": [0.3], "output_max": [0.9]}),
        (losses("mse_loss", (32, 1), target_values=[3, 17, 46]), {"output_min": [0.0], "output_max": [9.0]}),
        (losses("mse_loss", (32, 1), target_values=[0, 1]), {}),
        (
            losses("mse_loss", (32, 1), target_range=[0.0, 1.0]),
            {"output_min": [0.1], "output_max": [0.9], "target_mean": [0.3], "target_std": [0.4]},
        ),
    ],
)
def test_what_the_loss_function_expects_gives_no_finding(
    facts: list[dict[str, Any]], series: dict[str, Any], tmp_path: Path
) -> None:
    meta = {"losses": facts, "modules": [{"name": "last", "kind": "Sigmoid" if "target_std" in series else "Linear"}]}
    assert found("loss-mismatch", run_of(tmp_path / "run", {"loss": FALLING, **series}, meta=meta)) == ()


@pytest.mark.parametrize(
    ("spread", "last", "codes"),
    [(1e-6, "Linear", 0), (0.3, "Linear", 1), (1e-6, "Sigmoid", 1)],
    ids=["one logit for all", "answers differ", "a sigmoid at the end"],
)
def test_one_logit_for_all_examples_is_no_probability(spread: float, last: str, codes: int, tmp_path: Path) -> None:
    """Of answers that are 1 in 63 % of the cases, ln(0.63 / 0.37) = 0.53 is the best constant logit."""
    series = {"loss": [0.66] * 200, "unit_interval_share": [1.0] * 200, "target_mean": [0.63] * 200}
    meta = {
        "losses": losses("binary_cross_entropy_with_logits", (32, 1)),
        "modules": [{"name": "last", "kind": last}],
    }
    run = run_of(tmp_path / "run", {**series, "prediction_spread": [spread] * 200}, meta=meta)
    assert len(found("loss-mismatch", run)) == codes


def test_small_logits_at_the_start_are_no_probabilities(tmp_path: Path) -> None:
    """All samples lie between 0 and 1, but the loss falls below what two sigmoids allow."""
    series = {"loss": FALLING, "unit_interval_share": [1.0] * 5, "target_mean": [0.5] * 5}
    meta = {"losses": losses("binary_cross_entropy_with_logits", (32, 1)), "modules": [{"name": "a", "kind": "Linear"}]}
    assert found("loss-mismatch", run_of(tmp_path / "run", series, meta=meta)) == ()


# --- the order of the data ---


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_the_correlation_of_labels_is_estimated_without_bias(rho: float, seed: int) -> None:
    """Batches in which, with chance sqrt(rho), a label is the batch's own class instead of a random one."""
    rng = RNG(seed)
    rows = []
    for _ in range(400):
        own = rng.integers(5)
        labels = np.where(rng.random(32) < math.sqrt(rho), own, rng.integers(5, size=32))
        rows.append(np.bincount(labels, minlength=5) / 32)
    estimate, deviations = correlation_of_classes(np.array(rows), 32)
    assert estimate == pytest.approx(rho, abs=0.05)
    assert (deviations > 6) == (rho > 0)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_correlation_of_numbers_is_estimated_without_bias(rho: float) -> None:
    rng = RNG(1)
    values = math.sqrt(rho) * rng.normal(size=(2000, 1)) + math.sqrt(1 - rho) * rng.normal(size=(2000, 16))
    estimate, _ = correlation_of_numbers(values.mean(axis=1), values.std(axis=1), 16)
    assert estimate == pytest.approx(rho, abs=0.03)


def batches(path: Path, rows: np.ndarray, facts: list[dict[str, Any]] | None = None, **scalars: Any) -> Run:
    vectors: Vectors = {"label_share": shares(rows), "prediction_share": shares(rows)}
    series = {"loss": FALLING[: len(rows)], "batch_size": [32.0] * len(rows), **scalars}
    return run_of(path, series, vectors, {"losses": facts or losses()})


def drawn(count: int, chances: Sequence[float], seed: int = 0, size: int = 32) -> np.ndarray:
    return RNG(seed).multinomial(size, chances, size=count) / size


def test_sorted_targets_are_found_and_those_that_run_away_are_the_models_own(tmp_path: Path) -> None:
    def run(name: str, means: np.ndarray) -> Run:
        scalars = {"loss": FALLING[: len(means)], "batch_size": [32.0] * len(means)}
        scalars |= {"target_mean": means, "target_std": [0.5] * len(means)}
        return run_of(tmp_path / name, scalars, meta={"losses": losses("mse_loss", targets=(32, 1))})

    epochs = np.tile(np.linspace(-5, 5, 20), 4)
    (finding,) = found("unshuffled-data", run("sorted", epochs))
    assert finding.evidence["correlation"] == pytest.approx(1.0, abs=0.05)
    assert found("unshuffled-data", run("one epoch", np.linspace(-5, 5, 30))) != ()
    assert found("unshuffled-data", run("runs away", epochs * np.geomspace(1, 1e3, 80))) == ()


def test_sorted_batches_are_found_and_random_or_stratified_ones_are_not(tmp_path: Path) -> None:
    pure = np.eye(10)[np.arange(40) // 4]
    (finding,) = found("unshuffled-data", batches(tmp_path / "pure", pure))
    assert finding.evidence["correlation"] == pytest.approx(1.0, abs=0.05)
    assert finding.evidence["worth"] == pytest.approx(1.0, abs=0.05)
    for seed in range(20):
        few = drawn(4 + seed, [0.1] * 10, seed)
        assert found("unshuffled-data", batches(tmp_path / f"random{seed}", few)) == ()
    assert found("unshuffled-data", batches(tmp_path / "stratified", np.full((40, 10), 0.1))) == ()
    assert found("unshuffled-data", batches(tmp_path / "tokens", pure, losses(outputs=(512, 10)))) == ()


# --- classes ---


def test_rare_classes_count_when_they_are_ignored(tmp_path: Path) -> None:
    labels = drawn(60, [0.9, 0.1])
    always = np.tile([1.0, 0.0], (60, 1))

    def run(name: str, predictions: np.ndarray, labels: np.ndarray = labels) -> Run:
        vectors: Vectors = {"label_share": shares(labels), "prediction_share": shares(predictions)}
        scalars = {"loss": FALLING[:60], "batch_size": [32.0] * 60, "accuracy": [0.9] * 60}
        return run_of(tmp_path / name, scalars, vectors, {"losses": losses(outputs=(32, 2))})

    (finding,) = found("class-imbalance", run("ignored", always))
    assert finding.evidence["imbalance_ratio"] == pytest.approx(9, rel=0.3)
    assert "1 has" in finding.summary
    assert found("class-imbalance", run("learnt", labels)) == ()
    assert found("class-imbalance", run("balanced", np.tile([1.0, 0.0], (60, 1)), drawn(60, [0.5, 0.5]))) == ()


@pytest.mark.parametrize(("count", "mean"), [(0, 5.0), (2, 8.0), (10, 10.0)])
def test_the_chance_of_a_count_is_that_of_poisson(count: int, mean: float) -> None:
    drawn_counts = RNG(0).poisson(mean, 400_000)
    assert _chance(count, mean) == pytest.approx(float((drawn_counts <= count).mean()), abs=2e-3)


# --- labels ---


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_two_groups_recovers_a_planted_mixture(share: float) -> None:
    rng = RNG(3)
    low = rng.random(20_000) < share
    values = np.where(low, rng.normal(-4, 1, 20_000), rng.normal(5, 2, 20_000))
    first, second, deviations, found_share, chance = two_groups(values)
    assert (first, second) == (pytest.approx(-4, abs=0.1), pytest.approx(5, abs=0.1))
    assert deviations == (pytest.approx(1, abs=0.1), pytest.approx(2, abs=0.1))
    assert found_share == pytest.approx(share, abs=0.01)
    assert float(((chance > 0.5) == low).mean()) > 0.99


def margins(path: Path, means: np.ndarray, epochs: int = 6) -> Run:
    rows = means + RNG(4).normal(0, 0.5, (epochs, len(means)))
    columns = {str(i): column for i, column in enumerate(rows.T.tolist())}
    return run_of(path, {"loss": FALLING}, {"example_margin": ("example", columns)})


def test_wrong_labels_are_a_group_of_their_own_and_hard_examples_a_tail(tmp_path: Path) -> None:
    rng = RNG(5)
    wrong = rng.random(600) < 0.2
    (finding,) = found(
        "label-noise", margins(tmp_path / "a", np.where(wrong, rng.normal(-4, 1, 600), rng.normal(4, 1.5, 600)))
    )
    assert finding.evidence["share"] == pytest.approx(0.2, abs=0.04)
    assert all(wrong[int(label)] for label in finding.evidence["labels"])
    assert found("label-noise", margins(tmp_path / "b", rng.normal(4, 1.5, 600))) == ()
    assert found("label-noise", margins(tmp_path / "c", 5 - rng.exponential(3, 600))) == ()


@pytest.mark.parametrize(("wrong_share", "memorised"), [(0.2, False), (0.2, True), (0.0, False), (0.0, True)])
def test_wrong_labels_count_before_they_are_learnt_by_heart(
    wrong_share: float, memorised: bool, tmp_path: Path
) -> None:
    """Logits of a net that is sure of the true class in the first epochs, and of the assigned one in the later ones."""
    rng = RNG(9)
    wrong = rng.random(400) < wrong_share
    rows = []
    for epoch in range(40):
        level = 3.0 if memorised and epoch >= 8 else np.where(wrong, -3.0, 3.0)
        rows.append(rng.normal(level, 1.0, 400))
    edges = np.array(rows)
    # Of two classes, the loss is that of the margin.
    vectors: Vectors = {
        name: ("example", {str(i): column for i, column in enumerate(table.T.tolist())})
        for name, table in (("example_margin", edges), ("example_loss", np.logaddexp(0.0, -edges)))
    }
    plain = losses(outputs=(32, 2), weighted=False, label_smoothing=0.0)
    run = run_of(tmp_path / "run", {"loss": FALLING}, vectors, {"losses": plain})
    findings = found("label-noise", run)
    assert len(findings) == (1 if wrong_share else 0)
    for finding in findings:
        assert finding.evidence["share"] == pytest.approx(wrong_share, abs=0.06)
        assert finding.evidence["at_least"] < wrong_share
        assert all(wrong[int(label)] for label in finding.evidence["labels"])


def test_classes_that_overlap_are_no_wrong_labels(tmp_path: Path) -> None:
    """The best answer is wrong in 30 % of the examples, by margins that know it."""
    rng = RNG(10)
    logits = rng.normal(0.0, 1.2, 1000)
    label = np.where(rng.random(1000) < 1 / (1 + np.exp(-logits)), 1.0, -1.0)
    edges = label * logits + rng.normal(0.0, 0.05, (8, 1000))
    vectors: Vectors = {
        name: ("example", {str(i): column for i, column in enumerate(table.T.tolist())})
        for name, table in (("example_margin", edges), ("example_loss", np.logaddexp(0.0, -edges)))
    }
    assert (edges[0] < 0).mean() > 0.25
    plain = losses(outputs=(32, 2), weighted=False, label_smoothing=0.0)
    assert found("label-noise", run_of(tmp_path / "run", {"loss": FALLING}, vectors, {"losses": plain})) == ()


def test_targets_that_are_mixed_explain_why_training_lags(tmp_path: Path) -> None:
    scalars = {"loss": [1.4] * 200, "accuracy": [0.65] * 200, "batch_size": [32.0] * 200}
    scalars |= {"eval_loss": [0.5] * 200, "eval_accuracy": [0.9] * 200}
    for mixed in (False, True):
        run = run_of(tmp_path / str(mixed), scalars, meta={"losses": losses(mixed_targets=mixed)})
        assert bool(found("label-noise", run)) is not mixed


def test_a_model_better_on_evaluation_than_on_training_points_to_wrong_labels(tmp_path: Path) -> None:
    def run(name: str, accuracy: float, loss: float, effect: str = "") -> Run:
        scalars = {"loss": [loss] * 200, "accuracy": [accuracy] * 200, "batch_size": [32.0] * 200}
        scalars |= {"eval_loss": [0.5] * 200, "eval_accuracy": [0.9] * 200}
        meta = {"losses": losses(), "modules": [{"name": "a", "kind": "Dropout", "mode_effect": effect}]}
        return run_of(tmp_path / name, scalars, meta=meta)

    (finding,) = found("label-noise", run("noisy", 0.65, 1.4))
    assert finding.evidence["gap"] == pytest.approx(0.25)
    assert found("label-noise", run("clean", 0.9, 0.4)) == ()
    assert found("label-noise", run("dropout", 0.65, 1.4, "dropout")) == ()


def test_labels_that_are_learnt_by_heart_later_on_do_not_hide_the_gap(tmp_path: Path) -> None:
    heart = [0.7] * 60 + [0.95] * 540
    scalars = {"loss": [1.2] * 60 + [0.3] * 540, "accuracy": heart, "batch_size": [16.0] * 600}
    scalars |= {"eval_loss": [0.4] * 600, "eval_accuracy": [0.9] * 600}
    (finding,) = found("label-noise", run_of(tmp_path / "run", scalars, meta={"losses": losses()}))
    assert (finding.severity, finding.evidence["gap"]) == ("warning", pytest.approx(0.2, abs=0.03))


def test_training_that_lags_behind_its_first_evaluation_is_no_label_noise(tmp_path: Path) -> None:
    """The only samples of accuracy are of the first steps, as when the budget is short."""
    scalars = {"loss": FALLING, "accuracy": [0.1, 0.1, 0.2], "batch_size": [32.0] * 3}
    writer = RunWriter(tmp_path / "run")
    for name, values in {**scalars, "eval_loss": [0.5] * 4, "eval_accuracy": [0.9] * 4}.items():
        series = writer.series(SeriesSpec(name))
        for index, value in enumerate(values):
            writer.scalar(series, 45 * (index + 1) if name.startswith("eval") else index + 1, float(value))
    writer.meta("losses", losses())
    writer.close()
    assert found("label-noise", open_run(tmp_path / "run")) == ()


# --- overfitting ---


def course(path: Path, evaluation: Sequence[float], training: Sequence[float]) -> Run:
    return run_of(path, {"loss": training, "eval_loss": evaluation})


def test_overfitting_is_a_rise_beyond_noise_while_the_training_loss_falls(tmp_path: Path) -> None:
    training = [2.3 * 0.98**step for step in range(200)]
    noise = RNG(6).normal(0, 0.02, 200)
    turning = [0.8 + 1.5 * math.exp(-step / 15) + 0.006 * max(0, step - 60) for step in range(200)] + noise
    (finding,) = found("overfitting", course(tmp_path / "a", turning.tolist(), training))
    assert finding.severity == "warning"
    assert finding.step is not None and 30 <= finding.step <= 75
    flat = [0.8 + 1.5 * math.exp(-step / 15) for step in range(200)] + noise
    assert found("overfitting", course(tmp_path / "b", flat.tolist(), training)) == ()
    both = [2.3 * 0.98**step + 0.02 * max(0, step - 60) for step in range(200)]
    assert found("overfitting", course(tmp_path / "c", both, both)) == ()


def test_memorised_data_needs_no_turn(tmp_path: Path) -> None:
    kept = [2.0 + 0.3 * math.exp(-step / 20) for step in range(200)]
    (finding,) = found("overfitting", course(tmp_path / "a", kept, [2.3 * 0.95**step for step in range(200)]))
    assert "memorised" in finding.summary


# --- collapse ---


def test_predictions_that_lose_their_spread_have_collapsed(tmp_path: Path) -> None:
    def run(name: str, spread: Sequence[float], count: int = 200) -> Run:
        return run_of(
            tmp_path / name, {"loss": FALLING[:count], "prediction_spread": spread}, meta={"losses": losses()}
        )

    (finding,) = found("collapsed-output", run("a", [0.3] * 60 + [0.001] * 140))
    assert (finding.severity, finding.step) == ("error", 60)
    (finding,) = found("collapsed-output", run("b", [0.01] * 200))
    assert finding.severity == "warning"
    assert found("collapsed-output", run("c", [0.05] * 30 + [0.8] * 170)) == ()
    assert found("collapsed-output", run("d", [0.001] * 40, count=40)) == ()


def test_a_representation_that_becomes_constant_is_found_where_no_loss_was_heard(tmp_path: Path) -> None:
    meta = {
        "modules": [{"name": "net.0", "kind": "Linear"}, {"name": "net.2", "kind": "Linear"}],
        "parameters": [parameter("net.0.weight"), parameter("net.2.weight")],
    }

    def run(name: str, last: Sequence[float], facts: list[dict[str, Any]], spread: Sequence[float] = ()) -> Run:
        vectors: Vectors = {"batch_variance_share": ("module", {"net.0": [0.5] * 200, "net.2": last})}
        scalars = {"loss": FALLING, "target_std": spread}
        return run_of(tmp_path / name, scalars, vectors, meta | {"losses": facts})

    (finding,) = found("collapsed-output", run("a", [0.5] * 40 + [1e-5] * 160, []))
    assert finding.evidence["labels"] == ["net.2"]
    assert found("collapsed-output", run("b", [0.5] * 200, [])) == ()
    assert found("collapsed-output", run("c", [0.5] * 40 + [1e-5] * 160, losses())) == ()
    collapsing = [0.5] * 40 + [1e-5] * 160
    (finding,) = found("collapsed-output", run("d", collapsing, losses("mse_loss"), [0.12] * 40 + [0.04] * 160))
    assert finding.evidence["labels"] == ["net.2"]
    assert found("collapsed-output", run("e", collapsing, losses("mse_loss"), [1.0] * 200)) == ()


def test_what_a_loss_of_own_targets_compares_may_become_constant(tmp_path: Path) -> None:
    def run(name: str, share: Sequence[float], spread: Sequence[float]) -> Run:
        scalars = {"loss": FALLING, "target_std": spread, "prediction_variance_share": share}
        return run_of(tmp_path / name, scalars, meta={"losses": losses("mse_loss")})

    collapsing, own, given = [0.5] * 40 + [1e-5] * 160, [0.12] * 40 + [0.04] * 160, [1.0] * 200
    (finding,) = found("collapsed-output", run("a", collapsing, own))
    assert (finding.severity, finding.step, finding.evidence["labels"]) == ("error", 40, [])
    assert found("collapsed-output", run("b", collapsing, given)) == ()
    assert found("collapsed-output", run("c", [0.5] * 40 + [0.1] * 160, own)) == ()
    assert found("collapsed-output", run("d", [1e-5] * 200, own)) == ()
    assert found("collapsed-output", run("e", [0.0] * 200, own)) == ()


# --- attention ---


def attending(path: Path, name: str, columns: dict[str, Sequence[float]], loss: Sequence[float] = FALLING) -> Run:
    return run_of(path, {"loss": loss}, {name: ("head", columns)}, steps=list(range(0, 200, 20)))


def test_entropy_collapse_costs_only_where_the_loss_stays_high(tmp_path: Path) -> None:
    sharp = {"0": np.geomspace(2.5, 0.001, 10).tolist(), "1": np.geomspace(2.4, 0.01, 10).tolist()}
    high = attending(tmp_path / "a", "attention_entropy", sharp, [2.3 - 0.001 * step for step in range(200)])
    assert [f.severity for f in found("attention-entropy-collapse", high)] == ["warning"]
    low = attending(tmp_path / "b", "attention_entropy", sharp)
    assert [f.severity for f in found("attention-entropy-collapse", low)] == ["info"]
    soft = attending(tmp_path / "c", "attention_entropy", {"0": [2.0] * 10, "1": [0.5] * 10, "2": [0.01] * 10})
    assert found("attention-entropy-collapse", soft) == ()


def test_logits_must_grow_and_become_large(tmp_path: Path) -> None:
    def code(name: str, values: Sequence[float]) -> list[str]:
        run = attending(tmp_path / name, "attention_logit_max", {"0": list(values), "1": [3.0] * 10})
        return [f.severity for f in found("attention-logit-growth", run)]

    assert code("a", np.geomspace(3, 200, 10)) == ["warning"]
    assert code("b", np.geomspace(3, 35, 10)) == ["info"]
    assert code("c", np.linspace(3, 15, 10)) == []
    assert code("d", [60.0] * 10) == []


# --- laziness ---


def test_laziness_is_a_fault_only_where_generalisation_suffers(tmp_path: Path) -> None:
    meta = {
        "modules": [{"name": name, "kind": "Linear"} for name in ("a", "b")],
        "parameters": [parameter("a.weight"), parameter("b.weight")],
    }

    def severities(name: str, index: float, held_out: float, layers: int = 2) -> list[str]:
        scalars = {
            "loss": FALLING,
            "lazy_rich_index": [index] * 200,
            "eval_loss": [2.3, 2.3, held_out, held_out, held_out],
        }
        facts = meta | {"parameters": meta["parameters"][:layers]}
        return [f.severity for f in found("lazy-training", run_of(tmp_path / name, scalars, meta=facts))]

    assert severities("a", 0.02, 2.2) == ["warning"]
    assert severities("b", 0.02, 0.2) == ["info"]
    assert severities("c", 0.5, 2.2) == []
    assert severities("d", 0.0, 0.2, layers=1) == []


def test_where_the_index_came_too_late_the_way_of_the_weights_tells(tmp_path: Path) -> None:
    names = ("a.weight", "b.weight")

    def count(name: str, first: int, index: float, moved: float) -> int:
        writer = RunWriter(tmp_path / name)
        loss, rich = (writer.series(SeriesSpec(series)) for series in ("loss", "lazy_rich_index"))
        ratio = writer.series(SeriesSpec("update_ratio", ("parameter",)))
        positions = np.array(writer.positions("parameter", list(names)), dtype=np.int32)
        for step in range(200):
            writer.scalar(loss, step, 2.3 * math.exp(-step / 30))
            writer.vector(ratio, step, np.full(2, moved, dtype=np.float32), positions=positions)
            if step >= first:
                writer.scalar(rich, step, index)
        writer.meta("modules", [{"name": module, "kind": "Linear"} for module in ("a", "b")])
        writer.meta("parameters", [parameter(label) for label in names])
        writer.close()
        return len(found("lazy-training", open_run(tmp_path / name)))

    assert count("a short way", 150, 0.5, 1e-4) == 1
    assert count("a long way", 150, 0.02, 1e-2) == 0
    assert count("rich from the start", 0, 0.5, 1e-4) == 0
    assert count("lazy from the start", 0, 0.02, 1e-2) == 1
