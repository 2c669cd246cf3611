"""The contract of a probe: it yields what it declares, repeats itself, draws nothing and changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

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
from separatrix.testing.fingerprints import Fingerprint, fingerprint, surroundings
from separatrix.testing.snapshot_contract import check_snapshot_probe

Oracle = Callable[[Any], Mapping[str, Any]]
"""From a view to what each series must read there, one number a label, computed by brute force in float64."""


def check_probe(probe: Probe, *, oracle: Oracle | None = None, tolerance: float = 1e-9) -> int:
    """Show `probe` every view of `example_views` for its moment and compare what it reads; the number of readings.

    The views hold ordinary tensors and odd ones: empty, without examples, not finite, half precision, sparse,
    integer; probes of snapshots are shown those of `example_snapshots`. A probe may read nothing of a view, but must
    not raise. Declared series and dimensions must hold. With `oracle`, values of float64 views must agree with it
    within `tolerance`, relative to their size.

    Raises:
        AssertionError: the contract is broken; the message names the view.
    """
    if probe.moment is Moment.SNAPSHOT:
        return check_snapshot_probe(probe, oracle=oracle, tolerance=tolerance)
    readings = 0
    for name, make in example_views(probe.moment).items():
        torch.manual_seed(0)
        view = make()
        before = _seen(probe, view) | surroundings()
        first = _measured(probe, make, name)
        torch.manual_seed(0)
        changed = make()
        again = surroundings()
        found = list(probe.measure(changed, {}))
        assert surroundings() == again, f"{probe.name} draws random numbers or changes a mode on the view {name!r}"
        assert {**_seen(probe, changed), **surroundings()} == before, f"{probe.name} changes what it is shown: {name!r}"
        assert [_plain(r) for r in first] == [_plain(r) for r in found], (
            f"{probe.name} does not repeat itself: {name!r}"
        )
        for reading in found:
            _check_reading(probe, reading, changed, name)
        if oracle is not None and name.startswith("float64"):
            _compare(probe, found, oracle(make_again(make)), name, tolerance)
        readings += len(found)
    assert readings, f"{probe.name} reads nothing of any view"
    return readings


def make_again(make: Callable[[], object]) -> object:
    """The view that `make` gives from the seed that `check_probe` uses."""
    torch.manual_seed(0)
    return make()


def _measured(probe: Probe, make: Callable[[], object], name: str) -> list[Reading]:
    view = make_again(make)
    try:
        return list(probe.measure(view, {}))
    except Exception as error:
        raise AssertionError(f"{probe.name} raises on the view {name!r}: {type(error).__name__}: {error}") from error


def _seen(probe: Probe, view: object) -> Fingerprint:
    if not dataclasses.is_dataclass(view):
        return {}
    # Copies from before a step may be overwritten by the last probe that reads them.
    fields = {f.name: getattr(view, f.name) for f in dataclasses.fields(view) if f.name != "before"}
    return fingerprint(fields, probe.name)


def _plain(reading: Reading) -> tuple[str, str, object]:
    return reading.series, str(torch.as_tensor(reading.values).tolist()), reading.positions and list(reading.positions)


def _check_reading(probe: Probe, reading: Reading, view: object, name: str) -> None:
    specs = {spec.name: spec for spec in probe.series}
    assert reading.series in specs, f"{probe.name} yields {reading.series!r}, which it does not declare"
    values = torch.as_tensor(reading.values)
    where = f"{probe.name}, {reading.series}, view {name!r}"
    assert values.dim() <= 1 and not values.is_complex(), f"{where}: values are no numbers in a row"
    assert not values.requires_grad, f"{where}: values hold on to a graph"
    if not specs[reading.series].dims:
        assert values.numel() == 1, f"{where}: {values.numel()} values for a series without dimensions"
    elif reading.positions is not None:
        positions = list(reading.positions)
        assert len(positions) == values.numel() == len(set(positions)), f"{where}: positions do not fit the values"
        count = len(view.parameters) if isinstance(view, ParameterView | UpdateView) else None
        assert count is None or all(0 <= p < count for p in positions), f"{where}: positions beyond the view"


def _compare(
    probe: Probe, found: Sequence[Reading], expected: Mapping[str, Sequence[float]], name: str, tolerance: float
) -> None:
    for reading in found:
        if reading.series not in expected:
            continue
        values = torch.as_tensor(reading.values, dtype=torch.float64).reshape(-1)
        whole = torch.as_tensor(expected[reading.series], dtype=torch.float64).reshape(-1)
        wanted = whole if reading.positions is None else whole[list(reading.positions)]
        close = torch.allclose(values, wanted, rtol=tolerance, atol=0.0, equal_nan=True)
        assert close, f"{probe.name}, {reading.series}, view {name!r}: {values.tolist()} is not {wanted.tolist()}"


def example_views(moment: Moment) -> dict[str, Callable[[], object]]:
    """Makers of views of this moment, by name; they draw from torch's global generator."""
    return dict(_VIEWS[moment]())


