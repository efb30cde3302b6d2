"""The arguments of a recording, as text: what the command line and the magics read alike."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import sizes


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
    parser.add_argument(
        "--sampling",
        type=rates,
        default={},
        metavar="OPERATION=SHARE,…",
        help="record this share of the frames of an operation: playback=0.01",
    )
    add_deadline(parser)
    parser.add_argument(
        "--hostcuda",
        action="store_true",
        help="run CuPy on host memory: for a machine without a GPU",
    )
    add_probes(parser, default=())
    parser.add_argument(
        "--max-bytes", type=size, metavar="SIZE", help="keep the newest of this size: 500M, 2G"
    )
    parser.add_argument(
        "--keep-seconds", type=float, metavar="S", help="keep the newest seconds only"
    )


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


def size(text: str) -> int:
    """Read a size such as 500M as bytes, at least one."""
    try:
        known = sizes.parse(text)
        if known <= 0:
            raise ValueError(f"{text!r} is no size: give one above zero")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return known
