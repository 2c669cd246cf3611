"""Equations of motion of a few order parameters of a training, found from their recorded courses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct import Reconstruction, fit, trajectories


def recovered_equations(
    courses: Float[np.ndarray, "time parameter"] | Sequence[np.ndarray],
    dt: float,
    *,
    degree: int = 3,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Reconstruction:
    """Sparse polynomial equations of order parameters, such as the strengths of the modes of a deep linear network.

    `courses` are evenly sampled, of one training or of several from different starts (a list): a single training that
    runs along one curve does not tell its terms apart. `dt` is the time between samples, steps times learning rate for
    gradient flow. The result forecasts, and `analyse().equations` are readable.

    Raises:
        TrajectoryError: the courses are not even or finite, or too short.
        MissingExtraError: pysindy is not installed.

    Source: Brunton, Proctor & Kutz 2016, PNAS 113, 3932; of mode strengths: Saxe, McClelland & Ganguli 2014,
    arXiv:1312.6120, in which two layers give ds/dt = 2 s (a - s).
    """
    return fit(trajectories(courses, dt, names=names), "sindy", seed=seed, degree=degree)
