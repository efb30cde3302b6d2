"""Live sets and their differences: by hand, and against the sums of memory in use."""

from __future__ import annotations

import pytest

from vidlab.analysis import livesets, memory
from vidlab.errors import InputError
from vidlab.lab.simulated_memory import STARTED_NS, Cache, Delayed, Leak, simulated_allocations

S = 1_000_000_000
COMMON = {
    "pid": 1, "tid": 7, "duration_ns": 0, "status": "ok", "level": "pool", "kind": "device",
    "device": 0, "pooled": False, "labels": 0,
}  # fmt: skip


def block(number, taken_s, freed_s=None, size=100, **labels):
    """The events of one block."""
    row = {"generation": number, "address": number << 20, "size_bytes": size, **labels}
    events = [{**row, "op": "alloc", "t_ns": int(taken_s * S)}]
    if freed_s is not None:
        elsewhere = {"stack": 9, "stream_id": "other"}
        events.append({**row, **elsewhere, "op": "free", "t_ns": int(freed_s * S)})
    return events


def sited(table):
    def calls(function, line):
        inside = {"function": "empty", "file": "/x/site-packages/cupy/basic.py", "line": 3}
        return [inside, {"function": function, "file": "app.py", "line": line}]

    return table(
        "stacks",
        [{"stack": 1, "frames": calls("decode", 5)}, {"stack": 2, "frames": calls("keep", 8)}],
    )


def delivered(table, stream, seconds):
    rows = [
        {"frame": n + 1, "t_demux_ns": int(t * S) - 5, "t_done_ns": int(t * S)}
        for n, t in enumerate(seconds)
    ]
    return table("frames", rows, fate="delivered", stream_id=stream)


def test_the_live_set_at_a_moment(table):
    events = [
        *block(1, 0, stack=1, stream_id="a"),
        *block(2, 1, 5, size=900, stack=2, stream_id="b"),
        *block(3, 2, 9, size=500, stack=2, stream_id="b"),
        *block(4, 6.5, stack=1),
    ]
    frames = delivered(table, "b", [1, 2.5, 3, 6])
    live = livesets.live(table("allocations", events, **COMMON), 6 * S, sited(table), frames)
    columns = ["site", "generation", "size_bytes", "stream_id", "t_ns", "age_s", "age_frames"]
    assert live.select(columns).rows() == [
        ("keep app.py:8", 3, 500, "b", 2 * S, 4.0, 3),
        ("decode app.py:5", 1, 100, "a", 0, 6.0, 0),
    ]


def test_what_is_older_than_the_recording_is_one_row(table):
    older = {"generation": 0, "address": 0, "stream_id": "a"}
    events = [
        {**older, "op": "alloc", "t_ns": 0, "size_bytes": 700},
        {**older, "op": "free", "t_ns": 5, "size_bytes": 300, "address": 4096},
        *block(1, 0, size=50),
    ]
    allocations = table("allocations", events, **COMMON)
    live = livesets.live(allocations, 10)
    assert live.select("site", "generation", "size_bytes", "age_s", "stream_id").rows() == [
        ("(no stack recorded)", 0, 400, None, None),
        ("(no stack recorded)", 1, 50, 1e-8, None),
    ]
    assert live["size_bytes"].sum() == memory.at(allocations, 10)["in_use_bytes"].item()


def test_the_difference_of_two_moments(table):
    events = [
        *block(1, 1, stack=1, stream_id="a"),  # there before, and still
        *block(2, 1, 60, size=40, stack=1, stream_id="a"),  # freed in between
        *block(3, 15, stack=2, stream_id="a"),  # kept for 85 s
        *block(4, 65, stack=2, stream_id="a", size=7),  # kept for 35 s
        *block(5, 95, stack=2, stream_id="a", size=3),  # young
        *block(6, 20, 50, stack=2, stream_id="a", size=1_000),  # came and went
        *block(7, 99, stack=2, stream_id="b", size=2),
    ]
    allocations = table("allocations", events, **COMMON)
    columns = [
        "site", "stream_id", "long_lived_blocks", "long_lived_bytes", "young_blocks",
        "young_bytes", "freed_blocks", "freed_bytes", "change_bytes", "oldest_s",
    ]  # fmt: skip

    def diff(**options):
        return (
            livesets.diff(allocations, 10 * S, 100 * S, sited(table), by="stream_id", **options)
            .select(columns)
            .rows()
        )

    rest = [
        ("keep app.py:8", "b", 0, 0, 1, 2, 0, 0, 2, 1.0),
        ("decode app.py:5", "a", 0, 0, 0, 0, 1, 40, -40, None),
    ]
    assert diff() == [("keep app.py:8", "a", 2, 107, 1, 3, 0, 0, 110, 85.0), *rest]
    assert diff(seconds=60) == [("keep app.py:8", "a", 1, 100, 2, 10, 0, 0, 110, 85.0), *rest]
    frames = delivered(table, "a", [30, 70, 71, 96])
    by_frames = diff(frames=frames, seconds=None, long_lived_frames=2)
    assert by_frames[0] == ("keep app.py:8", "a", 2, 107, 1, 3, 0, 0, 110, 85.0)
    by_frames = diff(frames=frames, seconds=None, long_lived_frames=3)
    assert by_frames[0] == ("keep app.py:8", "a", 1, 100, 2, 10, 0, 0, 110, 85.0)


def test_nothing_and_bad_moments(table):
    nothing = table("allocations")
    assert livesets.live(nothing, 5).is_empty()
    assert livesets.diff(nothing, 1, 2).is_empty()
    with pytest.raises(InputError, match="swap them"):
        livesets.diff(nothing, 2, 1)
    with pytest.raises(InputError, match="table frames"):
        livesets.diff(nothing, 1, 2, long_lived_frames=3)


@pytest.mark.parametrize("seed", range(4))
def test_the_live_set_and_its_changes_add_up(seed):
    simulated = simulated_allocations(
        800, seed=seed, leaks=[Leak(every=40)], caches=[Cache()], delayed=[Delayed()]
    )
    allocations = simulated.allocations
    moments = [STARTED_NS + n * S for n in (1, 3, 5, 7)]
    sizes = []
    for t_ns in moments:
        live = livesets.live(allocations, t_ns, simulated.stacks, simulated.frames)
        assert live["size_bytes"].sum() == memory.at(allocations, t_ns)["in_use_bytes"].item()
        sizes.append(live["size_bytes"].sum())
    for (t0, before), (t1, after) in zip(
        zip(moments, sizes, strict=True), list(zip(moments, sizes, strict=True))[1:], strict=False
    ):
        changed = livesets.diff(allocations, t0, t1, simulated.stacks)
        assert changed["change_bytes"].sum() == after - before


def test_a_leak_leads_the_difference():
    simulated = simulated_allocations(4_000, leaks=[Leak(site=4, stream=1, every=100)])
    changed = livesets.diff(
        simulated.allocations,
        STARTED_NS + S,
        STARTED_NS + 39 * S,
        simulated.stacks,
        simulated.frames,
        long_lived_frames=100,
    )
    top = changed.row(0, named=True)
    assert (top["site"], top["stream_id"]) == ("stage_4 pipeline.py:38", "cam-01")
    assert top["long_lived_blocks"] > 5
    assert changed["long_lived_blocks"].sum() == top["long_lived_blocks"]
