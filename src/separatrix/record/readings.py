"""What probes of single examples read of a loss; a probe that fails again and again is switched off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from separatrix.record.isolation import in_words
from separatrix.record.sightings import on_host
from separatrix.runs.probe import LossView, Probe
from separatrix.runs.writer import RunWriter

_FAILURES_ALLOWED = 3


class Readings:
    """The probes of single examples, with their states."""

    def __init__(self, writer: RunWriter, probes: Sequence[Probe]) -> None:
        self._writer = writer
        self._probes = [(probe, {spec.name for spec in probe.series}) for probe in probes]
        self._states: dict[str, dict[str, Any]] = {}
        self._failed: dict[str, int] = {}

    @property
    def series(self) -> list[str]:
        """Names of all series that they read."""
        return sorted({name for _, names in self._probes for name in names})

    def of(self, view: LossView, step: int) -> dict[str, np.ndarray]:
        """A value of each series for each row of the loss that `view` shows, seen at `step`."""
        values: dict[str, torch.Tensor] = {}
        for probe, names in self._probes:
            if self._failed.get(probe.name, 0) >= _FAILURES_ALLOWED:
                continue
            try:
                with torch.no_grad():
                    values |= _readings(probe, names, view, self._states.setdefault(probe.name, {}))
            except Exception as error:
                self._note_failure(probe, error, step)
        return on_host(values)

    def _note_failure(self, probe: Probe, error: Exception, step: int) -> None:
        count = self._failed[probe.name] = self._failed.get(probe.name, 0) + 1
        if count == _FAILURES_ALLOWED:
            reason = in_words(error)
            message = f"probe {probe.name} was switched off after {count} failures ({reason})"
            data = {"probe": probe.name, "series": [spec.name for spec in probe.series], "reason": reason}
            self._writer.event("probe-off", message, step=step, severity="warning", data=data)


def _readings(probe: Probe, names: set[str], view: LossView, state: dict[str, Any]) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = {}
    for reading in probe.measure(view, state):
        tensor = torch.as_tensor(reading.values)
        if reading.series not in names or tensor.numel() != len(view.outputs):
            raise ValueError(f"a reading of {reading.series} does not have a value an example")
        values[reading.series] = tensor.detach().reshape(-1)
    return values
