"""`python -m benchmarks.faults`: run the scripts, print the tables.

With `--json FILE` each trial is appended to the file as it ends, one JSON object a line, and trials that the file
already holds for the same source, script, seed and settings are not run again: an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from benchmarks.faults.catalogue import PARTS, Script, scripts
from benchmarks.faults.tables import report
from benchmarks.faults.trials import Settings, Trial, key_of, try_script


def read(path: Path) -> dict[str, Trial]:
    """The trials that gave a diagnosis, by key; a line that was cut off is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            trial = Trial(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue
        if trial.diagnosed:
            found[trial.key] = trial
    return found


def write(path: Path, trial: Trial) -> None:
    """Append a trial, on a line of its own even after one that was cut off."""
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write(("\n" if torn else "") + json.dumps(dataclasses.asdict(trial), allow_nan=False) + "\n")


def run(
    chosen: list[tuple[Script, int]], settings: Settings, workers: int, file: Path | None, keep: Path | None
) -> list[Trial]:
    """All trials, those that `file` already holds without running them."""
    known = read(file) if file else {}
    done = [known[key] for script, seed in chosen if (key := key_of(script, seed, settings)) in known]
    left = [(script, seed) for script, seed in chosen if key_of(script, seed, settings) not in known]
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(try_script, script, seed, settings, keep) for script, seed in left]
        try:
            for count, future in enumerate(as_completed(futures), 1):
                trial = future.result()
                done.append(trial)
                if file:
                    write(file, trial)
                said = ", ".join(str(f["code"]) for f in trial.findings) or "nothing"
                print(f"{count}/{len(left)} {trial.code}/{trial.name}: {said} [{trial.seconds} s]", file=sys.stderr)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return sorted(done, key=lambda trial: (trial.code, trial.name, trial.seed))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="the half of the scripts to run (default: both)")
    parser.add_argument("--codes", nargs="+", metavar="CODE", help="only scripts of these codes, or healthy")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="only scripts of these names")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--budget", type=float, default=0.1, help="share of the training's time (default 0.1)")
    parser.add_argument("--probes", help="as for separatrix watch (default: its own)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep each trial here, as JSON lines")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the runs here, and diagnose those it holds anew")
    options = parser.parse_args()
    try:
        chosen = scripts(options.part, options.codes)
    except ValueError as error:
        parser.error(str(error))
    trials = run(
        [(s, seed) for s in chosen if not options.names or s.name in options.names for seed in options.seeds],
        Settings(options.budget, options.probes),
        options.workers,
        options.json,
        options.keep and options.keep.resolve(),
    )
    print(report(trials))
    sys.exit(0 if all(trial.diagnosed for trial in trials) else 1)


if __name__ == "__main__":
    main()
