"""The real pyroscope-io: what it gets wrong by itself is right in a run. Run by `test_agent`.

One recording does all that follows, each step in functions of its own: a sample's stack
says under which labels it should be.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl
from tests.capture.profiles.conftest import profile, push
from tests.capture.profiles.test_receiver import Running
from vidlab import labelsets
from vidlab.capture.profiles import agent
from vidlab.capture.profiles.engine import Profiles
from vidlab.errors import InputError, RecordingError
from vidlab.recording import Recording

pyroscope = pytest.importorskip("pyroscope")

#: The CPU time of a step: at 500 samples a second some 80 of them. On a machine that is busy
#: otherwise the agent gets to fewer.
STEP_S = 0.16
FEWEST = 3

#: What a piece of work takes at most: if it took longer, the whole machine stood still, the
#: agent too, and that does not count.
PIECE_S = 0.005

#: A function's name, and the value of the label `step` that its samples should have.
EXPECTED: dict[str, str | None] = {}


def expect(step: str | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Say under which label this function runs. Its own name is what is looked for."""

    def remember(function: Callable[..., Any]) -> Callable[..., Any]:
        EXPECTED[function.__name__] = step
        return function

    return remember


def repeat(piece: Callable[[], object], seconds: float) -> None:
    """Do this again and again, for so much time of a CPU."""
    done, before = 0.0, time.thread_time()
    while done < seconds:
        piece()
        now = time.thread_time()
        done, before = done + min(now - before, PIECE_S), now


def spin(seconds: float = STEP_S) -> None:
    repeat(lambda: sum(range(500)), seconds)


# --- each of these is one step ---------------------------------------------------------


@expect("native")
def native_work() -> None:
    data = os.urandom(1 << 15)
    repeat(lambda: zlib.compress(data, 6), STEP_S)  # without the GIL, as decoders work


@expect("inner")
def nested_inside() -> None:
    spin()


@expect("outer")
def nested_after() -> None:
    spin()


@expect("outer")
def same_after() -> None:
    spin()


@expect("handed on")
def in_thread() -> None:
    spin()


@expect("handed on")
def in_pool() -> None:
    spin()


@expect(None)
def in_pool_without() -> None:
    spin()


@expect(None)
def in_thread_without() -> None:
    spin()


@expect("task a")
def in_task_a() -> None:
    spin(STEP_S / 2)


@expect("task b")
def in_task_b() -> None:
    spin(STEP_S / 2)


@expect("stage")
def in_stage() -> None:
    spin()


def everything(recording: Recording) -> None:
    with vl.labels(step="native", thread_name="not a label of ours"):
        native_work()
    with vl.labels(step="outer"):
        with vl.labels(step="inner"):
            nested_inside()
        nested_after()
        with vl.labels(step="outer"):
            pass
        same_after()
    with vl.labels(step="handed on"):
        thread = threading.Thread(target=in_thread, name="a worker")
        thread.start()
        thread.join()
        pool = ThreadPoolExecutor(1)
        pool.submit(in_pool).result()
    with pool:
        pool.submit(in_pool_without).result()
    thread = threading.Thread(target=in_thread_without)  # may be the number of one that ended
    thread.start()
    thread.join()

    async def task(step: str, work: Callable[[], None]) -> None:
        with vl.labels(step=step):
            for _ in range(3):
                work()
                await asyncio.sleep(0)

    async def tasks() -> None:
        await asyncio.gather(task("task a", in_task_a), task("task b", in_task_b))

    asyncio.run(tasks())
    with vl.labels(step="stage"), vl.stage("long"):
        in_stage()

    def change() -> None:  # what changes as a whole is never seen in part
        with vl.labels(step="set", one=1, two=1, three=1):
            sum(range(2000))
        with vl.labels(step="set", one=2, two=2, three=2):
            sum(range(2000))

    repeat(change, 2 * STEP_S)


