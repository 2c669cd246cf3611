"""The command line: calls the package as the arguments ask, turns errors into one line and an exit code.

Each command imports what it needs when it runs: `separatrix watch` must start as fast as python itself.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from separatrix.arguments import parse
from separatrix.runs.catalogue import find_runs, fresh_run_path
from separatrix.runs.errors import SeparatrixError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from separatrix.analysis import Diagnosis
    from separatrix.runs.probe import Probe

EXIT_FINE = 0
EXIT_FOUND = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_PIPE = 141  # what shells report for a tool that a closed pipe ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` defaults to those of the process."""
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A name that the terminal's encoding lacks is no reason to fail.
            sys.stdout.reconfigure(errors="backslashreplace")
        options = parse(sys.argv[1:] if arguments is None else arguments)
        return _COMMANDS[options.command](options)
    except SeparatrixError as error:
        return _fail(str(error))
    except BrokenPipeError:
        _forget_output()
        return EXIT_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        return _fail(f"{_named(error)}: check the path, its permissions and the space left")


def _watch(options: argparse.Namespace) -> int:
    from separatrix.record.watch import watch

    if options.target is None:
        raise UsageError("watch needs a script: `separatrix watch SCRIPT`, or `separatrix watch -m MODULE`")
    if options.resume and options.run is None:
        raise UsageError("--resume needs to know the run: add --run with its folder")
    run = options.run or fresh_run_path(_stem(options.target, options.module))
    note = f"separatrix: recorded in {_one_line(str(run))}; next: separatrix diagnose {_quoted(run)}"
    return watch(
        options.target,
        options.arguments,
        module=options.module,
        run=run,
        resume=options.resume,
        budget=options.budget,
        memory_budget=options.memory_budget,
        probes=_known_probes(options.probes),
        checkpoints=options.checkpoints,
        max_bytes=options.max_bytes,
        note="" if options.quiet else note,
    )


def _known_probes(names: str) -> str:
    """`names` as given, if each is a probe that is installed; probes are only looked up when some are named."""
    groups = {"default", "all"}
    if set(names.split(",")) <= groups:
        return names
    from separatrix.runs import UnknownMemberError

    known = _probes()
    for name in names.split(","):
        if name not in known and name not in groups:
            raise UnknownMemberError(f"there is no probe {name!r}: choose from {', '.join(sorted(known))}")
    return names


def _list(options: argparse.Namespace) -> int:
    from separatrix.view import render_list

    if not options.folder.is_dir():
        raise UsageError(f"{options.folder} is no folder: give one that holds runs")
    with _console() as console:
        render_list(find_runs(options.folder), console)
    return EXIT_FINE


def _show(options: argparse.Namespace) -> int:
    from separatrix.runs import open_run
    from separatrix.view import render_terminal

    with open_run(options.run) as run, _console() as console:
        render_terminal(run, console)
    return EXIT_FINE


def _report(options: argparse.Namespace) -> int:
    from separatrix.runs import open_run
    from separatrix.view import write_report

    with open_run(options.run) as run:
        destination = options.output or run.path / "report.html"
        if destination.is_dir():
            raise UsageError(f"{destination} is a folder: give the name of a file, such as report.html")
        _print(str(write_report(run, destination)))
    return EXIT_FINE


def _compare(options: argparse.Namespace) -> int:
    from separatrix.analysis.comparison import compared
    from separatrix.runs import open_run
    from separatrix.view import render_comparison

    if len(options.runs) < 2:
        raise UsageError("compare needs at least two runs: `separatrix compare RUN RUN`")
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(open_run(path)) for path in options.runs]
        if options.json:
            _print_json(compared(runs))
        else:
            with _console() as console:
                render_comparison(runs, console)
    return EXIT_FINE


def _diagnose(options: argparse.Namespace) -> int:
    results = [(path, _diagnosis(path)) for path in options.runs]
    if options.json:
        _print_json(_diagnoses_as_json(results))
    else:
        _render_diagnoses(results)
    for _, result in results:
        if isinstance(result, SeparatrixError):
            _fail(str(result))
    if any(isinstance(result, SeparatrixError) for _, result in results):
        return EXIT_ERROR
    return EXIT_FOUND if any(_reaches(result, options.fail_on) for _, result in results) else EXIT_FINE


