from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.record.kinds import KINDS
from tests.record.kinds._matrix import PAGE, committed, hidden_names, marks, no_snapshot, page, recorded_names
from tests.record.kinds._recorded import recorded
from tests.record.kinds.kind import APPLIES, Kind

from separatrix.runs import Status, open_run

DEFECTS = {"probe-off", "probe-failed"}


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_of_training_is_recorded_as_it_is(kind: Kind, tmp_path: Path) -> None:
    path, truth = recorded(kind, tmp_path, snapshots=True)
    with open_run(path) as run:
        assert run.status is Status.FINISHED
        assert [event for event in run.events if event.kind in DEFECTS] == []
        truth.compare(run)
        names, hidden = recorded_names(run), hidden_names(run)
        named = [s for e in run.events if e.kind == "unseen" for s in e.data["series"] if s in APPLIES]
        assert sorted(named) == sorted(hidden)
        assert bool(no_snapshot(run)) == bool(kind.no_snapshot) and kind.no_snapshot in no_snapshot(run)
    assert hidden == kind.hidden()
    assert names == kind.applicable() - set(hidden)
    assert marks(kind, names, hidden) == committed(PAGE.read_text())[kind.name]


def test_the_page_shows_every_kind_and_no_other() -> None:
    columns = committed(PAGE.read_text())
    assert list(columns) == list(KINDS)
    assert page(columns, KINDS) == PAGE.read_text()


def test_the_default_set_is_what_the_matrix_speaks_of() -> None:
    from separatrix.record.recording import chosen_probes
    from separatrix.record.series import RECORDER_SERIES
    from separatrix.runs.probe import Moment

    passing = [probe for probe in chosen_probes("default") if probe.moment is not Moment.SNAPSHOT]
    measured = {spec.name for probe in passing for spec in probe.series}
    assert {*RECORDER_SERIES, *measured} == {*APPLIES, "overhead"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
