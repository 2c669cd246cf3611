"""Runs every study at several seeds, in parallel: `python -m separatrix.studies._suite [--quick]`.

Each result is kept with digests of the source files that took part, so that a suite that was interrupted goes on where
it was, and a result is computed anew when its study, its settings or code below it changed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import hashlib
import importlib
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from separatrix.studies.presenting import planned
from separatrix.studies.running import find_study, run_study, studies
from separatrix.studies.study import Study


@dataclasses.dataclass(frozen=True)
class Task:
    """One run of one study with its default settings; `module` is where the study is defined."""

    id: str
    module: str
    seed: int
    quick: bool

    def kept_at(self, folder: Path) -> Path:
        """Where the result is kept."""
        return folder / f"{self.id}-seed{self.seed}{'-quick' if self.quick else ''}.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and print a table; 0 when all passed, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="separatrix.studies._suite", description="Run every study.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--studies", nargs="+", metavar="ID", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(".cache/studies"))
    options = parser.parse_args(arguments)

    known = studies() if options.studies is None else {study.id: study for study in map(find_study, options.studies)}
    for study in known.values():
        plan = study.plan(study.complete({}), options.quick)
        print(f"{planned(study, plan)}, {len(options.seeds)} times", flush=True)
    tasks = [
        Task(study.id, study.run.__module__, seed, options.quick) for study in known.values() for seed in options.seeds
    ]
    results = run_all(tasks, known, options.cache, options.workers)
    print("\n".join(table(results)))
    return 0 if all(result["passed"] for result in results) else 1


def run_all(tasks: Sequence[Task], known: dict[str, Study], folder: Path, workers: int) -> list[dict[str, Any]]:
    """Results of all tasks in their order; what is kept and still valid is not computed again."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {task: kept(task, known[task.id], folder) for task in tasks}
    missing = [task for task, result in results.items() if result is None]
    # Workers are fresh processes, so that the modules a study loads are those it depends on.
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        running = {pool.submit(computed, task): task for task in missing}
        for future in concurrent.futures.as_completed(running):
            task = running[future]
            document = future.result()
            path = task.kept_at(folder)
            path.with_suffix(".part").write_text(json.dumps(document, indent=2, allow_nan=False))
            path.with_suffix(".part").replace(path)
            results[task] = document["result"]
            _say(f"{task.id} seed {task.seed}: {document['result']['seconds']:.0f} s")
    return [result for result in results.values() if result is not None]


def computed(task: Task) -> dict[str, Any]:
    """Run a task in this process: its result and what that rests on."""
    study = next(
        value
        for value in vars(importlib.import_module(task.module)).values()
        if isinstance(value, Study) and value.id == task.id
    )
    result = run_study(study, seed=task.seed, quick=task.quick).to_dict()
    files = [getattr(module, "__file__", None) for name, module in sys.modules.items() if _matters(name, task)]
    return {"result": result, "rests_on": digests(file for file in files if file), "versions": _versions()}


def kept(task: Task, study: Study, folder: Path) -> dict[str, Any] | None:
    """The result that is kept of a task, unless there is none or what it rests on has changed."""
    try:
        document = json.loads(task.kept_at(folder).read_text())
        result: dict[str, Any] = document["result"]
        valid = (
            document["versions"] == _versions()
            and result["settings"] == study.complete({})
            and document["rests_on"] == digests(document["rests_on"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if valid else None


def digests(files: Iterable[str]) -> dict[str, str]:
    """A digest of each file, by its path."""
    return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in sorted(files)}


def table(results: Iterable[dict[str, Any]]) -> list[str]:
    """Lines that say of each result how many claims passed and which did not."""
    lines = [f"{'study':<28}{'seed':>5}{'claims':>9}{'seconds':>9}  failed"]
    for result in results:
        claims = result["claims"]
        failed = [claim["name"] for claim in claims if not claim["passed"]]
        failed += [f"control {control['name']}" for control in result["controls"] if control["passed"]]
        passed = f"{sum(claim['passed'] for claim in claims)}/{len(claims)}"
        name = f"{result['id']} {result['slug']}"
        lines.append(f"{name:<28}{result['seed']:>5}{passed:>9}{result['seconds']:>9.1f}  {', '.join(failed) or '-'}")
    return lines


def _matters(module: str, task: Task) -> bool:
    return module == task.module or (module.startswith("separatrix.") and module != __name__)


def _versions() -> dict[str, str]:
    import numpy
    import torch

    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}


def _say(message: str) -> None:
    if sys.stderr.isatty():
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
