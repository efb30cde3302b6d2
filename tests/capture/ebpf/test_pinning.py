"""Probes that are kept under a name. Tried in a mount namespace of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vidlab as vl
from vidlab.capture.ebpf import Usdt
from vidlab.capture.ebpf.kernel.bpf import MapType
from vidlab.capture.ebpf.kernel.maps import Map
from vidlab.capture.ebpf.pinning import add_target
from vidlab.capture.ebpf.plan import Plan
from vidlab.capture.ebpf.session import check_pin
from vidlab.errors import InputError

from .lab import build, warm

pytestmark = [
    pytest.mark.needs("ebpf"),
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is not installed"),
]

#: What every process of these tests begins with.
PRELUDE = """
import ctypes, json, os, signal, subprocess, sys, threading, time
import vidlab as vl
from vidlab.capture.ebpf import Counter, Histogram, Probe, Tracepoint, arg, retval
from vidlab.capture.ebpf import pinning
from vidlab.capture.ebpf.kernel import pins
from vidlab.errors import VidlabError
library = ctypes.CDLL({path!r})
library.many.argtypes = [ctypes.c_long]
TWICE = Probe("libcalls.so", "twice", {{"x": arg(0, "i32")}}, {{"result": retval()}})
def engine(probes=(TWICE,), **options):
    return vl.KernelEvents(list(probes), pin="nightly", **options)
def tell(attempt):
    try:
        print(json.dumps(attempt()), flush=True)
    except VidlabError as error:
        print(json.dumps([type(error).__name__, str(error)]), flush=True)
def wait_until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
def run(code, check=True):
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", PRELUDE + code]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert not check or answer.returncode == 0, answer.stderr
    return answer.stdout
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("calls"))


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    warm(tmp_path_factory.mktemp("warm"))


def mounted(path: Path, folder: Path, code: str) -> list[Any]:
    """Run code where a BPF file system is mounted, and return what it tells, by line."""
    prelude = PRELUDE.format(path=str(path))
    whole = f"PRELUDE = {prelude!r}\nFOLDER = {str(folder)!r}\nexec(PRELUDE)\n{code}"
    answer = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c", 'mount -t bpf bpf /sys/fs/bpf && exec "$@"', "sh"),
            *(sys.executable, "-W", "error::ResourceWarning", "-c", whole),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def hits(run: vl.Run) -> list[int]:
    """The hits of all probes, as the process that began the recording tells them."""
    probes = run.scan("kernel_probes").collect()
    (first, *_) = (process for process in run.manifest.processes if process.index == 1)
    return probes.filter(probes["pid"] == first.pid)["hits"].to_list()


def xs(run: vl.Run) -> list[int]:
    return run.scan("kernel_twice").collect().sort("t_ns")["x"].to_list()


def test_the_next_recording_goes_on(path: Path, tmp_path: Path) -> None:
    told = mounted(
        path,
        tmp_path,
        """
for number, calls in enumerate((1000, 500, 3)):
    run(f'''
with vl.record({FOLDER!r} + "/run{number}", engines=[engine()]):
    library.many({calls})
library.many(77)
''')
    tell(lambda: [name for name in pins.pinned("nightly") if name.startswith("link")])
tell(pinning.names)
tell(lambda: pinning.unpin("nightly"))
tell(pinning.names)
tell(lambda: os.path.exists("/sys/fs/bpf/vidlab"))
tell(lambda: pinning.unpin("nightly"))
""",
    )
    assert told[:3] == [["link-0"]] * 3
    assert told[3:7] == [["nightly"], None, [], False]
    assert told[7][0] == "InputError"
    assert "nothing is pinned" in told[7][1]
    for number, calls in enumerate((1000, 500, 3)):
        run = vl.open_run(tmp_path / f"run{number}")
        assert xs(run) == list(range(calls))
        assert hits(run) == [calls]
        assert not run.losses


