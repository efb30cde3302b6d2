"""A broker and its clients, of another user, in the real kernel."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidlab.capture.ebpf import Tracepoint
from vidlab.capture.ebpf.broker.client import RemoteSession
from vidlab.capture.ebpf.broker.server import Limits, user_to_serve
from vidlab.capture.ebpf.kernel.privileges import PrivilegeError
from vidlab.capture.ebpf.plan import Plan

from .conftest import NOBODY, Running, start_client

pytestmark = [
    pytest.mark.needs("ebpf"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be a broker for another user"),
]


def test_an_unprivileged_process_records_its_own_calls(broker) -> None:
    told = json.loads(
        broker.client(
            """
            assert not effective()
            plan = Plan([
                labs,
                Counter("calls_total", Probe("libc.so.6", "labs")),
                Histogram("labs_ns", Probe("libc.so.6", "labs", exit={}), duration(), "ns"),
            ])
            with RemoteSession(path, plan, os.getpid(), ring_bytes=1 << 16) as session:
                for n in range(100):
                    libc.labs(-n)
                layout, table = plan.layouts["kernel_labs"], session.shared.rings["kernel_labs"]
                read = ring.Ring(table.fd, table.max_entries, layout.dtype, layout.stride)
                records = read.view(1000).records
                values = records["value"].tolist(), records["result"].tolist()
                read.advance(len(records))
                left = read.available()
                read.close()
                counts = counters.Counts(session.shared.counts).read().sum(axis=1).tolist()
                metrics = {
                    name: int(counters.Histogram(map).read().counts.sum())
                    for name, map in session.shared.metrics.items()
                }
                hows = [one.how for one in session.attachments]
                print(json.dumps([values, left, metrics, hows, session.problems, session.misses()]))
            """
        )
    )
    values, left, metrics, hows, problems, _ = told
    assert values == [[-n for n in range(100)], list(range(100))]
    assert left == 0
    assert metrics == {"calls_total": 100, "labs_ns": 100}
    assert len(hows) == 3
    assert problems == []


def test_what_a_client_may_only_read_it_cannot_change(broker) -> None:
    told = json.loads(
        broker.client(
            """
            def outcome(function, *args):
                try:
                    function(*args)
                except (VidlabError, OSError) as error:
                    return error.errno
                return "done"

            import mmap
            from vidlab.capture.ebpf.kernel import bpf
            plan = Plan([labs, Counter("calls_total", Probe("libc.so.6", "labs"))])
            with RemoteSession(path, plan, os.getpid(), ring_bytes=1 << 16) as session:
                libc.labs(1)
                shared = session.shared
                counts, slots, ring_map = shared.counts, shared.slots, shared.rings["kernel_labs"]
                metric = shared.metrics["calls_total"]
                key = next(iter(metric.keys()))
                ids = [map.id for map in shared.all()]
                mapped = mmap.mmap(ring_map.fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ, offset=4096)
                told = {
                    "counts update": outcome(counts.update, bytes(4), bytes(counts.stride)),
                    "metric update": outcome(metric.update, key, bytes(metric.stride)),
                    "metric delete": outcome(metric.delete, key),
                    "metric take": outcome(metric.take),
                    "ring update": outcome(
                        ring_map._element, bpf.Command.MAP_UPDATE_ELEM, b"", b"", 0),
                    "ring data": outcome(
                        lambda: mmap.mmap(ring_map.fd, 8192, mmap.MAP_SHARED, offset=4096)),
                    "freeze": outcome(
                        bpf.bpf, bpf.Command.MAP_FREEZE, struct.pack("<I", counts.fd)),
                    "by id": [outcome(
                        bpf.bpf, bpf.Command.MAP_GET_FD_BY_ID, struct.pack("<III", id, 0, 0)
                    ) for id in ids],
                    "again": outcome(os.open, f"/proc/self/fd/{counts.fd}", os.O_RDWR),
                    "slots": outcome(slots.update, bytes(4), bytes(8)),
                    "read": int(counters.Counts(counts).read().sum()) > 0,
                }
                print(json.dumps(told))
            """
        )
    )
    assert told.pop("read") is True
    assert told.pop("slots") == "done"
    assert set(told.pop("by id")) == {errno.EPERM}
    assert told.pop("again") in (errno.ENXIO, errno.EACCES)
    assert told.pop("ring update") not in ("done",)
    assert told == dict.fromkeys(told, errno.EPERM)


def test_spans_are_in_the_records_of_an_unprivileged_process(broker) -> None:
    told = json.loads(
        broker.client(
            """
            from vidlab.capture.spanwords import words
            plan = Plan([labs])
            with RemoteSession(path, plan, os.getpid(), ring_bytes=1 << 16) as session:
                slots = session.shared.slots
                listening = words.listen(
                    lambda tid, at: slots.update(struct.pack("I", tid), struct.pack("Q", at)),
                    lambda tid: slots.delete(struct.pack("I", tid)),
                )
                word = words.word_of_thread().view
                for n in range(5):
                    word[0], word[1], word[2], word[3] = n, 10 + n, 20 + n, n
                    libc.labs(n)
                layout, table = plan.layouts["kernel_labs"], session.shared.rings["kernel_labs"]
                read = ring.Ring(table.fd, table.max_entries, layout.dtype, layout.stride)
                records = read.view(1000).records
                print(json.dumps([records[f].tolist() for f in ("span", "frame", "labels")]))
                read.close()
            """
        )
    )
    assert told == [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14], [20, 21, 22, 23, 24]]


def test_probes_are_replaced_and_taken_off_through_the_broker(broker) -> None:
    out = broker.client(
        """
        plan = Plan([labs])
        with RemoteSession(path, plan, os.getpid(), ring_bytes=1 << 16) as session:
            libc.labs(1)
            session.replace(0, Probe(
                "libc.so.6", "labs", {"value": arg(0, "i64") * 100}, {"result": retval("i64")}))
            libc.labs(2)
            try:
                session.replace(0, Probe("libc.so.6", "abs", {"value": arg(0, "i64")}, {}))
            except InputError as error:
                print("refused", error)
            session.detach()
            libc.labs(3)
            layout, table = plan.layouts["kernel_labs"], session.shared.rings["kernel_labs"]
            read = ring.Ring(table.fd, table.max_entries, layout.dtype, layout.stride)
            print(read.view(1000).records["value"].tolist())
            read.close()
        """
    )
    assert "refused" in out
    assert "[1, 200]" in out
    assert broker.events()[:3] == ["attached", "replaced", "detached"]


def test_a_library_that_is_loaded_later(broker, tmp_path) -> None:
    source, library = tmp_path / "late.c", broker.path.parent / "liblate.so"
    source.write_text("int late(int a) { return a + 1; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    library.chmod(0o755)
    out = broker.client(
        f"""
        plan = Plan([Probe("late-by-name.so", "late", {{"a": arg(0, "i32")}})])
        with RemoteSession(path, plan, os.getpid(), ring_bytes=1 << 16) as session:
            assert [one.label for one in session.pending] == ["late"]
            assert session.attach_pending() == []
            os.rename({str(library)!r}, {str(library.parent / "late-by-name.so")!r})
            late = ctypes.CDLL({str(library.parent / "late-by-name.so")!r})
            end = time.monotonic() + 60
            while not (late_ones := session.attach_pending()) and time.monotonic() < end:
                time.sleep(0.1)  # it looks for new libraries now and then
            print([one.symbol for one in late_ones], session.pending)
            late.late(5)
            print(int(counters.Counts(session.shared.counts).read()[0, 0]))
        """
    )
    assert out.split("\n")[:2] == ["['late'] []", "1"]
    assert [len(line["probes"]) for line in broker.lines() if line["event"] == "attached"] == [0, 1]


# --- whom it serves ---


def test_only_the_user_it_serves_is_answered(broker) -> None:
    with pytest.raises(PrivilegeError, match=f"serves user {NOBODY}, not user 0"):
        RemoteSession(broker.path, Plan([Tracepoint("sched", "sched_switch")]), os.getpid())
    assert stat.S_IMODE(broker.path.stat().st_mode) == 0o600
    assert broker.path.stat().st_uid == NOBODY
    code = (
        "try: RemoteSession(path, Plan([labs]), os.getpid())\nexcept PrivilegeError as e: print(e)"
    )
    broker.path.parent.chmod(0o755)
    assert "Permission denied" in broker.client(code, user=12345)
    broker.path.chmod(0o666)
    assert f"serves user {NOBODY}, not user 12345" in broker.client(code, user=12345)
    assert broker.events() == ["refused", "refused"]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("1", "is not user"),
        ("ROOT", "is not user"),
        ("0", "to one process, not to all"),
        ("-5", "to one process, not to all"),
        ("1 << 40", "there is no process"),
        ("2 ** 22 + 5", "there is no process"),
    ],
)
def test_only_processes_of_the_peers_user_are_attached_to(broker, target, why) -> None:
    out = broker.client(
        f"""
        try:
            RemoteSession(path, Plan([labs]), {target.replace("ROOT", str(os.getpid()))})
        except PrivilegeError as error:
            print(error)
        """
    )
    assert why in out
    assert broker.events() == ["refused"]


def test_another_process_of_the_same_user(broker) -> None:
    other = broker.start(
        "print('ready', flush=True); input(); libc.labs(-7); print('done'); input()"
    )
    assert other.stdout.readline() == "ready\n"
    asking = broker.start(
        f"""
        plan = Plan([labs])
        with RemoteSession(path, plan, {other.pid}, ring_bytes=1 << 16) as session:
            libc.labs(5)
            print("attached", flush=True); input()
            print(int(counters.Counts(session.shared.counts).read()[0, 0]))
        """
    )
    assert asking.stdout.readline() == "attached\n"
    other.stdin.write("\n")
    other.stdin.flush()
    assert other.stdout.readline() == "done\n"
    assert asking.communicate("\n", timeout=60)[0] == "1\n"
    other.communicate("\n", timeout=60)
    (line,) = (line for line in broker.lines() if line["event"] == "attached")
    assert line["target"]["pid"] == other.pid
    assert line["peer"]["pid"] == asking.pid
    assert line["peer"]["uid"] == NOBODY
    assert [probe[2] for probe in line["probes"]] == ["labs"]


def test_a_process_that_protects_itself_is_left_alone(broker) -> None:
    out = broker.client(
        """
        try:
            RemoteSession(path, Plan([labs]), os.getpid())
        except PrivilegeError as error:
            print(error)
        """,
        dumpable=0,
    )
    assert "protects itself" in out


def test_a_program_that_is_executed_is_not_seen(broker) -> None:
    """It may have the rights of another user: sudo's calls are not its caller's to see."""
    probe = 'Probe("libc.so.6", "getenv", {"name": arg(0)})'
    other = broker.start(
        """
        libc.getenv(b"HOME")
        print("ready", flush=True); input()
        libc.getenv(b"HOME"); libc.getenv(b"HOME")
        print("called", flush=True); input()
        os.execv("/bin/ls", ["ls", "/proc/self/comm"])  # which calls getenv too
        """
    )
    assert other.stdout.readline() == "ready\n"
    asking = broker.start(
        f"""
        plan = Plan([{probe}, Probe("nowhere-yet.so", "late")])
        with RemoteSession(path, plan, {other.pid}, ring_bytes=1 << 16) as session:
            counts = counters.Counts(session.shared.counts)
            for _ in range(2):
                print("counted", int(counts.read()[0, 0]), flush=True)
                input()
            print("counted", int(counts.read()[0, 0]), flush=True)
            for _ in range(2):
                assert session.attach_pending() == [] and session.pending == []
            print(session.problems)
        """
    )
    assert asking.stdout.readline() == "counted 0\n"
    other.stdin.write("\n")
    other.stdin.flush()
    assert other.stdout.readline() == "called\n"
    asking.stdin.write("\n")
    asking.stdin.flush()
    assert asking.stdout.readline() == "counted 2\n"
    other.stdin.write("\n")
    other.stdin.flush()
    assert other.communicate(timeout=60)[0] == "/proc/self/comm\n"
    out, err = asking.communicate("\n", timeout=60)
    assert out.startswith("counted 2\n"), out + err
    assert out.count(f"process {other.pid}") == 1


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ('[Tracepoint("sched", "sched_switch", everywhere=True)]', "everywhere"),
        ('[Probe("/etc/shadow", "main")]', "cannot be read by user"),
        ('[Probe("/nowhere/lib.so", "main")]', "cannot be read by user"),
        ('[Probe("libc.so.6", "labs_")]', "labs"),
        ("[]", "no probe"),
        (
            '[Probe("libc.so.6", "labs", {"a": arg(0)}, name=f"t{n}") for n in range(260)]',
            "too many",
        ),
    ],
)
def test_plans_that_are_refused(broker, plan, why) -> None:
    out = broker.client(
        f"""
        try:
            RemoteSession(path, Plan({plan}), os.getpid(), ring_bytes=4096)
        except VidlabError as error:
            print(type(error).__name__, error)
        """
    )
    assert why in out
    assert broker.events() == ["refused"]


# --- how it ends ---


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_session_ends_with_its_client(broker, nothing_left, how) -> None:
    client = broker.start(
        """
        session = RemoteSession(path, Plan([labs, "sched"]), os.getpid())
        if os.fork() == 0:  # what a child has inherited keeps nothing alive
            os.close(1); os.close(2); time.sleep(600)
        print(len(session.attachments), flush=True)
        input()
        session.close()
        print("closed", flush=True)
        os.kill(0, 9)
        """.replace("os.kill(0, 9)", "input()")
    )
    assert int(client.stdout.readline()) > 1
    children = Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text()
    child = os.pidfd_open(int(children.split()[0]))  # its number may be another's once it is gone
    try:
        if how is None:
            client.stdin.write("\n")
            client.stdin.flush()
            assert client.stdout.readline() == "closed\n"
            signal.pidfd_send_signal(child, signal.SIGKILL)
        else:
            client.send_signal(how)
            client.wait()
        end = time.monotonic() + 60
        while "ended" not in broker.events() and time.monotonic() < end:
            time.sleep(0.01)
        assert broker.events()[-1] == "ended"
    finally:
        client.kill()
        client.communicate()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)


def test_a_broker_that_ends_is_told_of(folder, limits, nothing_left) -> None:
    running = Running(folder, NOBODY, limits)
    client = running.start(
        """
        session = RemoteSession(path, Plan([labs]), os.getpid())
        print(session.problems, flush=True)
        input()
        print(session.problems, session.misses(), session.attach_pending(), flush=True)
        session.detach()
        try:
            session.replace(0, labs)
        except RecordingError as error:
            print(error)
        session.close(); session.close()
        """
    )
    assert client.stdout.readline() == "[]\n"
    running.stop()
    out, err = client.communicate("\n", timeout=60)
    assert "is gone (it has ended)" in out, err
    assert "{} []" in out
    assert "does not answer" in out
    assert not running.path.exists()
    assert running.events() == ["attached", "ended"]


def test_the_command_serves_until_a_signal_ends_it(folder, nothing_left) -> None:
    code = f"""
