"""The command line: one verb per thing that a notebook can do too.

A verb parses its arguments, calls one function, and prints what that returned.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import vidlab

from ..errors import InputError, VidlabError, missing_extra
from ..workbench import arguments
from . import experiment, explain, kernel_events, signals

#: The exit code for anything that vidlab itself reports as wrong, as of argparse.
WRONG = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(argv)
    verb: Callable[[argparse.Namespace], int] = options.verb
    try:
        return verb(options)
    except VidlabError as error:
        print(f"vidlab {options.name}: {error}", file=sys.stderr)
        return WRONG
    except ModuleNotFoundError as error:
        from ..workbench.doctor import EXTRAS

        for extra, packages in EXTRAS.items():
            if error.name in packages:
                print(f"vidlab {options.name}: {missing_extra(error.name, extra)}", file=sys.stderr)
                return WRONG
        raise
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # what it prints to, such as `head`, has seen enough
        sys.stderr.close()
        return 141


# --- the verbs ------------------------------------------------------------------


def _record(options: argparse.Namespace) -> int:
    from ..workbench import child, scripts

    command = [*options.command]
    if options.module:
        command = ["-m", *options.module]
    if command[:1] == ["--"]:
        del command[0]
    if not command:
        raise InputError("what is to be recorded? vidlab record SCRIPT …, or -m MODULE …")
    recorded = scripts.record_script(command, arguments.recording(options))
    # The program's stderr is its own, unless somebody sits there, or there is nothing to lose.
    if options.verbose or sys.stderr.isatty() or not recorded.took_part:
        print(f"vidlab: {recorded}", file=sys.stderr)
    return child.leave_like(recorded.exit_code)


def _report(options: argparse.Namespace) -> int:
    from ..workbench.report import write_report

    output = options.output or Path("reports", f"{options.run.resolve().name}.html")
    written = write_report(
        options.run,
        output,
        stream_id=options.stream_id,
        codec=options.codec,
        gpu=options.gpu,
        deadline_ms=options.deadline_ms,
    )
    print(written)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from ..lab.demo import run_demo

    result = run_demo(
        options.output, options.report, inputs=options.input or None, seconds=options.seconds
    )
    print(json.dumps(result.facts(), indent=2) if options.json else result)
    return 0


def _leaks(options: argparse.Namespace) -> int:
    from ..workbench.leaks import leak_report

    report = leak_report(vidlab.open_run(options.run), fail_on=options.fail_on, by=options.by)
    print(json.dumps(report.facts(), indent=2) if options.json else report)
    return int(report.failed)


def _doctor(options: argparse.Namespace) -> int:
    from ..workbench.doctor import examine

    findings = examine()
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
        return 0
    for finding in findings:
        print(f"{'works  ' if finding.works else 'missing'}  {finding.what}: {finding.detail}")
        if finding.remedy:
            print(f"{'':9}{finding.remedy}")
    return 0


def _recover(options: argparse.Namespace) -> int:
    vidlab.recover(options.run)
    return _print_facts(options)


def _compact(options: argparse.Namespace) -> int:
    vidlab.compact(options.run)
    return _print_facts(options)


def _verify(options: argparse.Namespace) -> int:
    problems = vidlab.verify(options.run)
    if options.json:
        print(json.dumps([dataclasses.asdict(problem) for problem in problems], indent=2))
    elif problems:
        print("\n".join(map(str, problems)))
    else:
        print(f"{options.run}: nothing wrong")
    return 1 if problems else 0


def _info(options: argparse.Namespace) -> int:
    return _print_facts(options)


def _print_facts(options: argparse.Namespace) -> int:
    run = vidlab.open_run(options.run)
    if options.json:
        manifest = dataclasses.asdict(run.manifest)
        facts = {**manifest, "state": run.state, "losses": run.losses, "notes": run.notes}
        print(json.dumps(facts, indent=2))
    else:
        print(_described(run))
    return 0


def _described(run: vidlab.Run) -> str:
    """Return what a run says about itself, a fact a line."""
    manifest = run.manifest
    when = datetime.fromtimestamp(manifest.started.wall_ns / 1e9).astimezone()
    lines = [f"{run.path}: {run.state}, started {when:%Y-%m-%d %H:%M:%S %z}"]
    if manifest.ended:
        lasted_ns = manifest.ended.monotonic_ns - manifest.started.monotonic_ns
        lines.append(f"lasted {lasted_ns / 1e9:,.1f} s")
    lines.append("engines: " + (", ".join(engine.name for engine in manifest.engines) or "none"))
    lines += [f"{name}: {value}" for name, value in manifest.parameters.items()]
    width = max([16, *(len(name) + 1 for name in run.tables())])
    for name in run.tables():
        facts = manifest.tables.get(name)
        size = f"{facts.rows:>12,} rows {facts.bytes:>14,} bytes" if facts else "not compacted yet"
        lines.append(f"  {name:<{width}}{size}")
    for name, counts in run.losses.items():
        gone = ", ".join(f"{count:,} {how.replace('_', ' ')}" for how, count in counts.items())
        lines.append(f"missing from {name}: {gone}")
    lines += [f"note: {note}" for note in run.notes]
    return "\n".join(lines)


# --- their arguments ------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vidlab",
        description="Record a video pipeline, then see why a frame was late and what holds the "
        "GPU memory.",
    )
    parser.add_argument("--version", action="version", version=f"vidlab {vidlab.__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", title="verbs")

    def verb(
        name: str, function: Callable[[argparse.Namespace], int], help: str, example: str
    ) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog="examples:\n" + textwrap.indent(textwrap.dedent(example).strip(), "  "),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(verb=function, name=name)
        return added

    _add_record(
        verb(
            "record",
            _record,
            "run an unmodified PyAV, OpenCV or CuPy program and record it",
            """
            vidlab record transcode.py in.mp4 out.mp4
            vidlab record -o runs/night --max-bytes 2G --label site=north -m service --port 8080
            """,
        )
    )
    report = verb(
        "report",
        _report,
        "write a run's report: one file that needs no network and no kernel",
        """
        vidlab report runs/demo
        vidlab report runs/demo -o late.pdf --codec av1 --deadline-ms 120
        """,
    )
    arguments.add_run(report)
    report.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help=".html or .pdf (reports/RUN.html)"
    )
    report.add_argument("--stream-id", metavar="ID", help="this stream only")
    report.add_argument("--codec", help="this codec only")
    report.add_argument("--gpu", type=int, metavar="INDEX", help="this GPU only")
    arguments.add_deadline(report)

    demo = verb(
        "demo",
        _demo,
        "record a pipeline of eight streams with planted faults, and find them",
        """
        vidlab demo
        vidlab demo --input a.mp4 b.mkv
        """,
    )
    demo.add_argument(
        "-o", "--output", type=Path, default=Path("runs/demo"), metavar="RUN", help="(%(default)s)"
    )
    demo.add_argument(
        "--report",
        type=Path,
        default=Path("reports/demo.html"),
        metavar="FILE",
        help="(%(default)s)",
    )
    demo.add_argument(
        "--input", type=Path, nargs="+", metavar="FILE", help="your own clips, and no faults"
    )
    demo.add_argument(
        "--seconds", type=float, metavar="S", help="how much of each clip (all of it)"
    )
    arguments.add_json(demo)

    leaks = verb(
        "leaks",
        _leaks,
        "which allocation sites leak GPU memory, how fast, and what holds it",
        """
        vidlab leaks runs/demo
        vidlab leaks runs/soak --by codec --fail-on leaking
        """,
    )
    arguments.add_run(leaks)
    leaks.add_argument(
        "--fail-on",
        choices=("leaking", "growing"),
        help="exit code 1 if a site is; growing includes leaking",
    )
    leaks.add_argument(
        "--by",
        type=lambda text: tuple(filter(None, text.split(","))),
        default=("stream_id", "codec"),
        metavar="LABEL,…",
        help="the labels by which sites are told apart (stream_id,codec)",
    )
    arguments.add_json(leaks)

    experiment.add_verb(verb)
    explain.add_verbs(verb)
    signals.add_verbs(verb)
    kernel_events.add_verbs(verb)
    doctor = verb(
        "doctor",
        _doctor,
        "what works on this machine, and how to get the rest",
        "vidlab doctor",
    )
    arguments.add_json(doctor)
    for name, function, help in (
        ("recover", _recover, "finish a run whose program was killed"),
        ("compact", _compact, "turn a run's segments into Parquet tables"),
        ("verify", _verify, "check a run for damage; exit code 1 if there is any"),
        ("info", _info, "what a run holds"),
    ):
        added = verb(name, function, help, f"vidlab {name} runs/demo")
        arguments.add_run(added)
        arguments.add_json(added)
    return parser


def _add_record(record: argparse.ArgumentParser) -> None:
    record.usage = "vidlab record [options] SCRIPT | -m MODULE | COMMAND  [argument ...]"
    arguments.add_recording(record)
    record.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="say where the run is even if stderr is no terminal",
    )
    record.add_argument(
        "-m",
        dest="module",
        nargs=argparse.REMAINDER,
        metavar="MODULE",
        help="as python -m: a module and its arguments",
    )
    record.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
