"""What Pyroscope's agent for Python sends is read, and written back equal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vidlab.formats import pprof, protobuf

pytest.importorskip(
    "pyroscope", reason="pyroscope-io is not installed: pip install vidlab[profile]"
)

#: Receives the agent's pushes on a port of its own, and works under labels.
PROGRAM = """
import gzip, http.server, sys, threading, time
from pathlib import Path
import pyroscope

class Receiver(http.server.BaseHTTPRequestHandler):
    count = 0
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Path(sys.argv[1], f"{Receiver.count}.push").write_bytes(gzip.decompress(body))
        Receiver.count += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
pyroscope.configure(
    application_name="test",
    server_address=f"http://127.0.0.1:{server.server_port}",
    gil_only=False,
    report_thread_name=True,
    mem_enabled=True,
    mem_heap_sample_size=65536,
)

def work(seconds):
    "So much CPU time in small pieces: one that took long was of a machine that stood still."
    kept, done, before = [], 0.0, time.thread_time()
    while done < seconds:
        kept.append(bytes(10_000))
        del kept[:-100]
        now = time.thread_time()
        done, before = done + min(now - before, 0.005), now

for stream in ("cam-1", "cam-2"):
    with pyroscope.tag_wrapper({"stream_id": stream, "codec": "h264"}):
        work(1.0)
pyroscope.shutdown()
"""


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The last profile of each kind that the agent pushed, by the kind's name."""
    folder: Path = tmp_path_factory.mktemp("agent")
    subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], check=True, timeout=240)
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.push")):
        body = path.read_bytes()
        for series in protobuf.fields(body):
            parts = list(protobuf.fields(body, series.start, series.stop))
            labels = [body[part.start : part.stop] for part in parts if part.number == 1]
            name = next(label for label in labels if b"__name__" in label)
            for part in parts:
                if part.number == 2:
                    sample = next(protobuf.fields(body, part.start, part.stop))
                    found[name[12:].decode()] = body[sample.start : sample.stop]
    return found


def test_profiles_of_the_agent_are_read_and_written_back(pushed: dict[str, bytes]) -> None:
    assert set(pushed) == {"process_cpu", "memory"}
    for data in pushed.values():
        profile = pprof.read(data)
        assert profile.samples
        assert not profile.strings  # it has nothing that is not known here
        assert pprof.read(pprof.write(profile)) == profile


def test_samples_of_the_agent_have_stacks_labels_and_time(pushed: dict[str, bytes]) -> None:
    cpu = pprof.samples(pushed["process_cpu"])
    assert cpu.types == (pprof.ValueType("cpu", "nanoseconds"),)
    assert cpu.period == 10_000_000
    assert cpu.time_nanos > 0 < cpu.duration_nanos
    working = [
        dict(cpu.label_sets[labels])
        for stack, labels in zip(cpu.stack, cpu.label_set, strict=True)
        if cpu.stacks[stack][0][0] == "work"
    ]
    assert {"cam-1", "cam-2"} == {labels.get("stream_id") for labels in working} - {None}
    assert {labels["thread_name"] for labels in working} == {"MainThread"}
    memory = pprof.samples(pushed["memory"])
    names = ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"]
    assert [known.type for known in memory.types] == names
    assert any(call[0] == "work" for stack in memory.stacks for call in stack)
