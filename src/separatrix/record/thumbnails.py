"""Small images of the examples of a recording, when asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from separatrix.record.sightings import Found
from separatrix.runs.thumbnails import FILE, mended_thumbnails, thumbnail_header, thumbnail_records

_SIDE = 32
_LEAST_SIDE = 6
_MOST_EXAMPLES = 20_000
_CHANNELS = (1, 3)


class Thumbnails:
    """Writes an image of each example when it is first seen, of the first twenty thousand; all have the first's size.

    Images are floating or byte tensors of a batch of shape (example, channel, height, width) with one or three
    channels, or (example, height, width), or rows that fill a square; each is scaled by its own extremes.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / FILE
        self._shape, self._seen = mended_thumbnails(run)
        self.sees_images = False
        """Whether any batch had images."""

    def note(self, found: Found) -> None:
        """Write the images of examples not seen before, if they came in a batch that holds images.

        Raises:
            OSError: the file cannot be written.
            ValueError: images have another number of channels than those before.
        """
        if found.match is None or len(self._seen) >= _MOST_EXAMPLES:
            return
        new = [row for row, at in enumerate(found.positions.tolist()) if at not in self._seen]
        new = new[: _MOST_EXAMPLES - len(self._seen)]
        if not new:
            return
        batch, rows = found.match.batch, found.match.rows
        images = next(_images(batch.tensors(), len(batch.ids)), None)
        if images is None:
            return
        self.sees_images = True
        positions = found.positions[new]
        pictures = _shrunk(images[rows][new], self._shape)
        header = b"" if self._shape else thumbnail_header(*pictures.shape[1:])
        with self._path.open("ab") as file:
            file.write(header + thumbnail_records(positions, pictures))
        self._shape = pictures.shape[1:]
        self._seen.update(positions.tolist())


def _images(tensors: Iterator[torch.Tensor], count: int) -> Iterator[torch.Tensor]:
    """Those of the tensors that are images, as (example, channel, height, width)."""
    for tensor in tensors:
        if count == 1 and (not tensor.dim() or tensor.shape[0] != 1):
            tensor = tensor[None]
        if not tensor.dim() or tensor.shape[0] != count or tensor.is_complex():
            continue
        if not (tensor.is_floating_point() or tensor.dtype == torch.uint8):
            continue
        side = math.isqrt(tensor[0].numel())
        if tensor.dim() == 2 and side * side == tensor[0].numel():
            tensor = tensor.reshape(count, side, side)
        if tensor.dim() == 3:
            tensor = tensor[:, None]
        if tensor.dim() == 4 and tensor.shape[1] in _CHANNELS and min(tensor.shape[2:]) >= _LEAST_SIDE:
            yield tensor


def _shrunk(images: torch.Tensor, shape: tuple[int, int, int] | None) -> np.ndarray:
    """Bytes (example, height, width, channel) of that shape, or at most 32 pixels a side, from black to white."""
    channels, height, width = images.shape[1:]
    if shape is not None and shape[2] != channels:
        raise ValueError(f"images have {channels} channels, those before had {shape[2]}")
    factor = min(1.0, _SIDE / max(height, width))
    size = shape[:2] if shape else (max(1, round(height * factor)), max(1, round(width * factor)))
    values = images.detach().float().nan_to_num()
    values = torch.nn.functional.adaptive_avg_pool2d(values, size) if size != (height, width) else values
    low, high = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
    scaled = 255.0 * (values - low) / (high - low).clamp(min=1e-30)
    pixels: np.ndarray = scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels
