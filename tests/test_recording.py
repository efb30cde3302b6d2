"""Recordings: engines start and stop, children join, the run is finished, whatever happens."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vidlab import labelsets, recording
from vidlab.errors import InputError, RecordingError
from vidlab.recording import VARIABLE, join, record
from vidlab.runs.compaction import compact
from vidlab.runs.manifest import Manifest
from vidlab.runs.run import open_run
from vidlab.runs.verification import verify
from vidlab.runs.writer import RunWriter
from vidlab.schema import TABLES

RECORD = TABLES["spans"].record
assert RECORD is not None


class Counting:
    """An engine that records what it is told to."""

    name = "counting"

    def __init__(self, step: int = 1) -> None:
        self.step = step
        self.calls: list[str] = []
        self.writer: RunWriter | None = None

    def parameters(self) -> dict[str, Any]:
        return {"step": self.step}

    def start(self, writer: RunWriter) -> None:
        self.calls.append("start")
        self.writer = writer

    def stop(self) -> None:
        self.calls.append("stop")

    def span(self, value: int) -> None:
        assert self.writer is not None
        assert RECORD is not None
        buffer = self.writer.buffer("spans")
        position = buffer.position
        if position == buffer.end:
            position = buffer.roll()
        buffer.position = position + RECORD.size
        stage = self.writer.names.number("counted")
        buffer.span += 1
        fields = (value, 1, 0, 0, 0, 0, buffer.span & 0xFFFFFFFF)
        RECORD.struct.pack_into(
            buffer.view, position, *fields, labelsets.current.get(), stage, 0, 1
        )


class Failing(Counting):
    """Fails to start or to stop."""

    name = "failing"

    def __init__(self, when: str, error: BaseException) -> None:
        super().__init__()
        self.when = when
        self.error = error

    def parameters(self) -> dict[str, Any]:
        return {"when": self.when}

    def start(self, writer: RunWriter) -> None:
        super().start(writer)
        if self.when == "start":
            raise self.error

    def stop(self) -> None:
        super().stop()
        if self.when == "stop":
            raise self.error


def times(run: Path) -> list[int]:
    """The t_ns of all spans."""
    return sorted(open_run(run).scan("spans").collect()["t_ns"].to_list())


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """No test leaves a recording behind, or the variable by which children join it."""
    yield
    assert recording._active is None
    assert VARIABLE not in os.environ


# --- one recording ----------------------------------------------------------------


def test_an_empty_recording_is_a_run(tmp_path: Path) -> None:
    with record(tmp_path / "run", engines=[]):
        assert Manifest.read(tmp_path / "run").state == "recording"
    manifest = Manifest.read(tmp_path / "run")
    assert manifest.state == "complete"
    assert manifest.ended is not None
    assert manifest.started.monotonic_ns < manifest.ended.monotonic_ns
    assert manifest.started.wall_ns < manifest.ended.wall_ns
    assert verify(tmp_path / "run") == []
    assert times(tmp_path / "run") == []


def test_what_engines_record_is_in_the_run(tmp_path: Path) -> None:
    engine = Counting(step=3)
    with record(tmp_path / "run", engines=[engine], parameters={"deadline_ms": 40}) as running:
        with labelsets.labels(stream_id="cam-1"):
            for value in range(5000):
                engine.span(value)
        assert running.path == tmp_path / "run"
        assert os.environ[VARIABLE] == str(tmp_path / "run")
    assert engine.calls == ["start", "stop"]
    assert times(tmp_path / "run") == list(range(5000))
    manifest = Manifest.read(tmp_path / "run")
    assert [(e.name, e.parameters) for e in manifest.engines] == [("counting", {"step": 3})]
    assert manifest.parameters == {"deadline_ms": 40}
    assert manifest.tables["spans"].rows == 5000
    assert manifest.versions["python"]
    assert manifest.host["cpus"] == os.cpu_count()
    (process,) = manifest.processes
    assert (process.index, process.pid) == (1, os.getpid())
    assert verify(tmp_path / "run") == []


def test_by_default_all_engines_record(tmp_path: Path) -> None:
    with record(tmp_path / "run"):
        names = [engine.name for engine in Manifest.read(tmp_path / "run").engines]
    assert names == ["frames", "gpu_memory", "gpu_sampler", "runtime"]


def test_two_recordings_one_after_another(tmp_path: Path) -> None:
    for number in range(2):
        engine = Counting()
        with record(tmp_path / str(number), engines=[engine]):
            engine.span(number)
    assert [times(tmp_path / str(number)) for number in range(2)] == [[0], [1]]
    ids = {Manifest.read(tmp_path / str(number)).run_id for number in range(2)}
    assert len(ids) == 2


def test_a_recording_inside_a_recording_is_an_error_and_the_outer_goes_on(tmp_path: Path) -> None:
    engine = Counting()
    with record(tmp_path / "run", engines=[engine]):
        with pytest.raises(RecordingError, match=r"into .*/run is running: stop it"):
            record(tmp_path / "inner", engines=[])
        engine.span(1)
    assert times(tmp_path / "run") == [1]
    assert not (tmp_path / "inner").exists()


def test_the_bodys_exception_is_the_users_and_the_run_is_finished(tmp_path: Path) -> None:
    error = KeyError("the user's own")
    engine = Counting()

    def body() -> None:
        with record(tmp_path / "run", engines=[engine]):
            engine.span(1)
            raise error

    with pytest.raises(KeyError) as caught:
        body()
    assert caught.value is error
    manifest = Manifest.read(tmp_path / "run")
    assert manifest.state == "complete"
    assert any("KeyError" in note for note in manifest.notes)
    assert times(tmp_path / "run") == [1]


def test_stopping_early_and_twice(tmp_path: Path) -> None:
    engine = Counting()
    with record(tmp_path / "run", engines=[engine]) as running:
        running.stop()
        assert VARIABLE not in os.environ
        with record(tmp_path / "second", engines=[]):
            pass
    assert engine.calls == ["start", "stop"]


def test_a_variable_that_was_set_before_is_set_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "another")
    with record(tmp_path / "run", engines=[]):
        assert os.environ[VARIABLE] != "another"
    assert os.environ[VARIABLE] == "another"
    monkeypatch.delenv(VARIABLE)


def test_labels_are_derived(tmp_path: Path) -> None:
    engine = Counting()
    derive = {"region": lambda labels: labels["stream_id"].split("-")[0]}
    with (
        record(tmp_path / "run", engines=[engine], derive=derive),
        labelsets.labels(stream_id="north-1"),
    ):
        engine.span(1)
    spans = open_run(tmp_path / "run").scan("spans").collect()
    assert spans["region"].cast(str).to_list() == ["north"]


# --- engines that fail ------------------------------------------------------------


def test_engines_stop_in_reverse_order_even_if_one_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[str] = []

    class Ordered(Counting):
        def __init__(self, letter: str) -> None:
            super().__init__()
            self.letter = letter

        def stop(self) -> None:
            order.append(self.letter)
            if self.letter == "b":
                raise ZeroDivisionError("b fails")

    with record(tmp_path / "run", engines=[Ordered(letter) for letter in "abc"]):
        pass
    assert order == ["c", "b", "a"]
    findings = open_run(tmp_path / "run").scan("findings").collect()
    assert findings["kind"].cast(str).to_list() == ["engine_failed"]
    assert any("b fails" in note for note in Manifest.read(tmp_path / "run").notes)
    assert "b fails" in caplog.text


def test_an_engine_that_fails_to_start_does_not_stop_the_others(tmp_path: Path) -> None:
    engine, failing = Counting(), Failing("start", ZeroDivisionError("a bug"))
    with record(tmp_path / "run", engines=[failing, engine]):
        engine.span(1)
    assert failing.calls == ["start"]
    assert times(tmp_path / "run") == [1]
    assert any("a bug" in note for note in Manifest.read(tmp_path / "run").notes)


def test_an_engine_that_says_what_to_change_is_heard(tmp_path: Path) -> None:
    engine, failing = Counting(), Failing("start", InputError("clocks is one of …"))
    with pytest.raises(InputError, match="clocks is one of"):
        record(tmp_path / "run", engines=[engine, failing])
    assert engine.calls == ["start", "stop"]
    assert not (tmp_path / "run").exists()


def test_an_interrupt_while_an_engine_stops_still_finishes_the_run(tmp_path: Path) -> None:
    engine = Counting()
    interrupted = Failing("stop", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt), record(tmp_path / "run", engines=[engine, interrupted]):
        engine.span(1)
    assert engine.calls == ["start", "stop"]
    assert Manifest.read(tmp_path / "run").state == "complete"


# --- paths ------------------------------------------------------------------------


def test_a_run_is_replaced_only_if_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with record(path, engines=[]):
        pass
    before = Manifest.read(path).run_id
    with pytest.raises(RecordingError, match="overwrite=True"):
        record(path, engines=[])
    assert Manifest.read(path).run_id == before
    with record(path, engines=[], overwrite=True):
        pass
    assert Manifest.read(path).run_id != before


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_but_a_run_is_deleted(tmp_path: Path, overwrite: bool) -> None:
    thesis = tmp_path / "documents" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    (thesis.parent / "manifest.json").write_text('{"name": "an app"}')
    for path in (thesis.parent, thesis):
        with pytest.raises(RecordingError, match=r"thesis|documents"):
            record(path, engines=[], overwrite=overwrite)
    assert thesis.read_text() == "years of work"


def test_an_empty_directory_and_a_new_one_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        with record(str(path), engines=[]):
            pass
        assert Manifest.read(path).state == "complete"


def test_a_run_that_is_being_recorded_is_not_deleted(tmp_path: Path) -> None:
    script = "import sys; from vidlab.recording import record; record(sys.argv[1], engines=[]); "
    process = subprocess.Popen(
        [sys.executable, "-c", script + "print('on', flush=True); input()", tmp_path / "run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        with pytest.raises(RecordingError, match="being recorded"):
            record(tmp_path / "run", engines=[], overwrite=True)
        process.communicate(b"\n")
    # It never said stop: the end of the process did.
    assert Manifest.read(tmp_path / "run").state == "complete"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory into which nobody can write, not even root."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", folder], capture_output=True
        ).returncode
    )
    folder.chmod(0o500) if not mounted else None
    if os.access(folder, os.W_OK):
        pytest.skip("this user can write everywhere")
    yield folder
    if mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_path_that_cannot_be_written_is_an_error_that_says_so(read_only: Path) -> None:
    with pytest.raises(RecordingError, match=r"cannot be written .*: record into a directory"):
        record(read_only / "run", engines=[])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 1000}, "max_bytes"),
        ({"keep_seconds": 0}, "keep_seconds"),
        ({"parameters": {"a": object()}}, "JSON"),
        ({"derive": {"gpu": str}}, "derive"),
        ({"derive": {"region": "north"}}, "derive"),
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        record(tmp_path / "run", engines=[], **options)
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_be_compacted_keeps_its_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vidlab.runs.compaction.compact", fails)
    engine = Counting()
    with record(tmp_path / "run", engines=[engine]):
        engine.span(1)
    monkeypatch.undo()
    assert "vidlab compact" in caplog.text
    assert times(tmp_path / "run") == [1]
    assert compact(tmp_path / "run").tables["spans"].rows == 1


def test_a_manifest_that_cannot_be_finished_does_not_stop_the_program(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(file: int) -> None:
        raise OSError(28, "No space left on device")

    with record(tmp_path / "run", engines=[]):
        monkeypatch.setattr(os, "fsync", fails)
    monkeypatch.undo()
    assert "vidlab recover" in caplog.text
    assert Manifest.read(tmp_path / "run").state == "recording"


# --- children ---------------------------------------------------------------------

PROGRAM = """
import os, subprocess, sys, threading, time
sys.path.insert(0, {folder!r})
run = os.environ.pop("VIDLAB_RUN", "")  # importing vidlab would join it, without this engine:
from vidlab import labelsets, recording
from test_recording import Counting
from vidlab.capture import registry
registry._class_of = lambda name: Counting
if run:
    os.environ["VIDLAB_RUN"] = run
