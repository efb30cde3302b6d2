"""Runs whose tables are written out by hand: what is to blame for each late frame is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl

from vidlab.runs.run import Run
from vidlab.schema import TABLES

MS, S = 1_000_000, 1_000_000_000
Rows = list[dict[str, Any]]

#: The first number of a stream's frames, as a recording gives them out.
CAM_1, CAM_3 = 1 << 52 | 1 << 32, 1 << 52 | 3 << 32

#: Whose `before encode` holds eight frames, and is full while frames are late.
LIMIT = 8


class Made:
    """Stands in for a run that has these tables."""

    def __init__(self, tables: dict[str, Rows], state: str = "complete", **more: Any) -> None:
        self.path = Path("runs/made")
        self.state = state
        self.compacted = state == "complete"
        self.losses: dict[str, dict[str, int]] = more.pop("losses", {})
        self.notes: list[str] = []
        self.manifest = SimpleNamespace(
            engines=[SimpleNamespace(name=name) for name in more.pop("engines", ("frames",))],
            parameters=more.pop("parameters", {}),
            host={"cpus": 2},
            started=SimpleNamespace(monotonic_ns=0),
        )
        self._tables = {name: table(name, rows) for name, rows in tables.items()}

    def tables(self) -> list[str]:
        return list(self._tables)

    def scan(self, name: str) -> pl.LazyFrame:
        known = self._tables.get(name)
        return (table(name) if known is None else known).lazy()


def table(name: str, rows: Rows | None = None) -> pl.DataFrame:
    """Build a table of the schema from rows that name only what matters."""
    empty = pl.from_arrow(TABLES[name].arrow_schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    types = dict(empty.schema) | ({"sample_rate": pl.Float64} if TABLES[name].event else {})
    return pl.DataFrame(
        [{"pid": 1, "tid": 1, "sample_rate": 1.0, **row} for row in rows or ()],
        schema={key: pl.String if type == pl.Categorical else type for key, type in types.items()},
    ).with_columns(pl.col(key).cast(type) for key, type in types.items())


class Story:
    """Frames and spans of two streams in the making: one after the other, a frame each 100 ms."""

    def __init__(self) -> None:
        self.tables: dict[str, Rows] = {"frames": [], "spans": [], "streams": [], "labels": []}
        self._ways: dict[int, int] = {}

    def stream(self, first: int, stream_id: str, codec: str, labels: int) -> None:
        own = {"stream_id": stream_id, "codec": codec, "labels": labels}
        self.tables["labels"].append(own)
        self.tables["streams"].append(
            {**own, "t_ns": 0, "direction": "input", "nominal_rate": 25.0}
        )
        self._ways[first] = labels

    def frame(
        self, first: int, seq: int, way: list[tuple[str, str, int]], fate: str = "delivered"
    ) -> int:
        """Add a frame that goes this way: stages, kinds and milliseconds; return when it began."""
        begin = S + seq * S // 10
        own = next(row for row in self.tables["labels"] if row["labels"] == self._ways[first])
        frame, at = first + seq, begin
        for number, (stage, kind, length) in enumerate(way):
            span = {"span": frame * 100 + number, "frame": frame, "stage": stage, "kind": kind}
            times = {"t_ns": at, "duration_ns": length * MS}
            clocks = {"cpu_ns": length * MS, "runqueue_ns": 0} if kind == "service" else {}
            self.tables["spans"].append(
                {**own, **span, **times, **clocks, "status": "ok", "tid": number}
            )
            at += length * MS
        done = {"fate": fate, "t_demux_ns": begin, "t_done_ns": at, "t_ns": begin}
        lost = {} if fate == "delivered" else {"lost_at": way[-1][0]}
        self.tables["frames"].append({**own, "frame": frame, "seq": seq, **done, **lost})
        return begin


def story() -> Story:
    """Two streams of 40 frames: of cam-3 five are late, by a full queue; of cam-1 two are.

    Of these the filter of one took 260 ms instead of 10, and a collection of 300 ms held up
    the other's.
    """
    made = Story()
    made.stream(CAM_1, "cam-1", "h264", 1)
    made.stream(CAM_3, "cam-3", "av1", 3)
    depths: Rows = []
    for seq in range(40):
        filtered = {10: 260, 20: 310}.get(seq, 10)
        begin = made.frame(CAM_1, seq, [("decode", "service", 10), ("filter", "service", filtered)])
        if seq == 20:
            pause = {"t_ns": begin + 15 * MS, "duration_ns": 300 * MS, "generation": 2}
            made.tables["gc_pauses"] = [pause]
        waited = 400 if 30 <= seq < 35 else 5
        way = [("decode", "service", 10), ("before encode", "queue", waited)]
        begin = made.frame(CAM_3, seq, [*way, ("encode", "service", 10)])
        touch = {"labels": 3, "stream_id": "cam-3", "codec": "av1", "queue": "before encode"}
        depth = LIMIT if waited > 5 else 0
        for t_ns, kind in ((begin + 10 * MS, "put"), (begin + (10 + waited) * MS, "get")):
            depths.append({**touch, "t_ns": t_ns, "depth": depth, "capacity": LIMIT, "touch": kind})
    made.tables["queue_depths"] = sorted(depths, key=lambda row: row["t_ns"])
    made.frame(CAM_1, 99, [("decode", "service", 20)], fate="corrupt")
    return made


def made_run(of: Story | None = None, **more: Any) -> Run:
    """Return the run of a story."""
    more.setdefault("parameters", {"deadline_ms": 100})
    more.setdefault("engines", ("frames", "runtime"))
    return cast(Run, Made((of or story()).tables, **more))