def _diagnosis(path: Path) -> Diagnosis | SeparatrixError:
    from separatrix.analysis import diagnose

    try:
        return diagnose(path)
    except SeparatrixError as error:
        return error


def _reaches(result: Diagnosis | SeparatrixError, threshold: str) -> bool:
    from separatrix.runs import SEVERITIES

    if isinstance(result, SeparatrixError) or result.worst is None:
        return False
    order: tuple[str, ...] = SEVERITIES
    return order.index(result.worst) <= order.index(threshold)


def _diagnoses_as_json(results: Sequence[tuple[Path, Diagnosis | SeparatrixError]]) -> Mapping[str, Any] | None:
    """One run as its diagnosis (nothing when it cannot be read), several as a list in the order given."""
    documents = [
        {"run": path.resolve().name, "error": _one_line(str(result))}
        if isinstance(result, SeparatrixError)
        else result.to_dict()
        for path, result in results
    ]
    if len(results) > 1:
        return {"runs": documents}
    return None if isinstance(results[0][1], SeparatrixError) else documents[0]


def _render_diagnoses(results: Sequence[tuple[Path, Diagnosis | SeparatrixError]]) -> None:
    from separatrix.view import render_diagnosis

    with _console() as console:
        for _, result in results:
            if not isinstance(result, SeparatrixError):
                render_diagnosis(result, console)


def _export(options: argparse.Namespace) -> int:
    from separatrix.runs import open_run
    from separatrix.runs.exporting import export_run

    with open_run(options.run) as run:
        _print(str(export_run(run, options.to, options.destination)))
    return EXIT_FINE


def _import(options: argparse.Namespace) -> int:
    from separatrix.runs.importing import import_run

    destination = options.run or fresh_run_path(options.source.resolve().stem or "import")
    result = import_run(options.source, destination)
    _say(f"read {result.series} series over {result.steps} steps from {options.source} ({result.format})")
    renamed = [f"{source} -> {name}" for source, name in result.names.items() if source != name]
    if renamed:
        _say(f"names: {', '.join(renamed)}")
    for note in result.notes:
        _say(f"{note.severity}: {note.message}")
    _say(f"imported to {destination}; next: separatrix diagnose {_quoted(destination)}")
    _print(str(destination))
    return EXIT_FINE


def _probes() -> Mapping[str, Probe]:
    from separatrix.runs.discovery import members
    from separatrix.runs.probe import Probe

    return members("separatrix.probes", Probe, "separatrix.probes")


def _price(probe: Probe) -> str:
    """What a probe of snapshots costs and needs, in words; empty for others."""
    if probe.moment.value != "snapshot":
        return ""
    needs = f", needs {' and '.join(probe.needs)}" if probe.needs else ""
    return f" (snapshot: costs about {probe.cost:g} times a gradient{needs})"


def _probe_list(options: argparse.Namespace) -> int:
    rows = [
        {
            "name": probe.name,
            "moment": probe.moment.value,
            "series": [spec.name for spec in probe.series],
            "default": probe.default,
            "description": probe.description if options.json else probe.description + _price(probe),
            "source": probe.source,
            "cost": probe.cost,
            "needs": list(probe.needs),
        }
        for _, probe in sorted(_probes().items())
    ]
    return _list_members("probes", rows, options.json, ("name", "description"))


def _finding_list(options: argparse.Namespace) -> int:
    from separatrix.runs import FindingRule
    from separatrix.runs.discovery import members

    rules = members("separatrix.analysis.findings", FindingRule, "separatrix.findings")
    rows = [
        {
            "code": rule.code,
            "title": rule.title,
            "needs": list(rule.needs),
            "caused_by": list(rule.caused_by),
            "source": rule.source,
        }
        for _, rule in sorted(rules.items())
    ]
    return _list_members("findings", rows, options.json, ("code", "title"))


def _list_members(noun: str, rows: Sequence[Mapping[str, Any]], as_json: bool, columns: tuple[str, str]) -> int:
    if as_json:
        _print_json({noun: list(rows)})
        return EXIT_FINE
    first, second = columns
    width = max((len(row[first]) for row in rows), default=0)
    for row in rows:
        _print(_one_line(f"{row[first]:<{width}}  ", keep_spaces=True) + _one_line(row[second]))
    return EXIT_FINE


