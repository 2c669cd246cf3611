"""`separatrix theory`: what a training should do, from its problem alone."""

from __future__ import annotations

import argparse

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, list_members, print_json, print_out
from separatrix.runs.errors import UsageError


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    verbs = commands.add_parser("theory", help="say what a training should do, from its problem alone").add_subparsers(
        metavar="list|show|predict", required=True
    )
    listing = verbs.add_parser("list", help="list the theories and the questions they answer")
    listing.set_defaults(command="theory list", perform=_list)

    show = verbs.add_parser("show", help="show what a theory predicts, where it holds, and its settings")
    show.add_argument("theory", metavar="NAME")
    show.set_defaults(command="theory show", perform=_show)
    for verb in (listing, show):
        verb.add_argument("--json", action="store_true", help="print one JSON document")

    predict = verbs.add_parser("predict", help="write what a theory predicts as a run, or draw it beside a simulation")
    predict.add_argument("theory", metavar="NAME")
    predict.add_argument("--run", type=values.path, metavar="DIR", help="write the prediction there, as a run")
    predict.add_argument("--simulate", type=values.path, metavar="DIR", help="train at the same problem and write that")
    predict.add_argument(
        "--figure", type=values.path, metavar="FILE.html", help="draw the prediction over the simulation"
    )
    predict.add_argument("--seed", type=values.seed, default=0, metavar="N", help="default: 0")
    predict.add_argument(
        "--set", type=values.assignment, action="append", default=[], metavar="KEY=VALUE", help="change a setting"
    )
    predict.set_defaults(command="theory predict", perform=_predict)


def _list(options: argparse.Namespace) -> int:
    from separatrix.theory import theories
    from separatrix.view.theories import described

    return list_members(
        "theories", [described(each) for each in theories().values()], options.json, ("name", "question")
    )


def _show(options: argparse.Namespace) -> int:
    from separatrix.theory import find_theory
    from separatrix.view.theories import described, lines

    theory = find_theory(options.theory)
    if options.json:
        print_json(described(theory))
    else:
        print_out("\n".join(lines(theory)))
    return EXIT_FINE


def _predict(options: argparse.Namespace) -> int:
    from separatrix.runs.settings import parsed
    from separatrix.theory import find_theory, write
    from separatrix.view.theories import write_figure

    if options.run is None and options.simulate is None and options.figure is None:
        raise UsageError("theory predict writes nothing as asked: add --run DIR, --simulate DIR or --figure FILE.html")
    theory = find_theory(options.theory)
    settings = theory.complete(parsed(theory.settings, dict(options.set), f"theory {theory.name}"))
    problem = theory.problem(settings, options.seed)
    prediction = theory.predicted(problem)
    if options.run is not None:
        print_out(str(write(prediction, options.run, theory, settings, seed=options.seed)))
    if options.simulate is not None or options.figure is not None:
        simulation, errors = theory.simulated(problem, seed=options.seed)
        if options.simulate is not None:
            write(simulation, options.simulate, theory, settings, seed=options.seed, simulated=True)
            print_out(str(options.simulate))
        if options.figure is not None:
            print_out(str(write_figure(theory, prediction, simulation, errors, options.figure)))
    return EXIT_FINE
