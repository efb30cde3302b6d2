"""Trees of memory and of GPU time: by hand, and their sums."""

from __future__ import annotations

import polars as pl
import pytest

from vidlab.analysis import flame, memory
from vidlab.errors import InputError
from vidlab.lab.simulated_memory import Cache, Leak, simulated_allocations

COMMON = {
    "pid": 1, "tid": 7, "duration_ns": 0, "status": "ok", "level": "pool", "kind": "device",
    "device": 0, "pooled": False, "labels": 0, "context": 16, "cuda_stream": 0,
}  # fmt: skip


def event(op, number, size, t_ns, **more):
    row = {"op": op, "generation": number, "size_bytes": size, "t_ns": t_ns}
    return {**row, "address": number << 20, **more}


EVENTS = [
    event("alloc", 1, 100, 0, stack=1, stream_id="a", codec="h264"),
    event("alloc", 2, 30, 10, stack=2, stream_id="a", codec="h264"),
    event("free", 1, 100, 20, stack=2, stream_id="b"),
    event("alloc", 3, 4, 30, stack=1, stream_id="b", codec="vp9", cuda_stream=255, device=1),
    event("alloc", 4, 1, 40),
]


def stacked(table):
    def call(function, line):
        return {"function": function, "file": "/x/app.py", "line": line}

    main = call("main", 9)
    return table(
        "stacks",
        [
            {"stack": 1, "frames": [call("decode", 3), main]},
            {"stack": 2, "frames": [call("resize", 5), main]},
        ],
    )


def shown(tree, unit="bytes"):
    """Rows of (indented name, own, total)."""
    return [
        ("  " * depth + name, own, total)
        for depth, name, own, total in tree.select(
            "depth", "name", f"self_{unit}", f"total_{unit}"
        ).iter_rows()
    ]


def test_memory_in_use_by_device_labels_and_stack(table):
    tree = flame.memory(table("allocations", EVENTS, **COMMON), stacked(table))
    assert shown(tree) == [
        ("all", 0, 35),
        ("  device 0", 0, 31),
        ("    context 0x10", 0, 31),
        ("      default CUDA stream", 0, 31),
        ("        a", 0, 30),
        ("          h264", 0, 30),
        ("            main (app.py:9)", 0, 30),
        ("              resize (app.py:5)", 30, 30),
        ("        (no stream_id)", 0, 1),
        ("          (no codec)", 0, 1),
        ("            (no stack recorded)", 1, 1),
        ("  device 1", 0, 4),
        ("    context 0x10", 0, 4),
        ("      CUDA stream 0xff", 0, 4),
        ("        b", 0, 4),
        ("          vp9", 0, 4),
        ("            main (app.py:9)", 0, 4),
        ("              decode (app.py:3)", 4, 4),
    ]
    parents = dict(tree.select("id", "parent").iter_rows())
    assert parents[0] is None
    assert all(parent < number for number, parent in parents.items() if parent is not None)
    assert tree.row(2, named=True)["path"] == "all > device 0 > context 0x10"


def test_measures_and_moments(table):
    allocations, stacks = table("allocations", EVENTS, **COMMON), stacked(table)

    def measured(**options):
        return shown(flame.memory(allocations, stacks, layers=["stream_id"], **options))

    assert measured(t_ns=5) == [
        ("all", 0, 100),
        ("  a", 0, 100),
        ("    main (app.py:9)", 0, 100),
        ("      decode (app.py:3)", 100, 100),
    ]
    assert measured(measure="peak") == [
        ("all", 0, 130),
        ("  a", 0, 130),
        ("    main (app.py:9)", 0, 130),
        ("      decode (app.py:3)", 100, 100),
        ("      resize (app.py:5)", 30, 30),
    ]
    assert measured(measure="allocated")[0] == ("all", 0, 135)
    assert measured(measure="allocated", t_ns=35)[0] == ("all", 0, 134)
    assert measured(measure="allocated", where={"stream_id": "b"})[:2] == [
        ("all", 0, 4), ("  b", 0, 4),
    ]  # fmt: skip
    with pytest.raises(InputError, match="in_use, peak, allocated"):
        flame.memory(allocations, measure="freed")


