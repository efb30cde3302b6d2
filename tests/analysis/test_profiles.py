"""Profiles: flame graphs by hand, what differs between two, and too few samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from vidlab.analysis import calls, profiles
from vidlab.errors import InputError

Build = Callable[..., pl.DataFrame]

CPU = {"type": "cpu", "unit": "nanoseconds", "pid": 1, "samples": 1, "thread": "MainThread"}


def stacks_of(table: Build) -> pl.DataFrame:
    def call(function: str, line: int) -> dict[str, Any]:
        return {"function": function, "file": "/x/app.py", "line": line}

    main = call("main", 9)
    rows = [
        {"stack": 1, "frames": [call("decode", 3), main]},
        {"stack": 2, "frames": [call("resize", 5), main]},
        {"stack": 3, "frames": [call("resize", 6), main]},
        {"stack": 4, "frames": []},
    ]
    return table("stacks", rows)


def spans_of(table: Build) -> pl.DataFrame:
    rows = [
        {"span": 1, "t_ns": 0, "cpu_ns": 900, "stage": "decode", "stream_id": "a", "codec": "vp9"},
        {"span": 2, "t_ns": 2_000, "cpu_ns": 300, "stage": "decode", "stream_id": "b"},
        {"span": 3, "t_ns": 2_100, "duration_ns": 50, "cpu_ns": 40, "stage": "io"},
        {"span": 4, "t_ns": 2_110, "duration_ns": 5, "cpu_ns": 4, "stage": "read", "frame": 8},
        {"span": 5, "t_ns": 5_000, "duration_ns": 10, "cpu_ns": 6, "stage": "decode"},
        {"span": 6, "t_ns": 6_000, "duration_ns": 9_000, "cpu_ns": None, "stage": "decode"},
    ]
    return table("spans", rows, duration_ns=1_000, kind="service", pid=1, tid=1)


def samples_of(table: Build) -> pl.DataFrame:
    rows = [
        {"span": 1, "value": 30, "samples": 30, "stack": 1},
        {"span": 1, "value": 60, "samples": 60, "stack": 2},
        {"span": 2, "value": 7, "samples": 7, "stack": 2},
        {"span": 4, "value": 1, "samples": 1, "stack": 3},
    ]
    return table("profile_samples", rows, **CPU)


def profile(*rows: tuple[Any, ...], value: str = "cpu_ns") -> pl.DataFrame:
    names = ["stream_id", "calls", "samples", value]
    types: dict[str, Any] = {"stream_id": pl.String, "calls": pl.List(pl.String)}
    types["samples"] = pl.Int64
    return pl.DataFrame(list(rows), schema={**types, value: pl.Int64}, orient="row").select(names)


def shown(tree: pl.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    """Rows of (indented name, …)."""
    return [
        ("  " * depth + name, *rest)
        for depth, name, *rest in tree.select("depth", "name", *columns).iter_rows()
    ]


def test_cpu_by_labels_and_stack(table: Build) -> None:
    found = profiles.of_cpu(samples_of(table), stacks_of(table), spans_of(table), "stream_id")
    tree = profiles.flame(found, ["stream_id"], prune=0)
    assert shown(tree, "self_ns", "total_ns", "samples") == [
        ("all", 0, 1206, 98),
        ("  a", 0, 900, 90),
        ("    main (app.py:9)", 0, 900, 90),
        ("      resize (app.py:5)", 600, 600, 60),
        ("      decode (app.py:3)", 300, 300, 30),
        # 260 by themselves, as what lies inside had no samples of its own
        ("  b", 0, 260, 7),
        ("    (too few samples: 7)", 260, 260, 7),
        ("  (no stream_id)", 0, 46, 1),
        ("    (too few samples: 1)", 46, 46, 1),
    ]
    assert tree["layer"].to_list()[:4] == ["root", "stream_id", "stack", "stack"]
    assert tree["self_ns"].sum() == tree["total_ns"][0]


def test_without_layers_and_without_lines(table: Build) -> None:
    found = profiles.of_cpu(samples_of(table), stacks_of(table), None, [], lines=False)
    assert shown(profiles.flame(found, prune=0), "total_ns", "samples") == [
        ("all", 98, 98),
        ("  main (app.py)", 98, 98),
        ("    resize (app.py)", 68, 68),
        ("    decode (app.py)", 30, 30),
    ]


def test_too_few_samples_are_not_divided() -> None:
    few = profile(("a", ["main"], profiles.ENOUGH - 1, 1_000))
    assert shown(profiles.flame(few), "total_ns", "samples") == [
        ("all", 1_000, 29),
        ("  (too few samples: 29)", 1_000, 29),
    ]
    enough = profile(("a", ["main"], profiles.ENOUGH, 1_000))
    assert shown(profiles.flame(enough), "samples") == [("all", 30), ("  main", 30)]


def test_small_branches_are_put_together() -> None:
    sizes = [1_000_000, 3_000, 2_000, 900_000]
    rows = [("a", ["main", f"f{n}"], 50, size) for n, size in enumerate(sizes)]
    assert shown(profiles.flame(profile(*rows), prune=0.005), "total_ns", "samples") == [
        ("all", 1_905_000, 200),
        ("  main", 1_905_000, 200),
        ("    f0", 1_000_000, 50),
        ("    f3", 900_000, 50),
        ("    (other)", 5_000, 100),
    ]


def test_a_difference_compares_shares() -> None:
    before = profile(("a", ["main", "decode"], 100, 600), ("a", ["main", "resize"], 50, 400))
    after = profile(("b", ["main", "decode"], 100, 1_200), ("b", ["main", "blur"], 70, 1_800))
    columns = ["before_ns", "after_ns", "change_ns", "samples_before", "samples_after"]
    assert shown(profiles.difference(before, after), *columns) == [
        ("all", 1_000, 1_000, 0, 150, 170),
        ("  main", 1_000, 1_000, 0, 150, 170),
        ("    decode", 600, 400, -200, 100, 100),
        ("    blur", 0, 600, 600, 0, 70),
        ("    resize", 400, 0, -400, 50, 0),
    ]


def test_a_difference_of_frames_compares_what_each_takes() -> None:
    before = profile(("a", ["main"], 100, 1_000_000))
    after = profile(("b", ["main"], 100, 900_000))
    found = profiles.difference(before, after, frames=(100, 30))
    assert found.select("before_ns", "after_ns").row(0) == (10_000, 30_000)
    with pytest.raises(InputError, match="one frame at least"):
        profiles.difference(before, after, frames=(100, 0))


def test_a_difference_of_too_few_samples_is_none() -> None:
    before = profile(("a", ["main", "decode"], 100, 600))
    after = profile(("b", ["main", "decode"], 7, 90))
    found = profiles.difference(before, after)
    assert shown(found, "before_ns", "after_ns", "samples_after") == [
        ("all", 600, 600, 7),
        ("  (too few samples: 7)", 600, 600, 7),
    ]
    assert profiles.difference(before, after.clear()).is_empty()
    with pytest.raises(InputError, match="one unit"):
        profiles.difference(before, after.rename({"cpu_ns": "size_bytes"}))


def test_memory_in_use_is_what_the_last_push_says(table: Build) -> None:
    known = {"type": "inuse_space", "unit": "bytes", "profile": "memory", "samples": 0}
    rows = [
        {"t_ns": 10, "value": 100, "stack": 1, "pid": 1},
        {"t_ns": 20, "value": 70, "stack": 1, "pid": 1},
        {"t_ns": 20, "value": 5, "stack": 2, "pid": 1},
        {"t_ns": 15, "value": 1, "stack": 2, "pid": 2},
        {"t_ns": 20, "value": 3, "stack": 2, "pid": 1, "type": "inuse_objects", "unit": "count"},
        {"t_ns": 10, "value": 40, "stack": 1, "pid": 1, "type": "alloc_space"},
        {"t_ns": 20, "value": 50, "stack": 1, "pid": 1, "type": "alloc_space"},
    ]
    samples, stacks = table("profile_samples", rows, **known), stacks_of(table)
    found = profiles.of_type(samples, stacks, "inuse_space")
    assert found["size_bytes"].to_list() == [70, 6]
    # How many samples that were is not told: all of it is shown.
    assert shown(profiles.flame(found), "total_bytes")[-1] == ("    resize (app.py:5)", 6)
    assert profiles.difference(found, found)["change_bytes"].to_list() == [0, 0, 0, 0]
    assert profiles.stacks_of(found)["size_bytes"].to_list() == [70, 6]
    assert profiles.of_type(samples, stacks, "alloc_space")["size_bytes"].to_list() == [90]
    assert profiles.of_type(samples, stacks, "inuse_objects")["objects"].to_list() == [3]
    with pytest.raises(InputError, match=r"'wall'; there are: alloc_space, inuse_objects"):
        profiles.of_type(samples, stacks, "wall")
    with pytest.raises(InputError, match="none at all"):
        profiles.of_type(table("profile_samples"), stacks, "alloc_space")


def test_what_ran_while_a_span_was_open(table: Build) -> None:
    samples, stacks, spans = samples_of(table), stacks_of(table), spans_of(table)
    found = profiles.of_spans(samples, stacks, spans, [2])
    # With what lies inside: it took 300 in all.
    assert found["samples"].sum() == 8
    assert found["cpu_ns"].sum() == 300
    listed = profiles.stacks_of(found)
    assert listed["calls"].to_list() == [
        "main (app.py:9) > resize (app.py:5)",
        "main (app.py:9) > resize (app.py:6)",
    ]
    by_stage = profiles.of_spans(samples, stacks, spans, [2], "stage")
    assert dict(by_stage.group_by("stage").agg(pl.col("cpu_ns").sum()).iter_rows()) == {
        "decode": 260, "io": 36, "read": 4,
    }  # fmt: skip
    assert profiles.of_spans(samples, stacks, spans, [99]).is_empty()


def test_the_slowest_spans_of_a_stage(table: Build) -> None:
    spans = spans_of(table)
    assert profiles.slow_and_rest(spans, "decode", 0.3) == ([1], [2, 5])
    assert profiles.slow_and_rest(spans, "decode", 0.01) == ([1], [2, 5])
    assert profiles.slow_and_rest(spans, "nothing") == ([], [])
    with pytest.raises(InputError, match="between 0 and 1"):
        profiles.slow_and_rest(spans, "decode", 1.0)


def test_nothing_in_nothing_out(table: Build) -> None:
    found = profiles.of_cpu(
        table("profile_samples"), table("stacks"), table("spans"), ["stream_id"]
    )
    tree = profiles.flame(found, ["stream_id"])
    assert tree.is_empty()
    assert {"id", "parent", "name", "self_ns", "total_ns", "samples"} < set(tree.columns)
    assert profiles.difference(found, found).is_empty()
    assert profiles.stacks_of(found).is_empty()
    with pytest.raises(InputError, match="no profile"):
        profiles.flame(tree.rename({"total_ns": "total"}))


def test_stacks_that_are_not_known_say_so(table: Build) -> None:
    rows = [{"span": 1, "value": 30, "samples": 30, "stack": stack} for stack in (4, 77, None)]
    found = profiles.of_cpu(table("profile_samples", rows, **CPU), stacks_of(table), None, [])
    assert shown(profiles.flame(found), "samples") == [("all", 90), (f"  {profiles.NO_STACK}", 90)]
    assert profiles.stacks_of(found)["calls"].to_list() == [profiles.NO_STACK]


def test_what_was_not_sampled_says_so(table: Build) -> None:
    spans = spans_of(table).filter(pl.col("span") == 2)
    rows = [{"value": 30, "samples": 30, "stack": 1}]
    found = profiles.of_cpu(table("profile_samples", rows, **CPU), stacks_of(table), spans, [])
    assert shown(profiles.flame(found), "total_ns", "samples")[1] == (
        "  (not sampled)", 300, 0,
    )  # fmt: skip
    assert found.select("staged", "cpu_ns").rows() == [(True, 300), (False, 30)]


def test_the_way_into_a_thread_is_left_out(table: Build) -> None:
    def call(function: str, file: str) -> dict[str, Any]:
        return {"function": function, "file": file, "line": 1}

    way_in = [
        call("Thread.run", "/lib/python3.11/threading.py"),
        call("labelled", "/x/vidlab/capture/propagation.py"),
        call("Thread._bootstrap", "threading.py"),
    ]
    rows = [
        {
            "stack": 1,
            "frames": [call("wait", "/lib/threading.py"), call("work", "app.py"), *way_in],
        },
        {"stack": 2, "frames": way_in},
    ]
    found = calls.calls(table("stacks", rows), lines=False)
    assert found[1] == ["work (app.py)", "wait (threading.py)"]
    assert len(found[2]) == 3  # it is all that there is
