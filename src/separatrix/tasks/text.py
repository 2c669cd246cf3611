"""Real text, character by character: the source of Python's own standard library, which is everywhere Python is."""

from __future__ import annotations

import dataclasses
import functools
import os
import sysconfig
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from separatrix.tasks.errors import TaskError
from separatrix.tasks.task import Batch, Seed, Task, check, count, drawing, whole

Part = Literal["train", "validation"]

VOCABULARY = "\ufffd\n\t" + "".join(map(chr, range(32, 127)))
"""What tokens stand for: any other character, newline, tab, and the 95 printable characters of ASCII."""

_LEFT_OUT = frozenset(
    ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data")
)
_EVERY = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceText(Task):
    """Windows of `length` characters as tokens (n, length), and the same windows moved on by one as targets.

    The files come in the order of their paths; each tenth is validation, so that no file is in both. Left out are
    tests, installed packages, and files that are tables rather than text (encodings, pydoc_data, build settings).
    `characters` keeps the first so many of the training text and a ninth as many of the validation text. The text is
    that of the running Python's version.
    """

    name: ClassVar[str] = "text"
    source: ClassVar[str] = "the standard library of Python"

    length: int = 64
    characters: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "length", 1)
        if self.characters is not None:
            least = _EVERY * (self.length + 1)
            check(self, "characters", self.characters >= least, f"at least {least} for windows of {self.length}")

    @property
    def vocabulary(self) -> str:
        """The character of each token."""
        return VOCABULARY

    @functools.cached_property
    def train(self) -> Int[Tensor, " characters"]:
        """The training text as tokens."""
        return _corpus()[0][: self.characters]

    @functools.cached_property
    def validation(self) -> Int[Tensor, " characters"]:
        """The validation text as tokens."""
        return _corpus()[1][: None if self.characters is None else self.characters // (_EVERY - 1)]

    def windows(self, n: int, generator: Seed, part: Part = "train") -> Int[Tensor, " n window"]:
        """Draw n windows of length + 1 tokens that start anywhere.

        Raises:
            TaskError: the text is shorter than a window, or there is no such part.
        """
        if part not in ("train", "validation"):
            raise TaskError(f"{self.name} has no part {part!r}: ask for 'train' or 'validation'")
        text = self.train if part == "train" else self.validation
        starts = len(text) - self.length
        if starts < 1:
            raise TaskError(f"{self.name}: windows of {self.length} characters in {len(text)}: lower length")
        begin = torch.randint(starts, (count(n), 1), generator=drawing(generator))
        return text[begin + torch.arange(self.length + 1)]

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n training windows; targets[:, t] is the character after inputs[:, t]."""
        windows = self.windows(n, generator)
        return Batch(windows[:, :-1], windows[:, 1:])


def encode(text: str) -> Int[Tensor, " characters"]:
    """Tokens of a text; characters outside the vocabulary become token 0."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    table = np.zeros(128, dtype=np.int64)
    for token, character in enumerate(VOCABULARY[1:], start=1):
        table[ord(character)] = token
    return torch.from_numpy(np.where(points < len(table), table[np.minimum(points, len(table) - 1)], 0))


def decode(tokens: Int[Tensor, " characters"]) -> str:
    """The text of tokens."""
    return "".join(VOCABULARY[token] for token in tokens.tolist())


@functools.cache
def _corpus() -> tuple[Tensor, Tensor]:
    files = source_files(Path(sysconfig.get_path("stdlib")))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    train = "".join(text for index, text in enumerate(texts) if index % _EVERY != _EVERY - 1)
    return encode(train), encode("".join(texts[_EVERY - 1 :: _EVERY]))


def source_files(folder: Path) -> list[Path]:
    """The files of the corpus, in the order of their paths relative to the library's folder.

    Raises:
        TaskError: the folder holds no sources, as in an installation of compiled files only.
    """
    found = []
    for place, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name not in _LEFT_OUT]  # packages may be many times the library
        found += [Path(place, name) for name in names if name.endswith(".py") and not name.startswith("_sysconfigdata")]
    if len(found) < _EVERY:
        raise TaskError(f"{folder} holds no sources of Python's library: use an installation that has its .py files")
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


default = SourceText()
