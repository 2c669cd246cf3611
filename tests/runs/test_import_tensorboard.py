"""TensorBoard event files, written by TensorBoard's own writer, read without it."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from separatrix.runs import ImportSourceError, Run, open_run
from separatrix.runs.importing import import_run, read_log, tfevents

pytest.importorskip("tensorboard", reason="tensorboard writes the files that these tests read")
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto


def written(path: Path, values: list[tuple[int, dict[str, Any]]]) -> Path:
    """An event file with simple values for floats, tensors for TensorProto and strings of any plugin for others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        for step, scalars in values:
            summary = Summary()
            for tag, value in scalars.items():
                if isinstance(value, TensorProto):
                    summary.value.add(tag=tag, tensor=value)
                else:
                    summary.value.add(tag=tag, simple_value=value)
            writer.write(Event(wall_time=1.0 + step, step=step, summary=summary).SerializeToString())
        writer.flush()
    return path


def points(run: Run, name: str) -> dict[int, float]:
    data = run.series(name)
    return dict(zip(data.steps.tolist(), data.values.tolist(), strict=True))


def imported(source: Path, destination: Path) -> Run:
    return open_run(import_run(source, destination).path)


NAME = "events.out.tfevents.1700000000.host.1.0"


def test_simple_values(tmp_path: Path) -> None:
    values = [(step, {"train/loss": 2.0**-step, "lr": 0.5}) for step in range(0, 100, 10)]
    run = imported(written(tmp_path / NAME, [*values, (7, {"other": math.nan})]), tmp_path / "run")
    assert points(run, "loss") == {step: 2.0**-step for step in range(0, 100, 10)}
    assert points(run, "learning_rate") == dict.fromkeys(range(0, 100, 10), 0.5)
    assert math.isnan(points(run, "other")[7])
    assert run.events == ()
    assert run.config == {"imported_from": NAME, "format": "tensorboard"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32, np.int64])
@pytest.mark.parametrize("value", [0.0, 1.0, 3.0, -2.0])
def test_tensor_scalars(tmp_path: Path, dtype: type, value: float) -> None:
    unpacked = make_tensor_proto(dtype(value))
    packed = TensorProto(dtype=unpacked.dtype, tensor_content=np.array(value, dtype=dtype).tobytes())
    run = imported(written(tmp_path / NAME, [(3, {"loss": unpacked, "x": packed})]), tmp_path / "run")
    assert points(run, "loss") == {3: value}
    assert points(run, "x") == {3: value}


def test_other_tensors_and_text_are_passed_over(tmp_path: Path) -> None:
    values = {"vector": make_tensor_proto([1.0, 2.0]), "text": make_tensor_proto("hello"), "loss": 1.0}
    run = imported(written(tmp_path / NAME, [(1, values)]), tmp_path / "run")
    assert run.names() == ("loss",)


def test_torch_writer_with_everything_it_writes(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "log")) as writer:
        for step in range(5):
            writer.add_scalar("train/loss", 1.0 / (1 + step), step)
            writer.add_scalar("val/loss", 2.0 / (1 + step), step, new_style=True)
            writer.add_scalar("exact", 1.0 / 3.0, step, new_style=True, double_precision=True)
        writer.add_scalars("acc", {"train": 0.5, "val": 0.25}, 4)
        writer.add_histogram("weights", np.arange(10.0), 1)
        writer.add_text("note", "hello", 1)
        writer.add_image("picture", np.zeros((3, 4, 4)), 1)
    run = imported(tmp_path / "log", tmp_path / "run")
    assert set(run.names()) == {"loss", "eval_loss", "exact", "accuracy", "eval_accuracy"}
    np.testing.assert_array_equal(run.series("loss").values, (1.0 / (1 + np.arange(5))).astype(np.float32))
    assert points(run, "exact")[0] == 1.0 / 3.0
    assert points(run, "accuracy") == {4: 0.5}
    assert points(run, "eval_accuracy") == {4: 0.25}


