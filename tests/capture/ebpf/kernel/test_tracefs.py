"""Tracepoints as tracefs describes them."""

from __future__ import annotations

import shutil

import pytest

from vidlab.capture.ebpf.kernel import tracefs
from vidlab.capture.ebpf.kernel.tracefs import Field, TracefsError, UnknownTracepointError

from ..conftest import child

TEXT = """name: nvidia_dev_xid
ID: 1234
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:__data_loc char[] dev;\toffset:8;\tsize:4;\tsigned:0;
\tfield:u32 error_code;\toffset:12;\tsize:4;\tsigned:0;
\tfield:__rel_loc char[] msg;\toffset:16;\tsize:4;\tsigned:1;
\tfield:__u8 saddr[4];\toffset:20;\tsize:4;\tsigned:0;
\tfield:const void * skaddr;\toffset:24;\tsize:8;\tsigned:0;
\tfield:pid_t pids[8];\toffset:32;\tsize:32;\tsigned:1;
\tfield:__data_loc cpumask_t cpus;\toffset:64;\tsize:4;\tsigned:0;
\tfield:char odd[TASK_COMM_LEN];\toffset:68;\tsize:16;\tsigned:1;

print fmt: "dev=%s field:int x; offset:1; size:2; signed:1;", REC->dev
"""


def test_a_format_is_read() -> None:
    told = tracefs.parse_format(TEXT, "nvidia", "nvidia_dev_xid")
    assert (told.id, told.category, told.event) == (1234, "nvidia", "nvidia_dev_xid")
    assert list(told.fields.values()) == [
        Field("common_type", "unsigned short", 0, 2, False),
        Field("common_pid", "int", 4, 4, True),
        Field("dev", "char", 8, 4, False, 0, "data"),
        Field("error_code", "u32", 12, 4, False),
        Field("msg", "char", 16, 4, True, 0, "rel"),
        Field("saddr", "__u8", 20, 4, False, 4),
        Field("skaddr", "const void *", 24, 8, False),
        Field("pids", "pid_t", 32, 32, True, 8),
        Field("cpus", "cpumask_t", 64, 4, False, 0, "data"),
        Field("odd", "char", 68, 16, True, 16),
    ]


def test_a_format_without_a_number_is_told() -> None:
    with pytest.raises(TracefsError, match="no ID for a:b"):
        tracefs.parse_format("name: b\n", "a", "b")


@pytest.mark.needs("ebpf")
def test_the_kernels_own(nothing_left: object) -> None:
    told = tracefs.tracepoint_format("sched", "sched_switch")
    assert told.id > 0
    assert told.fields["prev_comm"].count == 16
    assert told.fields["next_pid"].signed
    assert told.fields["next_pid"].size == 4
    names = tracefs.tracepoints()
    assert names == sorted(names)
    assert "sched:sched_switch" in names
    assert tracefs.tracepoints("sched") == [n for n in names if n.startswith("sched:")]
    assert tracefs.tracepoints("no_such_category") == []
    assert tracefs.has_tracepoint("sched", "sched_wakeup")
    assert not tracefs.has_tracepoint("sched", "enable")


@pytest.mark.needs("ebpf")
@pytest.mark.parametrize(
    ("category", "event", "words"),
    [
        (
            "sched",
            "sched_swich",
            "no tracepoint sched:sched_swich: did you mean sched:sched_switch",
        ),
        ("task", "sched_switch", "did you mean sched:sched_switch"),
        ("sched", "enable", "no tracepoint sched:enable"),
        ("sched", "", "is no tracepoint's name"),
        ("", "", "is no tracepoint's name"),
        ("../..", "x", "is no tracepoint's name"),
        ("sched", "..", "is no tracepoint's name"),
        ("a" * 300, "x", "is no tracepoint's name"),
        ("a\0b", "x", "is no tracepoint's name"),
    ],
)
def test_a_name_that_is_none_is_told(
    category: str, event: str, words: str, nothing_left: object
) -> None:
    with pytest.raises(UnknownTracepointError, match=words):
        tracefs.tracepoint_format(category, event)


TELL = """
from vidlab.capture.ebpf.kernel import tracefs
try:
    told = tracefs.tracepoint_format("sched", "sched_switch")
    print(told.fields["next_comm"].count, tracefs.mounted())
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.needs("ebpf")
@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is not installed")
def test_it_is_read_where_it_is_mounted_and_where_not(nothing_left: object) -> None:
    """In a mount namespace of its own: this machine's mounts stay as they are."""
    bare = "for at in $(grep -w tracefs /proc/mounts | cut -d' ' -f2); do umount -l $at; done\n"
    mount = "mount -t tracefs tracefs /sys/kernel/tracing\n"
    run = 'exec "$@"'
    without = child(TELL, "unshare", "-m", "sh", "-c", bare + run, "sh")
    assert without == "16 None"
    mounted = child(TELL, "unshare", "-m", "sh", "-c", bare + mount + run, "sh")
    assert mounted == "16 /sys/kernel/tracing"
    # 38, 39: what programs need, but no mounting.
    refused = child(TELL, "unshare", "-m", "sh", "-c", bare + run, "sh", keep=(38, 39))
    assert refused.startswith("PrivilegeError tracepoints are described in tracefs, which is not")
    assert "sudo mount -t tracefs tracefs /sys/kernel/tracing" in refused
    assert "sudo vidlab ebpf-broker" in refused
    nobody = "import os\nfrom vidlab.capture.ebpf.kernel import tracefs\n"
    nobody += "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n" + TELL
    refused = child(nobody, "unshare", "-m", "sh", "-c", bare + mount + run, "sh")
    assert refused.startswith("PrivilegeError tracepoints are described in tracefs, which this")
    assert "remount,gid=GROUP,mode=750" in refused
