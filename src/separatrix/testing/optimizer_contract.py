"""The contract of an optimizer: it does what every optimizer of `torch.optim` does, and repeats itself bit for bit."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from separatrix.runs.errors import SeparatrixError
from separatrix.testing.fingerprints import surroundings

_STEPS = 7
_WIDTHS = (5, 8, 6, 3)
_ROUNDING = 64.0  # units in the last place that multi-tensor functions may differ by after `_STEPS` steps

Build = Callable[..., Optimizer]


def check_optimizer(kind: type[Optimizer], options: Mapping[str, Any] | None = None) -> None:
    """Hold an optimizer, built as `kind(parameters, **options)`, to the contract.

    It lowers a loss; equal runs are equal bit for bit, and so are those that go on from a `state_dict` (through a file
    loaded with `weights_only`), a deep copy or a pickle; groups act as optimizers of their own and can be added later;
    a rate of 0, from a schedule too, changes nothing; a closure is called once, with gradients enabled, and its loss
    returned; parameters without a gradient stay and get no state; gradients stay as they are; nothing outside changes.
    Where offered, `maximize` ascends and `foreach` agrees with the loop. Sparse and complex gradients work, or give one
    error that names them and leave the parameter as it was; so do rates below 0.

    Raises:
        AssertionError: the contract is broken.
    """
    name = kind.__name__

    def build(parameters: Any, **more: Any) -> Optimizer:
        return kind(parameters, **{**(options or {}), **more})

    for check in (
        _check_descent,
        _check_repeatability,
        _check_state_dict,
        _check_copies,
        _check_groups,
        _check_rates,
        _check_closures,
        _check_missing_gradients,
        _check_foreach,
        _check_maximize,
        _check_strange_gradients,
    ):
        check(build, _offered(kind), name)


def _offered(kind: type[Optimizer]) -> frozenset[str]:
    return frozenset(inspect.signature(kind).parameters)


def _network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A small network with wide and tall matrices, vectors, and values of its own generator."""
    generator = torch.Generator().manual_seed(1)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(_WIDTHS):
        layer = nn.Linear(fan_in, fan_out, device="meta", dtype=dtype).to_empty(device="cpu")
        for values in layer.parameters():
            values.data.copy_(torch.randn(values.shape, generator=generator, dtype=dtype) / fan_in**0.5)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _loss(network: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + step % 3)
    dtype = next(network.parameters()).dtype
    inputs = torch.randn(16, _WIDTHS[0], generator=generator, dtype=dtype)
    loss: Tensor = (network(inputs) - inputs[:, : _WIDTHS[-1]].sin()).square().mean()
    return loss


def _total(network: nn.Module) -> float:
    """Loss of the three batches that training repeats."""
    return sum(float(_loss(network, step).detach()) for step in range(3))


def _train(network: nn.Module, optimizer: Optimizer, first: int = 0, steps: int = _STEPS, sign: float = 1.0) -> None:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        torch.autograd.backward(sign * _loss(network, step))
        optimizer.step()


