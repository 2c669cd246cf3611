"""Figures of sweeps and checks over sizes say what their numbers say."""

from __future__ import annotations

import numpy as np

from separatrix.steer import judge_transfer
from separatrix.steer.coordinates import QUANTITIES, CoordinateCheck
from separatrix.view import coordinate_figure, transfer_figure


def test_a_sweep_has_a_line_for_each_size_with_its_best_rate_marked() -> None:
    losses = np.array([[[3.0], [1.0], [2.0], [4.0]], [[3.0], [2.0], [1.0], [np.nan]]])
    sweep = judge_transfer((16, 64), (0.1, 0.2, 0.4, 0.8), losses)
    figure = transfer_figure(sweep)
    assert [line.name for line in figure.data] == ["16", "64"]
    assert [int(np.argmax(line.marker.size)) for line in figure.data] == [1, 2]
    assert np.isnan(figure.data[1].y[3])
    assert figure.layout.title.text == "transfers"


def test_a_check_has_a_line_for_each_module_with_its_exponent() -> None:
    sizes = np.array([8.0, 16.0, 32.0])
    values = np.stack([np.stack([sizes**0.5] * 2, 1), np.full((3, 2), np.nan)])
    check = CoordinateCheck((8, 16, 32), ("hidden", "relu"), dict.fromkeys(QUANTITIES, values))
    (line,) = coordinate_figure(check, "own_effect").data
    assert line.name == "hidden: +0.50"
    np.testing.assert_allclose(line.y, sizes**0.5)
