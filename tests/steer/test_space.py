"""The space of a sweep: texts, TOML files, Optuna's distributions, grids, and what is refused."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from separatrix.runs.settings import Setting
from separatrix.steer.tuning import Parameter, Space, SweepError, read_parameter, read_space
from separatrix.steer.tuning.space import from_settings, spelled


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=1e-4..1e-1:log", Parameter("lr", 1e-4, 1e-1, True)),
        ("width=16..64", Parameter("width", 16, 64)),
        ("width=16.0..64", Parameter("width", 16.0, 64)),
        ("act=relu,tanh", Parameter("act", choices=("relu", "tanh"))),
        ("batch=8, 16", Parameter("batch", choices=(8, 16))),
        ("bias=true,false", Parameter("bias", choices=(True, False))),
        ("x=-2..-1", Parameter("x", -2, -1)),
        ("data.path=a=b", Parameter("data.path", choices=("a=b",))),
    ],
)
def test_texts(text: str, expected: Parameter) -> None:
    found = read_parameter(text)
    assert found == expected
    assert found.whole == expected.whole
    assert read_parameter(str(found)) == found


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("lr", "is no parameter"),
        ("lr=", "is no parameter"),
        ("=1..2", "no name"),
        ("l r=1..2", "no name"),
        ("lr=2..1", "is empty"),
        ("lr=0..1:log", "no logarithm"),
        ("lr=1..2:linear", "only :log"),
        ("lr=a..2", "no end of the range"),
        ("lr=1..", "empty value"),
        ("lr=1..inf", "not finite"),
        ("lr=1..nan", "not finite"),
        ("a=x,,y", "empty value"),
        ("a=x,x", "twice"),
    ],
)
def test_bad_texts_are_refused(text: str, part: str) -> None:
    with pytest.raises(SweepError, match=part):
        read_parameter(text)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text('lr = "1e-4..0.1:log"\nwidth = [16, 32]\nseed = 3\n[momentum]\nlow = 0.5\nhigh = 0.9\n')
    assert read_space(path) == (
        Parameter("lr", 1e-4, 0.1, True),
        Parameter("width", choices=(16, 32)),
        Parameter("seed", choices=(3,)),
        Parameter("momentum", 0.5, 0.9),
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("lr = ", "is no TOML"),
        ("lr = [[1]]", "no list"),
        ("[lr]\nlow = 1\n", "no numbers low and high"),
        ('[lr]\nlow = 1\nhigh = "2"\n', "no numbers low and high"),
        ("[lr]\nlow = 2\nhigh = 1\n", "is empty"),
        ("[lr]\nmin = 2\n", "unknown key min"),
        ("[lr]\nlow = 1\nchoices = [1]\n", "choices and a range"),
        ("[lr]\nchoices = 1\n", "no list"),
        ("lr = []", "nothing to choose"),
    ],
)
def test_bad_files_are_refused(content: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(content)
    with pytest.raises(SweepError, match=part):
        read_space(tmp_path / "space.toml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="cannot be read"):
        read_space(tmp_path / "none.toml")


def test_distributions_and_grids() -> None:
    space = Space((read_parameter("a=1..2"), read_parameter("b=x,true"), read_parameter("c=1e-3..1:log")))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        values = study.ask(space.distributions()).params
        assert values["a"] in (1, 2) and values["b"] in ("x", True) and 1e-3 <= values["c"] <= 1
    with pytest.raises(SweepError, match=r"c=0\.001\.\.1:log has no list"):
        list(space.grid())
    assert list(Space(space.parameters[:2]).grid()) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": True},
        {"a": 2, "b": "x"},
        {"a": 2, "b": True},
    ]
    assert [spelled(value) for value in (True, 3, 1e-3, "x")] == ["true", "3", "0.001", "x"]


def test_a_space_has_names_each_once() -> None:
    with pytest.raises(SweepError, match="empty"):
        Space(())
    with pytest.raises(SweepError, match="twice"):
        Space((Parameter("a", 1, 2), Parameter("a", 1, 2)))


def test_the_space_of_a_studys_settings() -> None:
    found = from_settings(
        (
            Setting("n", "int", 4, "it", 1, 64),
            Setting("x", "float", 0.5, "it", 0.0, 1.0),
            Setting("kind", "str", "a", "it", choices=("a", "b")),
            Setting("flag", "bool", False, "it"),
        )
    )
    assert [str(each) for each in found] == ["n=1..64:log", "x=0.0..1.0", "kind=a,b", "flag=false,true"]
