"""Starts the recording of a watched script once it has imported torch; python finds this file through PYTHONPATH.

Until then nothing is imported but what every interpreter has loaded anyway, and every trace in `sys.path` and
`os.environ` is taken back, so that the script meets the interpreter it would have met.
"""

import atexit
import os
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_FACTS, _ROLE, _PATH = "SEPARATRIX_WATCH", "SEPARATRIX_WATCH_ROLE", "PYTHONPATH"


class _SpecOfTorch(ModuleSpec):
    """A module spec that tells when its module has been loaded.

    Import sets `_initializing` to False last of all. Unlike a wrapped loader this leaves no frame of its own in the
    traceback of an import that fails or is interrupted.
    """

    @property
    def _initializing(self) -> bool:
        return bool(self.__dict__.get("_initializing", False))

    @_initializing.setter
    def _initializing(self, value: bool) -> None:
        self.__dict__["_initializing"] = value
        if not value and self.name in sys.modules:
            watch = self.__dict__.pop("_watch")
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            watch.start()


class _Watch:
    """The recording of this process: waits on `sys.meta_path` for torch, ends when the interpreter does."""

    def __init__(self, facts: str, role: str, rank: int) -> None:
        self.facts, self.role, self.rank = facts, role, rank
        self.command = _command()
        # The script may change directory, and `__main__` loses its `__file__` when the script has ended.
        self.script = "" if sys.argv[0] == "-m" else os.path.abspath(sys.argv[0])
        self.process = os.getpid()
        self.started = False
        self.failure = ""
        self.recording: Any = None

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if type(spec) is ModuleSpec:
                    spec.__dict__["_watch"] = self
                    spec.__class__ = _SpecOfTorch
                return spec
        return None

    def start(self) -> None:
        if self.started or os.getpid() != self.process:
            return
        self.started = True
        sys.meta_path.remove(self)
        try:
            self.recording = _launch().start_recording(self)
        except Exception as error:
            self.failure = _one_line(error)
            _say("this training is not recorded: " + self.failure)

    def end(self) -> None:
        if os.getpid() != self.process:
            return
        try:
            _launch().end_recording(self)
        except Exception as error:
            _say("the recording could not be ended: " + _one_line(error))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _say(text: str) -> None:
    if sys.stderr is not None:
        print("separatrix: " + text, file=sys.stderr)


def _launch() -> "Any":
    """The module `separatrix.record.launch`, of the package around this file whatever the script has on its path."""
    if "separatrix" not in sys.modules:
        from importlib import util

        home = os.path.dirname(os.path.dirname(_FOLDER))
        spec: Any = util.spec_from_file_location("separatrix", os.path.join(home, "__init__.py"))
        sys.modules["separatrix"] = package = util.module_from_spec(spec)
        spec.loader.exec_module(package)
    from separatrix.record import launch

    return launch


def _command() -> list[str]:
    """What follows `python` and its options on the command line: a script or -m and a module, and its arguments."""
    if sys.argv[0] != "-m":
        return list(sys.argv)
    module = sys.orig_argv[len(sys.orig_argv) - len(sys.argv)]
    return ["-m", module.removeprefix("-m"), *sys.argv[1:]]


def _rank() -> int | None:
    """The rank that a launcher gave this process, or None if it is no worker."""
    if sys.argv[0] == "-c":  # a helper process of multiprocessing
        return None
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK"))
    if rank is None and "ACCELERATE_MIXED_PRECISION" in os.environ:  # `accelerate launch` of one process
        rank = "0"
    return int(rank) if rank is not None and rank.isdecimal() else None


def _clean_environment() -> None:
    for name in (_FACTS, _ROLE):
        del os.environ[name]
    path = os.environ.get(_PATH, "").split(os.pathsep)
    if _FOLDER in path:
        path.remove(_FOLDER)
        if path:
            os.environ[_PATH] = os.pathsep.join(path)
        else:
            del os.environ[_PATH]


def _install() -> None:
    if _FOLDER in sys.path:
        sys.path.remove(_FOLDER)
    sys.path_importer_cache.pop(_FOLDER, None)
    facts, role = os.environ.get(_FACTS), os.environ.get(_ROLE)
    if facts is None or role is None:
        return
    rank = _rank() if role == "worker" else 0
    if rank is None:
        return
    watch = _Watch(facts, role, rank)
    # Registered before any other: the recording ends after the script's own exit handlers.
    atexit.register(watch.end)
    if role == "launcher":
        os.environ[_ROLE] = "worker"
        return
    _clean_environment()
    sys.meta_path.insert(0, watch)
    if "torch" in sys.modules:
        watch.start()


_install()

# The sitecustomize that python would have found without this one takes its place. If there is none, the ImportError
# raised here is the one that python expects and passes over.
del sys.modules["sitecustomize"]
__import__("sitecustomize")