def test_subfolders_and_several_files(tmp_path: Path) -> None:
    log = tmp_path / "runs"
    written(log / "train" / f"{NAME}.a", [(1, {"loss": 3.0}), (2, {"loss": 2.0})])
    written(log / "train" / f"{NAME}.b", [(2, {"loss": 1.5}), (3, {"loss": 1.0})])
    written(log / "val" / NAME, [(2, {"loss": 2.5, "acc": 0.5})])
    (log / "val" / "notes.txt").write_text("hello")
    run = imported(log, tmp_path / "run")
    assert points(run, "loss") == {1: 3.0, 2: 1.5, 3: 1.0}
    assert points(run, "eval_loss") == {2: 2.5}
    assert points(run, "eval_accuracy") == {2: 0.5}
    duplicate = next(event for event in run.events if event.kind == "duplicate-values")
    assert duplicate.data == {"series": "train/loss", "dropped": 1, "first_step": 2}


def test_every_truncation_keeps_what_stands_before(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.tfevents", [(step, {"loss": float(step)}) for step in range(4)]).read_bytes()
    ends = record_ends(whole)
    for size in range(ends[1], len(whole) + 1):
        source = tmp_path / "cut.tfevents"
        source.write_bytes(whole[:size])
        complete = sum(end <= size for end in ends) - 1
        values, notes = read_loss(source)
        assert values == {step: float(step) for step in range(complete)}
        assert notes == ([] if size in ends else ["truncated-log"])


def read_loss(source: Path) -> tuple[dict[int, float], list[str]]:
    """Loss by step and the kinds of notes, without making a run."""
    _, log = read_log(source)
    loss = next(series for series in log.series if series.name == "loss")
    return dict(zip(loss.steps.tolist(), loss.values.tolist(), strict=True)), [note.kind for note in log.notes]


def record_ends(content: bytes) -> list[int]:
    ends, position = [], 0
    while position < len(content):
        position += struct.unpack_from("<Q", content, position)[0] + 16
        ends.append(position)
    return ends


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.tfevents", [(step, {"loss": float(step)}) for step in range(1, 4)]).read_bytes()
    ends = record_ends(whole)
    for position in range(ends[1], ends[2]):
        source = tmp_path / "flipped.tfevents"
        source.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        assert read_loss(source) == ({1: 1.0}, ["truncated-log"])


def test_a_length_beyond_the_file_allocates_nothing(tmp_path: Path) -> None:
    header = struct.pack("<Q", 1 << 60)
    source = tmp_path / NAME
    source.write_bytes(header + struct.pack("<I", tfevents.masked_crc(header)) + b"x" * 20)
    with pytest.raises(ImportSourceError, match="ends inside a record"):
        import_run(source, tmp_path / "run")


def test_checksum_of_the_standard_example() -> None:
    # RFC 3720, B.4: 32 bytes of zeros have the CRC-32C 0x8a9136aa.
    crc = 0x8A9136AA
    assert tfevents.masked_crc(bytes(32)) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100), bytes(range(256))])
def test_files_that_only_pretend(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / NAME
    source.write_bytes(content)
    with pytest.raises(ImportSourceError, match="no number") as caught:
        import_run(source, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_random_bytes_in_valid_frames(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    good = written(tmp_path / "good.tfevents", [(1, {"loss": 1.0})]).read_bytes()
    for _ in range(200):
        data = generator.bytes(int(generator.integers(1, 60)))
        header = struct.pack("<Q", len(data))
        record = header + struct.pack("<I", tfevents.masked_crc(header)) + data
        source = tmp_path / "odd.tfevents"
        source.write_bytes(good + record + struct.pack("<I", tfevents.masked_crc(data)))
        assert read_loss(source)[0][1] == 1.0


def test_neither_tensorboard_nor_torch_is_needed(tmp_path: Path) -> None:
    written(tmp_path / NAME, [(1, {"loss": 1.0})])
    code = (
        "import sys\n"
        "sys.modules['tensorboard'] = sys.modules['torch'] = None\n"
        "from separatrix.runs.importing import import_run\n"
        f"import_run({str(tmp_path / NAME)!r}, {str(tmp_path / 'run')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert points(open_run(tmp_path / "run"), "loss") == {1: 1.0}
