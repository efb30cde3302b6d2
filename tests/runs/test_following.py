"""A run that is followed: each row once, however the writer's bytes reach the file."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import vidlab as vl
from vidlab.errors import InputError, RunError
from vidlab.runs.following import Following
from vidlab.runs.run import open_run
from vidlab.runs.writer import RunWriter

from .test_declared import TABLE, stream


def columns(first: int, count: int, **more: Any) -> dict[str, Any]:
    return {"t_ns": range(first, first + count), "size_bytes": range(count), **more}


def test_each_batch_comes_once_however_it_is_cut(empty):
    process = empty.process(2)
    labels = process.labels(stream_id="cam", region="north")
    name = process.name("cuMemAlloc")
    parts = [
        columns(100 * n, 10 + n, labels=[labels] * (10 + n), symbol=[name] * (10 + n))
        for n in range(12)
    ]
    path = stream(process, TABLE, *parts)
    content = path.read_bytes()
    expected = open_run(empty.path).scan(TABLE.name).collect()
    assert expected.height == sum(10 + n for n in range(12))
    for seed in range(10):
        rng = random.Random(seed)
        path.write_bytes(b"")
        following = Following(empty.path)
        seen = []
        for end in sorted([*(rng.randrange(len(content)) for _ in range(30)), len(content)]):
            with path.open("ab") as file:
                file.write(content[path.stat().st_size : end])
            seen.append(following.new(TABLE.name))
        assert following.new(TABLE.name).is_empty()
        found = pl.concat([rows for rows in seen if rows.height])
        assert found.equals(expected)
        assert found["stream_id"].unique().to_list() == ["cam"]
        assert found["region"].unique().to_list() == ["north"]


def test_streams_and_processes_that_come_later(empty):
    following = Following(empty.path)
    assert following.new(TABLE.name).is_empty()
    first, second = empty.process(1), empty.process(2)
    stream(first, TABLE, columns(0, 3))
    assert following.new(TABLE.name)["t_ns"].to_list() == [0, 1, 2]
    stream(first, TABLE, columns(10, 2))
    stream(second, TABLE, columns(20, 1))
    assert sorted(following.new(TABLE.name)["t_ns"]) == [10, 11, 20]


def test_a_stream_that_is_let_go_or_damaged_is_left_out(empty):
    process = empty.process(1)
    path = stream(process, TABLE, columns(0, 3), columns(5, 3))
    following = Following(empty.path)
    following.new(TABLE.name)
    path.unlink()
    assert following.new(TABLE.name).is_empty()
    path = stream(process, TABLE, columns(0, 3))
    path.write_bytes(path.read_bytes()[:-40] + bytes(200))
    rows = following.new(TABLE.name)
    assert rows.height in (0, 3)


def test_a_recording_is_followed_to_its_end(tmp_path: Path) -> None:
    seen: list[int] = []
    with vl.record(tmp_path, engines=[]) as recording:
        writer: RunWriter = recording.writer
        writer.declare(TABLE)
        following = Following(tmp_path)
        assert not following.finished
        for n in range(5):
            t = np.arange(100 * n, 100 * n + 50, dtype=np.int64)
            name = np.full(50, writer.names.number("cuMemAlloc"), np.uint32)
            known = {"t_ns": t, "pid": t.astype(np.int32), "tid": t.astype(np.int32)}
            writer.append(
                TABLE, {**known, "size_bytes": t, "context": t.astype(np.uint64), "symbol": name}
            )
            rows = following.new(TABLE.name)
            seen += rows["t_ns"].to_list()
            assert set(rows["symbol"].cast(pl.String)) <= {"cuMemAlloc"}
    assert following.finished
    assert following.new(TABLE.name).is_empty()
    whole = following.whole(TABLE.name)
    assert whole.height == 250
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(whole["t_ns"])
    assert following.whole("kernel_other").is_empty()


def test_what_cannot_be_followed(empty, tmp_path):
    with pytest.raises(RunError):
        Following(tmp_path / "nowhere")
    with pytest.raises(InputError, match="kernel events can be followed, and not 'spans'"):
        Following(empty.path).new("spans")
    following = Following(empty.path)
    shutil.rmtree(empty.path / "segments")
    assert following.new(TABLE.name).is_empty()
