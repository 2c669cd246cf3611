"""Fashion-MNIST's files and the text of Python's library: found, read exactly, refused in one line."""

from __future__ import annotations

import gzip
import struct
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from separatrix.tasks import FashionMnist, SourceText, TaskError
from separatrix.tasks.fashion_mnist import installed, read_idx
from separatrix.tasks.text import VOCABULARY, decode, encode, source_files


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    generator = np.random.default_rng(0)
    for part, rows in (("train", 7), ("t10k", 3)):
        images = generator.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, rows, dtype=np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    monkeypatch.setenv("SEPARATRIX_DATA", str(tmp_path))
    return tmp_path


def test_a_named_folder_is_read_exactly(folder: Path) -> None:
    data = FashionMnist(standardize=False)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = generator.integers(0, 10, 7, dtype=np.uint8)
    np.testing.assert_allclose(data.train.inputs.squeeze(1).numpy() * 255, images, atol=1e-4)
    assert data.train.targets.tolist() == labels.tolist()
    assert data.test.inputs.shape == (3, 1, 28, 28)
    assert len(FashionMnist(limit=2).train.targets) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not gzip", "cannot be read"),
        (gzip.compress(b"\x00\x00\x08\x03\x00")[:-9], "cannot be read"),
        (gzip.compress(b""), "no IDX file of bytes, or cut short"),
        (gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00"), "no IDX file of bytes"),
        (gzip.compress(struct.pack(">BBBB3i", 0, 0, 8, 3, 9, 28, 28) + b"\x00" * 10), "cut short"),
    ],
    # Compressed bytes hold the time, and workers must agree on names.
    ids=["no gzip", "torn gzip", "empty", "no bytes", "short"],
)
def test_damaged_files_are_refused_in_one_line(folder: Path, content: bytes, words: str) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=words) as caught:
        read_idx(path)
    assert "dataset-fashion-mnist" in str(caught.value) and "\n" not in str(caught.value)


def test_labels_that_do_not_fit_the_images_are_refused(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(6, dtype=np.uint8))))
    with pytest.raises(TaskError, match=r"\(6,\) labels for images \(7, 28, 28\)"):
        FashionMnist().train  # noqa: B018


def test_a_missing_data_set_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPARATRIX_DATA", str(tmp_path))
    with pytest.raises(TaskError, match=r"SEPARATRIX_DATA names .*, which holds no train-images"):
        FashionMnist().train  # noqa: B018
    monkeypatch.delenv("SEPARATRIX_DATA")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not installed()
    with pytest.raises(TaskError, match="install Debian's package dataset-fashion-mnist, or set SEPARATRIX_DATA"):
        FashionMnist().train  # noqa: B018


def test_the_installed_files_hold_ten_balanced_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEPARATRIX_DATA", raising=False)
    if not installed():
        pytest.skip("Fashion-MNIST is not installed")
    _, test = FashionMnist().load()
    assert test.inputs.shape == (10_000, 1, 28, 28)
    assert torch.bincount(test.targets).tolist() == [1000] * 10


def test_text_survives_encoding_but_for_foreign_characters() -> None:
    text = "def f(x):\n\treturn 'é' + \"\u2192\" # ~\r"
    assert decode(encode(text)) == text.replace("é", "\ufffd").replace("\u2192", "\ufffd").replace("\r", "\ufffd")
    assert len(set(VOCABULARY)) == len(VOCABULARY) == 98
    assert encode(VOCABULARY).tolist() == list(range(98))


def test_the_corpus_is_the_library_without_its_tests() -> None:
    library = Path(sysconfig.get_path("stdlib"))
    files = source_files(library)
    names = [path.relative_to(library).as_posix() for path in files]
    assert {"heapq.py", "json/decoder.py", "argparse.py"} <= set(names)
    assert names == sorted(names, key=lambda name: name.split("/"))
    forbidden = ("site-packages/", "dist-packages/", "test/", "tests/")
    assert not [name for name in names if any(part in f"/{name}" for part in (f"/{word}" for word in forbidden))]


def test_validation_files_are_each_tenth_and_in_no_training_text() -> None:
    files = source_files(Path(sysconfig.get_path("stdlib")))
    text = SourceText()
    validation = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files[9::10])
    assert torch.equal(text.validation, encode(validation))
    first = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files[:9])
    assert torch.equal(text.train[: len(first)], encode(first))
    total = sum(len(path.read_text(encoding="utf-8", errors="replace")) for path in files)
    assert len(text.train) + len(text.validation) == total


def test_windows_are_pieces_of_the_text_and_targets_the_next_characters() -> None:
    text = SourceText(length=20, characters=5000)
    assert len(text.train) == 5000 and len(text.validation) == 555
    joined = decode(text.train)
    batch = text.sample(50, 1)
    assert batch.inputs.shape == batch.targets.shape == (50, 20)
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        assert decode(inputs) + decode(targets[-1:]) in joined
        assert torch.equal(inputs[1:], targets[:-1])
    assert text.windows(4, 0, "validation").shape == (4, 21)
    assert decode(text.windows(1, 0, "validation")[0]) in decode(text.validation)
    with pytest.raises(TaskError, match="has no part 'test'"):
        text.windows(1, 0, "test")


def test_every_start_of_a_window_can_be_drawn() -> None:
    text = SourceText(length=1, characters=20)
    assert len(text.train) == 20
    starts = text.windows(2000, 0)
    pairs = {tuple(pair) for pair in starts.tolist()}
    assert pairs == {tuple(text.train[i : i + 2].tolist()) for i in range(19)}


def test_a_library_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="holds no sources of Python's library"):
        source_files(tmp_path)
