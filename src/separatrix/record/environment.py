"""What a run notes about where and how it was recorded: versions, processors, the command, a copy of the script.

Every function takes milliseconds, starts no process, touches no device and initialises none.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shlex
import sys
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import separatrix
from separatrix.runs import Redactor
from separatrix.runs.redaction import allowed_environment

LARGEST_SCRIPT_BYTES = 1_000_000
_PROCESSOR_INFORMATION = Path("/proc/cpuinfo")


def describe_environment() -> dict[str, Any]:
    """Versions, platform, processors, devices, torch's threads, and the environment variables that matter.

    The host's name and the user's are not part of it. `threads` is None while torch is not imported.
    """
    torch = sys.modules.get("torch")
    return {
        "python": platform.python_version(),
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "separatrix": separatrix.__version__,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": usable_processors(),
        "device": describe_devices(),
        "threads": None if torch is None else torch.get_num_threads(),
        "variables": allowed_environment(os.environ),
    }


def usable_processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_devices() -> list[str]:
    """The processor's name and those of the CUDA devices, the latter only once the script has initialised CUDA."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return [_processor_name()]
    return [_processor_name(), *(cuda.get_device_name(index) for index in range(cuda.device_count()))]


def describe_command(argv: Sequence[str], redactor: Redactor) -> dict[str, Any]:
    """The command line `argv` (target first, as in `sys.argv`) with secrets masked: `command` and `arguments`."""
    arguments = redactor.arguments(argv[1:])
    return {"command": shlex.join([*(redactor.text(name) for name in argv[:1]), *arguments]), "arguments": arguments}


def copy_script(path: str | os.PathLike[str], destination: str | os.PathLike[str], redactor: Redactor) -> Path | None:
    """Write the script at `path` to `destination`, secrets masked, and return where it is.

    A copy that is there already stays: one that differs goes to the next free name (script-2.py). None if there is no
    text to copy: a zip archive, a pipe, a file of more than a megabyte.
    """
    source = Path(path)
    if source.is_dir():
        source = source / "__main__.py"
    if not source.is_file() or source.stat().st_size > LARGEST_SCRIPT_BYTES:
        return None
    try:
        with tokenize.open(source) as file:
            text = redactor.text(file.read())
    except (SyntaxError, UnicodeDecodeError):
        return None
    data = text.encode("utf-8", "backslashreplace")
    copy = first = Path(destination)
    number = 2
    while copy.exists():
        if copy.read_bytes() == data:
            return copy
        copy = first.with_stem(f"{first.stem}-{number}")
        number += 1
    copy.write_bytes(data)
    return copy


def _version(name: str) -> str | None:
    module = sys.modules.get(name)
    if module is not None:
        return str(module.__version__)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def _processor_name() -> str:
    with contextlib.suppress(OSError), _PROCESSOR_INFORMATION.open(errors="replace") as file:
        # The first processor's entry; the file grows with their number.
        for line in file.read(4096).splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.machine()
