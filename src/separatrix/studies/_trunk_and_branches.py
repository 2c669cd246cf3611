"""A trunk at a constant rate, short decays that branch off it, and cosines beside them: their validation losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.steer.schedules import cosine
from separatrix.studies._character_copies import CharacterCopies, State, Text, begin, train

UNITS = 120
"""Parts of the trunk; all lengths below are in such parts."""
SHARES = {"fortieth": 40, "tenth": 10, "fifth": 5}
"""Parts of the steps that decays take."""
NEVER = 10**9
_WARMUP, _SHARED = 3, 8
_AROUND = range(-2, 3)


@dataclasses.dataclass(frozen=True)
class Bench:
    """Copies of one size in training: `runs` starts, each at every one of the peak `rates`."""

    model: CharacterCopies
    text: Text
    rates: tuple[float, ...]
    runs: int
    unit: int

    @property
    def peaks(self) -> Float[Tensor, " copies"]:
        return torch.tensor(self.rates).repeat(self.runs)

    def begin(self, seed: int) -> State:
        """All rates of a run start alike."""
        start = begin(self.model, self.runs, torch.Generator().manual_seed(seed))
        return start.copies([run for run in range(self.runs) for _ in self.rates])

    def train(self, state: State, factors: Float[np.ndarray, "steps schedules"], every: int) -> tuple[State, Tensor]:
        """Every schedule on all copies, in this order; the state, and losses (times, schedules * copies)."""
        table = torch.from_numpy(factors).float()[:, :, None] * self.peaks
        streams = [run for _ in range(factors.shape[1]) for run in range(self.runs) for _ in self.rates]
        return train(self.model, state, table.flatten(1), self.text, streams, every=every)

    def shaped(self, losses: Tensor) -> Float[np.ndarray, "... runs rates"]:
        return losses.double().view(*losses.shape[:-1], self.runs, len(self.rates)).numpy()


@dataclasses.dataclass(frozen=True)
class Losses:
    """Validation losses (ends, runs, rates), except `cosines` (ends, ends, runs, rates): of a cosine, read at an end.

    `before` and `trunk` are of the trunk a tenth before an end and at it, means over five validations around these
    points, for a single one at a high rate is noisy. `branches` are by the share of the steps that the decay takes.
    """

    before: Float[np.ndarray, "ends runs rates"]
    trunk: Float[np.ndarray, "ends runs rates"]
    branches: Mapping[str, Float[np.ndarray, "ends runs rates"]]
    cosines: Float[np.ndarray, "ends ends runs rates"]

    def trunk_share(self, rate: int) -> float:
        """What the trunk gains in the last tenths over what the decays gain in them, means over ends and runs."""
        kept, fallen = self.before - self.trunk, self.before - self.branches["tenth"]
        return float(kept[:, :, rate].mean() / fallen[:, :, rate].mean())

    def over_cosine(self, losses: Float[np.ndarray, "ends runs rates"], rate: int) -> float:
        """Losses over those of the cosines that end there, mean over the ends."""
        return float((losses[:, :, rate].mean(1) / self.own_cosines[:, :, rate].mean(1)).mean())

    @property
    def own_cosines(self) -> Float[np.ndarray, "ends runs rates"]:
        """Each cosine read where it ends."""
        return np.stack([self.cosines[end, end] for end in range(len(self.cosines))])

    def gain(self, share: str, rate: int) -> float:
        """What decays of that share gain over the trunk at the same step, mean over ends and runs."""
        return float((self.trunk - self.branches[share])[:, :, rate].mean())


def trained(bench: Bench, seed: int, ends: Sequence[int], shares: Sequence[str]) -> tuple[Losses, State]:
    """Trunk, branches and cosines; and the trunk's state a tenth before the last end."""
    unit = bench.unit
    warm = np.minimum(1.0, np.arange(1, _SHARED * unit + 1) / (_WARMUP * unit + 1))
    shared, _ = bench.train(bench.begin(seed), warm[:, None], NEVER)
    leaving = {(share, end): end - end // SHARES[share] for share in shares for end in ends}
    looked = {at + shift for end in ends for at in (leaving["tenth", end], end) for shift in _AROUND}
    states, trunk = _trunk(bench, shared, looked | set(leaving.values()), looked)

    def around(at: int) -> Float[np.ndarray, "runs rates"]:
        return np.asarray(np.mean([trunk[at + shift] for shift in _AROUND], axis=0))

    branches = {
        share: np.stack([_decayed(bench, states[leaving[share, end]], end) for end in ends]) for share in shares
    }
    found = Losses(
        before=np.stack([around(leaving["tenth", end]) for end in ends]),
        trunk=np.stack([around(end) for end in ends]),
        branches=branches,
        cosines=_cosines(bench, shared, ends),
    )
    return found, states[leaving["tenth", max(ends)]]


def _trunk(
    bench: Bench, state: State, stops: set[int], looked: set[int]
) -> tuple[dict[int, State], dict[int, Float[np.ndarray, "runs rates"]]]:
    """Go on at the full rate: the states after the parts `stops`, and the losses after those of them in `looked`."""
    states, losses = {}, {}
    for stop in sorted(stops):
        steps = stop * bench.unit - state.step
        state, found = bench.train(state, np.ones((steps, 1)), stop * bench.unit if stop in looked else NEVER)
        states[stop] = state
        if stop in looked:
            losses[stop] = bench.shaped(found[-1])
    return states, losses


def _decayed(bench: Bench, state: State, end: int) -> Float[np.ndarray, "runs rates"]:
    """Losses after a linear decay to zero that is over at the end."""
    steps = end * bench.unit - state.step
    _, losses = bench.train(state, 1 - np.arange(steps)[:, None] / steps, end * bench.unit)
    return bench.shaped(losses[-1])


def _cosines(bench: Bench, state: State, ends: Sequence[int]) -> Float[np.ndarray, "ends ends runs rates"]:
    """Losses of a cosine to each end, at all ends; NaN where it is over. All are trained together."""
    start, copies = state.step, len(state.parameters)
    tables = [cosine(end * bench.unit - start).values() for end in ends]
    state = state.copies([copy for _ in ends for copy in range(copies)])
    read = np.full((len(ends), len(ends), bench.runs, len(bench.rates)), np.nan)
    for at, end in enumerate(ends):
        part = slice(state.step - start, end * bench.unit - start)
        state, losses = bench.train(state, np.stack([table[part] for table in tables[at:]], 1), end * bench.unit)
        read[at:, at] = bench.shaped(losses[-1].view(len(ends) - at, copies))
        state = state.copies(range(copies, len(state.parameters)))
    return read
