"""Magnitudes that stay, and the length of an average of weights chosen after the training.

A denoiser of handwritten digits (an MLP with EDM's preconditioning), trained in three ways by Adam at a constant rate:

- *magnitude-preserving*: rows of every weight matrix are put back to unit mean square after each step and divided by
  their norm in the forward pass, nonlinearities are scaled to keep the second moment, there are no biases;
- *plain*: torch's default layers, whose weights grow;
- *annealed*: the first, with its rate falling linearly to zero.

During each, power averages of two widths are stored 32 times; those of other widths are reconstructed afterwards by
least squares, and compared with ones that were tracked. The sweep over widths costs no training: under a constant rate
some width inside the range is best, since short averages keep the noise of the steps and long ones what was unlearnt
since. Annealed, the last weights need no average: the shortest costs about a part in 10^4, though the best width may
lie inside there too. The rate of 0.03 is high on purpose: at 0.01 and 800 steps the noise of the steps was too small to
matter, and all short averages were as good as each other within a part in 10^5.

What does not hold here: that activations keep their magnitude as weights do. They are preserved in expectation over
independent weights, and weights that learn are not independent. The root mean square of the second hidden layer went
from 1.03 at the start to 0.41 after a tenth of a training of 1,600 steps and to 1.02 at its end, while that of plain
layers stood still after a twentieth. The study keeps these numbers as curves and claims nothing of them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from separatrix.steer.averaging import AverageSnapshots, power_average, reconstruct
from separatrix.studies.study import Control, Outcome, Paper, Plan, Progress, Setting, Settings, Statement, Study
from separatrix.tasks import Digits

_STORED = 32
_TRACKED = (0.06, 0.08, 0.12, 0.15)
_SWEPT = (0.01, 0.015, 0.02, 0.03, 0.045, 0.07, 0.1, 0.15, 0.2, 0.26)
_SIGNAL = 0.5
_SILU = 0.596
_RATE = 0.03
_GROWTH_START = 0.1


class _Layer(nn.Module):
    """Copies of a linear layer, (copies, outputs, inputs)."""

    def __init__(self, copies: int, inputs: int, outputs: int, preserving: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.preserving = preserving
        weight = torch.randn(copies, outputs, inputs, generator=generator)
        if not preserving:
            weight = (2 * torch.rand(copies, outputs, inputs, generator=generator) - 1) / math.sqrt(inputs)
        self.weight = nn.Parameter(weight)
        self.bias = None if preserving else nn.Parameter(torch.zeros(copies, 1, outputs))
        self.force()

    @torch.no_grad()
    def force(self) -> None:
        """Put the rows back to unit mean square."""
        if self.preserving:
            self.weight.copy_(_unit(self.weight))

    def forward(self, signal: Tensor) -> Tensor:
        """(copies, n, inputs) to (copies, n, outputs)."""
        if self.bias is not None:
            return signal @ self.weight.mT + self.bias
        return signal @ _unit(self.weight).mT / math.sqrt(self.weight.shape[2])


def _unit(weight: Tensor) -> Tensor:
    """Rows of unit mean square."""
    return weight / (weight.square().mean(2, keepdim=True).sqrt() + 1e-6)


class _Denoiser(nn.Module):
    """What the preconditioned input says of the clean image: copies of an MLP with two hidden layers."""

    def __init__(self, copies: int, width: int, preserving: bool, generator: torch.Generator) -> None:
        super().__init__()
        sizes = (66, width, width, 64)
        self.held = nn.ModuleList(_Layer(copies, a, b, preserving, generator) for a, b in itertools.pairwise(sizes))
        self.preserving = preserving

    @property
    def layers(self) -> list[_Layer]:
        """The layers in order."""
        return [layer for layer in self.held if isinstance(layer, _Layer)]

    def activations(self, noisy: Tensor, level: Tensor) -> Iterator[Tensor]:
        """Inputs of the layers after the first, then the output, for noise of standard deviation `level`."""
        scale = 1 / (level.square() + _SIGNAL**2).sqrt()
        signal = torch.cat([noisy * scale, level.log() / 4, torch.ones_like(level)], 2)
        for layer in self.layers[:-1]:
            signal = torch.nn.functional.silu(layer(signal)) / (_SILU if self.preserving else 1.0)
            yield signal
        yield self.layers[-1](signal)

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        *_, output = self.activations(noisy, level)
        return output

    def force(self) -> None:
        for layer in self.layers:
            layer.force()


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Noisy images (copies, n, 64), noise levels (copies, n, 1), and what the net's output should be."""

    noisy: Tensor
    level: Tensor
    wanted: Tensor


