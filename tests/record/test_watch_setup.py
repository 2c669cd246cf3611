"""Before a script runs: what is refused, what is written, which command is executed; and what is noted about it."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.record.watching import make_workplace, write

from separatrix.record.environment import copy_script, describe_command, describe_environment, usable_processors
from separatrix.record.watch import (
    WatchOptions,
    check_interpreter,
    check_target,
    claim_folder,
    interpreter_options,
    is_launcher,
    python_command,
)
from separatrix.runs import (
    RecordingError,
    Redactor,
    RunExistsError,
    RunLockedError,
    RunUnreadableError,
    RunWriter,
    UsageError,
    open_run,
)


@pytest.mark.parametrize(
    ("target", "module", "named"),
    [
        ("missing.py", False, "missing.py"),
        ("-", False, "-"),
        ("-x.py", False, "./-x.py"),
        ("folder", False, "folder"),
        ("torchrun", False, "torch.distributed.run"),
        ("no_such_module_at_all", True, "no_such_module_at_all"),
        ("no_such_package.part", True, "no_such_package"),
        ("script.py", True, "leave out -m"),
        (".relative", True, ".relative"),
        ("", True, "no module name"),
    ],
)
def test_a_target_that_does_not_exist_is_refused_by_name(
    target: str, module: bool, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"folder/other.py": "", "script.py": ""})
    with pytest.raises(UsageError, match=re.escape(named)) as caught:
        check_target(target, module=module)
    assert "\n" not in str(caught.value)


def test_targets_that_exist_are_accepted_and_nothing_of_them_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"s.py": "1 / 0", "folder/__main__.py": "", "pkg/__init__.py": "1 / 0", "pkg/m.py": ""})
    os.mkfifo(tmp_path / "pipe")
    for target in ("s.py", "folder", "pipe"):
        check_target(target, module=False)
    for target in ("s", "pkg", "pkg.m", "timeit", "sys", "torch.distributed.run"):
        check_target(target, module=True)
    assert "pkg" not in sys.modules


def test_a_script_that_must_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.py"
    path.touch()
    monkeypatch.setattr(os, "access", lambda name, mode: False)
    with pytest.raises(UsageError, match="cannot be read"):
        check_target(str(path), module=False)


@pytest.mark.parametrize(
    ("target", "arguments", "module", "launches"),
    [
        ("torch.distributed.run", [], True, True),
        ("torch.distributed.launch", [], True, True),
        ("accelerate.commands.launch", [], True, True),
        ("accelerate.commands.accelerate_cli", ["launch", "t.py"], True, True),
        ("accelerate.commands.accelerate_cli", ["env"], True, False),
        ("bin/torchrun", [], False, True),
        ("bin/accelerate", ["launch", "t.py"], False, True),
        ("bin/accelerate", ["env"], False, False),
        ("train.py", [], False, False),
        ("train.py", ["torchrun"], False, False),
        ("torch.nn", [], True, False),
    ],
)
def test_launchers_are_known(target: str, arguments: list[str], module: bool, launches: bool) -> None:
    assert is_launcher(target, arguments, module=module) is launches


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("s.py -O", ""),
        ("-O s.py -B", "-O"),
        ("-Wd -W error -X dev -Xutf8 -u -m separatrix watch", "-Wd -W error -X dev -Xutf8 -u"),
        ("-Bum separatrix watch -O", "-Bu"),
        ("-mseparatrix -O", ""),
        ("-OOW error -c code -B", "-OOW error"),
        ("-ucode", "-u"),
        ("--check-hash-based-pycs always -", "--check-hash-based-pycs always"),
        ("", ""),
    ],
)
def test_options_of_python_are_told_from_its_arguments(line: str, options: str) -> None:
    assert interpreter_options(line.split()) == options.split()


def test_the_command_names_the_target_as_typed_and_hides_itself_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-O", "-m", "separatrix", "watch", "./s.py"])
    monkeypatch.setenv("PYTHONPATH", "/a:/b")
    options = WatchOptions("/run", budget=0.2, note="next")
    command = python_command("./s.py", ["--x", ""], options, module=False)
    assert command.arguments == (sys.executable, "-O", "./s.py", "--x", "")
    first, _, rest = command.environment["PYTHONPATH"].partition(os.pathsep)
    assert (Path(first) / "sitecustomize.py").is_file()
    assert rest == "/a:/b"
    assert WatchOptions(**json.loads(command.environment["SEPARATRIX_WATCH"])) == options
    assert command.environment["SEPARATRIX_WATCH_ROLE"] == "script"
    launcher = python_command("torch.distributed.run", ["t.py"], options, module=True)
    assert launcher.arguments[2:] == ("-m", "torch.distributed.run", "t.py")
    assert launcher.environment["SEPARATRIX_WATCH_ROLE"] == "launcher"


@pytest.mark.parametrize("option", ["-E", "-I", "-S"])
def test_an_interpreter_that_ignores_the_environment_is_refused(option: str) -> None:
    code = "import sys; sys.path += sys.argv[1:]; from separatrix.record.watch import check_interpreter as c; c()"
    done = subprocess.run([sys.executable, option, "-c", code, *sys.path], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("separatrix.runs.errors.RecordingError: python was started with")


def test_this_interpreter_is_accepted() -> None:
    check_interpreter()


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    assert claim_folder(tmp_path / "a" / "b", resume=False) == 0
    assert (tmp_path / "a" / "b").is_dir()
    assert claim_folder(tmp_path / "a" / "b", resume=False) == 0


def test_folders_that_hold_something_are_refused_or_resumed(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunExistsError, match="is a file"):
        claim_folder(tmp_path / "file", resume=True)
    write(tmp_path, {"full/notes.txt": "mine"})
    with pytest.raises(RunExistsError, match="not empty"):
        claim_folder(tmp_path / "full", resume=False)
    with pytest.raises(RunUnreadableError, match="no run to resume"):
        claim_folder(tmp_path / "full", resume=True)
    run = make_run("run", scalars={"loss": [1.0]})
    with pytest.raises(RunExistsError, match="--resume"):
        claim_folder(run, resume=False)
    assert claim_folder(run, resume=True) == 1
    (run / "run.sqlite").write_bytes(b"no database")
    with pytest.raises(RunUnreadableError):
        claim_folder(run, resume=True)


def test_a_run_that_is_being_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "run.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunLockedError, match="another process"):
            claim_folder(tmp_path / "run", resume=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RecordingError, match=r"new cannot be made \(Permission denied\)"):
        claim_folder(tmp_path / "new", resume=False)


def test_the_environment_is_described_without_secrets_or_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy
    import torch

    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    facts = describe_environment()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (facts["torch"], facts["numpy"]) == (torch.__version__, numpy.__version__)
    assert facts["threads"] == torch.get_num_threads()
    assert facts["processors"] == usable_processors() >= 1
    assert facts["variables"]["OMP_NUM_THREADS"] == "1"
    text = json.dumps(facts)
    assert "secret" not in text
    assert os.uname().nodename not in text


def test_the_command_is_described_without_secrets() -> None:
    argv = ["train.py", "--api-key", "q7x9Zk2Lw8Rt", "--lr=0.1", "a b"]
    facts = describe_command(argv, Redactor({}, argv))
    assert facts == {
        "command": "train.py --api-key '[masked]' --lr=0.1 'a b'",
        "arguments": ["--api-key", "[masked]", "--lr=0.1", "a b"],
    }


def test_the_script_is_copied_without_secrets_and_earlier_copies_are_kept(tmp_path: Path) -> None:
    write(tmp_path, {"s.py": "# coding: latin-1\napi_key = 'q7x9Zk2Lw8Rt'\n", "big.py": "#" * 1_000_001})
    redactor = Redactor({}, [])
    first = copy_script(tmp_path / "s.py", tmp_path / "script.py", redactor)
    assert first is not None
    assert first.read_text() == "# coding: latin-1\napi_key = '[masked]'\n"
    assert copy_script(tmp_path / "s.py", tmp_path / "script.py", redactor) == first
    (tmp_path / "s.py").write_text("changed = 1\n")
    second = copy_script(tmp_path / "s.py", tmp_path / "script.py", redactor)
    assert second == tmp_path / "script-2.py"
    assert second.read_text() == "changed = 1\n"
    assert "masked" in first.read_text()
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00")
    for name in ("big.py", "bytes.py", "missing.py"):
        assert copy_script(tmp_path / name, tmp_path / "none.py", redactor) is None
    assert not (tmp_path / "none.py").exists()


def test_a_folders_main_is_its_script(tmp_path: Path) -> None:
    write(tmp_path, {"app/__main__.py": "x = 1\n"})
    copy = copy_script(tmp_path / "app", tmp_path / "script.py", Redactor({}, []))
    assert copy is not None
    assert copy.read_text() == "x = 1\n"


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert copy_script(tmp_path / "pipe", tmp_path / "script.py", Redactor({}, [])) is None


def test_options_travel_as_plain_json() -> None:
    options = WatchOptions("/run", True, 2, 0.1, 0.2, "a,b", "log", 10, "note", "m:f")
    assert WatchOptions(**json.loads(json.dumps(dataclasses.asdict(options)))) == options


def test_a_script_without_torch_leaves_a_run_that_says_so(tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    place.write({"s.py": "x = 1\n"})
    ended = place.watched("s.py", "--token", "q7x9Zk2Lw8Rt", options={"note": "the end"})
    assert (ended.code, ended.stdout, ended.stderr) == (0, b"", b"the end\n")
    with open_run(tmp_path / "run") as run:
        assert run.status == "finished"
        assert [event.kind for event in run.events] == ["unseen"]
        assert "torch was never imported" in run.events[0].message
        assert run.config["arguments"] == ["--token", "[masked]"]
        assert run.environment["python"]
    assert (tmp_path / "run" / "script.py").read_text() == "x = 1\n"


def test_a_crash_before_torch_is_noted_with_its_traceback(tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    place.write({"s.py": "def f():\n    return 1 / 0\nf()\n"})
    assert place.watched("s.py").code == 1
    with open_run(tmp_path / "run") as run:
        assert run.status == "crashed"
        assert run.traceback == (
            "Traceback (most recent call last):\n"
            f'  File "{place.folder}/s.py", line 3, in <module>\n    f()\n'
            f'  File "{place.folder}/s.py", line 2, in f\n    return 1 / 0\n           ~~^~~\n'
            "ZeroDivisionError: division by zero\n"
        )


def test_a_recording_that_cannot_start_is_said_in_one_line_and_stops_nothing(tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    place.write({"s.py": "import torch\nprint('trained')\n"})
    ended = place.watched("s.py", options={"start": "journal:failing_start"})
    assert (ended.code, ended.stdout) == (0, b"trained\n")
    assert ended.stderr == b"separatrix: this training is not recorded: no recording today\n"
    with open_run(tmp_path / "run") as run:
        assert "no recording today" in run.events[0].message


def test_a_run_can_be_written_where_no_thread_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    writer = RunWriter(tmp_path / "run")
    writer.event("unseen", "nothing")
    writer.close()
    with open_run(tmp_path / "run") as run:
        assert [event.kind for event in run.events] == ["unseen"]
        assert run.status == "finished"
