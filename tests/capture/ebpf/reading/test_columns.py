"""Columns: what is copied, and what room there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlab.capture.ebpf.reading.columns import Columns

RECORD = np.dtype(
    [
        ("t_ns", "<i8"),
        ("tid", "<u4"),
        ("pid", "<u4"),
        ("name", "S16"),
        ("address", "V16"),
        ("size", "<i8"),
        ("flag", "u1"),
        ("_pad", "V1"),
        ("cpu", "<u2"),
        ("status", "<i4"),
    ]
)


def records(count: int, seed: int = 0) -> np.ndarray:
    made = np.frombuffer(
        np.random.default_rng(seed).bytes(count * RECORD.itemsize), RECORD, count
    ).copy()
    made["name"] = b"abc"
    return made


def test_fields_become_contiguous_columns():
    columns, some = Columns(RECORD, 10), records(3)
    columns.append(some)
    assert columns.names == tuple(name for name in RECORD.names if name != "_pad")
    assert len(columns) == 3
    for name in columns.names:
        assert columns[name].dtype == RECORD[name]
        assert columns[name].flags.c_contiguous
        assert columns[name].tolist() == some[name].tolist()


@given(counts=st.lists(st.integers(0, 6000), max_size=5))
def test_records_go_on_where_the_last_ended_whatever_their_number(counts):
    columns = Columns(RECORD, 30_000)
    parts = [records(count, seed) for seed, count in enumerate(counts)]
    for each in parts:
        columns.append(each)
    whole = np.concatenate([records(0), *parts])
    assert len(columns) == len(whole)
    for name in columns.names:
        assert (columns[name] == whole[name]).all()


def test_the_memory_is_used_again():
    columns = Columns(RECORD, 10)
    columns.append(records(10))
    before = columns["cpu"]
    columns.clear()
    assert len(columns) == len(columns["cpu"]) == 0
    columns.append(records(2)[1:])
    assert np.shares_memory(before, columns["cpu"])
    assert columns["t_ns"].tolist() == [records(2)["t_ns"][1]]


def test_there_must_be_room():
    columns = Columns(RECORD, 3)
    columns.append(records(2))
    with pytest.raises(ValueError, match="no room for 2 records"):
        columns.append(records(2))
    assert len(columns) == 2
