"""What importing a room loads: recording must start fast and reading must not pay for torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

LIGHT_ROOMS = ("separatrix.record", "separatrix.probes", "separatrix.cli")
NAMES_THAT_TOUCH_NOTHING_HEAVY = "import separatrix; separatrix.open; separatrix.Run; separatrix.SeparatrixError"


def loaded_by(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter imports to run `code`, the standard library left out."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    modules = {line.rsplit("|", 1)[1].strip() for line in lines[1:]}
    return {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names) - {"separatrix"}


@pytest.fixture(scope="module")
def torch_and_numpy() -> set[str]:
    """What torch and numpy load by themselves, start-up files of the environment included."""
    loaded = loaded_by("import torch, numpy")
    assert {"torch", "numpy"} <= loaded
    return loaded


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_recording_imports_only_torch_numpy_and_the_standard_library(room: str, torch_and_numpy: set[str]) -> None:
    assert loaded_by(f"import {room}") - torch_and_numpy == set()


def test_the_command_line_starts_without_torch() -> None:
    assert "torch" not in loaded_by("import separatrix.cli")


@pytest.mark.parametrize("code", ["import separatrix.runs", NAMES_THAT_TOUCH_NOTHING_HEAVY])
def test_reading_a_run_imports_no_torch_and_no_data_frames(code: str) -> None:
    beyond_an_empty_program = loaded_by(code) - loaded_by("import numpy")
    assert beyond_an_empty_program == set()


def test_a_heavy_import_would_be_seen(torch_and_numpy: set[str]) -> None:
    assert {"xarray", "pandas"} <= loaded_by("import separatrix.runs, xarray") - torch_and_numpy


@pytest.mark.parametrize("name", ["Diagnosis", "Run", "SeparatrixError", "diagnose", "log", "open", "record"])
def test_every_public_name_has_a_home(name: str) -> None:
    import separatrix

    assert name in separatrix.__all__
    assert name in dir(separatrix)
    assert getattr(separatrix, name) is not None


def test_the_public_list_holds_nothing_else() -> None:
    import separatrix

    lazily = {"Diagnosis", "Run", "SeparatrixError", "diagnose", "indexed", "log", "open", "record"}
    assert set(separatrix.__all__) == lazily | {"__version__"}


@pytest.mark.parametrize(
    "imports",
    [
        "import separatrix",
        "import separatrix.record.budget, separatrix",
        "from separatrix import record; import separatrix",
    ],
)
def test_record_can_be_called_although_a_room_has_that_name(imports: str, tmp_path: Path) -> None:
    code = f"""{imports}
for run in ("first", "second"):
    with separatrix.record((), (), run={str(tmp_path)!r} + "/" + run) as recording:
        assert recording.path.name == run
"""
    loaded_by(code)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import separatrix

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        separatrix.nonsense  # noqa: B018


def test_type_information_is_shipped() -> None:
    spec = importlib.util.find_spec("separatrix")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    from importlib.resources import files

    assert files("separatrix").joinpath("py.typed").is_file()
