"""GPU time of stages: the whole way from two events to `gpu_duration_ns` in a run.

Host memory does no work, so that its events tell nothing of a GPU; but they are events, and
the way that their times take is the real one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl
from vidlab.capture.frames import stages
from vidlab.capture.frames.refs import frame_ref
from vidlab.capture.gpu import timing
from vidlab.capture.gpu.timing import Timer

#: To how much times are rounded at rest.
GRAIN_NS = 256

pytestmark = pytest.mark.needs("hostcuda")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy  # noqa: F401  # a stage never does

    monkeypatch.setattr(timing, "TIME_ON_HOSTCUDA", True)
    monkeypatch.setattr(timing, "PATIENCE_S", 60.0)  # host memory is done with its events at once


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    """CuPy's runtime functions, of which a test may replace some."""
    import cupy

    return cupy.cuda.runtime


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def spans(run: Any) -> pl.DataFrame:
    found: pl.DataFrame = run.scan("spans").sort("t_ns").collect()
    return found


def kinds_found(run: Any) -> list[str]:
    found: list[str] = run.scan("findings").collect()["kind"].to_list()
    return found


def is_within(table: pl.DataFrame) -> bool:
    """Whether each GPU time is one, and not longer than its span, but for the rounding."""
    times = table["gpu_duration_ns"]
    return times.null_count() == 0 and bool(
        ((times >= 0) & (times <= table["duration_ns"] + GRAIN_NS)).all()
    )


def test_each_span_has_the_time_between_its_own_events(timed: None, tmp_path: Path) -> None:
    naps_ms = [1, 9, 3, 7, 5]
    with vl.record(tmp_path / "run", engines=[vl.Frames()]):
        for nap in naps_ms:
            with vl.stage("infer", gpu=True):
                time.sleep(nap / 1000)
            with vl.stage("infer"):  # the same stage, not timed
                pass
    run = vl.open_run(tmp_path / "run")
    assert run.compacted
    table = spans(run)
    gpu, plain = table[::2], table[1::2]
    assert is_within(gpu)
    assert plain["gpu_duration_ns"].null_count() == len(naps_ms)
    assert (gpu["gpu_duration_ns"].to_numpy() >= [nap * 1_000_000 for nap in naps_ms]).all()
    assert run.losses == {}
    assert kinds_found(run) == []


def test_a_live_run_knows_the_times_of_stages_that_the_gpu_is_done_with(
    timed: None, tmp_path: Path
) -> None:
    with vl.record(tmp_path / "run", engines=[vl.Frames()]):
        with vl.stage("infer", gpu=True):
            time.sleep(0.001)

        def known() -> bool:
            table = spans(vl.open_run(tmp_path / "run"))
            return table.height == 1 and is_within(table)

        until(known)


KILLED = """
import sys, time
from vidlab.capture.gpu import hostcuda, timing
hostcuda.install()
timing.TIME_ON_HOSTCUDA = True
import cupy
import vidlab as vl
vl.record(sys.argv[1], engines=[vl.Frames()])
for i in range(100):
    with vl.stage("infer", gpu=True):
        time.sleep(0.001)
print("recorded", flush=True)
time.sleep(600)
"""


