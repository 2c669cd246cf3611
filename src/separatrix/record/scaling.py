"""Loss scaling: the loss as the user wrote it, the factor on the gradients, and steps that the scaler skipped."""

from __future__ import annotations

import weakref
from typing import Any

import torch


class LossScaling:
    """What a GradScaler did since the last step."""

    def __init__(self) -> None:
        self._scaled: tuple[weakref.ref[torch.Tensor], torch.Tensor] | None = None
        self._scaler: weakref.ref[Any] | None = None
        self._last: float | None = None

    def scaled(self, result: object, scaler: Any, outputs: object) -> None:
        """`scaler` multiplied the loss `outputs`, giving `result`."""
        self._scaler = weakref.ref(scaler)
        if isinstance(result, torch.Tensor) and isinstance(outputs, torch.Tensor):
            self._scaled = weakref.ref(result), outputs.detach()

    def original(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss before scaling, if `loss` is the last one scaled; else `loss` itself."""
        found, self._scaled = self._scaled, None
        return found[1] if found is not None and found[0]() is loss else loss

    @property
    def factor(self) -> float:
        """The scaler's present factor; 1 without a scaler."""
        scaler = None if self._scaler is None else self._scaler()
        return 1.0 if scaler is None else float(scaler.get_scale())

    def changed_factor(self) -> float | None:
        """The factor, if it differs from when this was last asked."""
        factor = self.factor
        if factor == self._last:
            return None
        self._last = factor
        return factor


def fused_factor(optimizer: torch.optim.Optimizer) -> float:
    """The factor that gradients still carry when a fused optimizer is to divide by it itself."""
    factor = getattr(optimizer, "grad_scale", None)
    return 1.0 if factor is None else float(factor)


def fused_skip(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer was told of non-finite gradients and so changes nothing in this step."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(float(found))