def flood(recording: Recording) -> list[int]:
    """Send a hundred pushes of others at once to the receiver of the recording.

    All are under way before the first answer is read. That takes no threads, of which the
    agent would have to read a hundred stacks.
    """
    running = Running.__new__(Running)
    (engine,) = [each for each in recording._engines if isinstance(each, Profiles)]
    assert engine._session is not None
    running.receiver = engine._session._receiver
    good = push(profile([((("not of the agent", "x.py", 1),), (10_000_000,), {})]))
    requests = [
        running.request(good),
        running.request(good[:-9]),
        running.request(push(b"\x0a\x03abc")),
        running.request(good, "POST /elsewhere HTTP/1.1"),
        running.request(good, X="y" * 20_000),
    ]
    address = ("127.0.0.1", running.receiver.port)
    peers = [socket.create_connection(address, timeout=60) for _ in range(100)]
    for number, peer in enumerate(peers):
        peer.sendall(requests[number % len(requests)])
    answers = []
    for peer in peers:
        with peer:
            answers.append(int(peer.recv(4096).split()[1]))
    return answers


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    # With a server the labels are tags of their own, too: what the agent gets wrong is there.
    engine = Profiles(sample_rate=500, server="http://127.0.0.1:9")
    path = tmp_path_factory.mktemp("profiled") / "run"
    before = threading.enumerate()
    with vl.record(path, engines=[vl.Frames(clocks="always"), engine]) as recording:
        everything(recording)
        assert threading.enumerate() == before
        answers = flood(recording)
    assert answers == [200, 400, 400, 404, 431] * 20
    assert not labelsets.entered
    return vl.open_run(path)


@pytest.fixture(scope="module")
def samples(run: Any) -> pl.DataFrame:
    """The samples of the CPU, with the function of this file that each was seen in."""
    sets = {}
    for row in run.scan("labels").collect().iter_rows(named=True):
        known = {key: row[key] for key in ("stream_id", "codec") if row[key] is not None}
        sets[row["labels"]] = {**known, **dict(row["other"] or {})}
    stacks = run.scan("stacks").collect()
    calls = {row["stack"]: row["frames"] for row in stacks.iter_rows(named=True)}
    found = []
    for row in run.scan("profile_samples").collect().iter_rows(named=True):
        names = [call["function"].rpartition(".")[2] for call in calls.get(row["stack"], ())]
        own = next((name for name in names if name in EXPECTED), "")
        found.append(
            {
                **{key: row[key] for key in ("samples", "value", "span", "profile", "type")},
                "thread": row["thread"],
                "function": own,
                "values": sets.get(row["labels"], {}),
                "innermost": names[0] if names else "",
            }
        )
    return pl.DataFrame(found, schema_overrides={"values": pl.Object, "span": pl.UInt64})


@pytest.mark.parametrize("function", EXPECTED)
def test_samples_have_the_labels_of_where_they_are(samples: pl.DataFrame, function: str) -> None:
    seen = samples.filter(pl.col("function") == function)
    by_step: dict[str | None, int] = {}
    for values, count in seen.select("values", "samples").iter_rows():
        step = values.get("step")
        by_step[step] = by_step.get(step, 0) + count
    total = sum(by_step.values())
    assert total >= FEWEST, by_step
    # The agent reads the stack first and the tags then. On a busy machine there is time
    # between the two, so that some are of the step after.
    assert by_step.get(EXPECTED[function], 0) > 0.6 * total, by_step


def test_native_work_counts_as_much_as_pythons(samples: pl.DataFrame) -> None:
    seen = {
        name: samples.filter(pl.col("function") == name)["samples"].sum()
        for name in ("native_work", "nested_inside", "in_stage")  # of the same CPU time
    }
    # Where it is not counted there is next to none; how often the agent gets to look while
    # each of them works depends on what else this machine has to do.
    assert 16 * seen["native_work"] > seen["nested_inside"] + seen["in_stage"], seen


def test_a_set_is_whole_in_every_sample(samples: pl.DataFrame) -> None:
    sets = [values for values in samples["values"] if values.get("step") == "set"]
    assert {values["one"] for values in sets} == {"1", "2"}
    for values in sets:
        assert values["one"] == values["two"] == values["three"]
        assert len(values) == 4


def test_a_span_leads_to_its_stacks(run: Any, samples: pl.DataFrame) -> None:
    (span,) = run.scan("spans").filter(pl.col("stage") == "long").collect()["span"]
    seen = samples.filter(pl.col("span") == span)
    inside = seen.filter(pl.col("function") == "in_stage")["samples"].sum()
    assert inside >= FEWEST
    assert inside > 0.6 * seen["samples"].sum()  # as above: some are of what came after
    assert "a worker" in samples["thread"].to_list()


def test_every_push_is_told_of_and_nothing_is_lost(run: Any, samples: pl.DataFrame) -> None:
    pushes = run.scan("profile_pushes").collect()
    assert samples.filter(pl.col("innermost") == "not of the agent")["samples"].sum() == 20
    assert pushes.filter(pl.col("status") == "stored").height > 20
    assert pushes.filter(pl.col("status") != "stored").height == 40
    assert set(samples["profile"]) == {"process_cpu"}
    kinds = run.scan("findings").collect()["kind"].to_list()
    assert kinds == ["profiles_not_forwarded"]
    assert run.losses == {}


