"""The example script, as a user runs it: without a recorder."""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "fashion_mnist_cnn.py"
EPOCH = re.compile(r"epoch (\d+): training loss ([\d.]+), test loss ([\d.]+), test accuracy ([\d.]+)%")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fashion_mnist_cnn", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def write_bars(folder: Path, examples: int) -> None:
    """Images 28 pixels wide whose class is the place of a bright bar, under the names of Fashion-MNIST."""
    generator = np.random.default_rng(0)
    for part in ("train", "t10k"):
        labels = np.arange(examples) % 10
        images = generator.integers(0, 60, (examples, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[:, 2 + 2 * label : 4 + 2 * label] = 250
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    own = {name: value for name, value in os.environ.items() if name != "SEPARATRIX_DATA"}
    return subprocess.run(command, env={**own, **environment}, capture_output=True, text=True, check=False, timeout=90)


def test_it_knows_nothing_of_the_package() -> None:
    words = set(re.findall(r"\w*separatrix\w*", SCRIPT.read_text(), flags=re.IGNORECASE))
    assert words == {"SEPARATRIX_DATA"}


def test_it_learns_from_the_folder_that_is_named(tmp_path: Path) -> None:
    write_bars(tmp_path, 400)
    done = run("--epochs", "2", "--batch-size", "20", SEPARATRIX_DATA=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"data: Fashion-MNIST from {tmp_path}" in done.stdout
    epochs = EPOCH.findall(done.stdout)
    assert [epoch for epoch, *_ in epochs] == ["1", "2"]
    assert float(epochs[1][1]) < float(epochs[0][1])
    assert float(epochs[1][3]) > 95.0


def test_it_falls_back_on_digits_and_repeats_itself() -> None:
    first, second = (run("--epochs", "1", PATH="") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert "data: scikit-learn's digits" in first.stdout
    assert EPOCH.findall(first.stdout) == EPOCH.findall(second.stdout)
    assert float(EPOCH.findall(first.stdout)[0][3]) > 50.0


def test_a_folder_without_data_is_one_clear_line(tmp_path: Path) -> None:
    done = run(SEPARATRIX_DATA=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"SEPARATRIX_DATA names {tmp_path}, which holds no train-images-idx3-ubyte.gz\n"


def test_idx_files_are_read_as_they_were_written(tmp_path: Path, example: ModuleType) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "array.gz", array)
    assert (example.read_idx(tmp_path / "array.gz") == array).all()


def test_another_format_is_refused(tmp_path: Path, example: ModuleType) -> None:
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"not an array"))
    with pytest.raises(SystemExit, match="is not an IDX file"):
        example.read_idx(tmp_path / "text.gz")


def test_pixels_are_normalised_over_the_training_images(
    tmp_path: Path, example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bars(tmp_path, 50)
    monkeypatch.setenv("SEPARATRIX_DATA", str(tmp_path))
    train, test = example.load_data(limit=30)
    assert len(train) == len(test) == 30
    pixels = train.tensors[0].double()
    assert tuple(pixels.shape) == (30, 1, 28, 28)
    assert abs(pixels.mean().item()) < 1e-5
    assert abs(pixels.std(correction=0).item() - 1.0) < 1e-5
