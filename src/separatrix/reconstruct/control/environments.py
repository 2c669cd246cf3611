"""Plants as Gymnasium environments, for whoever brings an agent of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from separatrix.reconstruct.control.plants import Plant
from separatrix.runs.errors import MissingExtraError


def gymnasium_environment(plant: Plant) -> Any:
    """A `gymnasium.Env` of a plant: observations are its states, episodes are truncated after its steps.

    Raises:
        MissingExtraError: gymnasium is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise MissingExtraError("environments need gymnasium: pip install separatrix[control]") from error

    class Environment(gymnasium.Env):  # type: ignore[misc]
        def __init__(self) -> None:
            bounds = np.array(
                [1.0 if any(i in pair for pair in plant.circles) else limit for i, limit in enumerate(plant.bounds)]
            )
            self.observation_space = gymnasium.spaces.Box(-bounds, bounds, dtype=np.float64)
            size = (len(plant.inputs),)
            self.action_space = gymnasium.spaces.Box(-plant.limit, plant.limit, size, dtype=np.float64)
            self._state = np.zeros(len(plant.names))
            self._steps = 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
            super().reset(seed=seed)
            del options
            self._state, self._steps = plant.begin(self.np_random, 1)[0], 0
            return self._state.copy(), {}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            inputs = np.clip(np.asarray(action, dtype=np.float64).reshape(-1), -plant.limit, plant.limit)
            reward = float(plant.reward(self._state, inputs))
            self._state = plant.step(self._state, inputs)
            self._steps += 1
            return self._state.copy(), reward, bool(plant.ended(self._state)), self._steps >= plant.steps, {}

    return Environment()
