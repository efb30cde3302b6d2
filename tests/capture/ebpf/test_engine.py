"""`KernelEvents` in recordings: exact spans, children, what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl
from vidlab.capture.ebpf import Probe, arg, retval
from vidlab.capture.ebpf.engine import BROKER_VARIABLE
from vidlab.errors import InputError

from .conftest import DROP
from .lab import build, warm

pytestmark = pytest.mark.needs("ebpf")

#: What every process of these tests begins with.
PRELUDE = """
import ctypes, gc, json, os, signal, subprocess, sys, threading, time
import vidlab as vl
from vidlab.capture.ebpf import Counter, Histogram, Probe, Tracepoint, arg, retval
from vidlab.errors import VidlabError
library = ctypes.CDLL({path!r})
library.many.argtypes = [ctypes.c_long]
TWICE = Probe("libcalls.so", "twice", {{"x": arg(0, "i32")}}, {{"result": retval()}})
RUN = {run!r}
def recording(*engines, probes=(TWICE,), **options):
    return vl.record(RUN, engines=[*engines, vl.KernelEvents(list(probes), **options)])
def wait_until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
def begins(function):
    "The first bytes of its code: a breakpoint, once it is probed."
    return ctypes.string_at(ctypes.cast(function, ctypes.c_void_p).value, 4)
def files():
    return sorted(os.readlink(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd")
                  if os.path.islink(f"/proc/self/fd/{{fd}}"))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("calls"))


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    warm(tmp_path_factory.mktemp("warm"))


