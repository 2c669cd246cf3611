"""Echo-state network: a fixed random recurrent network, of which only a linear readout is learnt.

The reservoir r' = (1 - leak) r + leak tanh(A r + B x + b) is driven by samples; the readout, linear in r and x with
half of the units squared (so that the sign symmetry of tanh is broken), is fitted by ridge regression to the next
increment and then drives the reservoir itself (Jaeger & Haas 2004; Pathak et al. 2018; Lu et al. 2017 for the squares).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse.linalg
from jaxtyping import Float

from separatrix.reconstruct._orbits import exponents
from separatrix.reconstruct._regression import ridge
from separatrix.reconstruct.errors import TrajectoryError
from separatrix.reconstruct.model import Analysis, Reconstructor
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings

_LEAST_RADIUS = 1e-12
_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class EchoState:
    """A reservoir and its readout; a state is the reservoir and the present normalised sample."""

    scaling: Scaling
    recurrent: Float[np.ndarray, "unit unit"]
    entering: Float[np.ndarray, "variable unit"]
    bias: Float[np.ndarray, " unit"]
    readout: Float[np.ndarray, "feature variable"]
    leak: float
    warm_up: int
    dt: float
    last: Float[np.ndarray, " state"]

    @property
    def history(self) -> int:
        """Past samples that a forecast needs, until the reservoir has forgotten where it began."""
        return self.warm_up

    @property
    def units(self) -> int:
        """Units of the reservoir."""
        return len(self.bias)

    def driven(self, reservoir: np.ndarray, sample: np.ndarray) -> np.ndarray:
        """The reservoir (batch, unit) after a sample (batch, variable); called for each, so shapes are not checked."""
        fresh = np.tanh(reservoir @ self.recurrent.T + sample @ self.entering + self.bias)
        return np.asarray((1.0 - self.leak) * reservoir + self.leak * fresh)

    def step(self, states: Float[np.ndarray, "batch state"]) -> Float[np.ndarray, "batch state"]:
        """The states one sample later, when the network drives itself."""
        sample = states[:, self.units :]
        reservoir = self.driven(states[:, : self.units], sample)
        return np.concatenate([reservoir, sample + read(reservoir, sample) @ self.readout], axis=1)

    def slope(self, states: Float[np.ndarray, "batch state"]) -> Float[np.ndarray, "batch state state"]:
        """The derivative of `step`."""
        units, variables = self.units, states.shape[1] - self.units
        found = np.empty((len(states), units + variables, units + variables))
        for index, state in enumerate(states):
            reservoir, sample = state[None, :units], state[None, units:]
            after = self.driven(reservoir, sample)[0]
            fresh = (after - (1.0 - self.leak) * reservoir[0]) / self.leak
            gain = self.leak * (1.0 - fresh**2)
            found[index, :units, :units] = gain[:, None] * self.recurrent + (1.0 - self.leak) * np.eye(units)
            found[index, :units, units:] = gain[:, None] * self.entering.T
            by_unit = self.readout[1 : 1 + units] * np.where(np.arange(units) % 2, 2.0 * after, 1.0)[:, None]
            found[index, units:] = by_unit.T @ found[index, :units]
            found[index, units:, units:] += np.eye(variables) + self.readout[1 + units :].T
        return found

    def forecast(
        self, history: Float[np.ndarray, "batch past variable"], steps: int
    ) -> Float[np.ndarray, "batch steps variable"]:
        """The samples that follow; the whole history drives the reservoir."""
        past = self.scaling.scaled(history)
        reservoir = np.zeros((len(past), self.units))
        for index in range(past.shape[1] - 1):
            reservoir = self.driven(reservoir, past[:, index])
        states = np.concatenate([reservoir, past[:, -1]], axis=1)
        values = np.empty((len(past), steps, past.shape[2]))
        for index in range(steps):
            states = self.step(states)
            values[:, index] = states[:, self.units :]
        return self.scaling.restored(values)

    def analyse(self) -> Analysis:
        """Lyapunov exponents of the network driving itself, as many as there are variables."""
        found = exponents(
            self.step,
            self.slope,
            self.last,
            self.readout.shape[1],
            self.dt,
            steps=_STEPS,
            transient=_STEPS // 10,
        )
        notes = ("a free run of the model goes astray: it has no exponents",) if found is None else ()
        return Analysis(exponents=found, notes=notes)


def read(reservoir: Float[np.ndarray, "row unit"], sample: Float[np.ndarray, "row variable"]) -> np.ndarray:
    """What the readout sees: one, the units with every second one squared, the sample."""
    squared = np.where(np.arange(reservoir.shape[1]) % 2, reservoir**2, reservoir)
    return np.hstack([np.ones((len(reservoir), 1)), squared, sample])


def _reservoir(settings: Settings, generator: np.random.Generator) -> np.ndarray:
    units = settings["units"]
    linked = generator.random((units, units)) < min(1.0, settings["links"] / units)
    weights = generator.uniform(-1.0, 1.0, (units, units)) * linked
    radius = float(np.abs(np.linalg.eigvals(weights)).max()) if units <= 500 else _largest(weights, generator)
    return np.asarray(weights * (settings["radius"] / max(radius, _LEAST_RADIUS)))


def _largest(weights: np.ndarray, generator: np.random.Generator) -> float:
    sparse = scipy.sparse.csr_matrix(weights)
    start = generator.standard_normal(len(weights))
    values = scipy.sparse.linalg.eigs(sparse, k=1, which="LM", v0=start, return_eigenvectors=False)
    return float(np.abs(values[0]))


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> EchoState:
    generator = np.random.default_rng(seed)
    scaling, warm_up = Scaling.of(trajectories), settings["warm_up"]
    long = [scaling.scaled(part) for part in trajectories.parts if len(part) >= warm_up + 2]
    if not long:
        raise TrajectoryError(
            f"the longest trajectory has {max(trajectories.lengths)} samples, and {warm_up + 2} are needed after which"
            " the reservoir counts: give longer ones, or a shorter warm_up"
        )
    recurrent = _reservoir(settings, generator)
    variables, units = len(trajectories.names), settings["units"]
    entering = settings["input"] * generator.uniform(-1.0, 1.0, (variables, units))
    bias = settings["bias"] * generator.uniform(-1.0, 1.0, units)
    blank = np.zeros((1 + units + variables, variables))
    network = EchoState(
        scaling, recurrent, entering, bias, blank, settings["leak"], warm_up, trajectories.dt, np.zeros(0)
    )
    inputs, targets = [], []
    for part in long:
        states = np.zeros((len(part), units))
        for index in range(len(part) - 1):
            states[index + 1] = network.driven(states[index : index + 1], part[index : index + 1])[0]
        # states[t] has seen the samples before t; the next one is read once it has seen t
        after, now = states[warm_up + 1 :], part[warm_up:-1]
        noisy = now + settings["noise"] * generator.standard_normal(now.shape)
        inputs.append(read(after, noisy))
        targets.append(part[warm_up + 1 :] - noisy)
    readout = ridge(np.concatenate(inputs), np.concatenate(targets), settings["ridge"])
    last = np.concatenate([states[-1], part[-1]])
    return dataclasses.replace(network, readout=readout, last=last)


reconstructor = Reconstructor(
    name="echo-state",
    summary="Echo-state network: a random reservoir with a readout by ridge regression.",
    papers=(
        Paper(
            "Harnessing Nonlinearity: Predicting Chaotic Systems and Saving Energy in Wireless Communication",
            ("Herbert Jaeger", "Harald Haas"),
            2004,
        ),
        Paper(
            "Model-Free Prediction of Large Spatiotemporally Chaotic Systems from Data: A Reservoir Computing Approach",
            ("Jaideep Pathak", "Brian Hunt", "Michelle Girvan", "Zhixin Lu", "Edward Ott"),
            2018,
        ),
    ),
    settings=(
        Setting("units", "int", 300, "units of the reservoir", 10, 5000),
        Setting("links", "float", 6.0, "links that enter a unit, on average", 1.0, 5000.0),
        Setting("radius", "float", 0.6, "spectral radius of the recurrent weights", 0.01, 2.0),
        Setting("leak", "float", 1.0, "share of a unit that is renewed each sample", 0.01, 1.0),
        Setting("input", "float", 0.3, "largest input weight, for samples in spreads", 0.001, 10.0),
        Setting("bias", "float", 0.5, "largest bias", 0.0, 10.0),
        Setting("noise", "float", 0.0, "noise on the present sample while the readout is fitted, in spreads", 0.0, 1.0),
        Setting("ridge", "float", 1e-9, "penalty on squared readout weights", 0.0, 1e3),
        Setting("warm_up", "int", 100, "samples after which the reservoir counts", 1, 10_000),
    ),
    learn=_learn,
    quick={"units": 80, "warm_up": 30},
)
