"""The log of a Hugging Face Trainer: `log_history` in trainer_state.json."""

from __future__ import annotations

import json
from pathlib import Path

from separatrix.runs.errors import ImportSourceError
from separatrix.runs.importing import text
from separatrix.runs.importing.log import Log, LogFormat, Note
from separatrix.runs.importing.table import Table, flattened

FILE_NAME = "trainer_state.json"
_LARGEST_FILE = 1_000_000_000


def _recognises(path: Path, head: bytes) -> bool:
    if path.is_dir():
        return (path / FILE_NAME).is_file()
    return path.name == FILE_NAME or (path.suffix.lower() == ".json" and text.decoded(head).lstrip()[:1] in ("{", "["))


def _read(path: Path) -> Log:
    file = path / FILE_NAME if path.is_dir() else path
    if file.stat().st_size > _LARGEST_FILE:
        raise ImportSourceError(f"{file} has over {_LARGEST_FILE} bytes: it is no trainer state")
    content = file.read_bytes()
    if not content.strip():
        raise ImportSourceError(f"{file} is empty: give the trainer_state.json of a checkpoint or output folder")
    try:
        state = json.loads(content.decode(text.encoding_of(content)))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ImportSourceError(f"{file} is no valid JSON ({reason}): the file was truncated or altered") from error
    history = state.get("log_history") if isinstance(state, dict) else state
    if not isinstance(history, list):
        raise ImportSourceError(
            f"{file} has no list `log_history`: give a trainer_state.json, or a JSONL file with one object a line"
        )
    table = Table(unit="entry")
    strangers = 0
    for index, row in enumerate(history, start=1):
        if not isinstance(row, dict):
            strangers += 1
            continue
        table.start_row(index)
        for name, value in flattened(row):
            table.cell(name, value)
    if not table.has_numbers:
        raise ImportSourceError(f"{file} has an empty log_history: train with logging_steps set, then import it again")
    if strangers:
        table.note(Note("unreadable-line", f"{strangers} entries of the log are no objects: left out", "warning"))
    return table.finish()


FORMAT = LogFormat("trainer_state", _recognises, _read)
