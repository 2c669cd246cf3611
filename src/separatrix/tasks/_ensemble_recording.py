"""Keeps what is measured while an ensemble trains and, where asked for, writes it to a run with a `copy` dimension."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from separatrix.runs.types import SeriesSpec, Status
from separatrix.runs.writer import RunWriter
from separatrix.tasks._ensemble_optimizers import Hyper, Optimizer
from separatrix.tasks.errors import EnsembleError

_OWN = {
    "loss": "training loss of each copy, before the step",
    "learning_rate": "learning rate of each copy, where it changed",
}


class Recording:
    """The journal of one training, and the writer of its run while the `with` block lasts."""

    def __init__(
        self,
        path: str | Path | None,
        labels: Sequence[str] | None,
        copies: int,
        functions: Mapping[str, Callable[[Any], Tensor]],
        optimizer: Optimizer,
    ) -> None:
        self.measured: dict[str, tuple[list[int], list[Tensor]]] = {name: ([], []) for name in functions}
        self._functions = functions
        self._copies = copies
        self._rates: Tensor | None = None
        names = [str(index) for index in range(copies)] if labels is None else list(labels)
        if len(names) != copies or len(set(names)) != copies:
            raise EnsembleError(f"{len(set(names))} distinct labels for {copies} copies: give one for each")
        for name in _OWN.keys() & functions.keys():
            raise EnsembleError(f"the measurement {name!r} has the name of a series that is recorded anyway: rename it")
        self._writer = None if path is None else RunWriter(path)
        if self._writer is not None:
            self._writer.positions("copy", names)
            self._writer.meta("ensemble", {"copies": copies, "optimizer": _facts(optimizer)})

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            failed = Status.INTERRUPTED if interrupted else Status.CRASHED
            self._writer.close(Status.FINISHED if kind is None else failed, None if error is None else repr(error))

    def step(self, step: int, loss: Tensor, rate: Hyper, factor: Hyper | None) -> None:
        """Record the losses of a step, and the learning rates where they changed."""
        if self._writer is None:
            return
        self._write("loss", step, loss)
        rates = torch.as_tensor(rate, dtype=torch.float64) * torch.as_tensor(
            1.0 if factor is None else factor, dtype=torch.float64
        )
        if self._rates is None or not torch.equal(rates, self._rates):
            self._rates = rates
            self._write("learning_rate", step, rates.expand(self._copies))

    def measure(self, step: int, ensemble: Any) -> None:
        """Evaluate the functions after `step` steps.

        Raises:
            EnsembleError: a function does not give values for each copy, for a run one number.
        """
        for name, function in self._functions.items():
            with torch.no_grad():
                values = function(ensemble).detach().clone()
            if values.shape[:1] != (self._copies,) or (self._writer is not None and values.dim() > 1):
                more = ", ..." if self._writer is None else ""
                raise EnsembleError(
                    f"the measurement {name!r} gave shape {tuple(values.shape)}: it must be ({self._copies},{more}),"
                    " values for each copy, a single one for a run"
                )
            steps, taken = self.measured[name]
            steps.append(step)
            taken.append(values)
            self._write(name, step, values)

    def _write(self, name: str, step: int, values: Tensor) -> None:
        if self._writer is not None:
            numbers = values.detach().to("cpu", torch.float64, copy=True).numpy()
            spec = SeriesSpec(name, dims=("copy",), dtype="float64", description=_OWN.get(name, ""))
            self._writer.vector(self._writer.series(spec), step, numbers)


def _facts(optimizer: Optimizer) -> dict[str, Any]:
    fields = {field.name: getattr(optimizer, field.name) for field in dataclasses.fields(optimizer)}
    plain = {key: value.tolist() if isinstance(value, Tensor) else value for key, value in fields.items()}
    return {"name": type(optimizer).__name__, **plain}