def _tensors(dtype: torch.dtype) -> list[torch.Tensor]:
    shapes = ((4, 3), (4,), (), (0,), (2, 1, 3, 3), (5, 0))
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]


def _odd_tensors() -> list[torch.Tensor]:
    values = [torch.tensor(v) for v in ([1.0, float("nan")], [float("inf"), 2.0], [1e30, 1e30], [1e-30, 1e-30], [0.0])]
    table = torch.zeros(4, 2)
    table[1] = 3.0
    return [*values, table.t(), torch.ones(6)[::2]]


def _parameter_sets() -> Iterator[tuple[str, Callable[[], list[torch.Tensor]]]]:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        yield str(dtype).removeprefix("torch."), lambda dtype=dtype: _tensors(dtype)  # type: ignore[misc]
    yield "odd", _odd_tensors
    yield "none", lambda: []


def _parameter_views() -> Iterator[tuple[str, Callable[[], object]]]:
    for name, make in _parameter_sets():

        def view(make: Callable[[], list[torch.Tensor]] = make, scale: float = 1.0) -> ParameterView:
            parameters = [t.requires_grad_(i != 1) for i, t in enumerate(make())]
            gradients = [None if i == 2 else t for i, t in enumerate(make())]
            return ParameterView(parameters, gradients, scale)

        yield name, view
        yield f"{name}, scaled", lambda view=view: view(scale=1024.0)  # type: ignore[misc]

    def sparse() -> ParameterView:
        index = torch.tensor([[0, 2, 2]])
        gradient = torch.sparse_coo_tensor(index, torch.randn(3, 2), (5, 2), check_invariants=False)
        return ParameterView([torch.randn(5, 2, requires_grad=True)], [gradient])

    yield "sparse", sparse


def _update_views() -> Iterator[tuple[str, Callable[[], object]]]:
    for name, make in _parameter_sets():
        for kind in ("adam", "plain"):

            def view(make: Callable[[], list[torch.Tensor]] = make, kind: str = kind) -> UpdateView:
                before, after, moments = make(), make(), make()
                state = [{"exp_avg_sq": m * m, "step": torch.tensor(3.0)} if kind == "adam" else {} for m in moments]
                group = {"betas": (0.9, 0.999), "eps": 1e-8} if kind == "adam" else {"lr": 0.1}
                return UpdateView(after, before, state, [group] * len(after))

            yield f"{name}, {kind}", view


def _shifted_normalisation() -> torch.nn.Module:
    module = torch.nn.BatchNorm2d(3, track_running_stats=False)
    # A mean that is zero but for rounding could be compared with nothing.
    torch.nn.init.ones_(module.bias)
    return module


def _module_views() -> Iterator[tuple[str, Callable[[], object]]]:
    modules: dict[str, Callable[[], torch.nn.Module]] = {
        "linear": lambda: torch.nn.Linear(3, 4),
        "relu": torch.nn.ReLU,
        "tanh": torch.nn.Tanh,
        "convolution": lambda: torch.nn.Conv2d(3, 2, 1),
        "normalisation": _shifted_normalisation,
    }
    for name, make in modules.items():
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for count in (4, 0):

                def view(
                    make: Callable[[], torch.nn.Module] = make,
                    dtype: torch.dtype = dtype,
                    count: int = count,
                    flat: bool = name in ("linear", "relu", "tanh"),
                ) -> ModuleView:
                    module = make().to(dtype).eval()
                    x = torch.randn((count, 3) if flat else (count, 3, 2, 2), dtype=torch.float64).to(dtype)
                    return ModuleView("layer", module, x, module(x).detach())

                if count or name != "normalisation":
                    yield f"{str(dtype).removeprefix('torch.')}, {name}, {count} examples", view
    for name, values in (("nan", float("nan")), ("inf", float("inf")), ("huge", 1e30), ("tiny", 1e-30)):
        yield name, lambda values=values: ModuleView("layer", torch.nn.ReLU(), None, torch.full((3, 2), values))  # type: ignore[misc]
    yield "integers", lambda: ModuleView("layer", torch.nn.Identity(), None, torch.ones(3, dtype=torch.long))
    yield "scalar", lambda: ModuleView("layer", torch.nn.Identity(), None, torch.tensor(2.0))