def _values(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _trained(build: Build, **more: Any) -> list[Tensor]:
    network = _network()
    _train(network, build(network.parameters(), **more))
    return _values(network)


def _check_descent(build: Build, offered: frozenset[str], name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        network = _network(dtype)
        before = _total(network)
        _train(network, build(network.parameters()), steps=60)
        after = _total(network)
        assert after < before, f"{name} does not lower a loss in {dtype}: {before:.3g} before, {after:.3g} after"
        kinds = {parameter.dtype for parameter in network.parameters()}
        assert kinds == {dtype}, f"{name} changes the type of parameters from {dtype} to {kinds}"


def _check_repeatability(build: Build, offered: frozenset[str], name: str) -> None:
    _trained(build)  # the first run may import what leaves traces
    before = surroundings()
    assert _same(_trained(build), _trained(build)), f"{name} does not repeat itself bit for bit"
    assert surroundings() == before, f"{name} draws from global generators or changes a mode of torch"
    network = _network()
    optimizer = build(network.parameters())
    torch.autograd.backward(_loss(network, 0))
    given = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    optimizer.step()
    left = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert _same(given, left), f"{name} changes the gradients that it is given"
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in network.parameters()), (
        f"{name} leaves parameters that are no trainable leaves"
    )


def _check_state_dict(build: Build, offered: frozenset[str], name: str) -> None:
    expected, half = _trained(build), _STEPS // 2
    network = _network()
    optimizer = build(network.parameters())
    _train(network, optimizer, steps=half)
    file = io.BytesIO()
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    held = torch.load(file, weights_only=True)
    resumed = _network()
    resumed.load_state_dict(held["model"])
    again = build(resumed.parameters())
    again.load_state_dict(held["optimizer"])
    _train(resumed, again, first=half, steps=_STEPS - half)
    assert _same(_values(resumed), expected), f"{name} does not go on from its state_dict as it would have without"


def _check_copies(build: Build, offered: frozenset[str], name: str) -> None:
    expected, half = _trained(build), _STEPS // 2
    network = _network()
    optimizer = build(network.parameters())
    _train(network, optimizer, steps=half)
    for what, (twin, other) in (
        ("a deep copy", copy.deepcopy((network, optimizer))),
        ("a pickle", pickle.loads(pickle.dumps((network, optimizer)))),
    ):
        _train(twin, other, first=half, steps=_STEPS - half)
        assert _same(_values(twin), expected), f"{name} does not go on from {what} as it would have without"


def _check_groups(build: Build, offered: frozenset[str], name: str) -> None:
    rates = (1e-2, 3e-3)

    def run(optimizers: Callable[[nn.Sequential], list[Optimizer]]) -> list[Tensor]:
        network = _network()
        made = optimizers(network)
        for step in range(_STEPS):
            network.zero_grad()
            torch.autograd.backward(_loss(network, step))
            for optimizer in made:
                optimizer.step()
        return _values(network)

    def parts(network: nn.Sequential) -> list[list[nn.Parameter]]:
        return [list(network[0].parameters()), [*network[2].parameters(), *network[4].parameters()]]

    def apart(network: nn.Sequential) -> list[Optimizer]:
        return [build(part, lr=rate) for part, rate in zip(parts(network), rates, strict=True)]

    def together(network: nn.Sequential) -> list[Optimizer]:
        return [build([{"params": part, "lr": rate} for part, rate in zip(parts(network), rates, strict=True)])]

    def added(network: nn.Sequential) -> list[Optimizer]:
        first, second = parts(network)
        optimizer = build(first, lr=rates[0])
        optimizer.add_param_group({"params": second, "lr": rates[1]})
        return [optimizer]

    expected = run(apart)
    assert _same(run(together), expected), f"groups of {name} differ from optimizers of their own"
    assert _same(run(added), expected), f"a group added to {name} differs from one given at first"


def _check_rates(build: Build, offered: frozenset[str], name: str) -> None:
    network = _network()
    start, optimizer = _values(network), build(network.parameters())
    LambdaLR(optimizer, lambda step: 0.0)
    _train(network, optimizer)
    assert _same(_values(network), start), f"{name} moves parameters at a rate that a schedule set to 0"
    try:
        build(_network().parameters(), lr=-1.0)
    except (SeparatrixError, ValueError) as error:
        assert "lr" in str(error) or "learning rate" in str(error).lower(), (
            f"{name} refuses lr=-1 without naming it: {error}"
        )
    else:
        raise AssertionError(f"{name} accepts lr=-1")


def _check_closures(build: Build, offered: frozenset[str], name: str) -> None:
    network, calls = _network(), []
    optimizer = build(network.parameters())
    for step in range(_STEPS):

        def closure(step: int = step) -> Tensor:
            calls.append(torch.is_grad_enabled())
            optimizer.zero_grad()
            loss = _loss(network, step)
            torch.autograd.backward(loss)
            return loss

        with torch.no_grad():
            expected = _loss(network, step)
            returned = optimizer.step(closure)  # type: ignore[arg-type]
        assert returned is not None and torch.equal(torch.as_tensor(returned), expected), (
            f"{name} does not return the loss of its closure"
        )
    assert calls == [True] * _STEPS, (
        f"{name} calls a closure {len(calls)} times in {_STEPS} steps, or without gradients"
    )
    assert _same(_values(network), _trained(build)), f"{name} with a closure differs from without"


def _check_missing_gradients(build: Build, offered: frozenset[str], name: str) -> None:
    network = _network()
    frozen = list(network[0].parameters())
    for parameter in frozen:
        parameter.requires_grad_(False)
    start, optimizer = [parameter.clone() for parameter in frozen], build(network.parameters())
    _train(network, optimizer)
    assert _same([parameter.detach() for parameter in frozen], start), f"{name} moves parameters without a gradient"
    assert not any(parameter in optimizer.state for parameter in frozen), (
        f"{name} keeps a state for parameters without a gradient"
    )
    build([nn.Parameter(torch.ones(3))]).step()


def _check_foreach(build: Build, offered: frozenset[str], name: str) -> None:
    if "foreach" not in offered:
        return
    pairs = zip(_trained(build, foreach=True), _trained(build, foreach=False), strict=True)
    limit = _ROUNDING * torch.finfo(torch.float64).eps
    worst = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
    assert worst <= limit, f"{name} with foreach differs from the loop by {worst:.3g} of the largest weight"


def _check_maximize(build: Build, offered: frozenset[str], name: str) -> None:
    if "maximize" not in offered:
        return
    network = _network()
    _train(network, build(network.parameters(), maximize=True), sign=-1.0)
    assert _same(_values(network), _trained(build)), f"{name} with maximize does not ascend as it descends without"


def _check_strange_gradients(build: Build, offered: frozenset[str], name: str) -> None:
    sparse = nn.Parameter(torch.ones(4, 6))
    sparse.grad = torch.eye(4, 6).to_sparse()
    imaginary = nn.Parameter(torch.ones(4, 6, dtype=torch.complex128))
    imaginary.grad = torch.full_like(imaginary, 1j)
    for what, parameter in (("sparse", sparse), ("complex", imaginary)):
        start = parameter.detach().clone()
        optimizer = build([parameter])
        try:
            optimizer.step()
        except (SeparatrixError, RuntimeError) as error:
            message = str(error)
            assert what in message and "\n" not in message, f"{name} refuses {what} gradients with {message!r}"
            assert torch.equal(parameter.detach(), start), f"{name} refuses {what} gradients after a step"
        else:
            moved = (parameter.detach() - start).abs()
            assert bool(moved.isfinite().all() and moved.any()), (
                f"{name} takes {what} gradients and does not follow them"
            )