def _noised(images: Tensor, generator: torch.Generator) -> _Batch:
    level = (1.2 * torch.randn(*images.shape[:2], 1, generator=generator) - 1.2).exp()
    noisy = images + level * torch.randn(images.shape, generator=generator)
    total = level.square() + _SIGNAL**2
    return _Batch(noisy, level, (images - _SIGNAL**2 / total * noisy) * total.sqrt() / (level * _SIGNAL))


def _losses(model: nn.Module, batch: _Batch) -> Tensor:
    """Mean square error of each copy, in units in which every noise level weighs the same."""
    output: Tensor = model(batch.noisy, batch.level)
    return (output - batch.wanted).square().mean((1, 2))


@dataclasses.dataclass(frozen=True)
class _Data:
    train: Tensor
    test: _Batch


def _data(copies: int, seed: int) -> _Data:
    train, test = (part.inputs.flatten(1).float() for part in Digits(seed=seed).load())
    mean, spread = train.mean(), train.std() / _SIGNAL
    held = ((test - mean) / spread).repeat(4, 1)
    batch = _noised(held[None], torch.Generator().manual_seed(seed))
    expanded = (part.expand(copies, -1, -1) for part in (batch.noisy, batch.level, batch.wanted))
    return _Data((train - mean) / spread, _Batch(*expanded))


def _magnitudes(model: _Denoiser, batch: _Batch) -> Tensor:
    """Root mean squares of the three layers' weights and of the two hidden layers' activations."""
    with torch.no_grad():
        weights = [layer.weight.square().mean().sqrt() for layer in model.layers]
        hidden = [signal.square().mean().sqrt() for signal in model.activations(batch.noisy, batch.level)]
    return torch.stack([*weights, *hidden[:-1]])


@dataclasses.dataclass(frozen=True)
class _Drift:
    """Doublings of magnitudes from a tenth of a training to its end."""

    weights: list[float]
    activations: list[float]