# --- beginning, ending, and beginning again --------------------------------------------


def test_it_begins_again_and_takes_memory_too(tmp_path: Path) -> None:
    for n in range(2):
        with vl.record(tmp_path / str(n), engines=[Profiles(memory=True)]):
            kept = [bytearray(10_000) for _ in range(2_000)]
            spin(4 * STEP_S)
        found = vl.open_run(tmp_path / str(n)).scan("profile_samples").collect()
        assert set(found["profile"]) == {"process_cpu", "memory"}, n
        space = found.filter(pl.col("type") == "inuse_space")["value"].sum()
        assert space > 0.5 * sum(map(len, kept))
        assert found.filter(pl.col("profile") == "memory")["labels"].unique().to_list() == [0]


def test_a_forked_child_has_an_agent_of_its_own(tmp_path: Path) -> None:
    with vl.record(tmp_path / "run", engines=[Profiles(sample_rate=200)]) as recording:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            child = os.fork()
        if child == 0:
            try:
                before = threading.enumerate()
                until = time.monotonic() + 60
                while not (any(e._session for e in recording._engines)):  # type: ignore[attr-defined]
                    spin(0.01)
                    assert time.monotonic() < until
                with vl.labels(stream_id="of the child"):
                    in_task_a()
                    spin()
                assert threading.enumerate() == before
                recording.stop()
                recording.writer.close()
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert not [each for each in warned if "Pyroscope" in str(each.message)]
        (engine,) = recording._engines
        until = time.monotonic() + 60
        while not engine._session._runs:  # type: ignore[attr-defined]
            spin(0.01)
            assert time.monotonic() < until
        with vl.labels(stream_id="of the parent"):
            spin()
    found = vl.open_run(tmp_path / "run").scan("profile_samples").collect()
    pids = {
        stream: set(found.filter(pl.col("stream_id") == stream)["pid"])
        for stream in ("of the child", "of the parent")
    }
    assert pids == {"of the child": {child}, "of the parent": {os.getpid()}}


def test_a_program_that_uses_the_agent_itself_is_told_what_to_do(tmp_path: Path) -> None:
    pyroscope.configure(application_name="own", server_address="http://127.0.0.1:9")
    try:
        with pytest.raises(RecordingError, match=r"server=…"):
            vl.record(tmp_path / "run", engines=[Profiles()])
        assert not (tmp_path / "run").exists()
        assert labelsets.entered is None
    finally:
        pyroscope.shutdown()


def test_a_program_that_begins_and_ends_the_agent_does_not_end_ours(tmp_path: Path) -> None:
    begin, end = pyroscope.lib.initialize_agent, pyroscope.lib.drop_agent
    with vl.record(tmp_path / "run", engines=[Profiles(sample_rate=200)]):
        for _ in range(2):
            assert not pyroscope.configure(application_name="own", server_address="http://[::1]:9")
            assert not pyroscope.shutdown()
        in_task_a()
        spin()
    assert (pyroscope.lib.initialize_agent, pyroscope.lib.drop_agent) == (begin, end)
    run = vl.open_run(tmp_path / "run")
    assert run.scan("findings").collect()["kind"].to_list() == ["pyroscope_used_by_program"]
    assert run.scan("profile_samples").collect()["samples"].sum() >= FEWEST


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyroscope", None)
    with pytest.raises(RecordingError, match=r"pip install 'vidlab\[profile\]'"):
        vl.record(tmp_path / "run", engines=[Profiles()])


def test_another_version_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        class ProfilerImplementation:
            PySpy = None

        @staticmethod
        def add_thread_tag(thread: int, key: str, value: str) -> None: ...

        remove_thread_tag = add_thread_tag

        @staticmethod
        def configure(application_name: str) -> None: ...

    monkeypatch.setattr(agent, "_pyroscope", lambda: Old)
    with pytest.raises(RecordingError, match=r"pyroscope-io 1\.4"):
        agent.Agent().start(1, "", 100, False, 1)
    del Old.add_thread_tag
    with pytest.raises(RecordingError, match=r"pyroscope-io 1\.4"):
        agent.Agent()


def test_options_that_cannot_be_used() -> None:
    assert Profiles(**Profiles(memory=True).parameters()).parameters()["memory"]
    for wrong in ({"sample_rate": 0}, {"sample_rate": 2.5}, {"upload_interval_s": True}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Profiles(**wrong)  # type: ignore[arg-type]
