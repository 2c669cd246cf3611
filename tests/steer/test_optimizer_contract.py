"""Every optimizer keeps to the contract, so do torch's own, and the contract sees optimizers that do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from separatrix.steer.optim import AdamAtan2, optimizers
from separatrix.testing import check_optimizer

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "AdamAtan2": {"lr": 1e-2},
    # A rank below the sides of the test's network, and a refresh in the middle of its steps.
    "GaLore": {"lr": 1e-2, "rank": 3, "update_gap": 5, "weight_decay": 0.1},
}


@pytest.mark.parametrize("kind", optimizers().values(), ids=lambda kind: kind.__name__)
def test_every_optimizer_keeps_to_the_contract(kind: type[Optimizer]) -> None:
    check_optimizer(kind, OPTIONS.get(kind.__name__))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
        (torch.optim.Adafactor, {}),
    ],
)
def test_the_contract_holds_for_what_torch_has(kind: type[Optimizer], options: Mapping[str, Any]) -> None:
    check_optimizer(kind, options)


class _Restless(torch.optim.SGD):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        self.param_groups[0]["params"][0].data.add_(1e-3 * torch.rand(()))
        return super().step(closure)


class _Forgetful(torch.optim.SGD):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "state": {}}


class _Deaf(torch.optim.SGD):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if closure is not None:
            with torch.enable_grad():
                closure()
        return super().step()


class _Eager(torch.optim.SGD):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["seen"] = True
        return super().step(closure)


class _Grasping(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter.grad.zero_()
        return loss


class _Selfish(torch.optim.SGD):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        return super().step(closure)


class _Ascending(torch.optim.SGD):
    def __init__(self, params: Any, lr: float = 1e-2, maximize: bool = False) -> None:
        super().__init__(params, lr)


class _Uphill(AdamAtan2):
    def __init__(self, params: Any, lr: float = 1e-2) -> None:
        super().__init__(params, lr, maximize=True)


class _Crooked(AdamAtan2):
    def __init__(self, params: Any, lr: float = 1e-2, foreach: bool | None = None) -> None:
        super().__init__(params, lr * (1.001 if foreach else 1.0), foreach=foreach)


class _Lenient(AdamAtan2):
    def __init__(self, params: Any, lr: float = 1e-2) -> None:
        super().__init__(params, abs(lr))


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (_Restless, "repeat itself"),
        (_Forgetful, "state_dict"),
        (_Deaf, "loss of its closure"),
        (_Eager, "keeps a state"),
        (_Grasping, "changes the gradients"),
        (_Selfish, "groups"),
        (_Ascending, "maximize"),
        (_Uphill, "does not lower"),
        (_Crooked, "foreach differs"),
        (_Lenient, "accepts lr=-1"),
    ],
)
def test_the_contract_sees_what_is_broken(kind: type[Optimizer], part: str) -> None:
    needs_momentum = kind is _Forgetful
    options = {"lr": 0.01, "momentum": 0.9} if needs_momentum else {"lr": 0.01}
    with pytest.raises(AssertionError, match=part):
        check_optimizer(kind, options)