def _trained(
    model: _Denoiser,
    data: _Data,
    settings: Settings,
    generator: torch.Generator,
    *,
    annealed: bool,
    after: Callable[[int], object],
) -> _Drift:
    """Train in place, calling `after(step)`."""
    steps, copies = settings["steps"], len(model.layers[0].weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE, betas=(0.9, 0.99))
    early = _magnitudes(model, data.test)
    for step in range(1, steps + 1):
        rows = torch.randint(len(data.train), (copies, settings["batch"]), generator=generator)
        optimizer.param_groups[0]["lr"] = _RATE * ((1 - (step - 1) / steps) if annealed else 1.0)
        optimizer.zero_grad()
        _losses(model, _noised(data.train[rows], generator)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        model.force()
        after(step)
        if step == round(_GROWTH_START * steps):
            early = _magnitudes(model, data.test)
    doublings = (_magnitudes(model, data.test) / early).log2().tolist()
    return _Drift(doublings[:3], doublings[3:])


@dataclasses.dataclass(frozen=True)
class _Averaged:
    """A preserving training: drift of magnitudes, losses by width, errors of reconstructed and nearest averages."""

    drift: _Drift
    swept: list[float]
    reconstructed: list[float]
    nearest: list[float]


def _averaged(settings: Settings, copies: int, seed: int, *, annealed: bool) -> _Averaged:
    generator = torch.Generator().manual_seed(seed)
    data = _data(copies, seed)
    model = _Denoiser(copies, settings["width"], True, generator)
    tracked = {} if annealed else {width: AveragedModel(model, multi_avg_fn=power_average(width)) for width in _TRACKED}
    every = settings["steps"] // _STORED
    with tempfile.TemporaryDirectory() as folder:
        averages = AverageSnapshots(model, Path(folder) / "averages")

        def after(step: int) -> None:
            averages.update()
            for average in tracked.values():
                average.update_parameters(model)
            if step % every == 0:
                averages.store()

        drift = _trained(model, data, settings, generator, annealed=annealed, after=after)
        last = settings["steps"] // every * every
        reading = Path(folder) / "averages"
        swept = []
        for width in _SWEPT:
            model.load_state_dict(reconstruct(reading, width=width, step=last))
            with torch.no_grad():
                swept.append(float(_losses(model, data.test).mean()))
        direct = {width: dict(average.module.state_dict()) for width, average in tracked.items()}
        errors = [_apart(reconstruct(reading, width=width, step=last), held) for width, held in direct.items()]
        near = [_apart(averages.state_dict(0.05 if width < 0.075 else 0.1), held) for width, held in direct.items()]
    return _Averaged(drift, swept, errors, near)


def _apart(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Norm of the difference over that of what is wanted, all tensors together."""
    difference = sum(float((found[name] - value).double().square().sum()) for name, value in wanted.items())
    return math.sqrt(difference / sum(float(value.double().square().sum()) for value in wanted.values()))


def _place(losses: list[float]) -> float:
    """Where on the grid of widths the least loss lies: 0 at the shortest, 1 at the longest."""
    return losses.index(min(losses)) / (len(losses) - 1)


def _plan(settings: Settings, quick: bool) -> Plan:
    size = settings["width"] / 64 * settings["batch"] / 64
    return Plan(runs=3, seconds=settings["steps"] * (1e-3 + 1e-3 * size) * (1 if quick else 2))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies = 1 if quick else 4
    # Times of storing must divide the training, so that its end is stored.
    settings = {**settings, "steps": settings["steps"] // _STORED * _STORED}
    preserving = _averaged(settings, copies, seed, annealed=False)
    progress()
    annealed = _averaged(settings, copies, seed, annealed=True)
    progress()
    generator = torch.Generator().manual_seed(seed)
    plain_model = _Denoiser(copies, settings["width"], False, generator)
    plain = _trained(plain_model, _data(copies, seed), settings, generator, annealed=False, after=lambda step: None)
    progress()
    best = min(preserving.swept)
    return Outcome(
        measured={
            "reconstruction": preserving.reconstructed,
            "weights_stay": [abs(doublings) for doublings in preserving.drift.weights],
            "best_width_is_inside": _place(preserving.swept),
            "ends_cost": [preserving.swept[0] / best, preserving.swept[-1] / best],
        },
        controls={
            "nearest_stored_average": preserving.nearest,
            "plain_layers": [abs(doublings) for doublings in plain.weights],
            "annealed_rate": [annealed.swept[0] / min(annealed.swept), annealed.swept[-1] / min(annealed.swept)],
        },
        series={
            "width": _SWEPT,
            "loss": preserving.swept,
            "annealed_loss": annealed.swept,
            "activation_doublings": preserving.drift.activations,
            "plain_activation_doublings": plain.activations,
        },
    )


study = Study(
    id="367",
    slug="post-hoc-ema",
    paper=Paper(
        title="Analyzing and Improving the Training Dynamics of Diffusion Models",
        authors=(
            "Tero Karras",
            "Miika Aittala",
            "Jaakko Lehtinen",
            "Janne Hellsten",
            "Timo Aila",
            "Samuli Laine",
        ),
        year=2023,
        url="https://arxiv.org/abs/2312.02696",
    ),
    summary="An average of weights of any length is made after the training; forced magnitudes keep weights as large.",
    settings=(
        Setting("steps", "int", 1600, "steps of each training", 800, 6400),
        Setting("width", "int", 64, "hidden units", 32, 128),
        Setting("batch", "int", 64, "images a step", 32, 128),
    ),
    statements=(
        Statement(
            "reconstruction",
            "at_most",
            0.01,
            "Relative distance of reconstructed weights to those of an average tracked all along, by width.",
        ),
        Statement(
            "weights_stay",
            "at_most",
            0.01,
            "Doublings of the root mean square of weights from a tenth of the training to its end, by layer: 0.7 %, for"
            " the small number that keeps the division safe and for rounding.",
        ),
        Statement("best_width_is_inside", "interval", (0.05, 0.95), "Place of the best width on the grid from 0 to 1."),
        Statement(
            "ends_cost",
            "at_least",
            1.002,
            "Loss at the shortest and longest width over that at the best: well above the rounding of float32.",
        ),
    ),
    controls=(
        Control("nearest_stored_average", "reconstruction", "The stored average of the nearest width instead."),
        Control("plain_layers", "weights_stay", "Default layers with biases, nothing forced."),
        Control("annealed_rate", "ends_cost", "A rate that falls to zero: the shortest average costs nothing."),
    ),
    plan=_plan,
    run=_run,
    smoke={"steps": 800, "width": 32, "batch": 32},
)