def test_one_that_is_killed_leaves_its_counts_to_the_next(path: Path, tmp_path: Path) -> None:
    mounted(
        path,
        tmp_path,
        """
run(f'''
with vl.record({FOLDER!r} + "/killed", engines=[engine()]) as recording:
    library.many(1000)
    written = lambda: vl.open_run({FOLDER!r} + "/killed").scan("kernel_twice").collect()
    wait_until(lambda: len(written()) == 1000)
    os.kill(os.getpid(), signal.SIGKILL)
''', check=False)
run(f'''
with vl.record({FOLDER!r} + "/next", engines=[engine()]):
    library.many(500)
''')
pinning.unpin("nightly")
""",
    )
    killed, following = (vl.open_run(tmp_path / name) for name in ("killed", "next"))
    assert xs(killed) == list(range(1000))
    assert xs(following) == list(range(500))
    assert hits(following) == [1500]  # the one that was killed has told of none


def test_another_process_is_recorded_while_nobody_reads(path: Path, tmp_path: Path) -> None:
    told = mounted(
        path,
        tmp_path,
        """
code = PRELUDE + '''
for line in sys.stdin:
    with vl.labels(stream_id="x"):
        library.many(int(line))
    print("done", flush=True)
'''
target = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True)
def call(count):
    print(count, file=target.stdin, flush=True)
    assert target.stdout.readline() == "done\\n"
call(5)
asked = [TWICE, Counter("calls_total", Probe("libcalls.so", "twice"))]
for number in range(2):
    with vl.record(FOLDER + f"/run{number}", engines=[engine(asked, pid=target.pid)]):
        if number == 1:
            tell(lambda: run('''
try:
    vl.KernelEvents([TWICE], pin="nightly")._open(None)
except VidlabError as error:
    print(type(error).__name__, error)
'''))
        call(100)
    call(30)
target.stdin.close()
target.wait()
target.stdout.close()
# The rest, and nobody's events by now.
with vl.record(FOLDER + "/run2", engines=[engine(asked)]):
    library.many(7)
pinning.unpin("nightly")
""",
    )
    assert "is in use by a recording" in told[0]
    runs = [vl.open_run(tmp_path / f"run{number}") for number in range(3)]
    assert [len(xs(run)) for run in runs] == [100, 130, 37]
    assert [hits(run) for run in runs] == [[100, 100], [130, 130], [37, 37]]
    counted = [run.scan("kernel_metrics").collect()["count"].sum() for run in runs]
    assert counted == [100, 130, 37]
    late = runs[2].scan("kernel_twice").collect()
    assert late["pid"].n_unique() == 2


def test_recordings_end_while_their_probes_go_on_being_hit(path: Path, tmp_path: Path) -> None:
    told = mounted(
        path,
        tmp_path,
        """
code = PRELUDE + '''
stop, made = ctypes.c_int(0), []
library.until.restype = ctypes.c_long
def call():
    made.append(library.until(ctypes.byref(stop)))
threads = [threading.Thread(target=call) for _ in range(2)]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads:
    thread.start()
print("going", flush=True)
sys.stdin.readline()
stop.value = 1
for thread in threads:
    thread.join()
print(json.dumps(sum(made)), flush=True)
sys.stdin.readline()
'''
target = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True)
def say():
    print(file=target.stdin, flush=True)
    return target.stdout.readline()
assert target.stdout.readline() == "ready\\n"
for number in range(3):
    with vl.record(FOLDER + f"/run{number}", engines=[engine(pid=target.pid, ring_bytes=1 << 16)]):
        if number == 0:
            say()
        time.sleep(0.5)
        if number == 2:
            print(say(), end="", flush=True)
target.communicate()
pinning.unpin("nightly")
""",
    )
    runs = [vl.open_run(tmp_path / f"run{number}") for number in range(3)]
    assert [run.scan("findings").collect()["message"].to_list() for run in runs] == [[], [], []]
    lost = sum(run.scan("kernel_probes").collect()["lost"].sum() for run in runs)
    assert sum(map(len, map(xs, runs))) + lost == told[0]
    assert sum(number for run in runs for number in hits(run)) == told[0]


