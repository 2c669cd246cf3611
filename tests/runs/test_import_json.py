"""JSON Lines and the Hugging Face trainer_state.json."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from separatrix.runs import ImportSourceError, Run, open_run
from separatrix.runs.importing import import_run


def imported(folder: Path, text: str, name: str) -> Run:
    source = folder / name
    source.write_text(text)
    return open_run(import_run(source, folder / "run").path)


def points(run: Run, name: str) -> dict[int, float]:
    data = run.series(name)
    return dict(zip(data.steps.tolist(), data.values.tolist(), strict=True))


HISTORY = [
    {"epoch": 0.5, "grad_norm": 1.25, "learning_rate": 5e-05, "loss": 2.5, "step": 10},
    {"epoch": 1.0, "grad_norm": 0.75, "learning_rate": 2.5e-05, "loss": 1.5, "step": 20},
    {"epoch": 1.0, "eval_accuracy": 0.5, "eval_loss": 1.75, "eval_runtime": 3.5, "step": 20},
    {"epoch": 1.0, "step": 20, "total_flos": 10**400, "train_loss": 2.0, "train_runtime": 60.5},
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("inside", [False, True])
def test_trainer_state(tmp_path: Path, indent: int | None, inside: bool) -> None:
    folder = tmp_path / "checkpoint-20"
    folder.mkdir()
    (folder / "trainer_state.json").write_text(
        json.dumps({"best_metric": None, "global_step": 20, "log_history": HISTORY}, indent=indent)
    )
    result = import_run(folder if inside else folder / "trainer_state.json", tmp_path / "run")
    run = open_run(result.path)
    assert result.format == "trainer_state"
    assert points(run, "loss") == {10: 2.5, 20: 1.5}
    assert points(run, "gradient_norm") == {10: 1.25, 20: 0.75}
    assert points(run, "learning_rate") == {10: 5e-05, 20: 2.5e-05}
    assert points(run, "eval_loss") == {20: 1.75}
    assert points(run, "eval_accuracy") == {20: 0.5}
    assert points(run, "epoch") == {10: 0.5, 20: 1.0}
    assert points(run, "train_loss") == {20: 2.0}
    assert points(run, "total_flos") == {20: math.inf}


def test_jsonl_with_nested_dicts_lists_and_bad_lines(tmp_path: Path) -> None:
    text = (
        '{"step": 1, "train": {"loss": 2.0, "deep": {"x": 1}}, "note": "start", "ok": true, "list": [1, 2]}\n'
        "\n"
        '{"step": 2, "train": {"loss": NaN, "deep": {"x": 4}}, "note": null}\n'
        "not json\n"
        "[1, 2]\n"
        '{"step": 3, "train": {"loss": "0.5"}}\n'
        '{"step": 4, "train": {"lo'
    )
    run = imported(tmp_path, text, "log.jsonl")
    loss = points(run, "loss")
    assert list(loss) == [1, 2, 3]
    assert (loss[1], loss[3]) == (2.0, 0.5)
    assert math.isnan(loss[2])
    assert points(run, "train.deep.x") == {1: 1.0, 2: 4.0}
    assert set(run.names()) == {"loss", "train.deep.x"}
    bad = next(event for event in run.events if event.kind == "unreadable-line")
    assert bad.data == {"line": 4, "lines": 3}
    left_out = {event.data["column"] for event in run.events if event.kind == "column-left-out"}
    assert left_out == {"note", "ok", "list"}


@pytest.mark.parametrize("name", ["log.json", "log.txt", "log.ndjson", "log"])
def test_jsonl_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    run = imported(tmp_path, '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n', name)
    assert points(run, "loss") == {1: 2.0, 2: 1.0}


def test_a_json_list_of_objects(tmp_path: Path) -> None:
    assert points(imported(tmp_path, json.dumps(HISTORY[:2], indent=1), "history.json"), "loss") == {10: 2.5, 20: 1.5}


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("log.jsonl", "", "is empty"),
        ("log.jsonl", "hello\n", "no JSON object"),
        ("log.jsonl", '{"note": "x"}\n', "no JSON object with a number"),
        ("log.jsonl", "[" * 100_000, "no JSON object"),
        ("log.jsonl", '{"a":' * 100_000, "no JSON object"),
        ("trainer_state.json", "", "is empty"),
        ("trainer_state.json", '{"log_history": [', "no valid JSON"),
        ("trainer_state.json", '{"log_history": []}', "empty log_history"),
        ("trainer_state.json", '{"global_step": 3}', "no list `log_history`"),
        ("trainer_state.json", "[" * 100_000, "no valid JSON"),
        ("config.json", '{\n"lr": 0.1\n}', "no list `log_history`"),
        ("trainer_state.json", '{"log_history": [{"step": 1}]}', "only steps"),
    ],
)
def test_what_cannot_be_imported(tmp_path: Path, name: str, text: str, part: str) -> None:
    source = tmp_path / name
    source.write_text(text)
    with pytest.raises(ImportSourceError, match=part) as caught:
        import_run(source, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_integers_beyond_any_float(tmp_path: Path) -> None:
    run = imported(tmp_path, f'{{"step": 1, "n": {10**400}, "m": {-(10**400)}}}\n', "log.jsonl")
    assert points(run, "n") == {1: math.inf}
    assert points(run, "m") == {1: -math.inf}