"""


def run_program(tmp_path: Path, text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(folder=str(Path(__file__).parent)) + textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, program, tmp_path / "run", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_child_without_a_run_joins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert join() is None
    assert join(tmp_path / "gone") is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
    assert join() is None
    monkeypatch.delenv(VARIABLE)
    assert caplog.text == ""
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_ended_is_not_joined(tmp_path: Path) -> None:
    with record(tmp_path / "run", engines=[]):
        pass
    before = sorted(tmp_path.rglob("*"))
    assert join(tmp_path / "run") is None
    assert sorted(tmp_path.rglob("*")) == before


def test_joining_a_run_of_nonsense_raises_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "manifest.json").write_text("nonsense")
    assert join(tmp_path) is None
    assert "cannot record this process" in caplog.text


def test_a_child_process_records_into_the_same_run(tmp_path: Path) -> None:
    run_program(
        tmp_path,
        """
        if len(sys.argv) > 2:
            joined = recording.join()
            engine, = joined._engines
            assert engine.step == 7
            assert joined.writer.index == 2
            assert recording.join() is None
            with labelsets.labels(stream_id="child-1"):
                for value in range(100, 5100):
                    engine.span(value)
            sys.exit(0)
        engine = Counting(step=7)
        with recording.record(sys.argv[1], engines=[engine],
                              derive={"region": lambda labels: "home"}):
            with labelsets.labels(stream_id="parent-1"):
                engine.span(1)
            subprocess.run([sys.executable, *sys.argv, "child"], check=True)
        """,
    )
    assert times(tmp_path / "run") == [1, *range(100, 5100)]
    run = open_run(tmp_path / "run")
    spans = run.scan("spans").collect()
    assert spans["pid"].n_unique() == 2
    assert spans["span"].n_unique() == 5001
    assert len(run.manifest.processes) == 2
    # A lambda cannot cross to another process: there the label is missing, and that is noted.
    regions = {
        (row["stream_id"], row["region"])
        for row in spans.select("stream_id", "region").unique().to_dicts()
    }
    assert regions == {("parent-1", "home"), ("child-1", None)}
    findings = run.scan("findings").collect()
    assert findings["kind"].cast(str).to_list() == ["label_not_derived"]
    assert verify(tmp_path / "run") == []


def test_a_forked_child_that_falls_out_of_the_block_ends_its_own_part_only(tmp_path: Path) -> None:
    done = run_program(
        tmp_path,
        """
        engine = Counting()
        with recording.record(sys.argv[1], engines=[engine]):
            engine.span(1)
            child = os.fork()
            engine.span(2 if child else 3)
            if child:
                os.waitpid(child, 0)
                engine.span(4)
        print("child" if child == 0 else "parent", engine.calls)
        """,
    )
    assert sorted(done.stdout.splitlines()) == [
        "child ['start', 'stop']",
        "parent ['start', 'stop']",
    ]
    assert times(tmp_path / "run") == [1, 2, 3, 4]
    assert Manifest.read(tmp_path / "run").state == "complete"
    assert verify(tmp_path / "run") == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing(tmp_path: Path, method: str) -> None:
    run_program(
        tmp_path,
        """
        def work(value):
            if recording._active is None:
                assert recording.join() is not None
            engine, = recording._active._engines
            engine.span(value)
            return os.getpid()

        if __name__ == "__main__":
            import multiprocessing
            context = multiprocessing.get_context(sys.argv[2])
            engine = Counting()
            with recording.record(sys.argv[1], engines=[engine]):
                with context.Pool(2) as pool:
                    pids = pool.map(work, range(20), chunksize=1)
                    pool.close()
                    pool.join()
            assert os.getpid() not in pids
        """,
        method,
    )
    assert times(tmp_path / "run") == list(range(20))
    assert Manifest.read(tmp_path / "run").tables["spans"].rows == 20
    assert verify(tmp_path / "run") == []


def test_a_child_that_goes_on_keeps_the_run_from_being_compacted(tmp_path: Path) -> None:
    run_program(
        tmp_path,
        """
        import signal
        engine = Counting()
        reading, writing = os.pipe()
        with recording.record(sys.argv[1], engines=[engine]):
            engine.span(1)
            child = os.fork()
            if child == 0:
                engine.span(2)
                os.write(writing, b"!")
                time.sleep(60)
            os.read(reading, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        """,
    )
    manifest = Manifest.read(tmp_path / "run")
    assert manifest.ended is not None
    assert manifest.tables == {}
    assert times(tmp_path / "run") == [1, 2]
    compact(tmp_path / "run")
    assert times(tmp_path / "run") == [1, 2]
    assert verify(tmp_path / "run") == []


def test_a_program_that_never_stops_its_recording(tmp_path: Path) -> None:
    run_program(
        tmp_path,
        """
        engine = Counting()
        recording.record(sys.argv[1], engines=[engine])
        def work():
            for value in range(5000):
                engine.span(value)
                time.sleep(0.00001)
        threading.Thread(target=work).start()  # ends after the main thread
        """,
    )
    assert times(tmp_path / "run") == list(range(5000))
    assert Manifest.read(tmp_path / "run").state == "complete"


def test_a_kill_leaves_a_run_that_says_it_was_killed(tmp_path: Path) -> None:
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, sys; from vidlab.recording import record\n"
            "record(sys.argv[1], engines=[]).writer.names.number('decode')\n"
            "os.kill(os.getpid(), 9)",
            tmp_path / "run",
        ]
    )
    assert process.returncode == -9
    assert Manifest.read(tmp_path / "run").state == "recording"
    names = (tmp_path / "run/segments/0001-names.jsonl").read_text().splitlines()
    assert json.loads(names[-1])["name"] == "decode"


# --- disks ------------------------------------------------------------------------


def test_a_full_disk_at_the_end_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can make a small disk")
    try:
        engine = Counting()
        with caplog.at_level(logging.WARNING), record(disk / "run", engines=[engine]) as running:
            for value in range(100_000):
                engine.span(value)
        lost = running.writer.losses()["spans"]["lost"]
        assert lost > 0
        assert "No space left" in caplog.text
        assert len(times(disk / "run")) + lost == 100_000
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_segments_can_be_read_while_they_are_written(tmp_path: Path) -> None:
    engine = Counting()
    with record(tmp_path / "run", engines=[engine]):
        for value in range(10_000):
            engine.span(value)
        assert open_run(tmp_path / "run").live
        assert times(tmp_path / "run") == list(range(10_000))
