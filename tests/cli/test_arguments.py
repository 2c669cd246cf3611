"""The grammar of the command line, without running anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from separatrix.arguments import parse
from separatrix.runs import UsageError


@pytest.mark.parametrize(
    ("line", "target", "module", "arguments"),
    [
        (["train.py"], "train.py", False, []),
        (["train.py", "--help", "--run", "x", "-m", "y"], "train.py", False, ["--help", "--run", "x", "-m", "y"]),
        (["--budget", "0.1", "train.py", "--", "--lr=1"], "train.py", False, ["--", "--lr=1"]),
        (["--resume", "--run", "r", "-m", "pkg.mod", "--run", "mine"], "pkg.mod", True, ["--run", "mine"]),
        (["-mpkg.mod", "a"], "pkg.mod", True, ["a"]),
        (["--", "-odd.py", "a"], "-odd.py", False, ["a"]),
        (["--run", "train.py", "real.py"], "real.py", False, []),
        (["--quiet", "-"], "-", False, []),
        ([], None, False, []),
        (["-m"], None, True, []),
    ],
)
def test_everything_after_the_target_is_the_scripts(
    line: list[str], target: str | None, module: bool, arguments: list[str]
) -> None:
    options = parse(["watch", *line])
    assert (options.target, options.module, options.arguments) == (target, module, arguments)


def test_watch_options_are_converted() -> None:
    options = parse(
        [
            "watch",
            "--run",
            "r",
            "--budget=0.2",
            "--probes",
            "a,b",
            "--checkpoints",
            "100",
            "--max-bytes",
            "5000",
            "s.py",
        ]
    )
    assert options.run == Path("r")
    assert (options.budget, options.probes, options.checkpoints, options.max_bytes) == (0.2, "a,b", 100, 5000)
    assert parse(["watch", "--checkpoints", "log", "s.py"]).checkpoints == "log"
    assert parse(["watch", "--probes", "default, examples", "s.py"]).probes == "default,examples"


def test_watch_defaults() -> None:
    options = parse(["watch", "s.py"])
    assert (options.run, options.resume, options.budget, options.probes) == (None, False, 0.05, "default")
    assert (options.checkpoints, options.max_bytes, options.quiet) == (None, None, False)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ([], "no command"),
        (["wach"], "'wach'"),
        (["list", "a", "b"], "unrecognized arguments: b"),
        (["show"], "RUN"),
        (["compare"], "RUN"),
        (["diagnose", "r", "--fail-on", "bad"], "'bad'"),
        (["export", "r", "d"], "--to"),
        (["export", "r", "--to", "xlsx", "d"], "'xlsx'"),
        (["probe"], "list"),
        (["show", ""], "empty"),
        (["show", "a\0b"], "path"),
        (["watch", "--budget", "0", "s.py"], "'0'"),
        (["watch", "--budget", "1.5", "s.py"], "at most 1"),
        (["watch", "--budget", "nan", "s.py"], "'nan'"),
        (["watch", "--budget", "5%", "s.py"], "'5%'"),
        (["watch", "--budget=-0.1", "s.py"], "'-0.1'"),
        (["watch", "--probes", "a,,b", "s.py"], "'a,,b'"),
        (["watch", "--checkpoints", "0", "s.py"], "'0'"),
        (["watch", "--checkpoints", "often", "s.py"], "'often'"),
        (["watch", "--checkpoints", "²", "s.py"], "positive"),
        (["watch", "--max-bytes", "1e9", "s.py"], "'1e9'"),
        (["watch", "--max-bytes", "9" * 30, "s.py"], "positive"),
        (["watch", "--res", "s.py"], "--res"),
    ],
)
def test_wrong_usage_is_said_and_points_to_help(line: list[str], part: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line)
    assert part in str(caught.value)
    assert "--help" in str(caught.value)


def test_help_lists_the_commands_that_users_rely_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")}
    promised = "watch list show report compare diagnose export import probe finding theory study"
    assert listed >= set(promised.split())
