"""A watched script meets the interpreter, and runs, as one that python runs: nothing it can print differs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.record.watching import FINISHED, Case, Workplace, check_case, make_workplace

WHO_AM_I = """
import os, sys
print(sys.argv, sys.orig_argv[1:], sys.path, os.getcwd(), sys.flags, sys.warnoptions, sys._xoptions, sys.executable)
print(sorted(os.environ.items() - {("JOURNAL", os.environ["JOURNAL"])}))
print(__name__, __file__, __spec__ and (__spec__.name, __spec__.origin), __package__, __doc__, __builtins__, __cached__)
print(type(__loader__), sys.modules["__main__"].__dict__ is globals(), sys.path_hooks, list(sys.path_importer_cache))
print(sys.excepthook is sys.__excepthook__, sys.getrecursionlimit(), sys.gettrace(), sys.stdin.encoding)
import signal, threading, warnings
print([signal.getsignal(n) for n in sorted(signal.valid_signals())], [t.name for t in threading.enumerate()])
print(warnings.filters)
import torch
print(sys.meta_path, torch.__spec__, type(torch.__spec__), torch.__loader__, vars(torch.__spec__))
"""

PROCESSES = """
import multiprocessing, os, sys, torch
class Point:
    x = 3
def work(point):
    return point.x, type(point).__module__, __name__, sys.argv, len(os.environ), "SEPARATRIX_WATCH" in os.environ
