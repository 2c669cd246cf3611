"""Fashion-MNIST: 60,000 + 10,000 images of clothes, from the files of a Debian package or a folder of your own."""

from __future__ import annotations

import dataclasses
import gzip
import math
import os
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from separatrix.tasks.errors import TaskError
from separatrix.tasks.task import Batch, Dataset, whole

PACKAGE = "dataset-fashion-mnist"
VARIABLE = "SEPARATRIX_DATA"
_TRAIN, _TEST = "train", "t10k"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FashionMnist(Dataset):
    """Images (n, 1, 28, 28) and classes (n,) from 0 to 9, in the order of the files.

    The folder is the one that SEPARATRIX_DATA names, else that of Debian's package dataset-fashion-mnist. `limit` keeps
    so many of the first training images, and of the first test images.
    """

    name: ClassVar[str] = "fashion_mnist"
    source: ClassVar[str] = "Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747"

    limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None:
            whole(self, "limit", 1)

    def load(self) -> tuple[Batch, Batch]:
        """Training and test images, pixels divided by 255.

        Raises:
            TaskError: the files are not installed, or damaged.
        """
        folder = _folder()
        return self._part(folder, _TRAIN), self._part(folder, _TEST)

    def _part(self, folder: Path, part: str) -> Batch:
        images = read_idx(folder / _images(part))[: self.limit]
        labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")[: self.limit]
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise TaskError(f"{folder} holds {labels.shape} labels for images {images.shape}: install {PACKAGE} anew")
        return Batch(torch.from_numpy(images / np.float32(255)).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


def installed() -> bool:
    """Whether the files are found."""
    try:
        _folder()
    except TaskError:
        return False
    return True


def read_idx(path: Path) -> np.ndarray:
    """One array of bytes in the gzipped IDX format: two zero bytes, the type (8), the rank, the sizes, the data.

    Raises:
        TaskError: the file is missing, damaged or of another type.
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path} cannot be read ({error}): install {PACKAGE} or correct {VARIABLE}") from error
    rank = content[3] if content[:3] == b"\x00\x00\x08" else 0
    shape = np.frombuffer(content[4 : 4 + 4 * rank], dtype=">i4")
    if not rank or len(shape) < rank or math.prod(shape.tolist()) != len(content) - 4 - 4 * rank:
        raise TaskError(f"{path} is no IDX file of bytes, or cut short: install {PACKAGE} or correct {VARIABLE}")
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


def _images(part: str) -> str:
    return f"{part}-images-idx3-ubyte.gz"


def _folder() -> Path:
    named = os.environ.get(VARIABLE)
    if named:
        if not (Path(named) / _images(_TRAIN)).is_file():
            raise TaskError(f"{VARIABLE} names {named}, which holds no {_images(_TRAIN)}: correct or unset it")
        return Path(named)
    if shutil.which("dpkg") is not None:
        listing = subprocess.run(["dpkg", "-L", PACKAGE], capture_output=True, text=True, check=False)
        for line in listing.stdout.splitlines():
            if line.endswith(_images(_TRAIN)) and Path(line).is_file():
                return Path(line).parent
    raise TaskError(
        f"Fashion-MNIST is not installed: install Debian's package {PACKAGE}, or set {VARIABLE} to a folder with its"
        " four idx.gz files"
    )


default = FashionMnist()
