"""CSV logs as people have them: sparse, with gaps, words, duplicates, other delimiters, other encodings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from separatrix.runs import Event, ImportSourceError, Run, RunExistsError, open_run
from separatrix.runs.importing import import_run


def imported(folder: Path, text: str | bytes, name: str = "metrics.csv") -> Run:
    source = folder / name
    source.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_run(import_run(source, folder / "run").path)


def points(run: Run, name: str) -> dict[int, float]:
    data = run.series(name)
    return dict(zip(data.steps.tolist(), data.values.tolist(), strict=True))


def event(run: Run, kind: str) -> Event:
    return next(event for event in run.events if event.kind == kind)


def test_wide_table_with_gaps(tmp_path: Path) -> None:
    run = imported(tmp_path, "step,loss,val_loss\n0,2.5,\n10,1.5,1.75\n20,,1.25\n30,0.5,NA\n")
    assert points(run, "loss") == {0: 2.5, 10: 1.5, 30: 0.5}
    assert points(run, "eval_loss") == {10: 1.75, 20: 1.25}
    assert run.names() == ("eval_loss", "loss")
    assert run.events == ()
    assert run.status == "finished"
    assert run.config == {"imported_from": "metrics.csv", "format": "csv"}
    assert run.meta["import"]["names"] == {"loss": "loss", "val_loss": "eval_loss"}
    assert (run.segments[0].first_step, run.segments[0].last_step) == (0, 30)


def test_lightning_metrics(tmp_path: Path) -> None:
    text = (
        "epoch,lr-Adam,step,train_loss_epoch,train_loss_step,val_acc,val_loss\n"
        "0,,49,,0.9,,\n"
        ",0.001,49,,,,\n"
        "0,,99,,,0.5,0.8\n"
        "0,,99,0.95,,,\n"
        "1,,149,,0.7,,\n"
        "1,,199,,,0.625,0.75\n"
    )
    run = imported(tmp_path, text)
    assert points(run, "loss") == {49: 0.9, 149: 0.7}
    assert points(run, "train_loss_epoch") == {99: 0.95}
    assert points(run, "eval_loss") == {99: 0.8, 199: 0.75}
    assert points(run, "eval_accuracy") == {99: 0.5, 199: 0.625}
    assert points(run, "learning_rate") == {49: 0.001}
    assert points(run, "epoch")[149] == 1
    assert run["loss"].coords["epoch"].values.tolist() == [0, 1]


def test_words_in_numbers_are_named_by_line_and_column(tmp_path: Path) -> None:
    run = imported(tmp_path, "step,loss,phase\n1,2.0,train\n2,oops,train\n3,1_000,val\n4,0.5,val\n")
    assert points(run, "loss") == {1: 2.0, 4: 0.5}
    assert "phase" not in run
    bad = event(run, "not-a-number")
    assert bad.severity == "warning"
    assert bad.data == {"column": "loss", "line": 3, "cells": 2}
    assert "line 3" in bad.message
    assert "'oops'" in bad.message
    assert event(run, "column-left-out").data["column"] == "phase"


def test_nan_and_infinity_are_values_not_gaps(tmp_path: Path) -> None:
    run = imported(tmp_path, "step,loss\n1,1.5\n2,NaN\n3,inf\n4,-Infinity\n5,nan\n")
    data = run.series("loss")
    assert data.steps.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(data.values, [1.5, math.nan, math.inf, -math.inf, math.nan])


def test_of_duplicates_the_last_counts(tmp_path: Path) -> None:
    run = imported(tmp_path, "step,loss,lr\n1,3.0,0.1\n2,2.0,\n3,1.5,\n2,1.0,\n4,4.0,\n1,5.0,\n2,0.5,\n")
    assert points(run, "loss") == {1: 5.0, 2: 0.5, 3: 1.5, 4: 4.0}
    found = [event.data for event in run.events if event.kind == "duplicate-values"]
    assert found == [{"series": "loss", "dropped": 3, "first_step": 1}]


def test_without_a_step_column_rows_are_counted(tmp_path: Path) -> None:
    run = imported(tmp_path, "loss,lr\n2.0,0.1\n1.0,0.1\n")
    assert points(run, "loss") == {0: 2.0, 1: 1.0}
    assert event(run, "no-step-column").severity == "warning"


def test_fractional_epochs_are_no_steps(tmp_path: Path) -> None:
    run = imported(tmp_path, "epoch,loss\n0.5,2.0\n1.0,1.0\n1.5,0.5\n")
    assert points(run, "loss") == {0: 2.0, 1: 1.0, 2: 0.5}
    assert points(run, "epoch") == {0: 0.5, 1: 1.0, 2: 1.5}


def test_whole_epochs_are_steps_where_nothing_finer_is_there(tmp_path: Path) -> None:
    assert points(imported(tmp_path, "Epoch;Train Loss\n1;2.0\n2;1.0\n"), "loss") == {1: 2.0, 2: 1.0}


def test_a_batch_count_that_restarts_each_epoch_is_no_step(tmp_path: Path) -> None:
    run = imported(tmp_path, "epoch,batch,loss\n0,0,4\n0,1,3\n1,0,2\n1,1,1\n")
    assert points(run, "loss") == {0: 4.0, 1: 3.0, 2: 2.0, 3: 1.0}
    assert points(run, "batch") == {0: 0.0, 1: 1.0, 2: 0.0, 3: 1.0}


def test_an_epoch_of_many_rows_is_no_step(tmp_path: Path) -> None:
    run = imported(tmp_path, "epoch,loss\n0,5\n0,4\n0,3\n1,2\n1,1\n1,0.5\n")
    assert points(run, "loss") == {0: 5.0, 1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0, 5: 0.5}
    assert points(run, "epoch")[3] == 1.0


def test_training_and_validation_rows_may_share_an_epoch(tmp_path: Path) -> None:
    run = imported(tmp_path, "epoch,train_loss,val_loss\n0,4,\n0,,3\n1,2,\n1,,1\n")
    assert points(run, "loss") == {0: 4.0, 1: 2.0}
    assert points(run, "eval_loss") == {0: 3.0, 1: 1.0}
    assert run.events == ()


def test_rows_without_a_step_are_left_out_and_said(tmp_path: Path) -> None:
    run = imported(tmp_path, "step,loss\n1,2.0\n,1.5\nstep,loss\n4,1.0\n5,0.5\n")
    assert points(run, "loss") == {1: 2.0, 4: 1.0, 5: 0.5}
    assert event(run, "row-without-step").data == {"column": "step", "line": 3, "rows": 2}


@pytest.mark.parametrize(
    "text",
    [
        "step\tloss\n1\t2.5\n2\t0.25\n",
        "step;loss\n1;2,5\n2;0,25\n",
        "step|loss\n1|2.5\n2|0.25\n",
        "step, loss\n1, 2.5\n2, 0.25\n",
        "step   loss\n1      2.5\n2     0.25\n",
        '"step","loss"\r\n"1","2.5"\r\n"2","0.25"\r\n',
        "step,loss\r1,2.5\r2,0.25\r",
        "\n\nstep,loss\n\n1,2.5\n , \n2,0.25",
        "\ufeffstep,loss\n1,2.5\n2,0.25\n",
    ],
    ids=["tab", "semicolon", "bar", "blank-after", "blanks", "quotes", "old-mac", "empty-lines", "mark"],
)
def test_dialects(tmp_path: Path, text: str) -> None:
    assert points(imported(tmp_path, text), "loss") == {1: 2.5, 2: 0.25}


def test_utf_16(tmp_path: Path) -> None:
    assert points(imported(tmp_path, "step,loss\n1,2.5\n".encode("utf-16")), "loss") == {1: 2.5}


def test_bytes_that_are_no_text_only_spoil_their_cell(tmp_path: Path) -> None:
    run = imported(tmp_path, b"step,loss,caf\xe9\n1,2.5,1\n2,\xff,2\n")
    assert points(run, "loss") == {1: 2.5}
    assert event(run, "not-a-number").data["line"] == 3


def test_short_and_long_rows(tmp_path: Path) -> None:
    run = imported(tmp_path, "step,loss,lr\n1,2.0\n2,1.0,0.1,9\n3,0.5,0.1\n")
    assert points(run, "loss") == {1: 2.0, 2: 1.0, 3: 0.5}
    assert points(run, "learning_rate") == {2: 0.1, 3: 0.1}
    assert event(run, "long-row").data == {"line": 3, "rows": 1}


def test_unnamed_and_repeated_columns(tmp_path: Path) -> None:
    run = imported(tmp_path, ",step,x,x\n0,1,5,6\n1,2,7,8\n")
    assert run.names() == ("column_1", "x", "x_2")
    assert points(run, "x_2") == {1: 6.0, 2: 8.0}


def test_tensorboard_download(tmp_path: Path) -> None:
    text = "Wall time,Step,Value\n1700000000.5,10,2.0\n1700000001.5,20,1.0\n"
    assert points(imported(tmp_path, text, "run-.-tag-train_loss.csv"), "loss") == {10: 2.0, 20: 1.0}


def test_numbers_are_kept_bit_for_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(500) * 10.0 ** np.arange(-250, 250)
    text = "step,x\n" + "".join(f"{step},{value!r}\n" for step, value in enumerate(values.tolist()))
    assert imported(tmp_path, text).series("x").values.tobytes() == values.tobytes()


def test_names_that_look_like_code_stay_names(tmp_path: Path) -> None:
    run = imported(tmp_path, 'step,"x\'; DROP TABLE points; --",<script>\n1,2.0,3.0\n')
    assert run.names() == ("<script>", "x'; DROP TABLE points; --")


def test_steps_that_no_number_can_hold_are_left_out(tmp_path: Path) -> None:
    run = imported(tmp_path, "step,loss\n1,2.0\n2,1.0\n3,0.5\n")
    assert points(run, "loss") == {1: 2.0, 2: 1.0, 3: 0.5}
    huge = imported(tmp_path / "run", "step,loss\n1e300,2.0\n1,1.0\n", "huge.csv")
    assert points(huge, "loss") == {0: 2.0, 1: 1.0}
    assert event(huge, "no-step-column")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("\n \n\n", "is empty"),
        ("step,loss\n", "no number"),
        ("step,loss\n1,\n2,\n", "only steps"),
        ("step,loss\nred,green\nblue,white\n", "no number"),
        ("1,2.0\n2,1.0\n", "no header line"),
        ("once upon a time\nthere was a network\n", "no number"),
        ("step,loss\n1," + "9" * 200_000 + "\n", "line 2"),
    ],
)
def test_logs_that_cannot_be_imported_leave_nothing_behind(tmp_path: Path, text: str, part: str) -> None:
    source = tmp_path / "metrics.csv"
    source.write_text(text)
    with pytest.raises(ImportSourceError, match=part) as caught:
        import_run(source, tmp_path / "deep" / "run")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_destination_in_use_is_left_alone(tmp_path: Path) -> None:
    source = tmp_path / "metrics.csv"
    source.write_text("step,loss\n1,2.0\n")
    run = import_run(source, tmp_path / "run").path
    before = (run / "run.sqlite").read_bytes()
    with pytest.raises(RunExistsError, match="choose another path"):
        import_run(source, run)
    assert (run / "run.sqlite").read_bytes() == before


def test_a_failure_while_writing_removes_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    source = tmp_path / "metrics.csv"
    source.write_text("step,loss\n1,2.0\n")
    monkeypatch.setattr("separatrix.runs.importing._write_scalars", full)
    with pytest.raises(OSError, match="No space"):
        import_run(source, tmp_path / "made" / "for" / "it")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_many_rows(tmp_path: Path) -> None:
    rows = 20_000
    lines = "".join(f"{step},{1 / (1 + step)!r},{0.1}\n" for step in range(rows))
    run = imported(tmp_path, "step,loss,lr\n" + lines)
    np.testing.assert_array_equal(run.series("loss").values, 1 / (1 + np.arange(rows)))
