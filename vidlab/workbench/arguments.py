"""The arguments of a recording, as text: what the command line and the magics read alike."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from .. import sizes
from ..capture.frames.adaptive import Adaptive
from ..capture.runtime.profiles import PROFILES
from ..errors import InputError
from ..labelrules import LabelRules

if TYPE_CHECKING:
    from ..analysis.thresholds import Thresholds
    from .recording_options import RecordingOptions


def add_recording(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vidlab record`."""
    add_output(parser)
    parser.add_argument(
        "--label",
        type=pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="put a label on all of it; may be given again",
    )
    shares = parser.add_mutually_exclusive_group()
    shares.add_argument(
        "--sampling",
        type=rates,
        default={},
        metavar="OPERATION=SHARE,…",
        help="record this share of the frames of an operation: playback=0.01",
    )
    shares.add_argument(
        "--adaptive",
        type=share,
        metavar="SHARE",
        help="record this share of the frames, less while the machine is busy, more while frames "
        "fail, and whatever was late, failed or was lost: 0.1",
    )
    add_deadline(parser)
    parser.add_argument(
        "--hostcuda",
        action="store_true",
        help="run CuPy on host memory: for a machine without a GPU",
    )
    add_probes(parser, default=())
    parser.add_argument(
        "--profiles", action="store_true", help="CPU profiles under the labels, by pyroscope-io"
    )
    parser.add_argument(
        "--runtime",
        choices=tuple(PROFILES),
        default="production",
        help="what is looked at of the interpreter, and how often (%(default)s)",
    )
    add_label_rules(parser)
    parser.add_argument(
        "--max-bytes", type=size, metavar="SIZE", help="keep the newest of this size: 500M, 2G"
    )
    parser.add_argument(
        "--keep-seconds", type=float, metavar="S", help="keep the newest seconds only"
    )


