"""Synthetic runs of any size, for tests, benchmarks and documentation.

The events are computed (see `simulated`), and written as the segments of a recording;
`write_run` has them compacted as any recording is. Nothing was recorded: the manifest
says so.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..clock import Anchor
from ..errors import InputError
from ..runs.compaction import compact
from ..runs.encoding import record_columns, segment_schema
from ..runs.manifest import COMPLETE, SEGMENTS, EngineFacts, Manifest, ProcessFacts
from ..schema import (
    DECODED,
    DELIVERED,
    DEMUXED,
    ENCODER_LAG,
    EVICT,
    EVICTED,
    FLAG_KEY,
    FLUSHED,
    GET,
    OK,
    PUT,
    REORDER,
    SENT,
    SERVICE,
    TABLES,
)
from .simulated import SPANS_PER_FRAME, THREADS, Journey, Stream

#: When every synthetic recording began.
STARTED = Anchor(monotonic_ns=10**15, wall_ns=1_790_000_000 * 10**9)

#: Between the openings of two streams.
_OPEN_NS = 5_000_000

_PID, _INDEX = 4_000, 1
_CAPACITY = 16

#: Frames of a stream that are written at a time: streams are interleaved, as in a recording.
_FRAMES_AT_A_TIME = 4_096

_NAMES = tuple(dict.fromkeys(["(other)", *(stage for thread in THREADS for stage, _ in thread)]))
_NUMBER = {name: number for number, name in enumerate(_NAMES)}

Records = npt.NDArray[np.void]


def write_run(
    path: str | os.PathLike[str],
    *,
    frames: int = 4_000,
    streams: int = 8,
    seed: int = 0,
    spans: int | None = None,
) -> Path:
    """Make a finished synthetic run and return its path.

    It has the tables labels, spans, frames, streams, queue_depths, gc_pauses and findings, and
    a cube. The same arguments make the same run.

    Parameters
    ----------
    path : path
        The run's directory: new, or empty.
    frames : int
        Of all streams together, about 10 spans each.
    streams : int
        Of four codecs at 25 to 60 frames a second.
    seed : int
        Of all that is random.
    spans : int, optional
        Make as many frames as it takes for about so many spans, whatever `frames` says.

    Raises
    ------
    InputError
        If the directory is not empty, or there are fewer frames than streams.
    """
    write_segments(path, frames=frames, streams=streams, seed=seed, spans=spans)
    compact(path)
    return Path(path)


def write_segments(
    path: str | os.PathLike[str],
    *,
    frames: int = 4_000,
    streams: int = 8,
    seed: int = 0,
    spans: int | None = None,
) -> Path:
    """Make a synthetic recording that has ended and is not compacted yet.

    Parameters and errors are those of `write_run`. Every column of the spans is filled,
    except where the schema has "none": no GPU time without a GPU, no frame around a stage.
    """
    if spans is not None:
        frames = math.ceil(spans / SPANS_PER_FRAME)
    if not 1 <= streams <= frames:
        raise InputError(
            f"{frames} frames can't make {streams} streams: there is one frame at least in each"
        )
    run = Path(path)
    if run.exists() and any(run.iterdir()):
        raise InputError(f"{run} is not empty: give a new directory for the synthetic run")
    folder = run / SEGMENTS
    folder.mkdir(parents=True)
    opened = [Stream(index) for index in range(streams)]
    journeys = [
        Journey(
            stream,
            frames // streams + (stream.index < frames % streams),
            STARTED.monotonic_ns + (stream.index + 1) * _OPEN_NS,
            seed,
        )
        for stream in opened
    ]
    facts = ProcessFacts(_INDEX, _PID, 1, ("synthetic",), STARTED)
    (folder / f"{_INDEX:04d}.process").write_text(json.dumps(dataclasses.asdict(facts)))
    _write_lines(folder, "names", ({"id": n, "name": name} for n, name in enumerate(_NAMES)))
    _write_lines(folder, "labels", (_label_line(stream) for stream in opened))
    _write_rows(folder, "streams", [row for stream in opened for row in _stream_rows(stream)])
    with _Segment(folder, "spans") as file:
        for journey, begin in _interleaved(journeys):
            for thread in range(len(THREADS)):
                file.write(*_span_records(journey, thread, begin, seed))
    with _Segment(folder, "gpu_times") as file:
        for journey, begin in _interleaved(journeys):
            for thread in range(len(THREADS) if journey.stream.gpu is not None else 0):
                file.write(*_gpu_time_records(journey, thread, begin, seed))
    with _Segment(folder, "frame_events") as file:
        for journey in journeys:
            file.write(_event_records(journey), 3 * journey.stream.index + 1)
    with _Segment(folder, "queue_depths") as file:
        for journey in journeys:
            for queue in ("decoded", "filtered"):
                file.write(_depth_records(journey, queue), 3 * journey.stream.index + 2)
    ended = max(int(thread.sum(axis=2).max(initial=0)) for j in journeys for thread in j.spans)
    with _Segment(folder, "gc_pauses") as file:
        file.write(_pause_records(ended, seed), 1)
    _manifest(run, frames, streams, seed, ended).write(run)
    return run


def _manifest(run: Path, frames: int, streams: int, seed: int, ended: int) -> Manifest:
    made = {"frames": frames, "streams": streams, "seed": seed}
    wall = STARTED.wall_ns + ended - STARTED.monotonic_ns
    return Manifest(
        run_id=run.name,
        started=STARTED,
        ended=Anchor(ended, wall),
        state=COMPLETE,
        engines=(EngineFacts("synthetic", made),),
        parameters={"synthetic": True},
        notes=("synthetic: computed by vidlab.lab.synthetic, nothing was recorded",),
    )


def _interleaved(journeys: list[Journey]) -> Iterable[tuple[Journey, int]]:
    longest = max(journey.frames for journey in journeys)
    for begin in range(0, longest, _FRAMES_AT_A_TIME):
        for journey in journeys:
            if begin < journey.frames:
                yield journey, begin


def _label_line(stream: Stream) -> dict[str, Any]:
    values = {"stream_id": stream.stream_id, "codec": stream.codec, "gpu": stream.gpu}
    known = {key: value for key, value in values.items() if value is not None}
    return {"id": _labels(stream), "values": known, "sample_rate": 1.0}


def _labels(stream: Stream) -> int:
    return stream.index + 1


def _frame_ids(stream: Stream, seq: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    return (np.uint64(_INDEX << 52 | stream.index + 1 << 32) + seq.astype(np.uint64)).astype(
        np.uint64
    )


def _stream_rows(stream: Stream) -> list[dict[str, Any]]:
    common = {
        "t_ns": STARTED.monotonic_ns + stream.index * _OPEN_NS,
        "pid": _PID,
        "tid": _tid(3 * stream.index + 1),
        "labels": _labels(stream),
        "stream_index": 0,
        "nominal_rate": stream.rate,
        "time_base": f"1/{stream.rate:.0f}",
        "width": 1920,
        "height": 1080,
        "pixel_format": "yuv420p",
        "identity": "opaque",
    }
    urls = {"input": f"{stream.stream_id}.mp4", "output": f"{stream.stream_id}-out.mp4"}
    return [{**common, "direction": direction, "url": url} for direction, url in urls.items()]


def _tid(thread: int) -> int:
    return _PID + thread


def _span_records(journey: Journey, thread: int, begin: int, seed: int) -> tuple[Records, int]:
    """The spans of a thread on some frames, and the thread's number."""
    stream, stages = journey.stream, THREADS[thread]
    number = len(THREADS) * stream.index + thread + 1
    part = slice(begin, begin + _FRAMES_AT_A_TIME)
    times = journey.spans[thread][part]
    seq = np.arange(journey.frames)[part] if thread == 0 else journey.alive[part]
    random = np.random.default_rng([seed, stream.index, thread, begin])
    records = np.zeros(times.shape[:2], _dtype("spans"))
    records["t_ns"], records["duration_ns"] = times[..., 0], times[..., 1]
    records["frame"] = _frame_ids(stream, seq)[:, None]
    records["labels"] = _labels(stream)
    first = begin * len(stages) + 1
    records["sequence"] = first + np.arange(records.size).reshape(records.shape)
    works = np.array([kind == SERVICE for _, kind in stages])
    busy = times[..., 1] * random.uniform(0.85, 1.0, records.shape)
    idle = random.exponential(20_000, records.shape)
    records["cpu_ns"] = np.where(works, busy, np.minimum(idle, times[..., 1]))
    records["runqueue_ns"] = np.minimum(idle / 4, times[..., 1] * 0.1)
    records["stage"] = [_NUMBER[stage] for stage, _ in stages]
    records["kind"] = [kind for _, kind in stages]
    records["status"] = OK + 1
    if ("resize", SERVICE) in stages:
        inner, outer = stages.index(("resize", SERVICE)), stages.index(("filter", SERVICE))
        thread_id = np.uint64(_INDEX << 52 | number << 32)
        records["parent"][:, inner] = thread_id + records["sequence"][:, outer].astype(np.uint64)
    # There is no wait for what came out of its own call, or never.
    waits = np.array([kind in (REORDER, ENCODER_LAG) for _, kind in stages])
    never = np.isin(seq, journey.corrupt)[:, None]
    none = waits & ((records["duration_ns"] == 0) | never)
    return records[~none], number


