"""Builds runs in the segment format straight from NumPy and Arrow, without vidlab's writer.

So the reader is held to the format's description rather than to the writer's habits.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from vidlab.schema import TABLES, UNKNOWN

ANCHOR = {"monotonic_ns": 10**15, "wall_ns": 1_795_000_000 * 10**9}

#: Stages of `pipeline`: name, kind, median duration in ns, thread, stage it is nested in.
STAGES = (
    ("demux", "service", 50_000, 0),
    ("decode", "service", 2_000_000, 0),
    ("decode", "reorder", 40_000_000, 0),
    ("decoded", "queue", 50_000, 1),
    ("filter", "service", 1_500_000, 1),
    ("resize", "service", 400_000, 1),
    ("work", "queue", 300_000, 2),
    ("motion", "service", 3_000_000, 2),
    ("encode", "service", 6_000_000, 2),
    ("mux", "service", 50_000, 2),
)

_KINDS = ("service", "queue", "reorder", "encoder_lag")
_EVENTS = ("demuxed", "sent", "decoded", "flushed", "evicted", "delivered")


class RunBuilder:
    """A run directory in the making."""

    def __init__(self, path: Path, state: str = "recording", **manifest: Any) -> None:
        self.path = path
        self.segments = path / "segments"
        self.segments.mkdir(parents=True)
        self.manifest = {
            "schema": "vidlab.run/1",
            "run_id": path.name,
            "started": ANCHOR,
            "state": state,
            **manifest,
        }
        self.write_manifest()

    def write_manifest(self) -> None:
        (self.path / "manifest.json").write_text(json.dumps(self.manifest))

    def process(self, index: int, pid: int | None = None) -> ProcessBuilder:
        return ProcessBuilder(self.segments, index, pid or 1000 + index)


class ProcessBuilder:
    """What one process writes into a run."""

    def __init__(self, segments: Path, index: int, pid: int) -> None:
        self.segments, self.index, self.pid = segments, index, pid
        self.names: dict[str, int] = {}
        self.sets: dict[str, int] = {}
        self._count = 0
        facts = {"index": index, "pid": pid, "parent": 1, "argv": ["x.py"], "started": ANCHOR}
        self._process = segments / f"{index:04d}.process"
        self._process.write_text(json.dumps(facts))
        self.name("(other)")

    def alive(self) -> IO[str]:
        """Hold the lock of a living process; close the file to die."""
        file = self._process.open()
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def name(self, text: str) -> int:
        if text not in self.names:
            self.names[text] = len(self.names)
            self._append("names", {"id": self.names[text], "name": text})
        return self.names[text]

    def labels(self, sample_rate: float = 1.0, **values: Any) -> int:
        key = json.dumps([values, sample_rate], sort_keys=True)
        if key not in self.sets:
            self.sets[key] = len(self.sets) + 1
            line = {"id": self.sets[key], "values": values, "sample_rate": sample_rate}
            self._append("labels", line)
        return self.sets[key]

    def _append(self, side: str, line: Mapping[str, Any]) -> None:
        path = self.segments / f"{self.index:04d}-{side}.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def frame(self, stream: int, seq: int | np.ndarray) -> Any:
        return np.uint64(self.index << 52 | stream << 32) + np.asarray(seq, np.uint64)

    def span(self, thread: int, sequence: int | np.ndarray) -> Any:
        return np.uint64(self.index << 52 | thread << 32) + np.asarray(sequence, np.uint64)

    def records(self, table: str, count: int, **columns: Any) -> np.ndarray:
        """Records with these fields, the others "not known" and the commit mark set."""
        record = TABLES[table].record
        records = np.zeros(count, record.dtype)
        for name in {"cpu_ns", "runqueue_ns", "pts", "dts"}.intersection(records.dtype.names):
            records[name] = UNKNOWN
        if table == "spans":
            records["sequence"] = np.arange(1, count + 1)
        records[record.commit] = 1
        for name, values in columns.items():
            records[name] = values
        return records

    def buffer(
        self, table: str, records: np.ndarray, thread: int = 1, tid: int = 7, spare: int = 3
    ) -> str:
        """Write a mapped buffer with some space left; return its name."""
        name = self._buffer_name(table, thread, tid)
        empty = np.zeros(spare, records.dtype)
        (self.segments / name).write_bytes(np.concatenate([records, empty]).tobytes())
        return name

    def _buffer_name(self, table: str, thread: int, tid: int) -> str:
        self._count += 1
        return f"{self.index:04d}-{thread:05d}-{tid}-{table}-{self._count:06d}.buf"

    def arrows(
        self, table: str, batches: Iterable[tuple[int, int, np.ndarray]], compression: str = "lz4"
    ) -> Path:
        """Write (thread, tid, records) as the batches of an Arrow stream."""
        named = []
        for thread, tid, records in batches:
            columns = {
                name: np.ascontiguousarray(records[name])
                for name in records.dtype.names
                if not name.startswith("pad")
            }
            columns["thread"] = np.full(len(records), thread, np.uint32)
            columns["tid"] = np.full(len(records), tid, np.int32)
            named.append((pa.record_batch(columns), self._buffer_name(table, thread, tid)))
        return self._stream(table, named, compression)

    def rows(self, table: str, rows: list[dict[str, Any]]) -> Path:
        """Write the rows of a table that no hot path writes."""
        schema = pa.schema(
            [
                (c.name, pa.string() if pa.types.is_dictionary(c.type) else c.type)
                for c in TABLES[table].columns
                if c.name not in ("stream_id", "codec", "gpu")
            ]
        )
        full = [{"t_ns": 1, "pid": self.pid, "tid": 7, "labels": 0, **row} for row in rows]
        return self._stream(table, [(pa.RecordBatch.from_pylist(full, schema=schema), None)])

    def _stream(
        self, table: str, batches: list[tuple[pa.RecordBatch, str | None]], compression: str = "lz4"
    ) -> Path:
        self._count += 1
        path = self.segments / f"{self.index:04d}-{table}-{self._count:06d}.arrows"
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with (
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_stream(sink, batches[0][0].schema, options=options) as stream,
        ):
            for batch, buffer in batches:
                mark = {"buffer": buffer} if buffer else None
                stream.write_batch(batch, custom_metadata=mark)
        return path

    def losses(self, **tables: Mapping[str, int]) -> None:
        path = self.segments / f"{self.index:04d}-losses.json"
        path.write_text(json.dumps(tables))


def pipeline(
    process: ProcessBuilder,
    streams: int,
    frames: int,
    seed: int = 0,
    batch: int = 4096,
    events: bool = True,
    **labels: Any,
) -> int:
    """Record `streams` streams at 30 fps through `STAGES`, three threads each; return the spans.

    Every column is filled. Durations are log-normal, CPU time is close to them where
    something works, and threads mostly don't wait to run.
    """
    random = np.random.default_rng(seed)
    stages = len(STAGES)
    numbers = np.array([process.name(stage) for stage, *_ in STAGES])
    kinds = np.array([_KINDS.index(kind) for _, kind, *_ in STAGES])
    medians = np.array([median for _, _, median, _ in STAGES], float)
    threads = np.array([thread for *_, thread in STAGES])
    codecs = ("h264", "hevc", "av1", "vp9")
    spans: list[tuple[int, int, np.ndarray]] = []
    times: list[tuple[int, int, np.ndarray]] = []
    steps: list[tuple[int, int, np.ndarray]] = []
    for stream in range(1, streams + 1):
        of_stream = {
            "stream_id": f"cam-{process.index}-{stream:03d}",
            "codec": codecs[stream % 4],
            "gpu": stream % 2,
            **labels,
        }
        labels_id = process.labels(**of_stream)
        born = 10**15 + stream * 10**6 + np.arange(frames) * 33_333_333
        born += random.normal(0, 1e6, frames).astype(np.int64)
        took = (random.lognormal(0, 0.5, (frames, stages)) * medians).astype(np.int64)
        starts = born[:, None] + np.cumsum(took, 1) - took
        works = kinds == 0
        cpu = np.where(
            works,
            took * random.uniform(0.85, 1, took.shape),
            random.exponential(30_000, took.shape),
        ).astype(np.int64)
        waits = np.where(
            random.random(took.shape) < 0.6, 0, random.exponential(5000, took.shape)
        ).astype(np.int64)
        ids = process.frame(stream, np.arange(frames))
        for thread in range(3):
            own = np.flatnonzero(threads == thread)
            count = frames * len(own)
            number = 3 * stream + thread
            sequence = np.arange(1, count + 1)
            records = process.records(
                "spans",
                count,
                t_ns=starts[:, own].ravel(),
                duration_ns=took[:, own].ravel(),
                frame=np.repeat(ids, len(own)),
                # Every span but a thread's first is nested in the one before it.
                parent=np.where(sequence > 1, process.span(number, sequence - 1), 0),
                cpu_ns=cpu[:, own].ravel(),
                runqueue_ns=waits[:, own].ravel(),
                sequence=sequence,
                labels=labels_id,
                stage=np.tile(numbers[own], frames),
                kind=np.tile(kinds[own], frames),
            )
            timed = process.records(
                "gpu_times",
                count,
                t_ns=records["t_ns"] + records["duration_ns"],
                span=process.span(number, sequence),
                gpu_duration_ns=took[:, own].ravel() * random.uniform(0.3, 0.8, count),
            )
            times.extend((number, 10_000 + number, timed[at : at + batch])
                         for at in range(0, count, batch))  # fmt: skip
            spans.extend(
                (number, 10_000 + number, records[at : at + batch]) for at in range(0, count, batch)
            )
        if events:
            ends = starts[:, -1] + took[:, -1]
            when = {
                "demuxed": born,
                "sent": starts[:, 2],
                "decoded": starts[:, 3],
                "delivered": ends,
            }
            for event, t_ns in when.items():
                records = process.records(
                    "frame_events",
                    frames,
                    t_ns=t_ns,
                    frame=ids,
                    pts=np.arange(frames) * 512,
                    dts=np.arange(frames) * 512,
                    labels=labels_id,
                    seq=np.arange(frames),
                    time_base_num=1,
                    time_base_den=15360,
                    stage=process.name("mux" if event == "delivered" else "decode"),
                    flags=np.arange(frames) % 30 == 0,
                    picture_type=1,
                    event=_EVENTS.index(event) + 1,
                )
                steps.extend(
                    (3 * stream, 10_000 + 3 * stream, records[at : at + batch])
                    for at in range(0, frames, batch)
                )
    # As the writer has it: in the order in which buffers were full.
    for table, batches in (("spans", spans), ("gpu_times", times), ("frame_events", steps)):
        batches.sort(key=lambda item: int(item[2]["t_ns"][-1]))
        if batches:
            process.arrows(table, batches)
    return sum(len(records) for *_, records in spans)


def small_run(path: Path, state: str = "recording") -> RunBuilder:
    """A run of two processes, several threads, label sets and tables; left-over buffers too."""
    run = RunBuilder(path, state)
    first = run.process(1)
    pipeline(first, streams=3, frames=40, seed=1, batch=16, region="north")
    front = first.labels(stream_id="front", codec="h264")
    first.buffer(
        "spans",
        first.records("spans", 5, t_ns=10**15 + np.arange(5), duration_ns=1000, labels=front,
                      stage=first.name("late"), sequence=np.arange(1, 6)),
        thread=90,
    )  # fmt: skip
    first.rows(
        "findings",
        [
            {
                "kind": "pts_backwards",
                "severity": "warning",
                "message": "ältere pts",
                "labels": front,
            }
        ],
    )
    second = run.process(2)
    pipeline(second, streams=2, frames=30, seed=2, batch=16)
    second.buffer(
        "queue_depths",
        second.records("queue_depths", 2, t_ns=[5, 6], depth=[1, 2], capacity=[-1, 8],
                       queue=second.name("q"), touch=[1, 2]),
    )  # fmt: skip
    second.losses(spans={"lost": 3, "let_go": 0})
    return run
