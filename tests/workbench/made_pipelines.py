"""Pipelines that are worked out by hand: stages, bounded queues between, and who waits for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.workbench.made_runs import MS, S, Story

#: How many frames a queue holds, and how far apart frames come.
LIMIT, APART_MS = 4, 20


@dataclass(frozen=True)
class Stage:
    """A stage with a queue before it.

    `ms` a frame, or by frame; of which `cpu_ms` on a CPU. `away_ms`: how long its thread
    is away before it takes a frame.
    """

    name: str
    ms: int
    slow: Mapping[int, int] = field(default_factory=dict)
    cpu_ms: int | None = None
    away_ms: Mapping[int, int] = field(default_factory=dict)
    tid: int = 0

    @property
    def queue(self) -> str:
        return f"before {self.name}"


def pipeline(
    made: Story, first: int, labels: int, stages: Sequence[Stage], frames: int = 80
) -> None:
    """Let frames of a stream go through the stages, each of which has a thread of its own.

    A put into a full queue waits, and so does the stage that puts. After each stage the frame
    is ready for a moment in its own thread: a wait without depths ("<stage> done").
    """
    own = next(row for row in made.tables["labels"] if row["labels"] == labels)
    put = [S + seq * APART_MS * MS for seq in range(frames)]
    begin, spans = list(put), made.tables["spans"]
    touches = made.tables.setdefault("queue_depths", [])
    free = [0] * len(stages)
    taken: list[list[int]] = [[] for _ in stages]
    for seq in range(frames):
        frame, at = first + seq, put[seq]
        for place, stage in enumerate(stages):
            room = taken[place][seq - LIMIT] if seq >= LIMIT else 0
            there = max(at, room)
            if place:
                free[place - 1] = there
            got = max(there, free[place] + stage.away_ms.get(seq, 0) * MS)
            taken[place].append(got)
            took = stage.slow.get(seq, stage.ms) * MS
            cpu = took if stage.cpu_ms is None else stage.cpu_ms * MS
            tid = stage.tid or 100 * labels + place
            number = len(spans) + 1
            one = {**own, "frame": frame, "tid": tid, "status": "ok"}
            spans += [
                {**one, "span": number, "stage": stage.queue, "kind": "queue", "t_ns": at,
                 "duration_ns": got - at},
                {**one, "span": number + 1, "stage": stage.name, "kind": "service", "t_ns": got,
                 "duration_ns": took, "cpu_ns": cpu, "runqueue_ns": 0},
                {**one, "span": number + 2, "stage": f"{stage.name} done", "kind": "queue",
                 "t_ns": got + took, "duration_ns": 1000},
            ]  # fmt: skip
            touch = {**own, "queue": stage.queue, "capacity": LIMIT}
            touches += [{**touch, "t_ns": there, "touch": "put"},
                        {**touch, "t_ns": got, "touch": "get"}]  # fmt: skip
            at = got + took + 1000
        free[-1] = at
        done = {"fate": "delivered", "t_demux_ns": begin[seq], "t_done_ns": at, "t_ns": begin[seq]}
        made.tables["frames"].append({**own, "frame": frame, "seq": seq, **done})
    _depths(touches)


def _depths(touches: list[dict[str, object]]) -> None:
    """Count what is in each queue after each touch, in time."""
    touches.sort(key=lambda row: (row["t_ns"], row["touch"] != "get"))  # type: ignore[arg-type,return-value]
    depth: dict[tuple[object, object], int] = {}
    for row in touches:
        key = (row["stream_id"], row["queue"])
        # A get at the time of its own put comes first here: the two are one moment.
        depth[key] = depth.get(key, 0) + (1 if row["touch"] == "put" else -1)
        row["depth"] = max(0, depth[key])