def _gpu_time_records(journey: Journey, thread: int, begin: int, seed: int) -> tuple[Records, int]:
    """The GPU time of the thread's spans that are work: three fifths of its CPU time."""
    spans, number = _span_records(journey, thread, begin, seed)
    works = spans[spans["kind"] == SERVICE]
    records = np.zeros(len(works), _dtype("gpu_times"))
    records["t_ns"] = works["t_ns"] + works["duration_ns"]
    records["span"] = np.uint64(_INDEX << 52 | number << 32) + works["sequence"].astype(np.uint64)
    records["gpu_duration_ns"] = works["cpu_ns"] * 0.6
    records["whole"] = 1
    return records, number


def _event_records(journey: Journey) -> Records:
    """All steps of a stream's frames."""
    decoded, _, encoded = journey.spans
    seq = np.arange(journey.frames)
    came_out = np.setdiff1d(seq, journey.corrupt)
    steps = [
        (DEMUXED, "(other)", seq, decoded[:, 0, 0]),
        (SENT, "decode", seq, decoded[:, 1].sum(axis=1)),
        (DECODED, "decode", came_out, journey.out_ns[came_out]),
        (EVICTED, "decoded", journey.evicted, journey.out_ns[journey.evicted] + 1),
        (DELIVERED, "mux", journey.alive, encoded[:, 3].sum(axis=1)),
        (FLUSHED, "decode", seq[:1], journey.out_ns[-1:] + 1),
    ]
    parts = []
    for event, stage, of, t_ns in steps:
        records = np.zeros(len(of), _dtype("frame_events"))
        records["t_ns"], records["frame"] = t_ns, _frame_ids(journey.stream, of)
        records["seq"], records["pts"] = of, journey.pts[of]
        records["dts"] = of - 2
        records["labels"] = _labels(journey.stream)
        records["time_base_num"], records["time_base_den"] = 1, round(journey.stream.rate)
        records["stage"], records["event"] = _NUMBER[stage], event + 1
        records["flags"] = np.where(journey.key[of], FLAG_KEY, 0)
        if event == DECODED:
            records["picture_type"] = journey.picture_types[of]
        parts.append(records)
    together = np.concatenate(parts)
    return together[np.argsort(together["t_ns"], kind="stable")]


