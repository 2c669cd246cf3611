"""Thumbnails: of the right examples, only when asked for, kept by a cut file, and no bit of the training differs."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import separatrix
from separatrix.runs import open_run
from separatrix.runs.thumbnails import FILE, thumbnail_header, thumbnail_records, thumbnails
from separatrix.view import write_report
from separatrix.view.pictures import png

COUNT = 60


def images(*shape: int) -> torch.Tensor:
    return torch.randn(COUNT, *shape, generator=torch.Generator().manual_seed(0))


def train(x: torch.Tensor, run: Path | None, count: int = COUNT, **options: object) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    y = torch.arange(count) % 3
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)

    def loop() -> None:
        for _ in range(3):
            for rows, targets in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(rows), targets).backward()
                optimizer.step()

    if run is None:
        loop()
    else:
        with separatrix.record(model, optimizer, run=run, budget=1.0, probes="default,examples", **options):
            loop()
    return next(model.parameters()).detach().clone()


def scaled(image: np.ndarray) -> np.ndarray:
    low, high = image.min(), image.max()
    return np.round(255.0 * (image - low) / (high - low)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 9, 12), (3, 8, 8), (7, 7), (64,)])
def test_each_example_has_its_own_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = images(*shape)
    train(x, tmp_path / "run", thumbnails=True)
    found = thumbnails(tmp_path / "run")
    with open_run(tmp_path / "run") as run:
        labels = run.series("example_loss").coords["example"]
    assert sorted(found) == list(range(COUNT))
    for position, image in found.items():
        given = x[int(labels[position])].numpy()
        given = given.reshape(1, 8, 8) if shape == (64,) else given.reshape(-1, *given.shape[-2:])
        assert np.abs(image.astype(int) - scaled(given).transpose(1, 2, 0)).max() <= 1


def test_a_large_image_becomes_the_mean_over_its_tiles(tmp_path: Path) -> None:
    x = images(1, 64, 128)
    train(x, tmp_path / "run", thumbnails=True)
    found = thumbnails(tmp_path / "run")
    tiles = x[5, 0].numpy().reshape(16, 4, 32, 4).mean(axis=(1, 3))
    assert np.abs(found[5][..., 0].astype(int) - scaled(tiles)).max() <= 1


def test_without_the_option_there_is_no_image(tmp_path: Path) -> None:
    train(images(1, 8, 8), tmp_path / "run")
    assert not (tmp_path / "run" / FILE).exists()
    with open_run(tmp_path / "run") as run:
        assert "<img" not in write_report(run, tmp_path / "r.html").read_text()


def test_weights_are_the_same_bits(tmp_path: Path) -> None:
    x = images(3, 40, 40)
    bare = train(x, None)
    assert torch.equal(bare, train(x, None))
    assert torch.equal(bare, train(x, tmp_path / "run", thumbnails=True))


def test_the_report_shows_the_images_of_listed_examples(tmp_path: Path) -> None:
    train(images(1, 8, 8), tmp_path / "run", thumbnails=True)
    with open_run(tmp_path / "run") as run:
        page = write_report(run, tmp_path / "r.html").read_text()
    found = thumbnails(tmp_path / "run")
    shown = re.findall(r'alt="example (\d+)" src="data:image/png;base64,([^"]+)"', page)
    assert len(shown) >= 12
    for label, address in shown:
        assert base64.b64decode(address) == png(found[int(label)])


def test_thumbnails_alone_follow_the_examples(tmp_path: Path) -> None:
    with separatrix.record(run=tmp_path / "run", budget=1.0, thumbnails=True):
        train(images(1, 8, 8), None)
    with open_run(tmp_path / "run") as run:
        assert "example_loss" in run
    assert len(thumbnails(tmp_path / "run")) == COUNT


def test_rows_without_images_give_an_event(tmp_path: Path) -> None:
    train(images(5), tmp_path / "run", thumbnails=True)
    with open_run(tmp_path / "run") as run:
        assert any("no thumbnails" in event.message for event in run.events)
    assert thumbnails(tmp_path / "run") == {}


def test_a_folder_that_cannot_be_written_ends_them_and_not_the_training(tmp_path: Path) -> None:
    x = images(1, 8, 8)
    (tmp_path / "run").mkdir()
    bare = train(x, None)
    from unittest import mock

    with mock.patch("separatrix.record.thumbnails.thumbnail_records", side_effect=OSError("disk full")):
        assert torch.equal(bare, train(x, tmp_path / "run2", thumbnails=True))
    with open_run(tmp_path / "run2") as run:
        assert any("disk full" in event.message for event in run.events)


def test_what_a_kill_cut_off_is_left_out_and_foreign_files_are_no_images(tmp_path: Path) -> None:
    pictures = np.arange(2 * 6 * 6, dtype=np.uint8).reshape(2, 6, 6, 1)
    whole = thumbnail_header(6, 6, 1) + thumbnail_records(np.array([3, 9]), pictures)
    (tmp_path / FILE).write_bytes(whole[:-5])
    assert list(thumbnails(tmp_path)) == [3]
    assert np.array_equal(thumbnails(tmp_path)[3], pictures[0])
    for foreign in (b"", b"\x89PNG", b"[]\n", b'{"format": "x"}\n', whole.replace(b"6", b"-6"), b"{" * 100_000):
        (tmp_path / FILE).write_bytes(foreign)
        assert thumbnails(tmp_path) == {}


def test_a_resumed_recording_goes_on_behind_the_last_whole_image(tmp_path: Path) -> None:
    x = images(1, 8, 8)
    with separatrix.record(run=tmp_path / "run", budget=1.0, thumbnails=True):
        train(x[:20], None, count=20)
    path = tmp_path / "run" / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with separatrix.record(run=tmp_path / "run", budget=1.0, thumbnails=True, resume=True):
        train(x, None)
    found = thumbnails(tmp_path / "run")
    with open_run(tmp_path / "run") as run:
        labels = run.series("example_loss").coords["example"]
    assert len(found) >= COUNT
    for position, image in found.items():
        if labels[position].isdigit():
            assert np.abs(image[..., 0].astype(int) - scaled(x[int(labels[position]), 0].numpy())).max() <= 1


def test_images_of_other_sizes_get_the_size_of_the_first(tmp_path: Path) -> None:
    with separatrix.record(run=tmp_path / "run", budget=1.0, thumbnails=True):
        train(images(1, 8, 8)[:20], None, count=20)
        train(images(1, 16, 16), None)
    assert {image.shape for image in thumbnails(tmp_path / "run").values()} == {(8, 8, 1)}
    assert len(thumbnails(tmp_path / "run")) == 20 + COUNT


def test_png_decodes_to_the_image_by_the_standard() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    content = png(image)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        name, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert struct.unpack(">I", content[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + body)
        chunks[name], at = body, at + 12 + length
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (7, 5, 8, 2, 0, 0, 0)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(5, 1 + 21)
    assert not rows[:, 0].any()
    assert np.array_equal(rows[:, 1:].reshape(5, 7, 3), image)
