"""`separatrix study`: papers' claims, and whether they hold."""

from __future__ import annotations

import argparse
import sys

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, EXIT_FOUND, list_members, print_json, print_out


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    verbs = commands.add_parser("study", help="run papers' claims and see whether they hold").add_subparsers(
        metavar="list|show|run", required=True
    )
    listing = verbs.add_parser("list", help="list the studies")
    listing.set_defaults(command="study list", perform=_list)

    show = verbs.add_parser("show", help="show what a study claims, its settings and their ranges")
    show.add_argument("study", metavar="ID", help="a study's id or slug")
    show.set_defaults(command="study show", perform=_show)

    run = verbs.add_parser("run", help="run studies; exit with 1 when a claim fails")
    run.add_argument("studies", nargs="+", metavar="ID", help="a study's id or slug")
    run.add_argument("--quick", action="store_true", help="the same claims from less training, in under a minute")
    run.add_argument("--seed", type=values.seed, default=0, metavar="N", help="default: 0")
    run.add_argument(
        "--set", type=values.assignment, action="append", default=[], metavar="KEY=VALUE", help="change a setting"
    )
    run.add_argument(
        "--out", type=values.path, metavar="DIR", help="write each result with its curves into this folder"
    )
    run.set_defaults(command="study run", perform=_run)
    for verb in (listing, show, run):
        verb.add_argument("--json", action="store_true", help="print one JSON document")


def _list(options: argparse.Namespace) -> int:
    from separatrix.studies import studies
    from separatrix.studies.presenting import summary

    return list_members("studies", [summary(study) for study in studies().values()], options.json, ("id", "summary"))


def _show(options: argparse.Namespace) -> int:
    from separatrix.studies import find_study
    from separatrix.studies.presenting import described, description

    study = find_study(options.study)
    if options.json:
        print_json(description(study))
    else:
        print_out("\n".join(described(study)))
    return EXIT_FINE


def _run(options: argparse.Namespace) -> int:
    from separatrix.studies import find_study, run_study
    from separatrix.studies.presenting import counted, parsed_settings, planned, reported, result_path, write_result

    chosen = {study.id: study for study in map(find_study, options.studies)}.values()
    settings = {study.id: parsed_settings(study, dict(options.set)) for study in chosen}
    paths = {study.id: result_path(options.out, study, options.seed) for study in chosen if options.out}
    results = []
    for study in chosen:
        plan = study.plan(settings[study.id], options.quick)
        if not options.json:
            print_out(planned(study, plan))
        with counted(study.slug, plan.runs, shown=sys.stderr.isatty() and not options.json) as progress:
            result = run_study(study, settings[study.id], seed=options.seed, quick=options.quick, progress=progress)
        if study.id in paths:
            write_result(result, paths[study.id])
        if not options.json:
            print_out("\n".join(reported(result)))
        results.append(result)
    if options.json:
        print_json({"studies": [result.to_dict() for result in results]})
    return EXIT_FINE if all(result.passed for result in results) else EXIT_FOUND
