"""Branches of a trunk are the trainings under whole schedules, and curvatures those of the Hessian."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from separatrix.steer.schedules import constant, cosine, wsd
from separatrix.studies._character_copies import CharacterCopies, State, Text, begin, train
from separatrix.studies._trunk_and_branches import Bench, trained
from separatrix.studies.warmup_stable_decay import _path
from separatrix.tasks import SourceText

UNIT, RUNS, RATES, ENDS = 2, 2, (0.01, 0.03), (20, 40)
MODEL = CharacterCopies(width=4, length=16)
TEXT = Text(length=16, batch=2, seed=3, held_out=8)


@dataclasses.dataclass(frozen=True)
class _Exact(Bench):
    """In double precision: at such rates differences of rounding grow by a factor 10^4 within some dozen steps."""

    def begin(self, seed: int) -> State:
        start = super().begin(seed)
        return State(start.parameters.double(), start.first.double(), start.second.double())


def _alone(factors: np.ndarray, run: int, rate: float) -> float:
    """The last loss of one training under a whole schedule, from the start that this run has."""
    first = begin(MODEL, RUNS, torch.Generator().manual_seed(3)).copies([run])
    start = State(first.parameters.double(), first.first.double(), first.second.double())
    table = torch.from_numpy(factors).float()[:, None] * torch.tensor(rate)
    return float(train(MODEL, start, table, TEXT, [run], every=len(factors))[1][-1, 0])


def test_branches_and_cosines_are_trainings_under_whole_schedules() -> None:
    found, state = trained(_Exact(MODEL, TEXT, RATES, RUNS, UNIT), 3, ENDS, ("tenth", "fifth"))
    warmup, shared = 3 * UNIT, 8 * UNIT
    for run in range(RUNS):
        for at, rate in enumerate(RATES):
            for index, end in enumerate(ENDS):
                steps = end * UNIT
                for share, part in (("tenth", 10), ("fifth", 5)):
                    whole = wsd(steps, warmup=warmup, cooldown=steps // part).values()
                    assert found.branches[share][index, run, at] == pytest.approx(_alone(whole, run, rate), rel=1e-6)
                first = constant(shared, warmup=warmup).values()
                whole = np.concatenate([first, cosine(steps - shared).values()])
                assert found.own_cosines[index, run, at] == pytest.approx(_alone(whole, run, rate), rel=1e-6)
                near = [
                    _alone(constant((end + shift) * UNIT, warmup=warmup).values(), run, rate) for shift in range(-2, 3)
                ]
                assert found.trunk[index, run, at] == pytest.approx(np.mean(near), rel=1e-6)
    assert state.step == 36 * UNIT
    assert np.isnan(found.cosines[0, 1]).all()


def test_a_path_has_gradients_and_curvatures_of_the_loss_on_fixed_text() -> None:
    bench = Bench(MODEL, TEXT, RATES[:1], 1, UNIT)
    start, _ = bench.train(bench.begin(3), np.ones((20, 1)), 10**9)
    found = _path(bench, start, np.ones(8))
    windows = SourceText(length=16).windows(128, torch.Generator().manual_seed(0))

    def loss(flat: torch.Tensor) -> torch.Tensor:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return MODEL.losses(flat[None], windows[None])[0]

    point = start.parameters[0].double()
    later, _ = bench.train(start, np.ones((2, 1)), 10**9)
    way = torch.nn.functional.normalize(later.parameters[0].double() - point, dim=0)
    gradient = torch.func.grad(loss)(point)
    assert found.norms[0] == pytest.approx(float(gradient.norm()), rel=1e-6)
    leaf = point.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (bend,) = torch.autograd.grad(slope @ way, leaf)
    assert found.curvatures[0] == pytest.approx(float(way @ bend), rel=1e-3, abs=1e-6)
    after = torch.func.grad(loss)(later.parameters[0].double())
    expected = torch.nn.functional.cosine_similarity(gradient, after, dim=0)
    assert found.cosines[0] == pytest.approx(float(expected), rel=1e-5)
