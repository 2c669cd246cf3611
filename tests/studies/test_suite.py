"""The suite: what was computed is kept, and computed anew when what it rests on changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from separatrix.studies import _suite, run_study, studies
from separatrix.studies._suite import Task, computed, digests, kept, table

KNOWN = studies()
TASK = Task("44", "separatrix.studies.tangent_kernel", 0, True)


def _document(folder: Path, source: Path) -> dict[str, object]:
    source.write_text("x = 1\n")
    settings = KNOWN["44"].complete({})
    claims = [{"name": "c", "passed": True}, {"name": "d", "passed": False}]
    result = {"id": "44", "slug": "s", "seed": 0, "seconds": 1.0, "settings": settings, "claims": claims}
    document = {
        "result": {**result, "controls": []},
        "rests_on": digests([str(source)]),
        "versions": _suite._versions(),
    }
    TASK.kept_at(folder).write_text(json.dumps(document))
    return document


def test_a_result_is_kept_until_its_source_changes(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    assert kept(TASK, KNOWN["44"], tmp_path) is None
    document = _document(tmp_path, source)
    assert kept(TASK, KNOWN["44"], tmp_path) == document["result"]
    source.write_text("x = 2\n")
    assert kept(TASK, KNOWN["44"], tmp_path) is None
    source.unlink()
    assert kept(TASK, KNOWN["44"], tmp_path) is None


@pytest.mark.parametrize(
    ("key", "value"), [("versions", {"torch": "0"}), ("result", {"settings": {}}), ("result", []), ("rests_on", None)]
)
def test_a_result_of_other_versions_or_settings_is_not_used(tmp_path: Path, key: str, value: object) -> None:
    document = _document(tmp_path, tmp_path / "module.py")
    TASK.kept_at(tmp_path).write_text(json.dumps({**document, key: value}))
    assert kept(TASK, KNOWN["44"], tmp_path) is None
    TASK.kept_at(tmp_path).write_text("{")
    assert kept(TASK, KNOWN["44"], tmp_path) is None


def test_a_result_rests_on_the_study_and_the_code_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = KNOWN["44"].smoke
    monkeypatch.setattr(_suite, "run_study", lambda study, **options: run_study(study, smoke, **options))
    document = computed(TASK)
    names = {Path(file).name for file in document["rests_on"]}
    assert {"tangent_kernel.py", "study.py", "running.py", "types.py"} <= names
    assert document["result"]["id"] == "44"


def test_the_table_names_what_failed(tmp_path: Path) -> None:
    document = _document(tmp_path, tmp_path / "module.py")
    heading, line = table([document["result"]])  # type: ignore[list-item]
    assert "failed" in heading
    assert line.split() == ["44", "s", "0", "1/2", "1.0", "d"]