def add_label_rules(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what becomes of label values: see `LabelRules`."""
    parser.add_argument(
        "--label-budget",
        type=count,
        default=LabelRules.budget,
        metavar="N",
        help="distinct values of a label in a process; further ones are put together in 64 "
        "buckets (%(default)s)",
    )
    parser.add_argument(
        "--redact",
        action="append",
        default=[],
        metavar="KEY",
        help="keep this label's values out of the run; what the program's arguments or a "
        "stream's URL say stays; may be given again",
    )
    parser.add_argument(
        "--drop-label",
        action="append",
        default=[],
        metavar="KEY",
        help="leave this label out; may be given again",
    )


def recording(options: argparse.Namespace) -> RecordingOptions:
    """Return what the options of `add_recording` come to."""
    from .recording_options import RecordingOptions  # of all engines, which most verbs do without

    return RecordingOptions(
        output=options.output,
        overwrite=options.overwrite,
        labels=dict(options.label),
        sampling=sampling(options),
        deadline_ms=options.deadline_ms,
        hostcuda=options.hostcuda,
        probes=options.probes,
        profiles=options.profiles,
        runtime=options.runtime,
        label_rules=label_rules(options),
        max_bytes=options.max_bytes,
        keep_seconds=options.keep_seconds,
    )


def label_rules(options: argparse.Namespace) -> LabelRules:
    """Return the rules that these options come to."""
    return LabelRules(
        budget=options.label_budget,
        redact=tuple(dict.fromkeys(options.redact)),
        drop=tuple(dict.fromkeys(options.drop_label)),
    )


def sampling(options: argparse.Namespace) -> dict[str, float] | Adaptive:
    """Return the sampling that these options come to."""
    if options.adaptive is None:
        shares: dict[str, float] = options.sampling
        return shares
    return Adaptive(base=options.adaptive, busy=min(Adaptive.busy, options.adaptive))


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """Add the option that says from when on something about the runtime is worth a word."""
    parser.add_argument(
        "--threshold",
        type=threshold,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="from when on something is worth a word; may be given again; a name that there is "
        "not shows those that there are",
    )


def thresholds(options: argparse.Namespace) -> Thresholds:
    """Return the thresholds that these options come to. InputError if there is no such one."""
    from ..analysis.thresholds import Thresholds  # of polars, which a recording does without

    known = {field.name: field.default for field in dataclasses.fields(Thresholds)}
    values: dict[str, float] = {}
    for name, text in options.threshold:
        if name not in known:
            all_of_them = ", ".join(f"{one}={value}" for one, value in known.items())
            raise InputError(f"there is no threshold {name!r}: there are {all_of_them}")
        whole = isinstance(known[name], int)
        try:
            in_bytes = whole and "byte" in name
            values[name] = sizes.parse(text) if in_bytes else int(text) if whole else float(text)
        except ValueError:
            kind = "a whole number" if whole else "a number"
            raise InputError(
                f"the threshold {name} is {kind} such as {known[name]}, not {text!r}"
            ) from None
    return Thresholds(**values)  # type: ignore[arg-type]  # each of its own kind


def add_explain(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vidlab explain`, but for the run: which frames, and when they are late.

    What these options come to: `explain.answers.as_asked`.
    """
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--frame", metavar="FRAME", help="this frame: its number, or STREAM:SEQ, as cam-3:117"
    )
    which.add_argument("--worst", action="store_true", help="the frame that was latest")
    parser.add_argument("--stream-id", metavar="ID", help="frames of this stream only")
    parser.add_argument("--codec", help="frames of this codec only")
    parser.add_argument("--gpu", type=int, metavar="INDEX", help="frames of this GPU only")
    add_deadline(parser)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the run that a verb is about."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option for output that a program reads."""
    parser.add_argument("--json", action="store_true", help="for machines")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a new run goes."""
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="RUN",
        help="the run's folder (runs/NAME-TIME)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is there")


def add_deadline(parser: argparse.ArgumentParser) -> None:
    """Add the option that says when a frame is late."""
    parser.add_argument(
        "--deadline-ms",
        type=float,
        metavar="MS",
        help="a frame is late beyond this (three frame intervals)",
    )


def add_probes(parser: argparse.ArgumentParser, default: tuple[str, ...]) -> None:
    """Add the option that says which probe sets are recorded by eBPF."""
    parser.add_argument(
        "--probes",
        type=probe_names,
        default=default,
        metavar="SET,…",
        help=f"kernel and driver events: see vidlab probes ({','.join(default) or 'none'}); a set, "
        "or MODULE:ATTRIBUTE of your own",
    )


def probe_names(text: str) -> tuple[str, ...]:
    """Read names with commas between, at least one."""
    names = tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names no probes: give some, such as cuda,sched")
    return names


def pair(text: str) -> tuple[str, str]:
    """Read key=value."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier() and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    return key, value


def rates(text: str) -> dict[str, float]:
    """Read operation=share, several with commas between."""
    try:
        known = {name: float(share) for name, share in map(pair, text.split(","))}
    except ValueError:
        known = {"": 0.0}
    if not all(0 < share <= 1 for share in known.values()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form operation=share with shares above 0 and at most 1"
        )
    return known


def share(text: str) -> float:
    """Read a share above 0 and at most 1."""
    try:
        known = float(text)
    except ValueError:
        known = 0.0
    if not 0 < known <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share above 0 and at most 1, as 0.1 is")
    return known


def threshold(text: str) -> tuple[str, str]:
    """Read name=value, of a threshold."""
    name, equals, value = text.partition("=")
    if not (equals and name and value):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form name=value, as delay_p99_ms=5 is"
        )
    return name, value


def count(text: str) -> int:
    """Read a whole number, 0 or more."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, as 500 is")
    return int(text)


def size(text: str) -> int:
    """Read a size such as 500M as bytes, at least one."""
    try:
        known = sizes.parse(text)
        if known <= 0:
            raise ValueError(f"{text!r} is no size: give one above zero")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return known
