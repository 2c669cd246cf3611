"""Every reconstructor keeps to the contract, and the contract sees those that do not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from separatrix import reconstruct
from separatrix.reconstruct import (
    Analysis,
    ForecastError,
    Paper,
    Reconstructor,
    Setting,
    Settings,
    Trajectories,
    TrajectoryError,
    find_reconstructor,
    fit,
    reconstructors,
    trajectories,
)
from separatrix.runs import UnknownMemberError
from separatrix.runs.settings import DeclarationError, SettingError
from separatrix.testing import check_reconstructor
from separatrix.testing.reconstruction_contract import rotation

RECONSTRUCTORS = reconstructors()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("reconstructor", RECONSTRUCTORS.values(), ids=lambda each: each.name)
def test_every_reconstructor_keeps_to_the_contract(reconstructor: Reconstructor) -> None:
    check_reconstructor(reconstructor)


@dataclasses.dataclass(frozen=True)
class Turning:
    """The rotation of the contract, known."""

    history: int = 1
    angle: float = 0.2
    noise: float = 0.0
    analysis: Analysis = dataclasses.field(default_factory=Analysis)
    horizon: int | None = None

    def forecast(self, history: np.ndarray, steps: int) -> np.ndarray:
        angles = np.arange(1, steps + 1) * self.angle
        x, y = history[:, -1:, 0] - 3, history[:, -1:, 1] + 1
        turned = np.stack([x * np.cos(angles) - y * np.sin(angles), x * np.sin(angles) + y * np.cos(angles)], axis=2)
        return turned + np.array([3.0, -1.0]) + self.noise

    def analyse(self) -> Analysis:
        return self.analysis


def _learning(**changes: Any) -> Any:
    return lambda data, settings, seed: Turning(**changes)


SOUND = Reconstructor(
    name="turning",
    summary="A rotation.",
    papers=(Paper("On turning", ("A. Uthor",), 1999),),
    settings=(Setting("rate", "float", 1.0, "how fast", 0.5, 2.0),),
    learn=_learning(),
)


def test_a_sound_reconstructor_passes() -> None:
    check_reconstructor(SOUND)
    check_reconstructor(dataclasses.replace(SOUND, learn=_learning(horizon=20)))


def _drawing(data: Trajectories, settings: Settings, seed: int) -> Turning:
    np.random.rand()
    return Turning()


def _writing(data: Trajectories, settings: Settings, seed: int) -> Turning:
    data.parts[0][0, 0] += 1.0
    return Turning()


def _restless() -> Any:
    noise = iter(range(9))
    return lambda data, settings, seed: Turning(noise=1e-9 * next(noise))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"papers": ()}, "turning"),
        ({"settings": (Setting("rate", "float", 1.0, "how fast", 0.5, 1.9),)}, "widen it"),
        ({"learn": _drawing}, "global generators"),
        ({"learn": _writing}, "changes its data"),
        ({"learn": _restless()}, "repeat itself"),
        ({"learn": _learning(angle=-0.2)}, "repeating the last sample"),
        ({"learn": _learning(history=0)}, "past samples"),
        ({"learn": _learning(analysis=Analysis(residuals=np.ones(1)))}, "without eigenvalues"),
        ({"learn": _learning(analysis=Analysis(eigenvalues=np.array([0.1, 0.9 + 0j])))}, "do not fall"),
        ({"learn": _learning(analysis=Analysis(exponents=np.array([0.1, 0.9])))}, "exponents"),
        ({"learn": _learning(analysis=Analysis(exponents=np.array([3.0, 0.0])))}, "in a rotation"),
    ],
)
def test_the_contract_sees_what_is_broken(change: dict[str, Any], part: str) -> None:
    with pytest.raises(AssertionError, match=part):
        check_reconstructor(dataclasses.replace(SOUND, **change))


@pytest.mark.parametrize(
    "change", [{"name": "Turning"}, {"name": ""}, {"summary": ""}, {"settings": SOUND.settings * 2}]
)
def test_a_malformed_reconstructor_fails_when_it_is_defined(change: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError):
        dataclasses.replace(SOUND, **change)


def test_a_forecast_that_goes_astray_is_nan_from_there_on() -> None:
    class Doubling(Turning):
        def forecast(self, history: np.ndarray, steps: int) -> np.ndarray:
            return history[:, -1:] * 4.0 ** np.arange(1, steps + 1)[None, :, None]

    model = dataclasses.replace(SOUND, learn=lambda data, settings, seed: Doubling()).fit(rotation())
    values = model.forecast(np.array([[[1.0, 1.0]], [[0.0, 0.0]]]), 300)
    bad = np.isnan(values).any(axis=2)
    assert bad.any(axis=1).tolist() == [True, False]
    first = int(np.argmax(bad[0]))
    assert 4 <= first <= 7
    assert np.isnan(values[0, first:]).all()
    np.testing.assert_array_equal(values[0, :first, 0], 4.0 ** np.arange(1, first + 1))


def test_the_front_door_names_what_is_wrong() -> None:
    data = rotation()
    with pytest.raises(UnknownMemberError, match=r"choose from .*ndvar"):
        fit(data, "no-such")
    with pytest.raises(SettingError, match="no setting 'rate'"):
        fit(data, rate=1.0)
    with pytest.raises(TrajectoryError, match="contradicts"):
        fit(data, dt=0.1)
    assert find_reconstructor("ndvar").name == "ndvar"
    assert fit(data.parts[0], dt=0.05, names=("u", "v")).names == ("u", "v")
    assert fit(data).settings["lags"] == 2


def test_unequal_lengths_are_learnt() -> None:
    whole = rotation()
    parts = [whole.parts[0][:50], whole.parts[1]]
    model = fit(trajectories(parts, whole.dt))
    np.testing.assert_allclose(model.forecast(parts[1][:20], 3), parts[1][20:23], atol=1e-6)


def test_a_horizon_is_kept() -> None:
    model = dataclasses.replace(SOUND, learn=_learning(horizon=3)).fit(rotation())
    assert model.forecast(rotation().parts[0], 3).shape == (3, 2)
    with pytest.raises(ForecastError, match="at most 3"):
        model.forecast(rotation().parts[0], 4)


def test_the_room_is_imported_without_optional_packages() -> None:
    assert reconstruct.__all__ == sorted(reconstruct.__all__, key=lambda name: (name[0].islower(), name))