def test_small_nodes_are_put_together(table):
    events = [event("alloc", n + 1, size, 0, stream_id=f"s{n}") for n, size in enumerate(
        [1_000, 3, 2, 900]
    )]  # fmt: skip
    tree = flame.memory(table("allocations", events, **COMMON), layers=["stream_id"], prune=0.005)
    assert [row for row in shown(tree) if not row[0].startswith("    ")] == [
        ("all", 0, 1_905), ("  s0", 0, 1_000), ("  s3", 0, 900), ("  (other)", 5, 5),
    ]  # fmt: skip


def test_over_time_has_the_same_nodes_at_each_step(table):
    allocations = table("allocations", EVENTS, **COMMON)
    found = flame.memory_over_time(allocations, stacked(table), 4, ["stream_id"], prune=0)
    assert found["t_ns"].unique().sort().to_list() == [10, 20, 30, 40]
    roots = found.filter(pl.col("parent").is_null())
    assert roots["total_bytes"].to_list() == [130, 30, 34, 35]
    decode = found.filter(
        (pl.col("name") == "decode (app.py:3)") & pl.col("path").str.contains("> a")
    )
    assert decode["self_bytes"].to_list() == [100, 0, 0, 0]
    nodes = found.select("step", "id", "parent", "name").partition_by("step", include_key=False)
    assert all(part.equals(nodes[0]) for part in nodes)
    with pytest.raises(InputError, match="one step"):
        flame.memory_over_time(allocations, steps=0)


def test_gpu_time_of_nested_stages_is_counted_once(table):
    rows = [
        {"span": 1, "stage": "filter", "gpu_duration_ns": 1_000},
        {"span": 2, "stage": "infer", "gpu_duration_ns": 700, "parent": 1},
        {"span": 3, "stage": "resize", "gpu_duration_ns": 200, "parent": 2},
        {"span": 4, "stage": "filter", "gpu_duration_ns": 10},
        {"span": 5, "stage": "infer", "gpu_duration_ns": 5, "parent": 9},  # in one not timed
        {"span": 9, "stage": "outer"},
        {"span": 6, "stage": "filter", "gpu_duration_ns": 1, "gpu": 1},
    ]
    spans = table("spans", rows, stream_id="a", codec="vp9")
    assert shown(flame.gpu_time(spans, ["gpu"]), "ns") == [
        ("all", 0, 1_016),
        ("  no device", 0, 1_015),
        ("    filter", 310, 1_010),
        ("      infer", 500, 700),
        ("        resize", 200, 200),
        ("    infer", 5, 5),
        ("  device 1", 0, 1),
        ("    filter", 1, 1),
    ]
    assert flame.gpu_time(spans)["layer"].to_list()[:5] == [
        "root", "gpu", "stream_id", "codec", "stage",
    ]  # fmt: skip


def test_nothing(table):
    for empty in (
        flame.memory(table("allocations")),
        flame.memory(table("allocations"), table("stacks"), "peak"),
        flame.memory_over_time(table("allocations")),
    ):
        assert empty.is_empty()
        assert {"id", "parent", "name", "self_bytes", "total_bytes"} < set(empty.columns)
    assert flame.gpu_time(table("spans")).is_empty()


def test_trees_add_up():
    simulated = simulated_allocations(1_000, leaks=[Leak(every=50)], caches=[Cache()])
    allocations = simulated.allocations
    tree = flame.memory(allocations, simulated.stacks, "peak")
    assert tree["self_bytes"].sum() == tree["total_bytes"][0]
    assert tree["total_bytes"][0] == memory.peak(allocations)["peak_bytes"].item()
    below = tree.group_by("parent").agg(pl.col("total_bytes").sum().alias("below"))
    joined = tree.join(below, left_on="id", right_on="parent")
    assert (joined["self_bytes"] + joined["below"]).to_list() == joined["total_bytes"].to_list()
    steps = flame.memory_over_time(allocations, simulated.stacks, 6)
    for (t_ns,), part in steps.partition_by("t_ns", as_dict=True).items():
        total = memory.at(allocations, t_ns)["in_use_bytes"].item()
        assert part["total_bytes"][0] == part["self_bytes"].sum() == total
    assert steps.height < 6 * tree.height