def test_a_call_that_is_under_way_at_the_end_is_told_by_the_next(
    path: Path, tmp_path: Path
) -> None:
    mounted(
        path,
        tmp_path,
        """
code = PRELUDE + '''
flags = (ctypes.c_int * 2)()
print("ready", flush=True)
sys.stdin.readline()
thread = threading.Thread(target=library.begin_and_wait, args=(flags,))
thread.start()
wait_until(lambda: flags[1])
print("begun", flush=True)
sys.stdin.readline()
flags[0] = 5
thread.join()
print("over", flush=True)
sys.stdin.readline()
'''
target = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True)
assert target.stdout.readline() == "ready\\n"
asked = [Probe("libcalls.so", "begin_and_wait", {}, {"result": retval()})]
for number in range(2):
    with vl.record(FOLDER + f"/run{number}", engines=[engine(asked, pid=target.pid)]):
        print(file=target.stdin, flush=True)
        target.stdout.readline()
target.communicate()
pinning.unpin("nightly")
""",
    )
    runs = [vl.open_run(tmp_path / f"run{number}") for number in range(2)]
    results = [run.scan("kernel_begin_and_wait").collect()["result"].to_list() for run in runs]
    assert results == [[], [5]]
    assert [hits(run) for run in runs] == [[1], [0]]
    assert not any(run.losses for run in runs)


def test_what_other_processes_call_is_not_recorded(path: Path, tmp_path: Path) -> None:
    mounted(
        path,
        tmp_path,
        """
with vl.record(FOLDER + "/run", engines=[engine()]):
    run("library.many(1000)")
    library.many(3)
pinning.unpin("nightly")
""",
    )
    run = vl.open_run(tmp_path / "run")
    assert xs(run) == [0, 1, 2]
    assert hits(run) == [3]


def test_spans_and_labels_of_an_earlier_process_are_not_taken_for_ours(
    path: Path, tmp_path: Path
) -> None:
    mounted(
        path,
        tmp_path,
        """
step = '''
asked = [TWICE, Counter("calls_total", Probe("libcalls.so", "twice"))]
one = engine(asked)
with vl.record({folder!r} + "/{name}", engines=[vl.Frames(), one]):
    with vl.labels(stream_id="{name}"), vl.stage("filter"):
        library.many(20)
        {end}
'''
# Its reader is stopped, as one is that does not come to its turn: the ring keeps the records.
stopped = '''one._recorded._reader._hush(60.0)
        library.many(30)
        os.kill(os.getpid(), signal.SIGKILL)'''
run(step.format(folder=FOLDER, name="first", end=stopped), check=False)
ours = '''slots = one._recorded._session.shared.slots
        assert list(slots.keys()) == [threading.get_native_id().to_bytes(4, "little")]'''
run(step.format(folder=FOLDER, name="second", end=ours))
pinning.unpin("nightly")
""",
    )
    run = vl.open_run(tmp_path / "second")
    rows = run.scan("kernel_twice").collect().sort("t_ns")
    assert len(rows) >= 50
    ours = rows.tail(20)
    assert ours["stream_id"].unique().to_list() == ["second"]
    assert ours["span"].null_count() == 0
    before = rows.head(len(rows) - 20)
    assert before["stream_id"].null_count() == before["span"].null_count() == len(before)
    counted = run.scan("kernel_metrics").collect()
    ours = counted.filter(counted["stream_id"] == "second")
    assert ours["count"].sum() == 20
    assert set(counted["stream_id"].to_list()) <= {None, "second"}


