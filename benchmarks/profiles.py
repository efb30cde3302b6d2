"""How right profiles are, and what they cost.

Accuracy: one run of work whose CPU getrusage knows, beside a thread that computes in Python.
By label, vidlab's CPU is compared with that, and so are the profiler's samples of the same run.
Cost: a push of 2,000 stacks that are all new, from the request to its answer; and a label set
that is entered and left while profiles are recorded, beside pyroscope-io's `tag_wrapper`. Both
are the least of many times: what else the machine does only adds to them.
"""

from __future__ import annotations

import gzip
import random
import statistics
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

import polars as pl

import vidlab as vl
from vidlab.analysis import cpu
from vidlab.capture.profiles.engine import Profiles
from vidlab.capture.profiles.pushes import MOST_BYTES, read_push
from vidlab.capture.profiles.receiver import Receiver
from vidlab.capture.profiles.requests import KEY_HEADER, PATH, Head
from vidlab.capture.profiles.storing import Store
from vidlab.formats import pprof, protobuf
from vidlab.lab.known_work import DECODE, LABEL, NUMPY, PYTHON, SLEEP, Known, record_known_work
from vidlab.runs.writer import RunWriter

from .figure import Figure, report


def accuracy(known: Known) -> list[Figure]:
    run = vl.open_run(known.path)
    found = cpu.by_label(
        run.scan("spans"),
        run.scan("profile_samples"),
        LABEL,
        run.scan("thread_waits"),
        run.scan("threads"),
    )
    ours = dict(found.select(LABEL, "cpu_ns").iter_rows())
    samples = run.scan("profile_samples").filter(pl.col("type").cast(pl.String) == "cpu")
    by_tag = samples.group_by(pl.col(LABEL).cast(pl.String)).agg(pl.col("value").sum()).collect()
    theirs = dict(by_tag.iter_rows())
    truth = known.cpu_ns
    figures = []
    for kind in (DECODE, NUMPY, PYTHON):
        off, peer = (100 * abs(of.get(kind, 0) / truth[kind] - 1) for of in (ours, theirs))
        print(
            f"{kind}: {truth[kind] / 1e9:.3f} s; pyroscope-io is {peer:.0f} % off", file=sys.stderr
        )
        figures.append(Figure(f"CPU by label, {kind}: off by", off, "%", None, 5))
    slept = 100 * abs(ours.get(SLEEP, 0) - truth[SLEEP]) / known.took_ns[SLEEP]
    figures.append(Figure(f"CPU by label, {SLEEP}: off by, of its duration", slept, "%", None, 5))
    total = sum(truth.values())
    off, peer = (
        100 * sum(abs(of.get(kind, 0) - truth[kind]) for kind in truth) / total
        for of in (ours, theirs)
    )
    figures.append(Figure("CPU by label, all: off by / pyroscope-io's own", off, "%", peer))
    # Less is better in every figure: so many times more than 50 % off.
    figures.append(Figure("50 % / what pyroscope-io's labels are off by", 50, "%", peer, 1))
    return figures


def large_push(turn: int, stacks: int = 2_000, depth: int = 24) -> bytes:
    """Return a push of so many stacks, none of which is in that of another turn."""
    functions = [
        pprof.Function(
            n + 1, f"function_{turn}_{n}", f"function_{turn}_{n}", f"/app/file_{n % 40}.py"
        )
        for n in range(stacks // 2)
    ]
    locations = [
        pprof.Location(n + 1, lines=(pprof.Line(function, 10 + n % 300),))
        for n, function in enumerate(functions)
    ]
    choose = random.Random(turn)
    samples = tuple(
        pprof.Sample(
            (*choose.sample(locations, depth - 1), locations[0]),
            (10_000_000 * choose.randint(1, 9),),
            (pprof.Label("thread_name", f"worker-{n % 8}"), pprof.Label("vidlab_labels", "0")),
        )
        for n in range(stacks)
    )
    kind = pprof.ValueType("cpu", "nanoseconds")
    profile = pprof.write(
        pprof.Profile(
            (kind,),
            samples,
            locations=tuple(locations),
            functions=tuple(functions),
            duration_nanos=1_000_000_000,
            period_type=kind,
            period=10_000_000,
        )
    )
    series, label, sample, body = bytearray(), bytearray(), bytearray(), bytearray()
    protobuf.put_bytes(label, 1, b"__name__")
    protobuf.put_bytes(label, 2, b"process_cpu")
    protobuf.put_bytes(sample, 1, profile)
    protobuf.put_bytes(series, 1, label)
    protobuf.put_bytes(series, 2, sample)
    protobuf.put_bytes(body, 1, series)
    return gzip.compress(bytes(body))


def pushed(folder: Path, rounds: int = 25) -> Figure:
    """Push stacks to a receiver that stores them in a run, and return how long one took."""
    writer = RunWriter(folder)
    store = Store(writer, dict)

    def take(head: Head, body: bytes) -> None:
        store.store(read_push(body, head.compressed))

    receiver = Receiver(take, MOST_BYTES)
    receiver.start()
    took = []
    headers = {KEY_HEADER: receiver.key, "Content-Encoding": "gzip"}
    try:
        for turn in range(rounds + 1):
            body = large_push(turn)
            begin = time.perf_counter()
            connection = HTTPConnection("127.0.0.1", receiver.port)
            connection.request("POST", PATH, body, headers)
            status = connection.getresponse().status
            took.append(1000 * (time.perf_counter() - begin))
            connection.close()
            assert status == 200, status
    finally:
        receiver.stop(5.0)
        writer.close()
    print(f"a push: {statistics.median(took):.1f} ms, the median", file=sys.stderr)
    return Figure("a push of 2,000 new stacks, stored", min(took), "ms", None, 50)


def label_sets(folder: Path, count: int = 500, rounds: int = 400) -> Figure:
    """Enter and leave a set of three labels; return how long it took."""
    from pyroscope import tag_wrapper  # type: ignore[import-untyped]

    tags = {"stream_id": "cam-7", "codec": "h264", "gpu": "0"}

    labels = vl.labels

    def ours() -> None:
        for _ in range(count):
            with labels(stream_id="cam-7", codec="h264", gpu=0):
                pass

    def theirs() -> None:
        for _ in range(count):
            with tag_wrapper(tags):
                pass

    took: dict[str, list[float]] = {"ours": [], "theirs": []}
    with vl.record(folder, engines=[vl.Frames(), Profiles()]):
        for name, enter_and_leave in [("ours", ours), ("theirs", theirs)] * rounds:
            begin = time.perf_counter_ns()
            enter_and_leave()
            took[name].append((time.perf_counter_ns() - begin) / count / 1000)
    cost, peer = map(min, took.values())
    print(f"pyroscope-io's tag_wrapper: {peer:.2f} µs", file=sys.stderr)
    return Figure("a label set, entered and left, with profiles", cost, "µs", None, 2)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = accuracy(record_known_work(folder / "run", 20, neighbours=1))
        figures += [pushed(folder / "pushes"), label_sets(folder / "labels")]
    report(figures)


if __name__ == "__main__":
    main()