def _loss_views() -> Iterator[tuple[str, Callable[[], object]]]:
    def classes(dtype: torch.dtype, rows: int, options: Mapping[str, Any]) -> LossView:
        return LossView("cross_entropy", torch.randn(rows, 3).to(dtype), torch.arange(rows) % 3, options)

    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for rows in (6, 0):
            name = f"{str(dtype).removeprefix('torch.')}, classes, {rows} examples"
            yield name, lambda dtype=dtype, rows=rows: classes(dtype, rows, {})  # type: ignore[misc]
    yield "float64, ignored", lambda: classes(torch.float64, 6, {"ignore_index": 1})
    yield "one row", lambda: LossView("cross_entropy", torch.randn(3), torch.tensor(1), {})
    yield "pixels", lambda: LossView("cross_entropy", torch.randn(2, 3, 4), torch.ones(2, 4, dtype=torch.long), {})
    yield "soft targets", lambda: LossView("cross_entropy", torch.randn(2, 3), torch.rand(2, 3), {})
    yield "binary", lambda: LossView("binary_cross_entropy_with_logits", torch.randn(5, 1), torch.ones(5, 1), {})
    yield "not finite", lambda: LossView("cross_entropy", torch.full((2, 3), float("nan")), torch.tensor([0, 1]), {})
    yield "regression", lambda: LossView("mse_loss", torch.randn(4, 2), torch.randn(4, 2), {})


def _example_views() -> Iterator[tuple[str, Callable[[], object]]]:
    """Losses whose rows are examples: as of losses, but none that a single number or row of scores was given for."""
    rows = ("one row",)
    yield from ((name, make) for name, make in _loss_views() if name not in rows)
    for dtype in (torch.float64, torch.float32):
        name = str(dtype).removeprefix("torch.")

        def logits(dtype: torch.dtype = dtype) -> LossView:
            return LossView(
                "binary_cross_entropy_with_logits", torch.randn(6).to(dtype), torch.arange(6).to(dtype) % 2, {}
            )

        def chances(dtype: torch.dtype = dtype) -> LossView:
            return LossView(
                "binary_cross_entropy", torch.rand(6, 1).to(dtype), torch.arange(6).to(dtype)[:, None] % 2, {}
            )

        def logarithms(dtype: torch.dtype = dtype) -> LossView:
            scores = torch.randn(6, 3).to(dtype).log_softmax(1)
            return LossView(
                "nll_loss", scores, torch.arange(6) % 3, {"weight": torch.tensor([1.0, 2.0, 3.0]).to(dtype)}
            )

        def numbers(dtype: torch.dtype = dtype) -> LossView:
            return LossView("mse_loss", torch.randn(4, 1).to(dtype), torch.randn(4, 1).to(dtype), {})

        yield from ((f"{name}, {kind.__name__}", kind) for kind in (logits, chances, logarithms, numbers))


def _input_views() -> Iterator[tuple[str, Callable[[], object]]]:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for rows in (5, 1, 0):
            name = f"{str(dtype).removeprefix('torch.')}, {rows} examples"
            yield name, lambda dtype=dtype, rows=rows: InputView([(torch.randn(rows, 3) * 2 + 1).to(dtype)], True)  # type: ignore[misc]
    yield "integers", lambda: InputView([torch.ones(4, 2, dtype=torch.long)], False)
    yield "constant", lambda: InputView([torch.ones(4, 2)], True)
    yield "not finite", lambda: InputView([torch.tensor([[1.0, float("nan")], [2.0, 3.0]])], True)
    yield "scalars", lambda: InputView([torch.tensor(1.0)], True)
    yield "nothing", lambda: InputView([], True)


def _step_views() -> Iterator[tuple[str, Callable[[], object]]]:
    yield "step", lambda: StepView(1, torch.device("cpu"))


_VIEWS: dict[Moment, Callable[[], Iterator[tuple[str, Callable[[], object]]]]] = {
    Moment.INPUT: _input_views,
    Moment.MODULE: _module_views,
    Moment.LOSS: _loss_views,
    Moment.EXAMPLE: _example_views,
    Moment.CARRYOVER: _parameter_views,
    Moment.GRADIENT: _parameter_views,
    Moment.UPDATE: _update_views,
    Moment.STEP: _step_views,
}
