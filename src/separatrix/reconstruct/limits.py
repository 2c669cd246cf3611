"""What learning a transfer operator can and cannot decide: convergence in two limits, and twins that look alike.

Spectra need two limits, one after the other: samples first, so that inner products become exact, then the dictionary
(Colbrook, Mezic & Stepanenko 2024). `convergence` shows both. Whether a point of the spectrum is an eigenvalue is
beyond both, as `TorusTwins` show: maps of the torus as close as one likes, one of which has eigenfunctions where the
other has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Complex, Float

from separatrix.reconstruct.spectra import Compression, compress, verified
from separatrix.runs.errors import UsageError

Lift = Callable[[np.ndarray, int], np.ndarray]
"""From points (point, variable) and a size to features (point, feature)."""


@dataclasses.dataclass(frozen=True)
class Convergence:
    """Residuals on unseen data by number of samples (rows) and size of the dictionary (columns).

    `residuals` and `eigenvalues` are of the pair closest to `target`; NaN where the samples are too few for the
    dictionary. Rows must settle before columns mean anything.
    """

    samples: tuple[int, ...]
    sizes: tuple[int, ...]
    target: complex
    eigenvalues: Complex[np.ndarray, "samples sizes"]
    residuals: Float[np.ndarray, "samples sizes"]


def convergence(
    lift: Lift,
    pairs: tuple[np.ndarray, np.ndarray],
    unseen: tuple[np.ndarray, np.ndarray],
    target: complex,
    *,
    samples: Sequence[int],
    sizes: Sequence[int],
) -> Convergence:
    """How the eigenpair closest to `target` settles as samples and dictionary grow.

    `pairs` are points now and one interval later, (point, variable) each, of which the first ones are taken; `unseen`
    are others, for residuals.

    Raises:
        UsageError: more samples are asked for than there are.
    """
    if max(samples) > len(pairs[0]):
        raise UsageError(f"samples={max(samples)} are asked for and {len(pairs[0])} given: ask for fewer")
    values = np.full((len(samples), len(sizes)), np.nan + 0j)
    gaps = np.full((len(samples), len(sizes)), np.nan)
    for row, count in enumerate(samples):
        for column, size in enumerate(sizes):
            now, later = (lift(each[:count], size) for each in pairs)
            if now.shape[1] >= count:
                continue
            found = verified(compress(now, later), *(lift(each, size) for each in unseen))
            best = int(np.argmin(np.abs(found.eigenvalues - target)))
            values[row, column], gaps[row, column] = found.eigenvalues[best], found.residuals[best]
    return Convergence(tuple(samples), tuple(sizes), target, values, gaps)


@dataclasses.dataclass(frozen=True)
class TorusTwins:
    """Two maps (x, y) -> (x + a, y + push cos(turns x)) of the torus, whose angles a differ by `gap`.

    On functions f(x) exp(i y) the operator is f(x) -> exp(i push cos(turns x)) f(x + a). With a = 2 pi steps / turns
    the push is the same at each of the `turns` points that x visits: the operator's power is a multiplication by a
    function that is not constant, and has no eigenfunction at all. With a gap that makes a / 2 pi irrational the push
    is a difference, push cos(turns x) = h(x + a) - h(x) with h of size push / (turns gap), and exp(i n x - i h(x)), for
    every n, is an eigenfunction with eigenvalue exp(i n a): they span the sector. Outputs of any method that evaluates
    the map a bounded number of times, with bounded precision, cannot tell the two for all gaps.
    """

    steps: int = 2
    turns: int = 5
    push: float = 0.5
    gap: float = 1e-6

    @property
    def angles(self) -> tuple[float, float]:
        """The rotation without and with the gap."""
        resonant = 2.0 * np.pi * self.steps / self.turns
        return resonant, resonant + self.gap

    def hidden(self, points: Float[np.ndarray, " point"]) -> Complex[np.ndarray, " point"]:
        """The eigenfunction of the map with the gap that has the eigenvalue 1, exp(-i h(x))."""
        factor = np.expm1(1j * self.turns * self.gap)  # the resonant part of the angle is a whole turn
        return np.asarray(np.exp(-1j * (self.push * np.exp(1j * self.turns * points) / factor).real))

    def residual_of_hidden(self, angle: float, count: int = 4096) -> float:
        """How far the hidden function is from an eigenfunction of the map with that angle, by equal weights."""
        points = 2.0 * np.pi * np.arange(count) / count
        image = np.exp(1j * self.push * np.cos(self.turns * points)) * self.hidden(points + angle)
        return float(np.sqrt(np.mean(np.abs(image - self.hidden(points)) ** 2)))

    def compression(self, angle: float, order: int) -> Compression:
        """The operator on f(x) exp(i y), f in the span of exp(i turns k x) for |k| up to `order`."""
        count = 8 * (order + 8)
        points = 2.0 * np.pi / self.turns * np.arange(count) / count
        orders = self.turns * np.arange(-order, order + 1)
        now = np.exp(1j * np.outer(points, orders))
        later = np.exp(1j * self.push * np.cos(self.turns * points))[:, None] * np.exp(
            1j * np.outer(points + angle, orders)
        )
        return compress(now, later)
