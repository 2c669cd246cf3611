"""Every probe, found by walking the package, keeps the contract, and its numbers are those of brute force."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from separatrix.record import available_probes
from separatrix.runs import SeriesSpec
from separatrix.runs.probe import (
    InputView,
    LossView,
    ModuleView,
    Moment,
    ParameterView,
    Probe,
    Reading,
    StepView,
    UpdateView,
)
from separatrix.testing import check_probe


def array(tensor: torch.Tensor | None) -> np.ndarray:
    if tensor is None:
        return np.full(1, np.nan)
    return tensor.detach().to_dense().double().numpy() if tensor.is_sparse else tensor.detach().double().numpy()


def rms(values: np.ndarray) -> float:
    flat = [float(v) for v in values.reshape(-1)]
    return math.sqrt(math.fsum(v * v for v in flat) / len(flat)) if flat else 0.0


def of_gradients(view: ParameterView) -> Mapping[str, Sequence[float]]:
    found = [array(g) for g in view.gradients]
    sizes = [0.0 if g is None else rms(a) / view.scale for g, a in zip(view.gradients, found, strict=True)]
    return {
        "gradient_rms": sizes,
        "gradient_carryover": sizes,
        "nonfinite_share": [float(np.mean(~np.isfinite(a))) if a.size else 0.0 for a in found],
        "gradient_absent": [float(g is None) for g in view.gradients],
    }


def of_updates(view: UpdateView) -> Mapping[str, Sequence[float]]:
    before, after = [array(t) for t in view.before], [array(t) for t in view.parameters]
    weights = [rms(b) for b in before]
    changes = [rms(a - b) for a, b in zip(after, before, strict=True)]
    ratios = [c / w if w > 0 else math.nan for c, w in zip(changes, weights, strict=True)]
    return {"weight_rms": weights, "update_rms": changes, "update_ratio": ratios}


def of_moments(view: UpdateView) -> Mapping[str, Sequence[float]]:
    roots, shares = [], []
    for state, group in zip(view.states, view.groups, strict=True):
        if not state or not state["exp_avg_sq"].numel():
            roots.append(math.nan)
            shares.append(math.nan)
            continue
        corrected = array(state["exp_avg_sq"]) / (1 - group["betas"][1] ** float(state["step"]))
        roots.append(math.sqrt(math.fsum(corrected.reshape(-1).tolist()) / corrected.size))
        shares.append(float(np.mean(np.sqrt(corrected) < group["eps"])))
    return {"adam_second_moment_rms": roots, "epsilon_share": shares}


def of_symmetry(view: UpdateView) -> Mapping[str, Sequence[float]]:
    shares = []
    for weight in view.before:
        rows = array(weight).reshape(len(weight), -1) if weight.dim() and weight.numel() else np.empty((0, 1))
        alike = [sum(np.array_equal(row, other) for other in rows) > 1 for row in rows]
        shares.append(float(np.mean(alike)) if alike else math.nan)
    return {"repeated_row_share": shares}


def of_modules(view: ModuleView) -> Mapping[str, Sequence[float]]:
    out = array(view.output)
    if not out.size:
        return {}
    return {
        "activation_rms": [rms(out)],
        "activation_mean": [math.fsum(out.reshape(-1).tolist()) / out.size],
        "activation_nonfinite_share": [float(np.mean(~np.isfinite(out)))],
    } | ({} if not isinstance(view.module, torch.nn.ReLU) else {"zero_share": [float(np.mean(out == 0))]})


def of_losses(view: LossView) -> Mapping[str, Sequence[float]]:
    scores, targets = array(view.outputs), view.targets.numpy()
    kept = targets != view.options.get("ignore_index", -100)
    scores, targets = scores[kept], targets[kept]
    if not targets.size:
        return {}
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    predicted = scores.argmax(axis=1)
    return {
        "accuracy": [float(np.mean(predicted == targets))],
        "output_entropy": [float(np.mean(-(chances * np.log(chances)).sum(axis=1)))],
        "label_share": [float(np.mean(targets == c)) for c in range(3)],
        "prediction_share": [float(np.mean(predicted == c)) for c in range(3)],
    }


def of_loss_inputs(view: LossView) -> Mapping[str, Sequence[float]]:
    scores, targets = array(view.outputs), view.targets.numpy()
    kept = targets != view.options.get("ignore_index", -100)
    scores, targets = scores[kept], targets[kept]
    if not targets.size:
        return {}
    wanted = np.eye(3)[targets]
    chances = np.array([[math.exp(s) / math.fsum(map(math.exp, row)) for s in row] for row in scores])
    spreads = [sum(float(np.var(column)) for column in x.T) for x in (chances, wanted)]
    valid = [bool((row >= 0).all()) and abs(math.fsum(row) - 1) < 1e-3 for row in scores]
    return {
        "distribution_share": [float(np.mean(valid))],
        "output_min": [float(scores.min())],
        "output_max": [float(scores.max())],
        "prediction_spread": [math.sqrt(spreads[0] / spreads[1])],
    }


def of_variation(view: ModuleView) -> Mapping[str, Sequence[float]]:
    out = array(view.output)
    if out.shape[0] < 2 or not list(view.module.parameters()):
        return {}
    columns = out.reshape(len(out), -1).T
    return {"batch_variance_share": [sum(map(np.var, columns)) / sum(float(np.mean(c**2)) for c in columns)]}


def of_inputs(view: InputView) -> Mapping[str, Sequence[float]]:
    x = array(view.tensors[0])
    if not x.size:
        return {"batch_size": [0.0], "training_mode": [1.0]}
    spreads = x.std(axis=0)
    return {
        "batch_size": [len(x)],
        "training_mode": [1.0],
        "input_mean": [float(x.mean())],
        "input_std": [float(x.std())],
        "input_feature_std_ratio": [float(spreads.max() / spreads[spreads > 0].min())] if len(x) > 1 else [],
    }


ORACLES: dict[str, Any] = {
    "gradients": of_gradients,
    "carryover": of_gradients,
    "updates": of_updates,
    "second-moments": of_moments,
    "symmetry": of_symmetry,
    "activations": of_modules,
    "outputs": of_losses,
    "inputs": of_inputs,
    "loss-inputs": of_loss_inputs,
    "variation": of_variation,
}
SINGLE = {"activations": 1e-6, "carryover": 1e-6, "second-moments": 1e-6, "outputs": 1e-6, "symmetry": 1e-6}
"""Probes whose numbers are of single precision whatever they look at, and how closely they agree."""


PASSING = [n for n, probe in available_probes().items() if probe.default and probe.moment is not Moment.SNAPSHOT]
"""Default probes of what passes; those of snapshots have dense oracles in files of their own."""


@pytest.mark.parametrize("name", PASSING)
def test_default_probes(name: str) -> None:
    if name == "memory":
        # What the process holds is no function of the view.
        readings = list(available_probes()[name].measure(StepView(1, torch.device("cpu")), {}))
        assert all(float(reading.values) > 1e6 for reading in readings)
        return
    assert check_probe(available_probes()[name], oracle=ORACLES[name], tolerance=SINGLE.get(name, 1e-9)) > 0


def _probe(measure: Any, series: tuple[SeriesSpec, ...] = (SeriesSpec("value", ("parameter",)),)) -> Probe:
    return Probe("clumsy", Moment.GRADIENT, series, measure, "breaks the contract")


def _raises(view: ParameterView, state: dict[str, Any]) -> Iterator[Reading]:
    yield Reading("value", view.parameters[0].sum().detach())


def _undeclared(view: ParameterView, state: dict[str, Any]) -> Iterator[Reading]:
    yield Reading("other", 1.0)


def _draws(view: ParameterView, state: dict[str, Any]) -> Iterator[Reading]:
    yield Reading("value", float(torch.rand(())), [])


def _changes(view: ParameterView, state: dict[str, Any]) -> Iterator[Reading]:
    for gradient in view.gradients:
        if gradient is not None and gradient.layout is torch.strided:
            gradient.mul_(1.0)
    yield Reading("value", torch.ones(0), [])


def _misplaces(view: ParameterView, state: dict[str, Any]) -> Iterator[Reading]:
    yield Reading("value", torch.ones(2), [0, 100])


def _remembers(view: ParameterView, state: dict[str, Any], calls: list[int] = []) -> Iterator[Reading]:  # noqa: B006
    calls.append(1)
    yield Reading("value", float(len(calls)))


def _holds_graph(view: ParameterView, state: dict[str, Any]) -> Iterator[Reading]:
    yield Reading("value", torch.stack([p.sum() for p in view.parameters]) if view.parameters else torch.ones(0))


@pytest.mark.parametrize(
    ("measure", "what"),
    [
        (_raises, "raises on the view 'none'"),
        (_undeclared, "does not declare"),
        (_draws, "draws random numbers|does not repeat itself"),
        (_changes, "changes what it is shown"),
        (_misplaces, "positions"),
        (_remembers, "does not repeat itself"),
        (_holds_graph, "graph"),
    ],
)
def test_a_probe_that_breaks_the_contract_is_found_out(measure: Any, what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        check_probe(_probe(measure))


def test_a_wrong_number_is_found_out() -> None:
    def off(view: ParameterView, state: dict[str, Any]) -> Iterator[Reading]:
        for reading in available_probes()["gradients"].measure(view, state):
            yield Reading(reading.series, reading.values * (1 + 1e-8), reading.positions)

    series = available_probes()["gradients"].series
    with pytest.raises(AssertionError, match="gradient_rms"):
        check_probe(_probe(off, series), oracle=of_gradients)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-30, 1e-24, 1e-19, 1e-7, 1.0, 6e4, 1e19, 1e30, 3e38])
def test_magnitudes_at_the_ends_of_the_number_format(dtype: torch.dtype, size: float) -> None:
    tensor = torch.tensor([size, -size, size / 2], dtype=torch.float64).to(dtype)
    if not torch.isfinite(tensor).all() or not tensor.all():
        pytest.skip("not a number of this format")
    view = ParameterView([torch.ones(3)], [tensor])
    read = {reading.series: reading for reading in available_probes()["gradients"].measure(view, {})}
    assert float(read["gradient_rms"].values) == pytest.approx(rms(array(tensor)), rel=1e-5)
    assert float(read["nonfinite_share"].values) == 0.0
    module = ModuleView("layer", torch.nn.Identity(), None, tensor)
    shown = {reading.series: reading for reading in available_probes()["activations"].measure(module, {})}
    if size > 1e-19:
        assert float(shown["activation_rms"].values) == pytest.approx(rms(array(tensor)), rel=1e-5)
    assert float(shown["activation_nonfinite_share"].values) == 0.0


@pytest.mark.parametrize(("bad", "share"), [(float("nan"), 0.25), (float("inf"), 0.25), (-float("inf"), 0.25)])
def test_entries_that_are_not_finite_are_counted(bad: float, share: float) -> None:
    gradients = [torch.tensor([1.0, 2.0, bad, 3.0]), torch.ones(3)]
    view = ParameterView([torch.ones(4), torch.ones(3)], gradients)
    read = {reading.series: reading for reading in available_probes()["gradients"].measure(view, {})}
    assert read["nonfinite_share"].values.tolist() == [share, 0.0]
    assert read["gradient_rms"].values[1] == 1.0
    assert not math.isfinite(read["gradient_rms"].values[0])


def test_rows_of_a_sparse_gradient_that_repeat_are_added_before_they_are_squared() -> None:
    gradient = torch.sparse_coo_tensor(
        torch.tensor([[0, 2, 2]]), torch.tensor([[3.0], [1.0], [3.0]]), (4, 1), check_invariants=True
    )
    view = ParameterView([torch.ones(4, 1, requires_grad=True)], [gradient])
    read = {reading.series: reading for reading in available_probes()["gradients"].measure(view, {})}
    assert float(read["gradient_rms"].values) == pytest.approx(math.sqrt((9 + 16) / 4))
