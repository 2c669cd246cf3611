"""Two views of one example, for self-supervision: Gaussian ones with known covariances, and distorted images."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.tasks.digits import Digits
from separatrix.tasks.errors import TaskError
from separatrix.tasks.task import Batch, Dataset, Seed, Task, check, count, drawing, number, whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianViews(Task):
    """Inputs (n, 2, dimension): a signal z common to both views and, in each, noise of its own; targets: z.

    z has covariance diag(`signal`), its i-th variance i^-decay, and the noise diag(`augmentation`), the i-th variance
    noise i^-noise_decay, all Gaussian. So a view has covariance diag(signal + augmentation), two views of one example
    have diag(signal), and the best linear prediction of one view from the other multiplies coordinate i by
    signal_i / (signal_i + augmentation_i).
    """

    name: ClassVar[str] = "gaussian_views"
    source: ClassVar[str] = "Tian, Chen and Ganguli 2021, arXiv:2102.06810; Simon et al. 2023, arXiv:2303.15438"

    dimension: int = 16
    decay: float = 1.0
    noise: float = 0.5
    noise_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "dimension", 1)
        number(self, "decay", 0.0)
        number(self, "noise", 0.0)
        number(self, "noise_decay", 0.0)

    @functools.cached_property
    def signal(self) -> Float[Tensor, " dimension"]:
        """Variance of each coordinate that the views share."""
        return torch.arange(1, self.dimension + 1, dtype=self.dtype) ** -self.decay

    @functools.cached_property
    def augmentation(self) -> Float[Tensor, " dimension"]:
        """Variance of each coordinate that belongs to one view."""
        return self.noise * torch.arange(1, self.dimension + 1, dtype=self.dtype) ** -self.noise_decay

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n pairs of views."""
        return self._views(torch.randn(count(n), 3, self.dimension, dtype=self.dtype, generator=drawing(generator)))

    def exact(self, n: int, generator: Seed) -> Batch:
        """Draw n pairs, then turn and stretch them so that their second moments are those of the distribution.

        The moments about 0 of signal and both noises are exact up to rounding, so that a linear net trained on these
        pairs is trained on the population.

        Raises:
            TaskError: n is below 3 dimension, too few for as many independent moments.
        """
        if count(n) < 3 * self.dimension:
            raise TaskError(f"{n} exact pairs in dimension {self.dimension}: ask for {3 * self.dimension} at least")
        draws = torch.randn(n, 3 * self.dimension, dtype=self.dtype, generator=drawing(generator))
        orthonormal = torch.linalg.qr(draws).Q
        return self._views((math.sqrt(n) * orthonormal).view(n, 3, self.dimension))

    def _views(self, draws: Float[Tensor, " n 3 dimension"]) -> Batch:
        signal = draws[:, 0] * self.signal.sqrt()
        return Batch(signal[:, None] + draws[:, 1:] * self.augmentation.sqrt(), signal)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageViews(Task):
    """Inputs (n, 2, channels, height, width): two distortions each of n training images of `base`; targets: classes.

    A distortion turns by up to `turn` degrees, scales by up to a factor `zoom`, shifts by up to `shift` of the side,
    each evenly distributed, interpolates, and adds Gaussian noise of standard deviation `noise`.
    """

    name: ClassVar[str] = "image_views"
    source: ClassVar[str] = "Grill et al. 2020, arXiv:2006.07733 (random crops); here without colours"

    base: Dataset = dataclasses.field(default_factory=Digits)
    turn: float = 15.0
    zoom: float = 1.2
    shift: float = 0.125
    noise: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        number(self, "turn", 0.0, 180.0)
        number(self, "zoom", 1.0)
        number(self, "shift", 0.0, 1.0)
        number(self, "noise", 0.0)

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n training images with replacement, and two views of each.

        Raises:
            TaskError: the base has no images.
        """
        draw = drawing(generator)
        images, classes = self.base.sample(n, draw)
        check(self, "base", images.dim() == 4, "a data set of images (n, channels, height, width)")
        images = images.to(self.dtype)
        return Batch(torch.stack([self.distorted(images, draw) for _ in range(2)], 1), classes)

    def distorted(
        self, images: Float[Tensor, " n channels height width"], generator: Seed
    ) -> Float[Tensor, " n channels height width"]:
        """One view of each image; what comes from beyond the edges is a copy of them."""
        draw = drawing(generator)
        size = len(images)

        def even(reach: float) -> Tensor:
            return reach * (2 * torch.rand(size, dtype=images.dtype, generator=draw) - 1)

        angle, factor = even(math.radians(self.turn)), even(math.log(self.zoom)).exp()
        across, down = even(2 * self.shift), even(2 * self.shift)
        cosine, sine = factor * angle.cos(), factor * angle.sin()
        maps = torch.stack([cosine, -sine, across, sine, cosine, down], 1).view(size, 2, 3)
        grid = torch.nn.functional.affine_grid(maps, list(images.shape), align_corners=False)
        moved = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return moved + self.noise * torch.randn(images.shape, dtype=images.dtype, generator=draw)


gaussian = GaussianViews()
images = ImageViews()