from vidlab.capture.ebpf.broker.server import serve
serve({str(folder / "s")!r}, {str(folder.parent / "log")!r}, uid={NOBODY},
      ready=lambda: print("ready", flush=True))
print("ended", flush=True)
"""
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):  # the last leaves its socket
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(folder / "s"))
        process.send_signal(how)
        out, _ = process.communicate(timeout=60)
        assert out == ("ended\n" if how != signal.SIGKILL else "")
    assert (folder / "s").exists()
    events = [
        json.loads(line)["event"] for line in (folder.parent / "log").read_text().splitlines()
    ]
    assert [event for event in events if event != "refused"] == ["started", "stopped"] * 2 + [
        "started"
    ]


def test_a_broker_that_is_killed_leaves_nothing(folder, nothing_left) -> None:
    code = f"""
from vidlab.capture.ebpf.broker.server import serve
serve({str(folder / "broker.socket")!r}, {str(folder.parent / "log")!r}, uid={NOBODY},
      ready=lambda: print("ready", flush=True))
"""
    broker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert broker.stdout.readline() == "ready\n"
    client = start_client(
        folder / "broker.socket",
        """
        session = RemoteSession(path, Plan([labs, "sched", "tcp"]), os.getpid())
        print("open", flush=True); input()
        print(session.problems[-1], flush=True)
        """,
    )
    assert client.stdout.readline() == "open\n"
    broker.kill()
    broker.communicate()
    assert "is gone" in client.communicate("\n", timeout=60)[0]
    nothing_left()


def test_whom_it_serves_by_default(monkeypatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert user_to_serve() == os.geteuid()
    monkeypatch.setenv("SUDO_UID", "1000")
    assert user_to_serve() == (1000 if os.geteuid() == 0 else os.geteuid())
    monkeypatch.setenv("SUDO_UID", "x")
    assert user_to_serve() == os.geteuid()


def test_places_are_bounded(folder, nothing_left) -> None:
    running = Running(folder, NOBODY, Limits(2, 2, 8, 1 << 20, 120.0))
    try:
        out = running.client(
            """
            plan = Plan([Probe("libc.so.6", "labs", {"a": arg(0)})])
            def attempt(size):
                try:
                    kept.append(RemoteSession(path, plan, os.getpid(), ring_bytes=size))
                except PrivilegeError as error:
                    return str(error)
                return "open"
            kept = []
            for size in (1 << 21, 1 << 19, 1 << 16, 1 << 16):
                print(attempt(size))
            kept.pop().close()
            end = time.monotonic() + 60
            while (told := attempt(1 << 16)) != "open" and time.monotonic() < end:
                time.sleep(0.1)  # the closed session takes a moment to end
            print(told)
            """
        ).splitlines()
        assert "too large" in out[0]
        assert out[1:3] == ["open", "open"]
        assert "as many as it takes" in out[3]
        assert out[4] == "open"
    finally:
        running.stop()


def test_a_recording_of_an_unprivileged_process(broker) -> None:
    out = broker.client(
        """
        import vidlab as vl
        from vidlab.capture.ebpf.engine import KernelEvents
        probe = Probe("libc.so.6", "labs", {"value": arg(0, "i64")}, {})
        folder = path.parent / "run"
        engines = [vl.Frames(), KernelEvents([probe], broker=path, required=True)]
        with vl.record(folder, engines=engines):
            for n in range(50):
                with vl.stage("work"):
                    libc.labs(n)
        run = vl.open_run(folder)
        calls, spans = run.scan("kernel_labs").collect(), run.scan("spans").collect()
        print(calls["value"].to_list() == list(range(50)))
        print(calls["span"].to_list() == spans["span"].to_list())
        print(run.losses, [row["kind"] for row in run.scan("findings").collect().to_dicts()])
        """,
        warm=True,
    )
    assert out.splitlines() == ["True", "True", "{} []"]