if __name__ == "__main__":
    for method in ("spawn", "fork", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(method, pool.map(work, [Point()]))
"""

CASES = {
    "facts": Case(WHO_AM_I, ("s.py", "a", "--help", "-m", "--", "")),
    "facts of a path": Case(command=("./below/../below/s.py",), files={"below/s.py": WHO_AM_I}),
    "facts of a module": Case(command=("-m", "pkg.mod", "-x"), files={"pkg/__init__.py": "", "pkg/mod.py": WHO_AM_I}),
    "facts of a package": Case(
        command=("-m", "pkg", "-x"),
        files={
            "pkg/__init__.py": "print('init')",
            "pkg/__main__.py": "from . import part\n" + WHO_AM_I,
            "pkg/part.py": "",
        },
    ),
    "facts of a folder": Case(
        command=("dir", "1"), files={"dir/__main__.py": "import part\n" + WHO_AM_I, "dir/part.py": ""}
    ),
    "standard input": Case("import torch\nprint(input('? '), input())\nprint(input())", stdin=b"a\nb\n", journal=None),
    "main": Case(
        "import torch, inspect, pickle\nclass A:\n    y = 1\ndef f():\n    return 2  # two\n"
        "from __main__ import f as g\nimport __main__\n"
        "print(g is f, __main__.A is A, inspect.getsource(f), inspect.getsource(A))\n"
        "print(pickle.dumps(A()), pickle.loads(pickle.dumps(f)) is f, inspect.getfile(A))\n"
        "if __name__ == '__main__':\n    print('is main')\n"
    ),
    "stack": Case(
        "import torch, inspect, logging, traceback, warnings\ntraceback.print_stack()\nprint(len(inspect.stack()))\n"
        "for level in (1, 2, 3):\n    warnings.warn('w', stacklevel=level)\n"
        "logging.basicConfig(format='%(pathname)s %(lineno)d %(funcName)s %(message)s')\n"
        "logging.warning('l', stack_info=True)\nlogging.warning('m', stacklevel=2)\n"
    ),
    "future statement": Case(
        "import torch\nprint(1 / 2, (lambda x: x).__code__.co_flags, compile('1', 'f', 'eval').co_flags)"
    ),
    "processes": Case(PROCESSES),
    "python below": Case(
        "import subprocess, sys, torch\n"
        "print(subprocess.run([sys.executable, '-c', 'import sys, torch, os; print(sys.path, len(os.environ))'],"
        " capture_output=True))"
    ),
    "fork that ends": Case("import torch, os, sys\nif os.fork() == 0:\n    sys.exit(3)\nprint(os.wait()[1])"),
    "fork that imports torch": Case(
        "import os, sys\nif os.fork() == 0:\n    import torch\n    sys.exit(3)\nprint(os.wait()[1])", journal=()
    ),
    "no torch": Case("print(1)", journal=()),
    "torch looked up only": Case("import importlib.util\nprint(importlib.util.find_spec('torch').name)", journal=()),
    "torch looked up first": Case(
        "import importlib.util, sys\nimportlib.util.find_spec('torch')\nprint('torch' in sys.modules)\nimport torch"
    ),
    "torch by its part": Case("import torch.nn, sys\nprint(torch.__spec__, torch.nn)"),
    "torch in a thread": Case(
        "import threading\ndef f():\n    import torch\n    print(torch)\nthreading.Thread(target=f).start()"
    ),
    "torch that is broken": Case(
        "try:\n    import torch\nexcept ImportError as e:\n    print(e)\nimport torch",
        files={"torch.py": "def f():\n    raise ImportError('broken')\nf()"},
        journal=(),
    ),
    "torch that is interrupted": Case(
        "import torch", files={"torch.py": "def f():\n    raise KeyboardInterrupt\nf()"}, journal=()
    ),
    "torch at the second try": Case(
        "try:\n    import torch\nexcept ImportError as e:\n    print(e)\nimport torch",
        files={
            "torch.py": "import sys\nif not hasattr(sys, 'again'):\n    sys.again = 1\n    raise ImportError('first')"
        },
    ),
    "torch again": Case("import importlib, torch\nimportlib.reload(torch)\nprint(torch.__spec__, torch.__loader__)"),
    "changed arguments and folder": Case(
        "import os, sys\nsys.argv[:] = []\nos.chdir('/')\nimport torch\nprint(sys.argv)"
    ),
}


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return make_workplace(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_nothing_differs_from_python_alone(name: str, place: Workplace) -> None:
    check_case(CASES[name], place)


def test_facts_of_a_zip(place: Workplace) -> None:
    with zipfile.ZipFile(place.folder / "app.zip", "w") as archive:
        archive.writestr("__main__.py", WHO_AM_I)
    check_case(Case(command=("app.zip", "1")), place)


def test_modules_found_loaded_are_those_of_python_alone(place: Workplace) -> None:
    place.write({"s.py": "import sys\nprint(*sorted(sys.modules), sep='\\n')"})
    alone, watched = (set(ended.stdout.decode().split()) for ended in (place.alone("s.py"), place.watched("s.py")))
    # atexit is built in, so that no file of the script's could have had its name.
    assert watched - alone <= {"atexit"}
    assert alone <= watched


@pytest.mark.parametrize("body", ["import sys; sys.mine = 1", "1 / 0", "import no_such_module", "raise ImportError"])
def test_sitecustomize_of_others_is_found(body: str, place: Workplace) -> None:
    place.write({"s.py": "import sys, torch\nprint(hasattr(sys, 'mine'), sys.modules.get('sitecustomize'))"})
    (place.library / "sitecustomize.py").write_text(body)
    alone, watched = place.alone("s.py"), place.watched("s.py")
    assert watched == alone
    assert place.journal() == list(FINISHED)


def test_torch_loaded_before_the_script_is_recorded(place: Workplace) -> None:
    place.write({"s.py": "print(1)"})
    (place.library / "sitecustomize.py").write_text("import torch")
    assert place.watched("s.py") == place.alone("s.py")
    assert place.journal() == list(FINISHED)


def test_environment_set_before_importing_torch_keeps_its_effect(place: Workplace) -> None:
    (place.library / "torch" / "__init__.py").write_text("import os\nthreads = os.environ.get('OMP_NUM_THREADS')\n")
    place.write({"s.py": "import os, sys\nos.environ['OMP_NUM_THREADS'] = '7'\nimport torch\nprint(torch.threads)"})
    assert place.watched("s.py").stdout == b"7\n"


def test_names_that_shadow_the_standard_library_are_the_scripts(place: Workplace) -> None:
    place.write(
        {
            "s.py": "import json, dataclasses\nprint(json.own)",
            "json.py": "own = 1",
            "dataclasses.py": "dataclass = None",
        }
    )
    watched = place.watched("s.py")
    assert (watched.code, watched.stdout) == (0, b"1\n")
    # No run can be written in such a process; that is said, in one line.
    assert watched.stderr.startswith(b"separatrix: ") and watched.stderr.count(b"\n") == 1


def test_python_path_that_was_unset_stays_unset(place: Workplace) -> None:
    place.write({"s.py": "import os\nprint(os.environ.get('PYTHONPATH'))"})
    _, environment = place.command("s.py")
    environment = {**environment, "PYTHONPATH": environment["PYTHONPATH"].split(os.pathsep)[0]}
    done = subprocess.run([sys.executable, "s.py"], env=environment, cwd=place.folder, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"None\n", b"")