def test_whole_sets_and_tracepoints(path: Path, tmp_path: Path) -> None:
    told = mounted(
        path,
        tmp_path,
        """
asked = [TWICE, "sched", Tracepoint("sched", "sched_switch", ["next_pid"])]
for number in range(2):
    with vl.record(FOLDER + f"/run{number}", engines=[engine(asked)]):
        library.many(10)
        for _ in range(20):
            time.sleep(0.001)
    tell(lambda: sorted(pins.pinned("nightly")))
pinning.unpin("nightly")
""",
    )
    assert told[0] == told[1]
    for number in range(2):
        run = vl.open_run(tmp_path / f"run{number}")
        assert len(xs(run)) == 10
        assert len(run.scan("kernel_sched_switch").collect()) >= 20
        assert len(run.scan("kernel_offcpu").collect()) >= 20


def test_other_probes_under_the_same_name_are_refused(path: Path, tmp_path: Path) -> None:
    told = mounted(
        path,
        tmp_path,
        """
run(f'''
with vl.record({FOLDER!r} + "/run", engines=[engine()]):
    library.many(1)
''')
other = Probe("libcalls.so", "twice", {"y": arg(0)}, {})
for options in ({"probes": [other]}, {"ring_bytes": 4096}):
    tell(lambda: engine(**options)._open(None))
tell(lambda: len(pins.pinned("nightly")) > 5)
pinning.unpin("nightly")
""",
    )
    for kind, message in told[:2]:
        assert kind == "InputError"
        assert "is of other probes" in message
        assert "it is on twice" in message
        assert "unpin nightly" in message
    assert told[2] is True


def test_one_that_fails_leaves_no_pin(path: Path, tmp_path: Path) -> None:
    told = mounted(
        path,
        tmp_path,
        """
tell(lambda: engine([TWICE, Probe("libcalls.so", "twise")])._open(None))
tell(pinning.names)
tell(lambda: vl.KernelEvents([TWICE], pin="a/b")._open(None))
tell(lambda: os.path.exists("/sys/fs/bpf/vidlab"))
""",
    )
    assert told[0][0] == "UnknownSymbolError"
    assert told[1] == []
    assert told[2][0] == "InputError"
    assert told[3] is False


def test_what_was_half_made_is_made_anew(path: Path, tmp_path: Path) -> None:
    told = mounted(
        path,
        tmp_path,
        """
def once(number):
    run(f'''
with vl.record({FOLDER!r} + "/run{number}", engines=[engine()]):
    library.many(10)
''')
once(0)
folder = pins.folder("nightly")
(folder / "state").unlink()  # as one leaves it that is killed before it is done
once(1)
tell(lambda: sorted(pins.pinned("nightly")))
pinning.unpin("nightly")
""",
    )
    assert "state" in told[0]
    for number in range(2):
        run = vl.open_run(tmp_path / f"run{number}")
        assert hits(run) == [10]
        assert len(xs(run)) == 10


def test_without_a_file_system_for_it_the_error_says_how_to_mount_one(tmp_path: Path) -> None:
    code = """
from vidlab.capture.ebpf import Probe
from vidlab.capture.ebpf import pinning
import vidlab as vl
print(pinning.names())
try:
    vl.KernelEvents([Probe("libc.so.6", "getppid")], pin="nightly")._open(None)
except vl.errors.VidlabError as error:
    print(error)
"""
    answer = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c", 'umount -a -t bpf; exec "$@"', "sh"),
            *(sys.executable, "-W", "error::ResourceWarning", "-c", code),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.startswith("[]\n")
    assert "mount -t bpf" in answer.stdout


def test_usdt_probes_cannot_be_kept() -> None:
    with pytest.raises(InputError, match="USDT"):
        check_pin(Plan([Usdt("python3.11", "python", "gc__start")]))


def test_processes_that_have_ended_are_targets_no_more() -> None:
    def number(pid: int) -> bytes:
        return pid.to_bytes(4, "little")

    with Map.create(MapType.HASH, 4, 8, 8, name="targets") as targets:
        add_target(targets, os.getppid())
        targets.update(number(2**22 - 1), (5).to_bytes(8, "little"))
        targets.update(number(1), (2**40).to_bytes(8, "little"))  # another one of its number
        add_target(targets, os.getpid())
        assert {key for key, _ in targets.items()} == {number(os.getpid()), number(os.getppid())}
