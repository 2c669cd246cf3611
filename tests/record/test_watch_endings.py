"""A watched script ends as one that python runs: output, errors, exit code, signal; and the recording learns how."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.record.watching import FINISHED, INTERRUPTED, Case, Workplace, check_case, crashed, make_workplace


def ends_with(statement: str, journal: tuple[str, ...] | None = FINISHED) -> Case:
    return Case(f"import torch, sys, os, signal, threading, atexit\nprint('works')\n{statement}\n", journal=journal)


CASES = {
    "module that is none": Case(command=("-m", "pkg.missing"), files={"pkg/__init__.py": ""}, journal=()),
    "package without main": Case(command=("-m", "pkg"), files={"pkg/__init__.py": ""}, journal=()),
    "exit none": ends_with("sys.exit()"),
    "exit 3": ends_with("sys.exit(3)"),
    "exit 300": ends_with("sys.exit(300)"),
    "exit -1": ends_with("sys.exit(-1)"),
    "exit text": ends_with("sys.exit('that\\'s it')"),
    "exit tuple": ends_with("sys.exit((1, 2))"),
    "exit class": ends_with("raise SystemExit"),
    "exit at once": ends_with("sys.stdout.flush(); os._exit(7)", ("start rank 0",)),
    "terminated": ends_with("sys.stdout.flush(); os.kill(os.getpid(), signal.SIGTERM)", ("start rank 0",)),
    "killed": ends_with("sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)", ("start rank 0",)),
    "keyboard interrupt": ends_with("raise KeyboardInterrupt('hm')", INTERRUPTED),
    "keyboard interrupt in a module": Case(
        command=("-m", "s"), files={"s.py": "import torch\nraise KeyboardInterrupt"}, journal=INTERRUPTED
    ),
    "interrupted by itself": ends_with("os.kill(os.getpid(), signal.SIGINT)\nfor _ in range(10**6): pass", INTERRUPTED),
    "exception": ends_with("def f():\n    return 1 / 0\nf()", crashed("ZeroDivisionError: division by zero")),
    "exception in a module": Case(
        command=("-m", "p.m"),
        files={"p/__init__.py": "", "p/m.py": "import torch\n1 / 0"},
        journal=crashed("ZeroDivisionError: division by zero"),
    ),
    "exception chained": ends_with(
        "try:\n    try:\n        1 / 0\n    except Exception as e:\n        raise ValueError('a') from e\n"
        "except Exception:\n    raise KeyError('b')",
        crashed("KeyError: 'b'"),
    ),
    "exception group": ends_with(
        "raise ExceptionGroup('g', [ValueError(1), ExceptionGroup('h', [KeyError(2)])])", None
    ),
    "exception with a note": ends_with("e = ValueError('x')\ne.add_note('noted')\nraise e", crashed("noted")),
    "exception from C": ends_with("import json\njson.loads('{')", None),
    "syntax error": Case("import torch\nx = (\n", journal=()),
    "indentation error": Case("if 1:\nx = 1\n", journal=()),
    "syntax error in an import": Case(
        "import torch\nimport bad", files={"bad.py": "x = = 1"}, journal=crashed("SyntaxError: invalid syntax")
    ),
    "null byte": Case("x = 1\0", journal=()),
    "bad encoding": Case("# coding: nonsense\nprint(1)\n", journal=()),
    "missing module": Case("import torch\nimport no_such_module", journal=None),
    "recursion": ends_with(
        "d = 0\ndef f():\n    global d\n    d += 1\n    f()\ntry:\n    f()\nexcept RecursionError:\n    print(d)\nf()",
        None,
    ),
    "excepthook": ends_with(
        "sys.excepthook = lambda t, v, tb: print('hook', t, v, tb.tb_lineno, tb.tb_frame.f_back)\n1 / 0",
        crashed("ZeroDivisionError: division by zero"),
    ),
    "excepthook that raises": ends_with(
        "sys.excepthook = lambda *a: 1 / 0\nraise ValueError(4)", crashed("ValueError: 4")
    ),
    "excepthook that exits": ends_with("sys.excepthook = lambda *a: sys.exit(9)\nraise ValueError(4)", None),
    "excepthook that is gone": ends_with("del sys.excepthook\nraise ValueError(4)", crashed("ValueError: 4")),
    "last value": ends_with(
        "atexit.register(lambda: print(repr(sys.last_value), sys.last_traceback.tb_lineno))\nraise ValueError(4)",
        crashed("ValueError: 4"),
    ),
    "a tool's last value": ends_with(
        "def tool():\n    try:\n        1 / 0\n    except Exception as e:\n        sys.last_value = e\ntool()", FINISHED
    ),
    "exit handlers": ends_with(
        "from journal import note\natexit.register(note, 'script 1')\natexit.register(note, 'script 2')",
        ("start rank 0", "script 2", "script 1", "close"),
    ),
    "exit handler that raises": ends_with("atexit.register(lambda: 1 / 0)"),
    "exit handler that exits": ends_with("atexit.register(sys.exit, 5)"),
    "thread that outlives": ends_with(
        "import time\nfrom journal import note\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('late'), note('late'))).start()",
        ("start rank 0", "late", "close"),
    ),
    "thread that raises": ends_with("t = threading.Thread(target=lambda: 1 / 0, name='t')\nt.start()\nt.join()"),
    "standard error closed": ends_with("sys.stderr.close(); os.close(2)"),
    "standard output closed": ends_with("sys.stdout.close(); os.close(1)"),
}


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return make_workplace(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_nothing_differs_from_python_alone(name: str, place: Workplace) -> None:
    check_case(CASES[name], place)


# Says that it sleeps from another thread, so that it is found sleeping.
SLEEPER = """
import threading, time, torch
threading.Timer(0.3, print, ["ready"], {"flush": True}).start()
time.sleep(50)
"""


def test_interrupt_from_the_terminal_kills_by_the_signal(place: Workplace) -> None:
    place.write({"s.py": SLEEPER})
    arguments, environment = place.command("s.py")
    ended = []
    for command, env in (([sys.executable, "s.py"], place.environment("other")), (arguments, environment)):
        with subprocess.Popen(
            command, env=env, cwd=place.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=30)
            ended.append((process.returncode, out, error))
    assert ended[0] == ended[1]
    assert ended[1][0] == -signal.SIGINT
    assert place.journal() == list(INTERRUPTED)


def test_ignored_interrupt_stays_ignored(place: Workplace) -> None:
    place.write({"s.py": "import torch, signal\nprint(signal.getsignal(signal.SIGINT))"})
    arguments, environment = place.command("s.py")

    def ignoring() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    done = subprocess.run(
        arguments, env=environment, cwd=place.folder, capture_output=True, preexec_fn=ignoring, check=True
    )
    assert done.stdout == b"1\n"
