"""The verbs of kernel events: `attach`, `probes`, `ebpf-broker`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import vidlab

from ..errors import InputError
from ..workbench import arguments

#: The sets that `vidlab attach` records by default: those of `KernelEvents`.
DEFAULT_PROBES = ("cuda", "nvcodec", "libav", "sched", "tcp")


def add_verbs(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verbs `attach`, `probes` and `ebpf-broker`."""
    attach = verb(
        "attach",
        _attach,
        "record kernel and driver events of a running process, from outside",
        """
        vidlab attach 4711 --duration 30
        vidlab attach 4711 --probes cuda,sched -o runs/night
        vidlab attach 4711 --probes sched,my_probes:uploads
        """,
    )
    attach.add_argument("pid", type=int, metavar="PID", help="the process; see ps -e")
    arguments.add_output(attach)
    arguments.add_probes(attach, default=DEFAULT_PROBES)
    attach.add_argument(
        "--duration",
        type=float,
        metavar="S",
        help="for so many seconds (until it ends); Ctrl-C ends it too",
    )
    attach.add_argument(
        "--ring-bytes",
        type=arguments.size,
        metavar="SIZE",
        help="of each table's ring (4M)",
    )
    attach.add_argument(
        "--broker", type=Path, metavar="SOCKET", help="ask this ebpf-broker for the privileges"
    )
    probes = verb(
        "probes",
        _probes,
        "the probe sets, and what each probe runs in the kernel",
        """
        vidlab probes
        vidlab probes cuda sched
        vidlab probes show cuda --symbol cuMemAlloc_v2
        vidlab probes show my_probes:uploads
        vidlab probes unpin night
        """,
    )
    probes.usage = (
        "vidlab probes [SET ...] | show SET ... [--symbol NAME] [--pairs] | unpin NAME ..."
    )
    probes.add_argument(
        "names",
        nargs="*",
        metavar="SET",
        help="a set, or MODULE:ATTRIBUTE of your own probes; show before it: their programs",
    )
    probes.add_argument("--symbol", metavar="NAME", help="of this function or event only")
    probes.add_argument(
        "--pairs", action="store_true", help="as for a kernel without session links (before 6.13)"
    )
    broker = verb(
        "ebpf-broker",
        _broker,
        "load probes, with the privileges that takes, for a process that has none",
        """
        sudo vidlab ebpf-broker
        sudo vidlab ebpf-broker --uid 1000 --socket /run/user/1000/probes.sock
        """,
    )
    broker.add_argument(
        "--socket", type=Path, metavar="PATH", help="where it listens, in a folder of the user's"
    )
    broker.add_argument("--audit-log", type=Path, metavar="FILE", help="what it did, a line each")
    broker.add_argument("--uid", type=int, help="the user it serves (who called sudo)")


def _attach(options: argparse.Namespace) -> int:
    from ..workbench import probes

    attached = vidlab.attach(
        options.pid,
        options.output,
        probes=probes.named(options.probes),
        duration_s=options.duration,
        ring_bytes=options.ring_bytes,
        broker=options.broker,
        overwrite=options.overwrite,
    )
    print(attached)
    return 0


def _probes(options: argparse.Namespace) -> int:
    from ..workbench import probes

    names, show = options.names, options.names[:1] == ["show"]
    if names[:1] == ["unpin"]:
        return _unpin(names[1:])
    if show:
        del names[0]
    if (show and not names) or (not show and (options.symbol or options.pairs)):
        raise InputError("which programs? vidlab probes show SET, and --symbol NAME for one only")
    for name in names if show else ():
        print(probes.shown(name, symbol=options.symbol, pairs=options.pairs))
    if not show:
        print(probes.listed(names))
    return 0


def _unpin(names: list[str]) -> int:
    from ..capture.ebpf import pinning

    if not names:
        kept = ", ".join(pinning.names()) or "nothing"
        raise InputError(f"which pin? vidlab probes unpin NAME; kept in the kernel: {kept}")
    for name in names:
        pinning.unpin(name)
    return 0


def _broker(options: argparse.Namespace) -> int:
    from ..workbench.brokering import run_broker

    def say(text: str) -> None:
        print(text, flush=True)

    run_broker(options.socket, options.audit_log, options.uid, say)
    return 0
