"""What a training notes of itself while it runs, computed from copies in float64, to compare a recording with."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from separatrix.runs import Run

EVERY = {"loss", "clip_coefficient", "closure_calls"}
CHANGED = {"learning_rate", "momentum", "weight_decay", "beta1", "beta2", "epsilon", "skipped_steps", "loss_scale"}

Named = Mapping[str, torch.Tensor]


def rms(tensor: torch.Tensor) -> float:
    values = tensor.detach().to_dense() if tensor.layout is not torch.strided else tensor.detach()
    array = values.to(torch.complex128).numpy() if values.is_complex() else values.double().numpy()
    return float(np.sqrt(np.mean(np.abs(array) ** 2)))


def named(model: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: parameter for name, parameter in model.named_parameters()}


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@dataclasses.dataclass
class Truth:
    """Values by series, label and step; the label is "" for a scalar, or an optimizer's name, parameter, class ..."""

    values: dict[str, dict[str, dict[int, float]]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(lambda: collections.defaultdict(dict))
    )
    step: int = 0
    late: frozenset[str] = frozenset()
    """Series that are only seen from the second step on."""

    def note(self, label: str = "", step: int | None = None, **values: Any) -> None:
        """Note scalars, by default of the step in progress."""
        for series, value in values.items():
            number = value.detach() if isinstance(value, torch.Tensor) else value
            self.values[series][label][self.step + 1 if step is None else step] = float(number)

    @contextlib.contextmanager
    def stepping(
        self, parameters: nn.Module | Named, label: str = "", counts: bool = True, **values: Any
    ) -> Iterator[None]:
        """Around an optimizer's step: gradients and weights before it, weights after it, and scalars of the step."""
        tensors = named(parameters) if isinstance(parameters, nn.Module) else parameters
        before = {name: p.detach().clone() for name, p in tensors.items()}
        gradients = {name: p.grad.detach().clone() for name, p in tensors.items() if p.grad is not None}
        yield
        if counts:
            self.step += 1
        self.note(label, self.step, **values)
        for name, parameter in tensors.items():
            if name in gradients:
                self.note(name, self.step, gradient_rms=rms(gradients[name]))
            size, change = rms(before[name]), rms(before[name] - parameter.detach())
            self.note(name, self.step, weight_rms=size, update_rms=change)
            if size:
                self.note(name, self.step, update_ratio=change / size)

    def gradient_norm(self, parameters: nn.Module | Named) -> float:
        """Norm of all gradients, in float64."""
        tensors = named(parameters) if isinstance(parameters, nn.Module) else parameters
        return math.sqrt(sum(rms(p.grad) ** 2 * p.grad.numel() for p in tensors.values() if p.grad is not None))

    def classes(self, scores: torch.Tensor, targets: torch.Tensor) -> None:
        """Accuracy, entropy and shares of a batch of class scores."""
        array, labels = scores.detach().double().numpy(), targets.numpy()
        predicted, probabilities = array.argmax(axis=1), softmax(array)
        entropy = float(-(probabilities * np.log(probabilities)).sum(axis=1).mean())
        self.note(accuracy=np.mean(predicted == labels), output_entropy=entropy)
        for index in range(array.shape[1]):
            self.note(str(index), label_share=np.mean(labels == index), prediction_share=np.mean(predicted == index))

    def binary(self, probabilities: torch.Tensor, targets: torch.Tensor) -> None:
        """The same for one output a row that is the probability of class 1."""
        p, labels = probabilities.detach().double().numpy().reshape(-1), targets.numpy().reshape(-1) > 0.5
        self.note(accuracy=np.mean((p > 0.5) == labels))
        self.note(output_entropy=float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()))
        for label, labelled, predicted in (("0", ~labels, p <= 0.5), ("1", labels, p > 0.5)):
            self.note(label, label_share=np.mean(labelled), prediction_share=np.mean(predicted))

    def inputs(self, batch: torch.Tensor) -> None:
        """Size, location and spread of a batch."""
        array = batch.detach().double().numpy()
        self.note(batch_size=len(array), input_mean=array.mean(), input_std=array.std(), training_mode=1.0)
        if array.ndim == 2:
            spreads = array.std(axis=0)
            self.note(input_feature_std_ratio=spreads.max() / spreads[spreads > 0].min())

    def output(self, module: str, tensor: torch.Tensor) -> None:
        """What a leaf module gave."""
        array = tensor.detach().double().numpy()
        self.note(module, activation_rms=rms(tensor), activation_mean=array.mean(), zero_share=np.mean(array == 0))

    def evaluation(self, loss: float, accuracy: float | None = None, in_eval_mode: bool = True) -> None:
        """A block of evaluation after the last step."""
        self.note(step=self.step, eval_loss=loss, eval_mode=float(in_eval_mode))
        if accuracy is not None:
            self.note(step=self.step, eval_accuracy=accuracy)

    def compare(self, run: Run) -> None:
        """Fail where the recording differs; sampled series must hold the first step that was noted, and more if any."""
        for series, by_label in self.values.items():
            data = run.series(series)
            for label, points in by_label.items():
                recorded = _column(data, label)
                expected = points if series not in CHANGED else _changes(points)
                if series in EVERY | CHANGED or series.startswith("eval_"):
                    assert list(recorded) == list(expected), (series, label, recorded, expected)
                else:
                    wanted = list(expected)[series in self.late]
                    assert wanted in recorded, (series, label, wanted, recorded)
                for step, value in recorded.items():
                    assert step in expected, (series, label, step, recorded, expected)
                    assert _close(value, expected[step]), (series, label, step, value, expected[step])


def _close(value: float, expected: float) -> bool:
    return math.isclose(value, expected, rel_tol=2e-5, abs_tol=2e-7)


def _changes(points: Mapping[int, float]) -> dict[int, float]:
    found: dict[int, float] = {}
    last = None
    for step, value in points.items():
        if value != last:
            found[step] = last = value
    return found


def _column(data: Any, label: str) -> dict[int, float]:
    """Recorded values by step; for a label, where it was measured."""
    if not label:
        assert data.values.ndim == 1, (data.name, data.coords)
        return dict(zip(data.steps.tolist(), data.values.tolist(), strict=True))
    ((_, labels),) = data.coords.items()
    assert label in labels, (data.name, label, labels)
    column = data.values[:, labels.index(label)]
    return {int(s): float(v) for s, v in zip(data.steps, column, strict=True) if not math.isnan(v)}
