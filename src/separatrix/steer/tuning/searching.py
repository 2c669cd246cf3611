"""Optuna's parts by name: samplers, pruners and storage, with its errors as one clear line."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from separatrix.steer.tuning.errors import SweepError, needed
from separatrix.steer.tuning.objective import Direction

SAMPLERS = ("tpe", "random", "grid", "cmaes", "qmc", "gp")
PRUNERS = ("median", "none", "successive-halving", "hyperband")
_LOCK_SECONDS = 10


def sampler(name: str, seed: int) -> Any:
    """Optuna's sampler of that name; a grid is made of enqueued trials, its sampler gives what lies outside it.

    Raises:
        SweepError: there is no such sampler, or a package that it needs is missing.
    """
    samplers = needed("optuna", "tuning").samplers
    makers: Mapping[str, Callable[[], Any]] = {
        "tpe": lambda: samplers.TPESampler(seed=seed),
        "random": lambda: samplers.RandomSampler(seed=seed),
        "grid": lambda: samplers.RandomSampler(seed=seed),
        "cmaes": lambda: importlib.import_module("cmaes") and samplers.CmaEsSampler(seed=seed),
        "qmc": lambda: samplers.QMCSampler(seed=seed, warn_asynchronous_seeding=False),
        "gp": lambda: samplers.GPSampler(seed=seed),
    }
    return _made(makers, name, "sampler")


def pruner(name: str) -> Any:
    """Optuna's pruner of that name.

    Raises:
        SweepError: there is no such pruner.
    """
    pruners = needed("optuna", "tuning").pruners
    makers: Mapping[str, Callable[[], Any]] = {
        "median": lambda: pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0),
        "none": pruners.NopPruner,
        "successive-halving": pruners.SuccessiveHalvingPruner,
        "hyperband": pruners.HyperbandPruner,
    }
    return _made(makers, name, "pruner")


def _made(makers: Mapping[str, Callable[[], Any]], name: str, kind: str) -> Any:
    if name not in makers:
        raise SweepError(f"there is no {kind} {name!r}: choose from {', '.join(makers)}")
    try:
        return makers[name]()
    except ImportError as error:
        raise SweepError(f"the {kind} {name} needs a package that is missing ({error}): install it") from error


@contextlib.contextmanager
def quiet_optuna() -> Iterator[Any]:
    """Optuna, saying nothing but errors meanwhile.

    Raises:
        MissingExtraError: it is not installed.
    """
    optuna = needed("optuna", "tuning")
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield optuna
    finally:
        optuna.logging.set_verbosity(before)


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn what a storage raises into one line.

    Raises:
        SweepError: the storage cannot be opened, is locked or broken.
    """
    optuna, sqlalchemy = needed("optuna", "tuning"), needed("sqlalchemy", "tuning")
    try:
        yield
    except (
        optuna.exceptions.StorageInternalError,
        optuna.exceptions.UpdateFinishedTrialError,
        sqlalchemy.exc.SQLAlchemyError,
    ) as error:
        cause = error.__cause__ or error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())[:200]
        locked = "locked" in reason
        advice = (
            "another process holds it, end that or wait" if locked else "check the URL, its permissions and its disk"
        )
        raise SweepError(f"the storage {url} cannot be used ({reason}): {advice}") from error


def opened(url: str, name: str, direction: Direction, sampler: Any, pruner: Any) -> Any:
    """The Optuna study of that name in a storage, made where it does not exist.

    Raises:
        SweepError: it exists and goes the other way; see also `storage_errors`.
    """
    optuna = needed("optuna", "tuning")
    options = {"connect_args": {"timeout": _LOCK_SECONDS}} if url.startswith("sqlite") else {}
    with storage_errors(url):
        try:
            storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
        except ImportError as error:
            raise SweepError(f"the storage {url} needs a driver that is missing ({error}): install it") from error
        study = optuna.create_study(
            storage=storage, sampler=sampler, pruner=pruner, study_name=name, direction=direction, load_if_exists=True
        )
        if study.direction.name.lower() != direction:
            raise SweepError(
                f"the sweep {name} in {url} was begun to {study.direction.name.lower()}: give another --name"
            )
    return study
