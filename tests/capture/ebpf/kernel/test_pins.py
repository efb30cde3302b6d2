"""Pins outlive the process that made them. Tried in a mount namespace of their own."""

from __future__ import annotations

import shutil

import pytest

from vidlab.capture.ebpf.kernel import pins
from vidlab.capture.ebpf.kernel.pins import PinError
from vidlab.errors import InputError

from ..conftest import DROP, child

pytestmark = [
    pytest.mark.needs("ebpf"),
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is not installed"),
]

IMPORTS = """
import os, struct, subprocess, sys, time
from vidlab.capture.ebpf.kernel import bpf, links, maps, pins, privileges, programs, trial
from vidlab.capture.ebpf.kernel.bpf import AttachType, MapType, ProgramType
"""

TELL = """
def tell(attempt):
    try:
        print(attempt())
    except Exception as error:
        print(type(error).__name__, error)
"""


def mounted(code: str, options: str = "") -> list[str]:
    """Run code where a BPF file system is mounted, and return the lines it prints."""
    mount = f'mount -t bpf {options} bpf /sys/fs/bpf && exec "$@"'
    return child(IMPORTS + TELL + code, "unshare", "-m", "sh", "-c", mount, "sh").splitlines()


def test_a_count_goes_on_in_another_process() -> None:
    told = mounted(
        """
with maps.Map.create(MapType.ARRAY, 4, 8, 1, name="counts") as counts:
    counts.update(bytes(4), struct.pack("<Q", 41))
    print(pins.pin(counts.fd, "nightly-1", "counts"))
other = '''
import struct
from vidlab.capture.ebpf.kernel import maps, pins
with maps.Map.from_fd(pins.get("nightly-1", "counts")) as counts:
    (count,) = struct.unpack("<Q", counts.lookup(bytes(4)))
    counts.update(bytes(4), struct.pack("<Q", count + 1))
'''
subprocess.run([sys.executable, "-c", other], check=True)
with maps.Map.from_fd(pins.get("nightly-1", "counts")) as counts:
    print(struct.unpack("<Q", counts.lookup(bytes(4))))
print(pins.pinned("nightly-1"), pins.get("nightly-1", "other"), pins.pinned("other"))
print(oct(os.stat("/sys/fs/bpf/vidlab").st_mode))
pins.unpin("nightly-1")
print(pins.pinned("nightly-1"), os.path.exists("/sys/fs/bpf/vidlab"))
pins.unpin("nightly-1")
"""
    )
    assert told == [
        "/sys/fs/bpf/vidlab/nightly-1/counts",
        "(42,)",
        "['counts'] None []",
        "0o40700",
        "[] False",
    ]


def test_a_pinned_link_runs_on_without_its_maker() -> None:
    told = mounted(
        """
with trial.TrialFunction() as function:
    with (
        trial.CountingProgram(ProgramType.KPROBE, AttachType.UPROBE_MULTI) as counting,
        links.attach_uprobes(counting.program, function.path, [trial.OFFSET]) as link,
    ):
        pins.pin(link.fd, "a", "link")
        pins.pin(counting.program.fd, "a", "program")
        (counts,) = counting.program.info().map_ids
        function.call()
    function.call()
    function.call()
    print(pins.pinned("a"))
    with programs.Program.from_fd(pins.get("a", "program")) as program:
        (same,) = program.info().map_ids
        fd = bpf.bpf(bpf.Command.MAP_GET_FD_BY_ID, struct.pack("<III", same, 0, 0))
    with maps.Map.from_fd(fd) as table:
        def counted():
            function.call()
            return struct.unpack("<Q", table.lookup(bytes(4)))[0]
        print(same == counts, counted())
        pins.unpin("a", "link")
        # The kernel takes the link down in its own time.
        last = counted()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            before, last = last, counted()
            if last == before:
                break
            time.sleep(0.01)
        print(last == before)
    pins.unpin("a")
"""
    )
    assert told == ["['link', 'program']", "True 4", "True"]


def test_a_pin_is_not_overwritten() -> None:
    told = mounted(
        """
with maps.Map.create(MapType.ARRAY, 4, 8, 1) as one:
    pins.pin(one.fd, "a", "counts")
    tell(lambda: pins.pin(one.fd, "a", "counts"))
    tell(lambda: pins.pin(0, "a", "no_object"))
print(pins.pinned("a"))
"""
    )
    assert told[0].startswith("PinError /sys/fs/bpf/vidlab/a/counts is there already: take another")
    assert told[1].startswith("PinError cannot pin /sys/fs/bpf/vidlab/a/no_object: Invalid arg")
    assert told[2] == "['counts']"


def test_a_folder_of_another_users_is_not_trusted() -> None:
    told = mounted(
        """
os.mkdir("/sys/fs/bpf/vidlab")
os.chown("/sys/fs/bpf/vidlab", 1234, 1234)
tell(lambda: pins.get("a", "counts"))
tell(lambda: pins.pin(0, "a", "counts"))
os.rmdir("/sys/fs/bpf/vidlab")
os.symlink("/sys/fs", "/sys/fs/bpf/vidlab")
tell(lambda: pins.pin(0, "a", "counts"))
"""
    )
    assert len(told) == 3
    for line in told[:2]:
        assert line.startswith("PinError /sys/fs/bpf/vidlab belongs to the user 1234, not to")
    assert told[2].startswith("PinError /sys/fs/bpf/vidlab ")


def test_who_may_not_is_told() -> None:
    told = mounted(
        DROP.format(keep=())
        + """
tell(lambda: pins.pin(0, "a", "counts"))
""",
        "-o uid=1234,mode=700",
    )
    assert told[0].startswith("PrivilegeError kernel events need cap_bpf, which this process lacks")
    assert "/sys/fs/bpf/vidlab" in told[0]


def test_without_a_file_system_the_mount_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "mounts", lambda kind: [])
    assert pins.file_system() is None
    for attempt in (
        lambda: pins.pin(0, "a", "counts"),
        lambda: pins.get("a", "counts"),
        lambda: pins.pinned("a"),
        lambda: pins.unpin("a"),
    ):
        with pytest.raises(PinError, match="sudo mount -t bpf bpf /sys/fs/bpf"):
            attempt()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a.b", "a b", "é", "x" * 101, "a\0"])
def test_names_are_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "file_system", lambda: pins.Path("/nowhere"))
    for attempt in (lambda: pins.get(name, "counts"), lambda: pins.get("a", name)):
        with pytest.raises(InputError, match="cannot be a pin's name"):
            attempt()
