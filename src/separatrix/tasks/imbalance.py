"""Makes a balanced classification data set imbalanced, at a ratio that is met exactly up to rounding."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from separatrix.tasks.digits import Digits
from separatrix.tasks.errors import TaskError
from separatrix.tasks.task import Batch, Dataset, Seed, check, choice, drawing, number

Profile = Literal["step", "exponential"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imbalanced(Dataset):
    """Training rows of `base` thinned so that the largest class is `ratio` times the smallest; `test` stays as it was.

    Profiles: with `step` the first half of the classes (rounded up) are large and the others small; with `exponential`
    the sizes fall geometrically from the first class to the last (Cui et al. 2019). `keep` selects classes and their
    order, in train and test, and numbers them from 0: (3, 8) is the binary problem of threes, the majority, and eights.
    As many rows are kept as the base allows; `seed` draws which. Inputs are standardised over the rows kept.
    """

    name: ClassVar[str] = "imbalanced"
    source: ClassVar[str] = "Francazi, Baity-Jesi and Lucchi 2023, arXiv:2207.00391; Cui et al. 2019, arXiv:1901.05555"

    base: Dataset = dataclasses.field(default_factory=Digits)
    ratio: float = 10.0
    profile: Profile = "step"
    keep: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        number(self, "ratio", 1.0)
        choice(self, "profile", ("step", "exponential"))
        if self.keep is not None:
            check(self, "keep", len(set(self.keep)) == len(self.keep) >= 2, "at least two different classes")

    @functools.cached_property
    def counts(self) -> tuple[int, ...]:
        """Training rows of each class."""
        return tuple(torch.bincount(self.train.targets).tolist())

    def load(self) -> tuple[Batch, Batch]:
        """Training and test rows.

        Raises:
            TaskError: `keep` names a class that the base has not, or the smallest class would be empty.
        """
        train, test = self.base.load()
        known = int(train.targets.max()) + 1
        kept = tuple(range(known)) if self.keep is None else self.keep
        check(self, "keep", all(0 <= c < known for c in kept), f"classes of {self.base.name}, from 0 to {known - 1}")
        train, test = _renumbered(train, kept), _renumbered(test, kept)
        shares = _shares(len(kept), self.ratio, self.profile)
        available = torch.bincount(train.targets, minlength=len(kept)).tolist()
        largest = min(have / share for have, share in zip(available, shares, strict=True))
        return thin(train, [round(largest * share) for share in shares], self._structure()), test


def thin(batch: Batch, counts: Sequence[int], generator: Seed) -> Batch:
    """Keeps `counts[c]` rows of each class c, drawn without replacement; the rows keep their order.

    Raises:
        TaskError: a class has fewer rows than it shall keep, or shall keep none.
    """
    draw, kept = drawing(generator), []
    for label, wanted in enumerate(counts):
        rows = (batch.targets == label).nonzero().squeeze(1)
        if not 1 <= wanted <= len(rows):
            raise TaskError(f"{wanted} rows of class {label}, which has {len(rows)}: lower the ratio or give more data")
        kept.append(rows[torch.randperm(len(rows), generator=draw)[:wanted]])
    return batch.rows(torch.cat(kept).sort().values)


def _shares(classes: int, ratio: float, profile: Profile) -> list[float]:
    """Size of each class over that of the largest."""
    if profile == "step":
        return [1.0 if label < (classes + 1) // 2 else 1.0 / ratio for label in range(classes)]
    return [float(ratio ** (-label / (classes - 1))) for label in range(classes)]


def _renumbered(batch: Batch, kept: Sequence[int]) -> Batch:
    matches: Shaped[Tensor, " n kept"] = batch.targets.unsqueeze(1) == torch.tensor(kept)
    rows = matches.any(1)
    return Batch(batch.inputs[rows], matches[rows].int().argmax(1))


default = Imbalanced()