def _theory_list(options: argparse.Namespace) -> int:
    from separatrix.theory import theories
    from separatrix.view.theories import described

    return _list_members(
        "theories", [described(each) for each in theories().values()], options.json, ("name", "question")
    )


def _theory_show(options: argparse.Namespace) -> int:
    from separatrix.theory import find_theory
    from separatrix.view.theories import described, lines

    theory = find_theory(options.theory)
    if options.json:
        _print_json(described(theory))
    else:
        _print("\n".join(lines(theory)))
    return EXIT_FINE


def _theory_predict(options: argparse.Namespace) -> int:
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
        _print(str(write(prediction, options.run, theory, settings, seed=options.seed)))
    if options.simulate is not None or options.figure is not None:
        simulation, errors = theory.simulated(problem, seed=options.seed)
        if options.simulate is not None:
            write(simulation, options.simulate, theory, settings, seed=options.seed, simulated=True)
            _print(str(options.simulate))
        if options.figure is not None:
            _print(str(write_figure(theory, prediction, simulation, errors, options.figure)))
    return EXIT_FINE


def _study_list(options: argparse.Namespace) -> int:
    from separatrix.studies import studies
    from separatrix.studies.presenting import summary

    return _list_members("studies", [summary(study) for study in studies().values()], options.json, ("id", "summary"))


def _study_show(options: argparse.Namespace) -> int:
    from separatrix.studies import find_study
    from separatrix.studies.presenting import described, description

    study = find_study(options.study)
    if options.json:
        _print_json(description(study))
    else:
        _print("\n".join(described(study)))
    return EXIT_FINE


def _study_run(options: argparse.Namespace) -> int:
    from separatrix.studies import find_study, run_study
    from separatrix.studies.presenting import counted, parsed_settings, planned, reported, result_path, write_result

    chosen = {study.id: study for study in map(find_study, options.studies)}.values()
    settings = {study.id: parsed_settings(study, dict(options.set)) for study in chosen}
    paths = {study.id: result_path(options.out, study, options.seed) for study in chosen if options.out}
    results = []
    for study in chosen:
        plan = study.plan(settings[study.id], options.quick)
        if not options.json:
            _print(planned(study, plan))
        with counted(study.slug, plan.runs, shown=sys.stderr.isatty() and not options.json) as progress:
            result = run_study(study, settings[study.id], seed=options.seed, quick=options.quick, progress=progress)
        if study.id in paths:
            write_result(result, paths[study.id])
        if not options.json:
            _print("\n".join(reported(result)))
        results.append(result)
    if options.json:
        _print_json({"studies": [result.to_dict() for result in results]})
    return EXIT_FINE if all(result.passed for result in results) else EXIT_FOUND


@contextlib.contextmanager
def _console() -> Iterator[Console]:
    """A Rich console on standard output that treats text from runs as text."""
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            # Rich would end the process with 1, which here means that something was found.
            raise BrokenPipeError

    yield PlainConsole(highlight=False, markup=False, emoji=False)
    sys.stdout.flush()


def _print(text: str) -> None:
    print(text, flush=True)


def _print_json(document: Mapping[str, Any] | None) -> None:
    import json

    if document is not None:
        _print(json.dumps(document, indent=2, allow_nan=False))


def _say(message: str) -> None:
    print(f"separatrix: {_one_line(message)}", file=sys.stderr, flush=True)


def _fail(message: str) -> int:
    _say(f"error: {message}")
    return EXIT_ERROR


def _named(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


def _one_line(text: str, keep_spaces: bool = False) -> str:
    """`text` on one line, with control characters (a path may hold them) written as escapes."""
    joined = text if keep_spaces else " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in joined)


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))


def _stem(target: str, module: bool) -> str:
    return target if module else Path(target).absolute().stem


def _forget_output() -> None:
    """What is still buffered for a closed pipe can never be written; without this python complains as it ends."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "watch": _watch,
    "list": _list,
    "show": _show,
    "report": _report,
    "compare": _compare,
    "diagnose": _diagnose,
    "export": _export,
    "import": _import,
    "probe list": _probe_list,
    "finding list": _finding_list,
    "theory list": _theory_list,
    "theory show": _theory_show,
    "theory predict": _theory_predict,
    "study list": _study_list,
    "study show": _study_show,
    "study run": _study_run,
}
