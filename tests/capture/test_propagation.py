"""Labels follow the work into threads, pools, tasks and processes, and nothing else does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest

from vidlab import labelsets
from vidlab.capture import propagation
from vidlab.capture.frames.recorder import frame_here
from vidlab.capture.frames.stages import stage
from vidlab.labelsets import labels

#: A context variable of the recorded program.
theirs: contextvars.ContextVar[str] = contextvars.ContextVar("theirs", default="nothing")


def seen(*args: Any) -> tuple[dict[str, Any], str]:
    """The labels here, and what the program's own variable holds."""
    return dict(labelsets.get(labelsets.current.get()).values), theirs.get()


def seen_frame() -> int | None:
    ref = frame_here.get()
    return None if ref is None else ref.frame


def send_seen(answer: Any) -> None:
    answer.send(seen())


CAMERA = {"stream_id": "cam", "gpu": 1}


@pytest.fixture
def carried(recorded: Any) -> Any:
    propagation.install(recorded.patches)
    token = theirs.set("main")
    yield recorded
    theirs.reset(token)


def in_thread(kind: type[threading.Thread] | None = None) -> tuple[dict[str, Any], str]:
    found: list[Any] = []

    class Subclass(threading.Thread):
        def run(self) -> None:
            found.append(seen())

    if kind is threading.Timer:
        thread: threading.Thread = threading.Timer(0, lambda: found.append(seen()))
    else:
        thread = Subclass()
    thread.start()
    thread.join()
    assert not [name for name in vars(thread) if "vidlab" in name]
    result: tuple[dict[str, Any], str] = found[0]
    return result


def test_threads(carried: Any) -> None:
    with labels(**CAMERA):
        assert in_thread() == (CAMERA, "nothing")
        assert in_thread(threading.Timer) == (CAMERA, "nothing")
    assert in_thread() == ({}, "nothing")


def test_a_thread_pools_tasks_run_under_the_labels_of_their_submit(carried: Any) -> None:
    ref = carried.new_ref()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with labels(stream_id="a"), stage("infer", ref):
            carried.recorder.set_current_frame(ref)

            def work() -> tuple[Any, int | None]:
                with stage("inner"):
                    return seen(), seen_frame()

            assert pool.submit(work).result() == (({"stream_id": "a"}, "nothing"), ref.frame)
            assert list(pool.map(seen, [1, 2])) == [({"stream_id": "a"}, "nothing")] * 2
        carried.recorder.set_current_frame(None)
        assert pool.submit(seen).result() == ({}, "nothing")
        assert pool.submit(seen_frame).result() is None
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()
    inner, outer = sorted(carried.records("spans"), key=lambda span: span["stage"], reverse=True)
    assert (inner["stage"], outer["stage"]) == ("inner", "infer")
    assert inner["frame"] == outer["frame"] == ref.frame
    assert inner["parent"] & 0xFFFFFFFF == outer["sequence"]


def test_asyncio(carried: Any) -> None:
    async def under(name: str) -> list[Any]:
        with labels(stream_id=name):
            await asyncio.sleep(0.001)
            loop = asyncio.get_running_loop()
            return [
                seen(),
                await asyncio.create_task(later()),
                await asyncio.to_thread(seen),
                await loop.run_in_executor(None, seen),
            ]

    async def later() -> Any:
        await asyncio.sleep(0)
        return seen()

    async def both() -> Any:
        return await asyncio.gather(under("a"), under("b"))

    for name, found in zip("ab", asyncio.run(both()), strict=True):
        assert [labels for labels, _ in found] == [{"stream_id": name}] * 4
        # Python carries the program's variables to a thread where it does so by itself.
        assert [own for _, own in found] == ["main", "main", "main", "nothing"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes(carried: Any, method: str) -> None:
    context = multiprocessing.get_context(method)
    answer, send = context.Pipe(duplex=False)
    with labels(**CAMERA):
        process = context.Process(target=send_seen, args=(send,))
        process.start()
    send.close()
    assert answer.recv() == (CAMERA, "main" if method == "fork" else "nothing")
    process.join()
    assert process.exitcode == 0
    assert not [name for name in vars(process) if "vidlab" in name]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_pools_tasks_run_under_the_labels_of_their_submit(
    carried: Any, method: str
) -> None:
    context = multiprocessing.get_context(method)
    ref = carried.new_ref()
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        with labels(stream_id="a"):
            carried.recorder.set_current_frame(ref)
            assert pool.submit(seen).result()[0] == {"stream_id": "a"}
            assert pool.submit(seen_frame).result() == ref.frame
        with labels(gpu=3):
            assert [labels for labels, _ in pool.map(seen, [1, 2])] == [{"gpu": 3}] * 2
        assert pool.submit(seen).result()[0] == {}


CHILD = """
import os, sys
from vidlab import labelsets
from vidlab.capture.propagation import labels_from_environment
print(dict(labelsets.get(labels_from_environment()).values))
print(sorted(name for name in os.environ if name != "VIDLAB_LABELS"))
"""


def child(**options: Any) -> tuple[str, str]:
    said = subprocess.run(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True, check=True, **options
    )
    found, names = said.stdout.splitlines()
    return found, names


def test_subprocesses(carried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDLAB_RUN", "runs/x")
    with labels(**CAMERA):
        found, names = child()
        labels_text = str(dict(sorted(CAMERA.items())))
        own = {"VIDLAB_RUN": "runs/x", "MINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        assert child(env=own)[0] == labels_text
        assert own.keys() == {"VIDLAB_RUN", "MINE", "PYTHONPATH"}
        # Without VIDLAB_RUN the child does not join: its environment is as it was given.
        del own["VIDLAB_RUN"]
        assert child(env=own)[0] == "{}"
    assert found == labels_text
    assert names == str(sorted(os.environ))
    assert "VIDLAB_LABELS" not in os.environ
    # A child of a child that was labelled: without labels here, it has none.
    monkeypatch.setenv("VIDLAB_LABELS", '[{"stream_id": "cam"}, 1.0]')
    assert child()[0] == "{}"


def test_what_is_not_ours_in_the_environment_is_no_label() -> None:
    for text in ("", "nonsense", "[1, 2]", '{"a": 1}', '[{"not a key": 1}, 1]', "[{}, null]"):
        assert propagation.labels_from_text(text) == labelsets.EMPTY


def test_it_ends_with_the_recording(carried: Any) -> None:
    release = threading.Event()
    found: list[Any] = []
    with labels(**CAMERA):
        outliving = threading.Thread(target=lambda: (release.wait(), found.append(seen())))
        outliving.start()
        carried.stop()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(seen).result() == ({}, "nothing")
        assert in_thread() == ({}, "nothing")
    release.set()
    outliving.join()
    assert found == [(CAMERA, "nothing")]


def test_a_child_without_vidlab_runs_as_it_would_have(carried: Any) -> None:
    with labels(**CAMERA):
        task = propagation._Across("task_arrived", {"function": len}, otherwise="function")
        data = pickle.dumps(task)
    code = (
        f"import pickle, sys; sys.modules['vidlab'] = None; print(pickle.loads({data!r})('four'))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "4\n"
