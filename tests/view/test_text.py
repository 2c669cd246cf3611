from __future__ import annotations

import math

import numpy as np
import pytest

from separatrix.view.sparkline import sparkline
from separatrix.view.text import count, duration, flattened, number, plain, shortened, visible, when


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("fc1.weight", "fc1.weight"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc\x00", "a\\nb\\tc\\x00"),
        ("\x9b2J", "\\x9b2J"),
        ("abc\u202etxt.exe", "abc\\u202etxt.exe"),
        ("größe 重み", "größe 重み"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_and_reordering_characters_are_shown_not_sent(given, shown):
    assert visible(given) == shown


def test_a_step_in_words():
    assert [when(step) for step in (0, 1, 12000)] == ["before the first step", "step 1", "step 12,000"]


def test_line_feeds_stay_where_asked():
    assert visible("a\n\tb\r\x1b", newlines=True) == "a\n\tb\\r\\x1b"


@pytest.mark.parametrize("length", [5, 12, 29, 30, 31])
def test_shortened_keeps_both_ends_and_the_length(length):
    name = "encoder.layers.11.attention.w1"
    short = shortened(name, length)
    assert len(short) == min(length, len(name))
    assert short[0] == name[0]
    assert short[-2:] == name[-2:]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12345.0, "12,345"),
        (0.000123456, "0.0001235"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4213, "0.421 s"),
        (59.9, "59.9 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (3600, "1 h"),
        (356400, "4 d 3 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_counts():
    assert [count(n, "step") for n in (0, 1, 12345)] == ["0 steps", "1 step", "12,345 steps"]


def test_facts_are_flattened_exactly():
    facts = {
        "lr": 0.1234567891,
        "optimizers": [{"name": "a", "betas": [0.9, 0.999]}, {"name": "b"}],
        "empty": {},
        "amp": False,
    }
    assert flattened(facts) == [
        ("lr", "0.1234567891"),
        ("optimizers[0].name", "a"),
        ("optimizers[0].betas", "[0.9, 0.999]"),
        ("optimizers[1].name", "b"),
        ("empty", "{}"),
        ("amp", "false"),
    ]
    assert plain(0.1234567891, 4) == "0.1235"


def test_a_ramp_is_drawn_as_a_ramp():
    assert sparkline(np.arange(8.0), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline(np.arange(8.0), 8, unicode=False) == "_.-=+*%#"
    assert sparkline(10.0 ** np.arange(8), 8, logarithmic=True) == "▁▂▃▄▅▆▇█"


def test_a_spike_and_a_nan_each_mark_their_stretch():
    values = np.ones(1000)
    values[510] = 50.0
    values[990] = np.nan
    drawn = sparkline(values, 10)
    assert drawn == "▁▁▁▁▁█▁▁▁!"


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([3.0], "▄"), ([np.nan], "!"), ([np.inf, 1.0], "!▄"), ([2.0, 2.0], "▄▄"), ([-1e308, 1e308], "▁█")],
)
def test_degenerate_sparklines(values, drawn):
    assert sparkline(np.array(values)) == drawn
