"""A sweep: Optuna proposes values, workers run trials with them, and what trials record decides how they go on.

One process asks and tells; it holds the lock of the sweep's folder. A trial is told of in the storage before its
process starts. Interrupted or killed, a sweep goes on from its storage: trials that nobody attends to any more are
marked as lost and their values are enqueued again, so that each is tried. Only a trial whose worker was lost three
times is given up, since it may well be what ends them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from separatrix.steer.tuning.attendant import TrialJob
from separatrix.steer.tuning.claiming import Claim, claimed
from separatrix.steer.tuning.errors import SweepError, WorkerLostError
from separatrix.steer.tuning.objective import Sight, Verdict
from separatrix.steer.tuning.result import Row, SweepResult, rows_of, values_of
from separatrix.steer.tuning.searching import opened, pruner, quiet_optuna, sampler, storage_errors
from separatrix.steer.tuning.space import Space
from separatrix.steer.tuning.target import Target
from separatrix.steer.tuning.workers import Attended, LocalWorkers, Workers

_PAUSE = 0.1
_PATIENCE_WITH_FAILURES = 3
_MOST_WORKERS = 3
_TRIALS = "trials.json"


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """How to search: how many trials in all, how many at once, and Optuna's parts.

    `folder` holds the trials' runs and logs, and the storage unless a URL of another is given; `name` is the study's
    name there. `trials` None means 20, or a grid's size.
    """

    folder: Path
    trials: int | None = None
    workers: int = 1
    storage: str | None = None
    name: str = "sweep"
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.workers < 1 or (self.trials is not None and self.trials < 1):
            raise SweepError(f"trials={self.trials}, workers={self.workers}: give at least 1 of each")

    @property
    def url(self) -> str:
        """Where the trials are kept."""
        return self.storage or f"sqlite:///{self.folder.absolute() / 'sweep.sqlite'}"


def sweep(
    target: Target,
    space: Space,
    options: SweepOptions,
    *,
    workers: Workers | None = None,
    progress: Callable[[Row], object] = lambda row: None,
) -> SweepResult:
    """Search the space until so many trials have ended; a folder that holds this sweep already is gone on with.

    Args:
        target: what each trial runs.
        space: the values to choose from.
        options: how to search.
        workers: where trials run; this machine by default.
        progress: called with the row of each trial that ended.

    Raises:
        SweepError: something asked for does not exist or fit, the storage cannot be used, a trial shows that no other
            can succeed either, or all trials failed.
        RunLockedError: another sweep is at work in the folder.
        KeyboardInterrupt: after the running trials were stopped and their values given back.
    """
    target.check(space)
    grid = list(space.grid()) if options.sampler == "grid" else []
    facts = _facts(options, target, space)
    with quiet_optuna() as optuna, claimed(options.folder, facts) as claim, storage_errors(options.url):
        chosen = sampler(options.sampler, options.seed), pruner(options.pruner)
        study = opened(options.url, options.name, target.direction, *chosen)
        # The same seed again would propose again what the trials before an interruption were given.
        study.sampler = sampler(options.sampler, options.seed + len(study.get_trials(deepcopy=False)))
        states = optuna.trial.TrialState
        driver = _Driver(study, target, space, options, workers or LocalWorkers(), progress, states, claim)
        driver.reclaim()
        driver.reclaim_from_others()
        for values in grid:
            study.enqueue_trial(values, skip_if_exists=True)
        driver.drive(options.trials or len(grid) or 20)
        return driver.result()


def _facts(options: SweepOptions, target: Target, space: Space) -> dict[str, Any]:
    return {
        # A digest, since arguments may hold what is nobody's business.
        "command": hashlib.sha256("\0".join(target.described()).encode()).hexdigest(),
        "space": space.describe(),
        "metric": target.judged_by,
        "direction": target.direction,
        "name": options.name,
    }


@dataclasses.dataclass
class _Running:
    trial: Any
    attended: Attended
    reported: int = 0
    reason: str = ""
    worker: str = ""


class _Driver:
    """Asks, starts, looks and tells, until enough trials have ended."""

    def __init__(
        self,
        study: Any,
        target: Target,
        space: Space,
        options: SweepOptions,
        workers: Workers,
        progress: Callable[[Row], object],
        states: Any,
        claim: Claim,
    ) -> None:
        self._study = study
        self._target = target
        self._distributions = space.distributions()
        self._options = options
        self._workers = workers
        self._progress = progress
        self._states = states
        self._running: dict[int, _Running] = {}
        self._folder = options.folder.absolute()
        self._claim = claim

    def reclaim(self, note: str = "the sweep ended while it ran") -> None:
        """Give back the trials of this folder that nobody attends to: an earlier sweep did, or took them up."""
        for number, claim in self._attended().items():
            if self._options.storage is None or self._claim.shares_folder(claim):
                self._give_back(number, note)

    def reclaim_from_others(self) -> bool:
        """Give back the trials of other sweeps on the storage that are known to have ended; whether there were any."""
        found = False
        claims = {claim for claim in self._attended().values() if claim is not None}
        for claim in (claim for claim in claims if not self._claim.shares_folder(claim)):
            with claim.taken_over() as ended:
                for number in [number for number, other in self._attended().items() if ended and other == claim]:
                    self._give_back(number, f"the sweep of {claim.folder} ended while it ran")
                    found = True
        return found

    def _attended(self) -> dict[int, Claim | None]:
        """Who attends, or attended, to each trial that runs by what the storage says."""
        trials = self._study.get_trials(deepcopy=False, states=(self._states.RUNNING,))
        return {trial.number: Claim.of(trial.user_attrs.get("sweep")) for trial in trials}

    def drive(self, wanted: int) -> None:
        """Run trials until `wanted` have ended; whatever ends this early gives back those that run."""
        try:
            while True:
                while len(self._running) < self._options.workers and self._engaged() < wanted:
                    self._start()
                if not self._running and not self.reclaim_from_others():
                    break
                for number in list(self._running):
                    self._advance(number)
                time.sleep(_PAUSE)
        except BaseException as error:
            self._abandon("interrupted" if isinstance(error, KeyboardInterrupt) else "the sweep ended")
            raise
        self._check_failures(at_end=True)

    def result(self) -> SweepResult:
        """What was found so far."""
        options, target = self._options, self._target
        found = SweepResult(options.name, str(options.folder), target.judged_by, target.direction, rows_of(self._study))
        best = found.best
        return found if best is None else dataclasses.replace(found, command=target.shown(best.parameters))

    def _engaged(self) -> int:
        """Trials that ended for good or run, here or in another sweep on the same storage."""
        return sum(row.state in ("finished", "stopped", "failed", "running") for row in rows_of(self._study))

    def _start(self) -> None:
        trial = self._study.ask()
        folder = self._folder / f"trial-{trial.number:04d}"
        # Whose it is comes first: interrupted from here on, it is given back.
        trial.set_user_attr("sweep", dataclasses.asdict(self._claim))
        trial.set_user_attr("run", str(folder))
        for name, distribution in self._distributions.items():
            trial._suggest(name, distribution)
        job = TrialJob(
            command=self._target.command(trial.params, folder),
            folder=os.getcwd(),
            environment={"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            log=f"{folder}.log",
            reading=self._target.reading(folder),
        )
        self._running[trial.number] = _Running(trial, self._workers.start(job))

    def _advance(self, number: int) -> None:
        running = self._running[number]
        try:
            if not running.worker and running.attended.where:
                running.worker = running.attended.where
                running.trial.set_user_attr("worker", running.worker)
            look = running.attended.look()
        except WorkerLostError as error:
            del self._running[number]
            workers = running.trial.user_attrs.get("workers_lost", 0) + 1
            if workers < _MOST_WORKERS:
                self._give_back(number, str(error), workers)
            else:
                running.trial.set_user_attr("note", f"given up after {workers} workers: {error}")
                self._study.tell(number, state=self._states.FAIL)
            self._ended(number)
            return
        if look is None:
            return
        if look.error:
            self._unjudged(number, look.error, look.sight.step)
            return
        reason = self._report(running, look.sight)
        if reason and not running.reason and look.verdict is None:
            running.reason = reason
            running.attended.stop()
        if look.verdict is not None:
            running.attended.close()
            self._tell(running, look.verdict, look.sight.step)
            del self._running[number]
            self._ended(number)
            self._check_failures(at_end=False)

    def _unjudged(self, number: int, problem: str, step: int) -> None:
        """End a trial that cannot be judged: as stopped where it was, else as failed.

        Raises:
            SweepError: it was not stopped and none has finished, so that others may be no better. Its values are given
                back the first time only, so that a later sweep gets past them.
        """
        running = self._running[number]
        hopeless = not running.reason and all(row.state != "finished" for row in rows_of(self._study))
        if hopeless and "retry_of" not in running.trial.user_attrs:
            raise SweepError(problem)
        running.attended.close()
        self._tell(running, Verdict(problem=problem, failed=True), step)
        del self._running[number]
        self._ended(number)
        if hopeless:
            raise SweepError(problem)

    def _report(self, running: _Running, sight: Sight) -> str:
        """Tell Optuna the new points; why the trial should stop, if a finding or the pruner says so."""
        reason = sight.stop
        for position, value in sight.points[running.reported :]:
            if value == value and abs(value) != float("inf"):
                running.trial.report(value, position)
                if not reason and running.trial.should_prune():
                    reason = f"{self._options.pruner} pruner: {self._target.judged_by} {value:.4g} at {position}"
        running.reported = len(sight.points)
        return reason

    def _tell(self, running: _Running, verdict: Verdict, step: int) -> None:
        # However a script that was stopped ends, what it reached is no full trial's value.
        trial, stopped = running.trial, bool(running.reason)
        note = running.reason if stopped else verdict.problem
        for key, value in (("note", note), ("step", max(step, verdict.step)), ("findings", list(verdict.findings))):
            trial.set_user_attr(key, value)
        if verdict.value is not None and not stopped:
            self._study.tell(trial, verdict.value)
        else:
            failed = verdict.failed and not stopped
            self._study.tell(trial, state=self._states.FAIL if failed else self._states.PRUNED)

    def _give_back(self, number: int, note: str, workers: int = 0) -> None:
        """Enqueue a trial's values again, unless that was done already, and mark the trial as lost."""
        trials = self._study.get_trials(deepcopy=False)
        if trials[number].state != self._states.RUNNING:
            return
        values = values_of(trials[number])
        if values and not any(trial.user_attrs.get("retry_of") == number for trial in trials):
            self._study.enqueue_trial(values, user_attrs={"retry_of": number, "workers_lost": workers})
        storage, identifier = self._study._storage, trials[number]._trial_id
        storage.set_trial_user_attr(identifier, "lost", True)
        storage.set_trial_user_attr(identifier, "note", note)
        self._study.tell(number, state=self._states.FAIL)

    def _abandon(self, note: str) -> None:
        """Stop all trials at once, then wait for each; give them back, and what was being taken up."""
        for running in self._running.values():
            running.attended.stop()
        for running in self._running.values():
            with contextlib.suppress(WorkerLostError):
                running.attended.close()
        self._running.clear()
        self.reclaim(note)
        self._write()

    def _ended(self, number: int) -> None:
        self._write()
        self._progress(rows_of(self._study)[number])

    def _write(self) -> None:
        """Keep the trials as JSON beside the storage, for readers without Optuna."""
        partial = self._folder / f"{_TRIALS}.partial"
        partial.write_text(json.dumps(self.result().to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(self._folder / _TRIALS)

    def _check_failures(self, *, at_end: bool) -> None:
        rows = rows_of(self._study)
        failed = [row for row in rows if row.state == "failed"]
        if any(row.state in ("finished", "stopped") for row in rows) or not failed:
            return
        if at_end or len(failed) >= _PATIENCE_WITH_FAILURES:
            last = failed[-1]
            raise SweepError(
                f"all {len(failed)} trials failed, the last one {last.note}; its output is in {last.run}.log"
            )
