"""The check that nothing is left sees what is left, and only what is ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from vidlab.capture.ebpf.kernel.bpf import AttachType, MapType, ProgramType
from vidlab.capture.ebpf.kernel.links import attach_uprobes
from vidlab.capture.ebpf.kernel.maps import Map
from vidlab.capture.ebpf.kernel.trial import OFFSET, CountingProgram, TrialFunction

from .. import conftest

pytestmark = pytest.mark.needs("ebpf")


def test_what_we_hold_is_seen(
    nothing_left: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "PATIENCE", 0.0)
    with (
        Map.create(MapType.HASH, 4, 4, 1) as table,
        TrialFunction() as function,
        CountingProgram(ProgramType.KPROBE, AttachType.UPROBE_MULTI) as counting,
        attach_uprobes(counting.program, function.path, [OFFSET]) as link,
    ):
        with pytest.raises(AssertionError) as told:
            nothing_left()
        assert f"map {table.id}" in str(told.value)
        assert f"program {counting.program.info().id}" in str(told.value)
        assert f"link {link.id}" in str(told.value)
    monkeypatch.undo()


def test_a_descriptor_is_seen(
    nothing_left: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "PATIENCE", 0.0)
    read, write = os.pipe()
    with pytest.raises(AssertionError, match=f"descriptor {read}: pipe"):
        nothing_left()
    os.close(read)
    os.close(write)
    monkeypatch.undo()


HOLDER = """
import os, struct, sys, time
from vidlab.capture.ebpf.kernel.bpf import MapType, ProgramType
from vidlab.capture.ebpf.kernel.maps import Map
from vidlab.capture.ebpf.kernel.trial import CountingProgram
table = Map.create(MapType.PROG_ARRAY, 4, 4, 1)
counting = CountingProgram(ProgramType.KPROBE)
table.update(bytes(4), struct.pack("<I", counting.program.fd))
id = counting.program.info().id
counting.close()  # held by the array alone, and its own map by it
if {away} and os.fork():
    os._exit(0)
print(id, os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("away", [False, True])
def test_what_others_hold_is_theirs_and_what_children_hold_is_ours(
    nothing_left: Callable[[], None], monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    """A process that went away from us, with nothing of our environment, is a stranger."""
    environment = {} if away else dict(os.environ)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(away=away)],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        id, pid = map(int, holder.stdout.readline().split())
        try:
            if away:
                holder.wait()
                holder.stdout.close()
                nothing_left()
            else:
                monkeypatch.setattr(conftest, "PATIENCE", 0.0)
                with pytest.raises(AssertionError, match=f"program {id}"):
                    nothing_left()
        finally:
            os.kill(pid, 9)
    monkeypatch.undo()
