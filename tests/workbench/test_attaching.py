"""`vidlab attach`: kernel events of a running process that knows nothing of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl
from vidlab.analysis import kernel
from vidlab.capture.ebpf import Probe, arg, retval, string
from vidlab.errors import InputError, RecordingError
from vidlab.lab.clips import Clip, make_clips
from vidlab.workbench import attaching
from vidlab.workbench.kernel_section import KernelSection
from vidlab.workbench.slices import Slice

needs_ebpf = pytest.mark.needs("ebpf")

ATTACH = [sys.executable, "-m", "vidlab.cli", "attach"]

#: How long a program may take in all, in seconds: only one that hangs takes longer.
PATIENCE_S = 140

#: Calls a function as often as it is told to, each time that it gets a line; at "fork" a child
#: does so too, at "exec" the program begins anew, at "end" it returns 3.
PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/wait.h>
__attribute__((noinline, noclone, visibility("default"))) int work(int n, const char *name) {
    __asm__ volatile("nop");
    return 2 * n;
}
int main(int count, char **words) {
    char line[64];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "end", 3)) return 3;
        if (!strncmp(line, "exec", 4)) execv(words[0], words);
        int forked = !strncmp(line, "fork", 4);
        int child = forked && !fork();
        for (int n = 0; n < 100; n++) work(child ? -1 : n, "uploads");
        if (child) _exit(0);
        if (forked) wait(0);
        puts("done");
        fflush(stdout);
    }
    return 0;
}
"""

#: What is recorded of a program that decodes.
OPERATIONS = {"demux", "send_packet", "receive_frame"}

DECODING = """
import sys, time
import av
print("ready", flush=True)
while True:
    with av.open(sys.argv[1]) as video:
        for frame in video.decode(video=0):
            time.sleep(0.001)
"""


