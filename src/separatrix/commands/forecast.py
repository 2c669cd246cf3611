"""`separatrix forecast`: the loss a training comes to under a schedule, from runs that exist."""

from __future__ import annotations

import argparse
import contextlib

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, print_json, print_out, say, terminal

SCHEDULES = ("own", "constant", "linear", "cosine", "wsd", "sqrt", "step", "1cycle")


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    forecast = commands.add_parser(
        "forecast",
        help="say what loss a training will come to under a schedule",
        description=(
            "Fit a law of loss curves to runs of one model and say what loss it comes to under a schedule. Two runs are"
            " best: one at a constant rate and one whose rate falls."
        ),
    )
    forecast.add_argument("runs", type=values.path, nargs="+", metavar="RUN")
    forecast.add_argument("--steps", type=_steps, required=True, metavar="N", help="length of the training to come")
    forecast.add_argument(
        "--schedule", choices=SCHEDULES, default="own", help="default: what the first run did, then its last rate"
    )
    forecast.add_argument("--peak", type=_rate, metavar="RATE", help="highest rate (default: that of the first run)")
    forecast.add_argument("--warmup", type=values.seed, metavar="N", help="steps (default: those of the first run)")
    forecast.add_argument(
        "--until", type=_steps, metavar="STEP", help="use only what the runs recorded up to this step"
    )
    forecast.add_argument(
        "--law", choices=("annealing", "relaxation"), help="what annealing does (default: what forecasts best)"
    )
    forecast.add_argument(
        "--level", type=values.share, default=0.9, metavar="SHARE", help="of the interval (default 0.9)"
    )
    forecast.add_argument("--seed", type=values.seed, default=0, metavar="N", help="of the interval (default: 0)")
    forecast.add_argument("-o", "--output", type=values.path, metavar="FILE.html", help="draw curves and forecast")
    forecast.add_argument("--json", action="store_true", help="print one JSON document")
    forecast.set_defaults(command="forecast", perform=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    from separatrix.analysis.forecasting import DEFAULT_LAW
    from separatrix.runs import open_run
    from separatrix.steer.outlook import outlook
    from separatrix.view.forecasts import render_forecast, write_figure

    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(open_run(path)) for path in options.runs]
        found = outlook(
            runs,
            options.steps,
            options.schedule,
            peak=options.peak,
            warmup=options.warmup,
            until=options.until,
            law=options.law or DEFAULT_LAW,
            level=options.level,
            seed=options.seed,
        )
    if options.json:
        document = {"runs": [path.resolve().name for path in options.runs], "schedule": options.schedule}
        print_json({**document, **found.to_dict()})
    else:
        with terminal() as console:
            render_forecast(found, options.schedule, console)
    if options.output is not None:
        written = write_figure(found, options.output)
        say(f"drawn in {written}") if options.json else print_out(str(written))
    return EXIT_FINE


def _steps(text: str) -> int:
    return values.positive(text, "give a number of steps of at least 1")


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no learning rate: give a number above 0")
    return rate
