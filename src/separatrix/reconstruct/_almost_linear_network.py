"""Numbers of an almost-linear network in one vector, and the normal equations of its forced sequences."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.reconstruct._damped_least_squares import NormalEquations
from separatrix.reconstruct.teacher_forcing import sparse, unrolled

_TOGETHER = 10  # steps whose products are summed in one
_FARTHEST = 50.0


@dataclasses.dataclass(frozen=True)
class AlmostLinearNetwork:
    """The form z' = a z + W phi(z) + h with phi the identity but for the last `units` coordinates, which are rectified.

    The first `seen` of the `states` coordinates are what is observed; a state starts at x, then E x + e. Only rectified
    coordinates have an a: for others W has the same effect. Numbers are W beside h row by row, a, E beside e.
    """

    states: int
    seen: int
    units: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many numbers W and h, a, and E and e have."""
        return self.states * (self.states + 1), self.units, (self.states - self.seen) * (self.seen + 1)

    def parts(
        self, numbers: Float[Tensor, " number"]
    ) -> tuple[Float[Tensor, "state 1+state"], Float[Tensor, " unit"], Float[Tensor, "hidden 1+seen"]]:
        """(W, h), a and (E, e)."""
        rows, leak, embedding = torch.split(numbers, list(self.sizes))
        hidden = self.states - self.seen
        return rows.view(self.states, self.states + 1), leak, embedding.view(hidden, self.seen + 1)

    def full(self, numbers: Float[Tensor, " number"]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A, V, W, h and b of the same map written z' = A z + V max(W z + h, 0) + b."""
        rows, leak, _ = self.parts(numbers)
        straight = self.states - self.units
        linear = torch.cat([rows[:, :straight], rows.new_zeros(self.states, self.units)], 1)
        linear = linear + torch.diag(torch.cat([leak.new_zeros(straight), leak]))
        selected = torch.eye(self.states, dtype=rows.dtype)[straight:]
        return linear, rows[:, straight:-1], selected, leak.new_zeros(self.units), rows[:, -1]

    def start(
        self, numbers: Float[Tensor, " number"], observed: Float[Tensor, "batch seen"]
    ) -> Float[Tensor, "batch state"]:
        """The states that observations start from."""
        embedding = self.parts(numbers)[2]
        return torch.cat([observed, torch.addmm(embedding[:, -1], observed, embedding[:, :-1].T)], 1)

    def error(
        self, numbers: Float[Tensor, " number"], window: Float[Tensor, "time batch seen"], interval: int
    ) -> float:
        """Mean squared error of the sequences, whose observed coordinates are set anew every `interval` steps."""
        forcing = sparse(len(window) - 1, interval)
        states = unrolled(*self.full(numbers), self.start(numbers, window[0]), window[1:], forcing)
        return float((states[..., : self.seen] - window[1:]).square().mean())

    def equations(
        self, numbers: Float[Tensor, " number"], window: Float[Tensor, "time batch seen"], interval: int
    ) -> NormalEquations:
        """The normal equations of that error, from derivatives of states by numbers that are carried forward."""
        rows, leak, _ = self.parts(numbers)
        steps, batch, seen, states = len(window) - 1, window.shape[1], self.seen, self.states
        straight, ones = states - self.units, window.new_ones(batch, 1)
        each, unit = torch.arange(states), torch.arange(straight, states)
        own = each[:, None] * (states + 1) + torch.arange(states + 1)
        leaks = self.sizes[0] + torch.arange(self.units)
        starts = (sum(self.sizes[:2]) + torch.arange(self.sizes[2])).view(states - seen, seen + 1)
        state = self.start(numbers, window[0])
        derivative = window.new_zeros(batch, states, len(numbers))
        derivative[:, each[seen:, None], starts] = torch.cat([window[0], ones], 1)[:, None]
        gram, gradient, error = torch.zeros(len(numbers), len(numbers)).to(numbers), torch.zeros_like(numbers), 0.0
        rates: list[Tensor] = []
        residuals: list[Tensor] = []
        for step in range(steps):
            if step and step % interval == 0:
                state = torch.cat([window[step], state[:, seen:]], 1)
                derivative = derivative.index_fill(1, each[:seen], 0.0)
            rectified = state[:, straight:]
            passed = torch.cat([state[:, :straight], rectified.relu(), ones], 1)
            jacobian = rows[:, :-1].repeat(batch, 1, 1)
            jacobian[:, :, straight:] *= (rectified > 0)[:, None]
            jacobian[:, unit, unit] += leak
            derivative = torch.bmm(jacobian, derivative)
            derivative[:, each[:, None], own] += passed[:, None]
            derivative[:, unit, leaks] += rectified
            state = passed @ rows.T
            state[:, straight:] += leak * rectified
            residuals.append((state[:, :seen] - window[step + 1]).flatten())
            rates.append(derivative[:, :seen].flatten(0, 1))
            if len(rates) == _TOGETHER or step == steps - 1:
                stacked, left = torch.cat(rates), torch.cat(residuals)
                gram.addmm_(stacked.T, stacked)
                gradient.addmv_(stacked.T, left)
                error += float(left.square().sum())
                rates.clear()
                residuals.clear()
        count = steps * batch * seen
        return NormalEquations(error / count, gradient / count, gram / count)

    def free_runs(
        self,
        copies: Float[Tensor, "copy number"],
        observed: Float[Tensor, "batch seen"],
        steps: int,
        transient: int,
    ) -> Float[Tensor, "{steps} copy batch seen"]:
        """What networks with those numbers show after a transient, each from every observation.

        States are cut to 50 spreads, so that those that leave stay finite.
        """
        parts = [self.parts(each) for each in copies]
        rows, leak, embedding = (torch.stack(each) for each in zip(*parts, strict=True))
        seen, straight = observed.expand(len(copies), -1, -1), self.states - self.units
        weights, bias = rows[:, :, :-1].mT.contiguous(), rows[:, None, :, -1].contiguous()
        hidden = torch.baddbmm(embedding[:, None, :, -1], seen, embedding[:, :, :-1].mT)
        state = torch.cat([seen, hidden], 2)
        passed, leaking = torch.empty_like(state), torch.empty_like(state[..., straight:])
        # Views are made once: a step is so small that making them is half of it.
        units, rectified, visible, leak = (
            state[..., straight:],
            passed[..., straight:],
            state[..., : self.seen],
            leak[:, None],
        )
        shown = state.new_empty(steps, *seen.shape)
        for place in (*[None] * transient, *shown):
            passed.copy_(state)
            rectified.relu_()
            torch.mul(leak, units, out=leaking)
            torch.baddbmm(bias, passed, weights, out=state)
            units.add_(leaking)
            state.clamp_(-_FARTHEST, _FARTHEST)
            if place is not None:
                place.copy_(visible)
        return shown