def _depth_records(journey: Journey, queue: str) -> Records:
    t_ns, steps, depths = journey.touches(queue)
    records = np.zeros(len(t_ns), _dtype("queue_depths"))
    records["t_ns"], records["depth"] = t_ns, depths
    records["touch"] = np.where(steps > 0, PUT, GET) + 1
    if queue == "decoded":
        evicted = np.zeros(len(journey.evicted), records.dtype)
        evicted["t_ns"] = journey.out_ns[journey.evicted] + 1
        before = np.searchsorted(t_ns, evicted["t_ns"])
        evicted["depth"] = np.concatenate([[0], depths])[before]
        evicted["touch"] = EVICT + 1
        records = np.concatenate([records, evicted])
        records = records[np.argsort(records["t_ns"], kind="stable")]
    records["labels"] = _labels(journey.stream)
    records["capacity"] = _CAPACITY
    records["queue"] = _NUMBER[queue]
    return records


def _pause_records(ended: int, seed: int) -> Records:
    """A collection every second and a half or so, most of them small."""
    random = np.random.default_rng([seed, 1 << 20])
    seconds = (ended - STARTED.monotonic_ns) / 1e9
    records = np.zeros(1 + int(seconds / 1.5), _dtype("gc_pauses"))
    count = len(records)
    records["t_ns"] = STARTED.monotonic_ns + np.sort(random.uniform(0, seconds, count)) * 1e9
    generation = random.choice(3, count, p=[0.8, 0.15, 0.05])
    median = np.array([50_000, 500_000, 20_000_000])[generation]
    records["duration_ns"] = median * random.lognormal(0, 0.4, count)
    records["collected"] = random.integers(0, 2_000, count)
    records["generation"] = generation + 1
    return records


def _dtype(table: str) -> np.dtype[np.void]:
    record = TABLES[table].record
    assert record is not None
    return record.dtype


def _write_lines(folder: Path, side: str, lines: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{_INDEX:04d}-{side}.jsonl").write_text(text)


def _write_rows(folder: Path, table: str, rows: list[dict[str, Any]]) -> None:
    schema = segment_schema(TABLES[table])
    with pa.ipc.new_stream(_path(folder, table), schema) as stream:
        stream.write_table(pa.Table.from_pylist(rows, schema=schema))


def _path(folder: Path, table: str) -> str:
    return str(folder / f"{_INDEX:04d}-{table}-000000.arrows")


class _Segment:
    """A table's Arrow stream in the making."""

    def __init__(self, folder: Path, table: str) -> None:
        self._table = TABLES[table]
        self._stream = pa.ipc.new_stream(
            _path(folder, table),
            segment_schema(self._table),
            options=pa.ipc.IpcWriteOptions(compression="lz4"),
        )

    def write(self, records: Records, thread: int) -> None:
        """Append what a thread recorded, as a batch."""
        schema = segment_schema(self._table)
        columns = [np.ascontiguousarray(records[name]) for name in record_columns(self._table)]
        columns += [
            np.full(len(records), thread, np.uint32),
            np.full(len(records), _tid(thread), np.int32),
        ]
        arrays = [pa.array(c, type=f.type) for c, f in zip(columns, schema, strict=True)]
        self._stream.write_batch(pa.record_batch(arrays, schema=schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()
