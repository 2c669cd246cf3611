"""What a task is: a frozen set of knobs that fixes a distribution, from which seeded samples are drawn."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
import zlib
from collections.abc import Collection
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from jaxtyping import Shaped
from torch import Tensor

from separatrix.tasks.errors import TaskError

Seed: TypeAlias = torch.Generator | int
"""A generator to draw from, or the seed of a new one. The global generator is never used."""


class Batch(NamedTuple):
    """Inputs (n, ...) and targets (n, ...) of n examples."""

    inputs: Shaped[Tensor, " n ..."]
    targets: Shaped[Tensor, " n ..."]

    def stacked(self, copies: int) -> Batch:
        """The same examples dealt to copies: shapes (copies, n / copies, ...), as the ensemble engine wants them.

        Raises:
            TaskError: the number of examples is no multiple of the number of copies.
        """
        if copies < 1 or len(self.inputs) % copies:
            raise TaskError(f"{len(self.inputs)} examples cannot be dealt to {copies} copies: sample a multiple of it")
        return Batch(*(values.reshape(copies, -1, *values.shape[1:]) for values in self))

    def rows(self, index: Tensor) -> Batch:
        """The examples at these positions."""
        return Batch(self.inputs[index], self.targets[index])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """A data-generating problem. Its fields are its knobs; equal knobs give the same problem on every machine.

    `seed` fixes what is random about the problem itself (class means, a teacher), apart from the seeds of samples.
    A module of `separatrix.tasks` that holds an instance, with default knobs, makes a task known by its `name`.
    """

    name: ClassVar[str]
    source: ClassVar[str] = ""

    seed: int = 0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        whole(self, "seed", 0, 2**32 - 1)
        check(self, "dtype", self.dtype.is_floating_point, "a floating-point type")

    @abc.abstractmethod
    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n independent training examples; the same seed gives the same ones.

        Raises:
            TaskError: n is below 1.
        """

    def _structure(self) -> torch.Generator:
        """Draws the problem itself; apart from the stream that a sample with the same seed would use."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self.name} {self.seed}".encode()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset(Task):
    """A task with finitely many examples: `train` and `test`; samples are rows of `train` drawn with replacement.

    With `standardize` the inputs are shifted and scaled so that the training inputs have mean 0 and standard deviation
    1 over all their entries; the test inputs are treated by the same two numbers.
    """

    standardize: bool = True

    @abc.abstractmethod
    def load(self) -> tuple[Batch, Batch]:
        """Training and test examples as they are stored, inputs scaled to [0, 1]; read anew at every call."""

    @functools.cached_property
    def _parts(self) -> tuple[Batch, Batch]:
        train, test = (Batch(part.inputs.to(self.dtype), part.targets) for part in self.load())
        if not self.standardize:
            return train, test
        shift, scale = train.inputs.mean(), train.inputs.std(correction=0)
        return Batch((train.inputs - shift) / scale, train.targets), Batch((test.inputs - shift) / scale, test.targets)

    @property
    def train(self) -> Batch:
        """All training examples, read once."""
        return self._parts[0]

    @property
    def test(self) -> Batch:
        """All test examples, read once."""
        return self._parts[1]

    @property
    def classes(self) -> int:
        """How many classes the training targets name."""
        return int(self.train.targets.max()) + 1

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n rows of `train` with replacement."""
        return self.train.rows(torch.randint(len(self.train.targets), (count(n),), generator=drawing(generator)))


def drawing(seed: Seed) -> torch.Generator:
    """The generator itself, or a new one with this seed."""
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)


def count(n: int) -> int:
    """A number of examples.

    Raises:
        TaskError: it is no whole number from 1 on.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise TaskError(f"a sample of {n!r} examples: ask for a whole number from 1 on")
    return n


def check(task: Task, knob: str, holds: bool, wanted: str) -> None:
    """Refuse a knob for which `holds` is false.

    Raises:
        TaskError: always one line: the task, the knob, its value and what it must be.
    """
    if not holds:
        raise TaskError(f"{task.name}: {knob}={getattr(task, knob)!r} must be {wanted}")


def whole(task: Task, knob: str, low: int, high: int | None = None) -> None:
    """Refuse a knob that is no whole number from `low` to `high`."""
    value = getattr(task, knob)
    holds = isinstance(value, int) and not isinstance(value, bool) and low <= value and (high is None or value <= high)
    check(task, knob, holds, f"a whole number from {low} {'on' if high is None else f'to {high}'}")


def number(task: Task, knob: str, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Refuse a knob that is no finite number in [low, high], or in (low, high] when it must lie above."""
    value = getattr(task, knob)
    holds = isinstance(value, int | float) and math.isfinite(value) and low <= value <= high
    words = f"a finite number {'above' if above else 'from'} {low:g}" + ("" if math.isinf(high) else f" to {high:g}")
    check(task, knob, holds and not (above and value == low), words)


def choice(task: Task, knob: str, allowed: Collection[object]) -> None:
    """Refuse a knob that is none of the allowed values."""
    check(task, knob, getattr(task, knob) in allowed, "one of " + ", ".join(map(repr, allowed)))
