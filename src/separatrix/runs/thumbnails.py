"""Small images of examples beside a run: one file, appended to as the examples are first seen.

The file begins with a line of JSON that gives height, width and channels; records of one size follow, each the position
along the dimension `example` as a little-endian 32-bit integer and the pixels, one byte a channel, row by row. What a
kill cuts off is an incomplete last record, which is left out on reading.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = "thumbnails.bin"
_MAGIC = "separatrix-thumbnails"
_LONGEST_HEADER = 256
_LARGEST_SIDE = 64

Images = NDArray[np.uint8]


def thumbnail_header(height: int, width: int, channels: int) -> bytes:
    """What a file of images of this size begins with."""
    facts = {"format": _MAGIC, "version": 1, "height": height, "width": width, "channels": channels}
    return json.dumps(facts).encode() + b"\n"


def thumbnail_records(positions: NDArray[np.integer], images: Images) -> bytes:
    """Records of images (example, height, width, channels) of the examples at these positions."""
    flat = np.ascontiguousarray(images, dtype=np.uint8).reshape(len(positions), -1)
    numbers = np.asarray(positions, dtype="<i4").view(np.uint8).reshape(len(positions), 4)
    return np.concatenate([numbers, flat], axis=1).tobytes()


def thumbnails(run: Path) -> Mapping[int, Images]:
    """Images (height, width, channels) by position along the dimension `example`; none where there is no such file."""
    path = run / FILE
    try:
        with path.open("rb") as file:
            shape = _shape(file.readline(_LONGEST_HEADER))
            if shape is None:
                return {}
            content = np.frombuffer(file.read(), dtype=np.uint8)
    except OSError:
        return {}
    size = 4 + int(np.prod(shape))
    records = content[: len(content) // size * size].reshape(-1, size)
    positions = np.ascontiguousarray(records[:, :4]).view("<i4")[:, 0]
    return {int(at): record[4:].reshape(shape) for at, record in zip(positions, records, strict=True)}


def mended_thumbnails(run: Path) -> tuple[tuple[int, int, int] | None, set[int]]:
    """Size and positions of the images that a resumed run holds, after what a kill cut off is cut off the file.

    A file that is no such one is removed; then there is no size.
    """
    found = thumbnails(run)
    path = run / FILE
    if not found:
        path.unlink(missing_ok=True)
        return None, set()
    shape = next(iter(found.values())).shape
    with path.open("rb+") as file:
        header = len(file.readline(_LONGEST_HEADER))
        file.truncate(header + len(found) * (4 + int(np.prod(shape))))
    return (shape[0], shape[1], shape[2]), set(found)


def _shape(line: bytes) -> tuple[int, int, int] | None:
    try:
        facts = json.loads(line)
        shape = (facts["height"], facts["width"], facts["channels"])
        known = facts["format"] == _MAGIC and facts["version"] == 1
    except (ValueError, KeyError, TypeError):
        return None
    sizes = all(type(side) is int and 0 < side <= _LARGEST_SIDE for side in shape)
    return shape if known and sizes and shape[2] in (1, 3) else None