def test_a_killed_run_keeps_the_times(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def known() -> bool:
        table = spans(vl.open_run(path))
        return table.height == 100 and is_within(table)

    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "recorded\n"
            until(known)
        finally:
            child.send_signal(signal.SIGKILL)
    as_it_is = spans(vl.open_run(path))
    assert as_it_is.height == 100
    assert is_within(as_it_is)
    vl.recover(path)
    assert spans(vl.open_run(path))["gpu_duration_ns"].equals(as_it_is["gpu_duration_ns"])


def test_threads_streams_and_devices(timed: None, tmp_path: Path) -> None:
    import cupy

    def work(number: int) -> None:
        with cupy.cuda.Device(number % 2), cupy.cuda.Stream(), vl.labels(stream_id=f"cam{number}"):
            for i in range(50):
                with vl.stage(f"outer{number}", gpu=True), vl.stage("inner", gpu=True):
                    if i % 10 == number:
                        time.sleep(0.002)

    with vl.record(tmp_path / "run", engines=[vl.Frames()]):
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    run = vl.open_run(tmp_path / "run")
    table = spans(run)
    assert table.height == 400
    assert is_within(table)
    slow = table.filter(pl.col("stage") != "inner", pl.col("duration_ns") > 2_000_000)
    assert slow.height >= 20
    assert run.losses == {}


def test_decorated_functions_of_all_kinds(timed: None, tmp_path: Path) -> None:
    @vl.stage("plain", gpu=True)  # made before the recording
    def plain() -> int:
        return 1

    @vl.stage("coroutine", gpu=True)
    async def coroutine() -> int:
        await asyncio.sleep(0.001)
        return 2

    @vl.stage("steps", gpu=True)
    def steps() -> Iterator[int]:
        yield from (3, 4)

    async def both() -> list[int]:
        return await asyncio.gather(coroutine(), coroutine())

    assert plain() == 1
    with vl.record(tmp_path / "run", engines=[vl.Frames(clocks="always")]):

        @vl.stage("during", gpu=True)
        def during() -> int:
            return 5

        assert (plain(), during(), list(steps())) == (1, 5, [3, 4])
        assert asyncio.run(both()) == [2, 2]
    table = spans(vl.open_run(tmp_path / "run"))
    counts = dict(table.group_by("stage").len().iter_rows())
    assert counts == {"plain": 1, "during": 1, "steps": 3, "coroutine": 2}
    assert is_within(table)
    # Other tasks may run in a coroutine's span: its CPU time would not be its own.
    unknown = table.filter(pl.col("cpu_ns").is_null())
    assert unknown["stage"].unique().to_list() == ["coroutine"]


def test_a_stage_that_fails_is_timed_and_the_error_goes_on(timed: None, tmp_path: Path) -> None:
    with (
        vl.record(tmp_path / "run", engines=[vl.Frames()]),
        pytest.raises(KeyError),
        vl.stage("infer", gpu=True),
    ):
        raise KeyError
    table = spans(vl.open_run(tmp_path / "run"))
    assert table["status"].to_list() == ["error"]
    assert is_within(table)


def test_a_frame_that_is_not_sampled_costs_no_event(
    timed: None, tmp_path: Path, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[int] = []
    record = runtime.eventRecord
    monkeypatch.setattr(
        runtime,
        "eventRecord",
        lambda event, stream: recorded.append(event) or record(event, stream),
    )
    in_it, left_out = (
        frame_ref(frame=1 << 52 | n, seq=n, labels=0, t_demux_ns=1, sampled=n == 1) for n in (1, 2)
    )
    with vl.record(tmp_path / "run", engines=[vl.Frames()]):
        with vl.stage("infer", left_out, gpu=True):
            pass
        assert recorded == []
        with vl.stage("infer", in_it, gpu=True):
            pass
        assert len(recorded) == 2
        with vl.stage("infer", gpu=True) as span:
            span.ref = left_out  # it becomes known in the middle
    run = vl.open_run(tmp_path / "run")
    assert spans(run)["frame"].to_list() == [in_it.frame]
    assert is_within(spans(run))
    assert run.losses == {}


def test_events_are_used_again(
    timed: None, tmp_path: Path, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, gone = [], []
    create, destroy = runtime.eventCreateWithFlags, runtime.eventDestroy
    monkeypatch.setattr(
        runtime, "eventCreateWithFlags", lambda f: made.append(create(f)) or made[-1]
    )
    monkeypatch.setattr(runtime, "eventDestroy", lambda event: gone.append(event) or destroy(event))
    with vl.record(tmp_path / "run", engines=[vl.Frames()]):
        for _ in range(20):
            with vl.stage("infer", gpu=True):
                pass
            timer = stages.active.timer  # type: ignore[union-attr]
            assert timer is not None
            until(lambda: sum(map(len, timer._free.values())) == len(made))  # noqa: B023
    assert len(made) == 2
    assert sorted(gone) == sorted(made)
    assert is_within(spans(vl.open_run(tmp_path / "run")))


class Gpu:
    """A GPU that is done with an event when it is told to be, in the place of host memory's."""

    def __init__(self, runtime: Any, patch: pytest.MonkeyPatch) -> None:
        self.done = threading.Event()
        self.asked = threading.Event()
        self._query = runtime.eventQuery
        patch.setattr(runtime, "eventQuery", self.query)

    def query(self, event: int) -> int:
        self.asked.set()
        return int(self._query(event)) if self.done.is_set() else 600


def test_the_pipeline_does_not_wait_for_the_gpu(
    timed: None, tmp_path: Path, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(runtime, monkeypatch)
    with vl.record(tmp_path / "run", engines=[vl.Frames()]):
        for _ in range(10):
            with vl.stage("infer", gpu=True):
                pass
        assert gpu.asked.wait(60)
        run = vl.open_run(tmp_path / "run")
        assert spans(run)["gpu_duration_ns"].null_count() == 10
        gpu.done.set()
    run = vl.open_run(tmp_path / "run")
    assert is_within(spans(run))
    assert run.losses == {}


def test_what_the_gpu_is_not_done_with_at_the_end_is_counted(
    timed: None, tmp_path: Path, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gpu(runtime, monkeypatch)
    monkeypatch.setattr(timing, "PATIENCE_S", 0.1)
    with vl.record(tmp_path / "run", engines=[vl.Frames()]):
        for _ in range(7):
            with vl.stage("infer", gpu=True):
                pass
    run = vl.open_run(tmp_path / "run")
    assert spans(run)["gpu_duration_ns"].null_count() == 7
    assert run.losses["gpu_times"]["lost"] == 7


@pytest.mark.parametrize("function", ["eventRecord", "eventCreateWithFlags", "eventElapsedTime"])
def test_a_cuda_error_stops_no_stage_and_is_told_once(
    timed: None, tmp_path: Path, runtime: Any, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def fail(*args: object) -> None:
        raise runtime.CUDARuntimeError(700)

    monkeypatch.setattr(runtime, function, fail)
    done = 0
    with vl.record(tmp_path / "run", engines=[vl.Frames()]):
        for _ in range(5):
            with vl.stage("infer", gpu=True):
                done += 1
    assert done == 5
    run = vl.open_run(tmp_path / "run")
    table = spans(run)
    assert table["status"].to_list() == ["ok"] * 5
    assert table["gpu_duration_ns"].null_count() == 5
    (finding,) = run.scan("findings").collect().to_dicts()
    assert (finding["kind"], finding["severity"]) == ("gpu_time_failed", "warning")
    assert "cudaErrorIllegalAddress" in finding["message"]
    lost = run.losses.get("gpu_times", {"lost": 0})["lost"]
    assert lost == (5 if function == "eventElapsedTime" else 0)


def test_a_stream_that_captures_is_left_alone(
    timed: None, tmp_path: Path, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "streamIsCapturing", lambda stream: True)
    monkeypatch.delattr(runtime, "eventRecord")
    monkeypatch.setattr(runtime, "eventRecord", None, raising=False)
    with (
        vl.record(tmp_path / "run", engines=[vl.Frames()]),
        vl.stage("infer", gpu=True),
    ):
        pass
    run = vl.open_run(tmp_path / "run")
    assert spans(run)["gpu_duration_ns"].null_count() == 1
    assert kinds_found(run) == []


def test_a_stage_that_changes_the_device_is_not_timed(timed: None, tmp_path: Path) -> None:
    import cupy

    before = cupy.cuda.runtime.getDevice()
    try:
        with vl.record(tmp_path / "run", engines=[vl.Frames()]):
            with vl.stage("infer", gpu=True):
                cupy.cuda.runtime.setDevice(1 - before)
            with vl.stage("infer", gpu=True):
                pass
    finally:
        cupy.cuda.runtime.setDevice(before)
    run = vl.open_run(tmp_path / "run")
    first, second = spans(run)["gpu_duration_ns"]
    assert first is None
    assert second > 0
    assert kinds_found(run) == ["gpu_time_missing"]


def test_the_resolving_thread_does_not_change_the_program_s_device(
    timed: None, tmp_path: Path
) -> None:
    import cupy

    with (
        cupy.cuda.Device(1),
        vl.record(tmp_path / "run", engines=[vl.Frames()]),
        vl.stage("infer", gpu=True),
    ):
        pass
    assert cupy.cuda.runtime.getDevice() == 0
    assert is_within(spans(vl.open_run(tmp_path / "run")))


def test_host_memory_is_never_timed(
    tmp_path: Path, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("an event was made")

    monkeypatch.setattr(runtime, "eventCreateWithFlags", fail)
    with (
        vl.record(tmp_path / "run", engines=[vl.Frames()]),
        vl.stage("infer", gpu=True),
    ):
        pass
    run = vl.open_run(tmp_path / "run")
    assert spans(run)["gpu_duration_ns"].null_count() == 1
    assert kinds_found(run) == []


WITHOUT = """
import sys
import vidlab as vl
with vl.record(sys.argv[1], engines=[vl.Frames()]):
    for _ in range(3):
        with vl.stage("infer", gpu=True):
            pass
    assert "cupy" not in sys.modules
    if sys.argv[2] == "imports":
        import cupy
    for _ in range(3):
        with vl.stage("infer", gpu=True):
            pass
"""


@pytest.mark.parametrize("imports", ["imports", "without"])
def test_without_cupy_or_a_gpu_it_is_an_ordinary_stage(tmp_path: Path, imports: str) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VIDLAB_")}
    path = str(tmp_path / "run")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT, path, imports],
        env={**kept, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    run = vl.open_run(path)
    assert spans(run)["gpu_duration_ns"].null_count() == 6
    (finding,) = run.scan("findings").collect().to_dicts()
    assert (finding["kind"], finding["severity"]) == ("gpu_time_missing", "info")
    assert json.loads(finding["evidence"] or "{}") == {}


def test_off_it_is_one_object_a_name_of_its_own() -> None:
    assert stages.active is None
    assert vl.stage("off", gpu=True) is vl.stage("off", object(), gpu=True)
    assert vl.stage("off", gpu=True) is not vl.stage("off")
    with vl.stage("off", gpu=True):
        pass


def test_a_stage_made_before_the_recording_is_timed_in_it(timed: None, tmp_path: Path) -> None:
    made = vl.stage("made before", gpu=True)
    with vl.record(tmp_path / "run", engines=[vl.Frames()]), made:
        pass
    with made:
        pass
    table = spans(vl.open_run(tmp_path / "run"))
    assert table.height == 1
    assert is_within(table)


def test_a_recording_leaves_no_thread_and_the_next_one_times_again(
    timed: None, tmp_path: Path
) -> None:
    import _thread

    before = _thread._count()
    for name in ("first", "second"):
        with vl.record(tmp_path / name, engines=[vl.Frames()]):
            with vl.stage("infer", gpu=True):
                pass
            assert isinstance(stages.active.timer, Timer)  # type: ignore[union-attr]
        until(lambda: _thread._count() <= before)  # one of an earlier test may just be ending
        assert is_within(spans(vl.open_run(tmp_path / name)))


def test_a_stage_that_is_open_at_the_recording_s_end_is_harmless(
    timed: None, tmp_path: Path
) -> None:
    with vl.record(tmp_path / "run", engines=[vl.Frames()]) as recording:
        with vl.stage("infer", gpu=True):
            recording.stop()
        with vl.stage("infer", gpu=True):
            pass
    table = spans(vl.open_run(tmp_path / "run"))
    assert table["gpu_duration_ns"].null_count() == table.height


FORKS = """
import os, sys, time
from vidlab.capture.gpu import hostcuda, timing
hostcuda.install()
timing.TIME_ON_HOSTCUDA = True
import cupy
import vidlab as vl

def work(name):
    for _ in range(10):
        with vl.stage(name, gpu=True):
            pass

with vl.record(sys.argv[1], engines=[vl.Frames()]) as recording:
    work("before")
    if (pid := os.fork()) == 0:
        work("child")
        recording.stop()
        os._exit(0)
    work("after")
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_forked_child_and_its_parent_go_on(tmp_path: Path) -> None:
    path = str(tmp_path / "run")
    subprocess.run([sys.executable, "-c", FORKS, path], check=True)
    run = vl.open_run(path)
    table = spans(run)
    assert dict(table.group_by("stage").len().iter_rows()) == {
        "before": 10,
        "after": 10,
        "child": 10,
    }
    assert is_within(table)
    assert table["pid"].n_unique() == 2
    assert run.losses == {}