@contextlib.contextmanager
def running(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it is ready."""
    with subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str], *words: str) -> None:
    """Have the program do something, and wait until it has."""
    assert process.stdin is not None
    assert process.stdout is not None
    for word in words:
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        if word != "end":
            assert process.stdout.readline() in ("done\n", "ready\n")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler: apt install gcc")
    path = tmp_path_factory.mktemp("program") / "worker"
    source = path.with_suffix(".c")
    source.write_text(PROGRAM)
    subprocess.run([compiler, "-O1", "-o", str(path), str(source)], check=True)
    return path


@pytest.fixture
def work(program: Path) -> Probe:
    entry = {"n": arg(0, "i32"), "name": string(arg(1), 16)}
    return Probe(str(program), "work", entry, {"result": retval("i32")})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = Clip("small", "libx264", {"preset": "ultrafast"}, 64, 36, rate=100, seconds=1.0)
    (path,) = make_clips([small], tmp_path_factory.mktemp("clips"))
    return path


def decoding_is_seen(run: vl.Run) -> bool:
    """Whether all that there is of decoding, and a moment without a CPU, are in a run."""
    if not {"kernel_libav", "kernel_offcpu"} <= set(run.tables()):
        return False
    operations = set(run.scan("kernel_libav").collect()["op"].cast(pl.String))
    return operations >= OPERATIONS and run.scan("kernel_offcpu").collect().height > 0


@pytest.fixture(scope="module")
def decoded(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> attaching.Attached:
    """What was recorded of a program that decodes a video."""
    path = tmp_path_factory.mktemp("attached") / "run"
    wait = attaching._wait

    def until_seen(watched: int, interrupted: int, duration_s: float | None) -> bool:
        """Wait on where the program has not had a CPU in that time."""
        until_s = time.monotonic() + PATIENCE_S
        while not (ended := wait(watched, interrupted, duration_s)):
            if decoding_is_seen(vl.open_run(path)) or time.monotonic() > until_s:
                break
        return ended

    with (
        running(sys.executable, "-c", DECODING, clip) as process,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(attaching, "_wait", until_seen)
        return vl.attach(
            process.pid, path, probes=["libav", "sched", "nvcodec", "xid"], duration_s=1.0
        )


# --- what is recorded -------------------------------------------------------------


@needs_ebpf
def test_a_program_that_decodes(decoded: attaching.Attached) -> None:
    run = decoded.run
    events = run.scan("kernel_libav").collect()
    assert set(events["op"].cast(pl.String)) >= OPERATIONS
    assert set(events["pid"]) == {decoded.pid}
    assert run.scan("kernel_offcpu").collect().height > 0
    assert run.manifest.parameters["attached_to"]["pid"] == decoded.pid
    assert not decoded.ended
    assert decoded.seconds >= 1.0
    assert vl.verify(decoded.path) == []


@needs_ebpf
def test_what_a_person_is_told(decoded: attaching.Attached) -> None:
    text = str(decoded)
    rows = decoded.run.scan("kernel_libav").collect().height
    first, *lines = text.splitlines()
    process = f"{decoded.seconds:.1f} s of process {decoded.pid} (python"
    assert first.startswith(f"recorded {decoded.path}: {process}")
    assert any(line.split()[:2] == ["kernel_libav", f"{rows:,}"] for line in lines), text
    assert any(line.startswith("  ebpf_video_decode_us: ") for line in lines)
    missing = "not attached: nvcodec, as the process has none of libnvcuvid.so.1"
    assert any(line.startswith(missing) for line in lines)
    if not Path("/sys/module/nvidia").exists():
        assert any("no tracepoint nvidia:nvidia_dev_xid" in line for line in lines)
    assert f"vidlab info {decoded.path}" in text
    assert "04_kernel_events" in text


@needs_ebpf
def test_the_analyses_take_a_run_without_spans(decoded: attaching.Attached) -> None:
    run = decoded.run
    events, spans = run.scan("kernel_libav"), run.scan("spans")
    identified = kernel.identified(events.collect(), spans.collect()).lazy().collect()
    assert identified.height == events.collect().height
    section = KernelSection(Slice(run, None, None, None, None))
    assert "events of 2 kinds" in repr(section.headline())
    for answer in ("offcpu", "offcpu_over_time", "wakeups", "decode", "memory", "copies", "probes"):
        getattr(section, answer)()


@pytest.fixture
def once_attached(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has a process do something as soon as it is attached to."""
    wait = attaching._wait

    def plan(process: subprocess.Popen[str], *words: str) -> None:
        def live(*arguments: Any) -> bool:
            tell(process, *words)
            return wait(*arguments)

        monkeypatch.setattr(attaching, "_wait", live)

    return plan


@needs_ebpf
def test_each_call_is_a_row_until_the_process_ends(
    program: Path, work: Probe, tmp_path: Path, once_attached: Callable[..., None]
) -> None:
    with running(program) as process:
        once_attached(process, "work", "fork", "work", "end")
        attached = vl.attach(process.pid, tmp_path / "run", probes=[work])
        assert process.wait() == 3
    assert attached.ended
    assert "until it ended" in str(attached)
    rows = attached.run.scan("kernel_work").collect()
    assert rows["n"].to_list() == 3 * list(range(100))  # and none of its child's
    assert rows["result"].to_list() == [2 * n for n in rows["n"]]
    assert set(rows["name"].cast(pl.String)) == {"uploads"}
    assert attached.run.losses == {}


@needs_ebpf
def test_it_goes_on_over_an_exec(
    program: Path, work: Probe, tmp_path: Path, once_attached: Callable[..., None]
) -> None:
    with running(program) as process:
        once_attached(process, "work", "exec", "work", "end")
        attached = vl.attach(process.pid, tmp_path / "run", probes=[work])
    assert attached.run.scan("kernel_work").collect().height == 200


@needs_ebpf
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_whole(number: int, program: Path, tmp_path: Path) -> None:
    """As Ctrl-C does, at whatever moment after the run's beginning."""
    run = tmp_path / "run"
    with running(program) as process:
        command = [*ATTACH, str(process.pid), "-o", str(run), "--probes", "sched"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attach:
            while not (run / "manifest.json").exists():
                assert attach.poll() is None
            attach.send_signal(number)
            output, _ = attach.communicate(timeout=PATIENCE_S)
        assert process.poll() is None
    assert attach.returncode == 0
    assert output.startswith(f"recorded {run}: ")
    assert vl.open_run(run).state == "complete"


@needs_ebpf
def test_probes_of_one_s_own_by_name(program: Path, tmp_path: Path) -> None:
    (tmp_path / "my_probes.py").write_text(
        "from vidlab.capture.ebpf import Probe, arg\n"
        f"calls = [Probe({str(program)!r}, 'work', {{'n': arg(0, 'i32')}}), 'sched']\n"
    )
    with running(program) as process:
        command = [*ATTACH, str(process.pid), "--probes", "my_probes:calls", "--duration", "0.2"]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("recorded runs/worker-")
    assert "kernel_work " in done.stdout
    assert "kernel_offcpu " in done.stdout


@needs_ebpf
def test_a_process_that_lacks_all_that_was_asked_for(program: Path, tmp_path: Path) -> None:
    with running(program) as process:
        attached = vl.attach(process.pid, tmp_path / "run", probes=["nvcodec"], duration_s=0.1)
    assert "nothing was attached, so nothing was recorded" in str(attached)


# --- what is wrong ----------------------------------------------------------------


def test_no_such_process(program: Path) -> None:
    with running(program) as process:
        pass
    for pid in (process.pid, 0, -3, 1 << 70):
        with pytest.raises(InputError, match=r"there is no process .*see 'ps -e'"):
            vl.attach(pid)


def test_a_thread_of_a_process() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(InputError, match=f"is a thread of process {os.getpid()}"):
            vl.attach(thread.native_id or 0)
    finally:
        done.set()
        thread.join()


def test_a_zombie() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(InputError, match="has ended"):
            vl.attach(pid)
    finally:
        os.waitpid(pid, 0)


def test_a_thread_of_the_kernel(tmp_path: Path) -> None:
    if Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("process 2 is not the kernel's here")
    with pytest.raises(InputError, match=r"kthreadd.*sets of tracepoints"):
        vl.attach(2, tmp_path / "run", probes=["libav", "sched"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration_s": 0}, "above zero"),
        ({"duration_s": float("inf")}, "above zero"),
        ({"duration_s": float("nan")}, "above zero"),
        ({"probes": ()}, "no probes were asked for"),
        ({"probes": ["cudda"]}, "did you mean cuda"),
        ({"probes": [3]}, "is no declaration of a probe"),
        ({"ring_bytes": 5000}, "power of two"),
    ],
)
def test_a_mistake(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        vl.attach(os.getppid(), tmp_path / "run", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@needs_ebpf
def test_a_run_that_is_there(program: Path, tmp_path: Path) -> None:
    with running(program) as process:
        one = {"probes": ["sched"], "duration_s": 0.05}
        vl.attach(process.pid, tmp_path / "run", **one)  # type: ignore[arg-type]
        with pytest.raises(RecordingError, match="holds a run"):
            vl.attach(process.pid, tmp_path / "run", **one)  # type: ignore[arg-type]
        vl.attach(process.pid, tmp_path / "run", overwrite=True, **one)  # type: ignore[arg-type]


def unprivileged(code: str) -> list[str]:
    """What runs Python code without any capability."""
    if os.geteuid() == 0 and shutil.which("setpriv"):
        front = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
        return [*front, sys.executable, "-c", textwrap.dedent(code)]
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_without_privileges_both_ways_are_told(program: Path, tmp_path: Path) -> None:
    with running(program) as process:
        code = f"""
        import sys
        from vidlab import cli
        sys.exit(cli.main(["attach", "{process.pid}", "-o", "{tmp_path}/run", "--probes", "sched"]))
        """
        environment = {key: word for key, word in os.environ.items() if "BROKER" not in key}
        done = subprocess.run(
            unprivileged(code), env=environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
    assert done.returncode == 2
    assert "cap_bpf" in done.stderr
    assert "sudo vidlab ebpf-broker" in done.stderr
    assert "setcap" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
