"""The contract of a theory: laws that every prediction obeys, and trainings that it foretells, at settings drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.runs.settings import Settings
from separatrix.testing.fingerprints import surroundings
from separatrix.testing.settings_contract import check_settings, drawn_settings
from separatrix.theory import Prediction, Theory
from separatrix.theory.comparing import shares

_STANDARD_ERRORS = 4.0


def check_theory(theory: Theory, *, seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Hold a theory to the contract at its smoke settings and at settings drawn from their ranges by each seed.

    Settings are described, wide, and refuse bad values. Predictions are finite, repeat themselves, do not depend on
    which other steps are asked for, and obey every law. Trainings stay within the bands; what is predicted at `wrong`
    settings leaves them. Nothing outside is changed: global generators, modes of torch.

    Raises:
        AssertionError: the contract is broken.
    """
    check_settings(theory.settings, theory.complete, f"theory {theory.name}")
    cases = [(theory.complete(theory.smoke), 0)]
    cases += [(theory.complete(drawn_settings(theory.settings, seed)), seed) for seed in seeds]
    for settings, seed in cases:
        _check_case(theory, settings, seed)


def _check_case(theory: Theory, settings: Settings, seed: int) -> None:
    where = f"theory {theory.name} at {dict(settings)}, seed {seed}"
    problem = theory.problem(settings, seed)
    predicted = theory.predicted(problem)
    assert predicted.steps[0] == 0 and (np.diff(predicted.steps) > 0).all(), f"{where}: steps are no ascent from 0"
    for name in predicted.series:
        assert np.isfinite(predicted[name]).all(), f"{where}: {name} is not finite"
    _check_repeatable(theory, settings, seed, predicted, where)
    for law in theory.laws:
        residual = law.residual(problem, predicted)
        assert residual <= law.tolerance, f"{where} breaks the law {law.name} ({law.says}) by {residual:.3g}"
    theory.simulated(problem, [0], seed=seed)  # may import what leaves traces
    before = surroundings()
    means, errors = theory.simulated(problem, seed=seed)
    assert surroundings() == before, f"{where} draws from global generators or changes a mode of torch"
    wrong = theory.predicted(theory.problem(theory.complete(theory.wrong(settings)), seed), predicted.steps.tolist())
    for name, excess in _excess(theory, predicted, means, errors).items():
        assert excess <= 0.0, f"{where}: training leaves the band of {name} by {excess:.3g} of its span"
    left = _excess(theory, wrong, means, errors)
    assert max(left.values()) > 0.0, f"{where}: what is predicted at wrong settings stays within the bands too"


def _check_repeatable(theory: Theory, settings: Settings, seed: int, predicted: Prediction, where: str) -> None:
    some = predicted.steps[:: max(1, len(predicted.steps) // 5)]
    again = theory.predicted(theory.problem(settings, seed), some.tolist())
    for name in predicted.series:
        same = np.allclose(
            again[name], predicted[name][np.isin(predicted.steps, some)], rtol=1e-9, atol=1e-12, equal_nan=True
        )
        assert same, f"{where}: {name} depends on which other steps are asked for, or does not repeat itself"


def _excess(theory: Theory, predicted: Prediction, means: Prediction, errors: Prediction) -> dict[str, float]:
    """By series with a band: how far, at worst, a training leaves it, in spans of the prediction."""
    found = {}
    for band in theory.bands:
        name = band.series
        if predicted[name].shape != means[name].shape:
            found[name] = np.inf
            continue
        beyond = np.maximum(np.abs(means[name] - predicted[name]) - _STANDARD_ERRORS * errors[name], 0.0)
        found[name] = float(shares(beyond, predicted[name]).max()) - band.share
    return found