@pytest.fixture
def run_code(path: Path, tmp_path: Path) -> Callable[..., tuple[vl.Run, Any]]:
    """Run code in a process of its own; return its run and what it printed as JSON."""

    def run(code: str, returncode: int = 0, before: str = "") -> tuple[vl.Run, Any]:
        folder = tmp_path / "run"
        environment = {k: v for k, v in os.environ.items() if k != BROKER_VARIABLE}
        whole = before + PRELUDE.format(path=str(path), run=str(folder)) + code
        answer = subprocess.run(
            [sys.executable, "-W", "error::ResourceWarning", "-c", whole],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert answer.returncode == returncode, answer.stderr
        told = [json.loads(line) for line in answer.stdout.splitlines()]
        return vl.open_run(folder), told

    return run


def probes(run: vl.Run) -> pl.DataFrame:
    return run.scan("kernel_probes").collect()


def findings(run: vl.Run) -> dict[str, str]:
    found = run.scan("findings").collect()
    return dict(zip(found["kind"].to_list(), found["message"].to_list(), strict=True))


def test_every_call_carries_the_span_the_frame_and_the_labels_that_it_is_under(
    run_code: Callable[..., tuple[vl.Run, Any]], tmp_path: Path
) -> None:
    run, _ = run_code(
        f"""
import av, numpy
clip = {str(tmp_path / "clip.mp4")!r}
with av.open(clip, "w") as container:
    stream = container.add_stream("mpeg4", rate=25, width=64, height=64)
    for _ in range(8):
        image = av.VideoFrame.from_ndarray(numpy.zeros((64, 64, 3), numpy.uint8), "rgb24")
        container.mux(stream.encode(image))
    container.mux(stream.encode(None))
"""
        + """
CALLS = 20_000
def work(number, frame):
    with vl.labels(lane=number):
        for x in range(CALLS):
            with vl.stage("work", frame):
                library.twice(x)
with recording(vl.Frames(), ring_bytes=1 << 24):
    with vl.open_video(clip) as video:
        frames = list(video.frames())[:3]
    threads = [threading.Thread(target=work, args=(i, frames[i])) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    library.twice(-1)
"""
    )
    rows = run.scan("kernel_twice").collect().sort("tid", "t_ns")
    (row,) = probes(run).to_dicts()
    assert row["hits"] == 60_001
    assert len(rows) + row["lost"] == 60_001
    outside = rows.filter(pl.col("x") == -1)
    assert outside["span"].null_count() == outside["frame"].null_count() == len(outside)
    rows = rows.filter(pl.col("x") >= 0)
    assert rows["span"].null_count() == rows["frame"].null_count() == 0
    spans = run.scan("spans").filter(pl.col("stage") == "work").collect().sort("tid", "t_ns")
    spans = spans.with_columns(x=pl.int_range(pl.len()).over("tid"))
    joined = rows.join(spans, on="span", suffix="_of_span", validate="1:1")
    assert len(joined) == len(rows)
    for name in ("tid", "frame", "lane", "x"):
        assert (joined[name] == joined[f"{name}_of_span"]).all()
    begin, end = joined["t_ns_of_span"], joined["t_ns_of_span"] + joined["duration_ns_of_span"]
    assert (begin <= joined["t_ns"]).all()
    assert (joined["t_ns"] + joined["duration_ns"] <= end).all()
    assert joined["frame"].n_unique() == joined["lane"].n_unique() == 3


def test_calls_are_rows_or_losses_when_the_ring_is_far_too_small(
    run_code: Callable[..., tuple[vl.Run, Any]],
) -> None:
    run, _ = run_code(
        """
import sys
sys.setswitchinterval(1.0)  # so that the reader hardly comes to its turn
with recording(ring_bytes=4096):
    threads = [threading.Thread(target=library.many, args=(50_000,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20_000_000):
        pass
    for thread in threads:
        thread.join()
"""
    )
    rows = len(run.scan("kernel_twice").collect())
    (row,) = probes(run).to_dicts()
    assert row["hits"] == 100_000 == rows + row["lost"]
    assert row["lost"] > 0
    assert run.losses["kernel_twice"]["lost"] == row["lost"]


def test_nothing_is_left_after_the_end_or_a_failure(
    run_code: Callable[..., tuple[vl.Run, Any]], nothing_left: Callable[[], None]
) -> None:
    _, (before, failed, after) = run_code(
        """
import shutil
with recording():  # what is kept open for good, by Polars and others
    library.many(10)
shutil.rmtree(RUN)
gc.collect()  # or what is open now may be closed at any time
print(json.dumps(files()))
missing = Probe("libcalls.so", "twise")
try:
    with recording(probes=[TWICE, "sched", missing]):
        pass
except VidlabError as error:
    assert "twice" in str(error), error
print(json.dumps(files()))
shutil.rmtree(RUN, ignore_errors=True)
with recording(probes=[TWICE, "sched", Counter("calls_total", Probe("libcalls.so", "twice"))]):
    library.many(10)
print(json.dumps(files()))
"""
    )
    assert before == failed == after
    nothing_left()


def test_without_the_right_to_it_a_finding_says_so_and_the_recording_goes_on(
    run_code: Callable[..., tuple[vl.Run, Any]],
) -> None:
    for keep, missing in (((), "cap_bpf"), ((39,), "cap_perfmon"), ((38,), "cap_bpf")):
        run, _ = run_code(
            """
import shutil
shutil.rmtree(RUN, ignore_errors=True)
with recording(vl.Frames()), vl.stage("work"):
    library.many(10)
""",
            before=DROP.format(keep=keep),
        )
        message = findings(run)["no_kernel_events"]
        assert missing in message
        assert "sudo vidlab ebpf-broker" in message
        assert len(run.scan("spans").collect()) == 1


def test_a_kernel_that_is_too_old_is_told_and_the_recording_goes_on(
    run_code: Callable[..., tuple[vl.Run, Any]],
) -> None:
    run, told = run_code(
        """
from vidlab.capture.ebpf.kernel import links
links.has_uprobes = lambda: False
from vidlab.capture.ebpf.session import UnsupportedError
try:
    with recording(required=True):
        pass
except UnsupportedError as error:
    print(json.dumps(str(error)))
with vl.record(RUN, engines=[vl.KernelEvents([TWICE])], overwrite=os.path.exists(RUN)):
    library.many(10)
"""
    )
    assert "Linux 6.6" in told[0]
    assert findings(run)["no_kernel_events"] == told[0]


def test_required_raises_where_it_may_not_be(
    run_code: Callable[..., tuple[vl.Run, Any]],
) -> None:
    _, told = run_code(
        """
from vidlab.capture.ebpf.kernel.privileges import PrivilegeError
try:
    with recording(required=True):
        pass
except PrivilegeError as error:
    print(json.dumps(error.missing))
with vl.record(RUN, overwrite=True, engines=[]):
    pass
""",
        before=DROP.format(keep=()),
    )
    assert told == [["cap_bpf", "cap_perfmon"]]


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed")
def test_a_user_without_any_rights() -> None:
    # Not under pytest's folder, into which other users may not look.
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o777)
        code = PRELUDE.format(path=str(build(folder)), run=str(folder / "run"))
        code += "with recording(vl.Frames()), vl.stage('work'):\n    library.twice(1)\n"
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        answer = subprocess.run(
            [*nobody, sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HOME": place},
        )
        if answer.returncode and "vidlab" not in answer.stderr:
            pytest.skip(f"this Python is not for other users: {answer.stderr[-200:]}")
        assert answer.returncode == 0, answer.stderr
        run = vl.open_run(folder / "run")
        assert "cap_bpf" in findings(run)["no_kernel_events"]
        assert len(run.scan("spans").collect()) == 1


def test_forked_children_have_probes_of_their_own(
    run_code: Callable[..., tuple[vl.Run, Any]], nothing_left: Callable[[], None]
) -> None:
    run, told = run_code(
        """
import multiprocessing
import vidlab.capture.ebpf.engine as engines
engine = vl.KernelEvents([TWICE])
def child(ready, more):
    wait_until(lambda: engine._recorded is not None)  # it has its own
    library.many(200)
    ready.set()
    more.wait()
context = multiprocessing.get_context("fork")
with vl.record(RUN, engines=[engine]):
    library.many(100)
    ready, more = context.Event(), context.Event()
    process = context.Process(target=child, args=(ready, more))
    process.start()
    library.many(100)
    ready.wait()
    library.many(100)
    more.set()
    process.join()
    assert process.exitcode == 0
    engines._CHILD_AFTER_NS = 1 << 60
    for _ in range(3):  # short ones, which have none
        short = context.Process(target=library.many, args=(50,))
        short.start()
        short.join()
    library.many(100)
    print(json.dumps([os.getpid(), process.pid]))
"""
    )
    parent, child = told[0]
    rows = run.scan("kernel_twice").collect()
    assert len(rows.filter(pl.col("pid") == parent)) == 400
    assert len(rows.filter(pl.col("pid") == child)) == 200
    assert len(rows) == 600
    assert sorted(probes(run)["hits"].to_list()) == [200, 400]
    assert not run.losses
    nothing_left()


def test_forked_children_leave_no_threads_of_theirs_among_the_parents(
    run_code: Callable[..., tuple[vl.Run, Any]],
) -> None:
    _, (threads, known) = run_code(
        """
engine = vl.KernelEvents([TWICE])
with vl.record(RUN, engines=[vl.Frames(), engine]), vl.stage("work"):
    for _ in range(3):
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    print(json.dumps([threading.get_native_id()]))
    slots = engine._recorded._session.shared.slots
    print(json.dumps([int.from_bytes(key, "little") for key in slots.keys()]))
"""
    )
    assert known == threads


def test_a_child_that_is_started_has_probes_of_its_own(
    run_code: Callable[..., tuple[vl.Run, Any]],
) -> None:
    run, _ = run_code(
        """
code = f'''
import ctypes, time
library = ctypes.CDLL({library._name!r})
def begins():
    return ctypes.string_at(ctypes.cast(library.twice, ctypes.c_void_p).value, 4)
unprobed = bytes.fromhex("{begins(library.twice).hex()}")
import vidlab
while begins() == unprobed:
    time.sleep(0.01)
library.many(30)
'''
with recording():
    library.many(10)
    subprocess.run([sys.executable, "-c", code], check=True)
"""
    )
    rows = run.scan("kernel_twice").collect()
    assert len(rows) == 40
    assert rows["pid"].n_unique() == 2


def test_a_library_that_is_loaded_late_is_told(
    run_code: Callable[..., tuple[vl.Run, Any]], tmp_path: Path
) -> None:
    late = build(tmp_path, "libverylate.so")
    run, _ = run_code(
        f"""
go_on, look = threading.Event(), vl.KernelEvents._round
vl.KernelEvents._round = lambda self: go_on.is_set() and look(self)
with recording(probes=[Probe("libverylate.so", "twice", {{"x": arg(0, "i32")}})]):
    late = ctypes.CDLL({str(late)!r})
    unprobed = begins(late.twice)
    late.twice(1)
    go_on.set()
    wait_until(lambda: begins(late.twice) != unprobed)
    late.twice(2)
"""
    )
    assert run.scan("kernel_twice").collect()["x"].to_list() == [2]
    assert "libverylate.so" in findings(run)["probe_attached_late"]


def test_a_library_that_never_comes_is_told(
    run_code: Callable[..., tuple[vl.Run, Any]],
) -> None:
    run, _ = run_code(
        """
with recording(probes=[Probe("libnowhere.so.7", "f"), Probe("libnowhere.so.7", "g"), "nvcodec"]):
    pass
"""
    )
    [message] = run.scan("findings").collect()["message"].to_list()
    assert "'libnowhere.so.7' was loaded" in message
    assert "nothing is recorded of f, g" in message


def test_a_probe_is_replaced_while_recording(
    run_code: Callable[..., tuple[vl.Run, Any]],
) -> None:
    run, _ = run_code(
        """
even = Probe("libcalls.so", "twice", {"x": arg(0, "i32")}, {"result": retval()},
             arg(0, "i32") % 2 == 0)
engine = vl.KernelEvents([TWICE])
try:
    engine.replace(TWICE, even)
    raise AssertionError
except VidlabError as error:
    assert "nothing to replace" in str(error)
with vl.record(RUN, engines=[engine]):
    library.many(10)
    engine.replace(TWICE, even)
    library.many(10)
    try:
        engine.replace(TWICE, even)
        raise AssertionError
    except VidlabError as error:
        assert "is not being recorded" in str(error)
    engine.replace(even, TWICE)
    library.many(2)
"""
    )
    rows = run.scan("kernel_twice").collect().sort("t_ns")
    assert rows["x"].to_list() == [*range(10), *range(0, 10, 2), 0, 1]
    (row,) = probes(run).to_dicts()
    assert (row["hits"], row["filtered"], row["lost"]) == (22, 5, 0)


def test_metrics_are_written_with_their_labels(
    run_code: Callable[..., tuple[vl.Run, Any]],
) -> None:
    run, _ = run_code(
        """
asked = [
    Counter("calls_total", Probe("libcalls.so", "twice")),
    Histogram("x", Probe("libcalls.so", "twice", exit={}), arg(0, "i32"), "1"),
]
with recording(vl.Frames(), probes=asked):
    for stream in ("a", "b"):
        with vl.labels(stream_id=stream), vl.stage("work"):
            library.many(100 if stream == "a" else 10)
    time.sleep(0.7)
    library.many(1)
"""
    )
    rows = run.scan("kernel_metrics").collect()
    counted = rows.group_by("metric", "stream_id").agg(pl.col("count").sum())
    assert {tuple(row) for row in counted.rows()} == {
        *((metric, "a", 100) for metric in ("calls_total", "x")),
        *((metric, "b", 10) for metric in ("calls_total", "x")),
        *((metric, None, 1) for metric in ("calls_total", "x")),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": ["nosuchset"]}, "nosuchset"),
        ({"probes": [3]}, "is no declaration"),
        ({"ring_bytes": 5000}, "power of two"),
        ({"pid": -1}, "process's number"),
        ({"pid": "1"}, "process's number"),
    ],
)
def test_what_cannot_be_is_told_as_it_is_asked_for(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        vl.KernelEvents(**options)


def test_children_of_one_that_records_another_process_record_nothing() -> None:
    engine = vl.KernelEvents([Probe("libcalls.so", "twice")], pid=1)
    again = vl.KernelEvents(**engine.parameters())
    again.start(None)  # type: ignore[arg-type]
    again.stop()
    assert not again.tables


def test_a_child_process_makes_the_same_of_its_parameters() -> None:
    probe = Probe("libcalls.so", "twice", {"x": arg(0, "i32")}, {"result": retval()}, arg(0) > 3)
    engine = vl.KernelEvents([probe, "sched"], ring_bytes=1 << 16, pin="name")
    again = vl.KernelEvents(**json.loads(json.dumps(engine.parameters())))
    assert again.plan.to_json() == engine.plan.to_json()
    assert again.parameters() == engine.parameters()
    assert "pin" not in again.parameters()
