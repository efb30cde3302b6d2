"""TCP connections: told apart though sockets are used again, and named by their stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from vidlab.analysis import connections
from vidlab.errors import InputError

Build = Callable[..., pl.DataFrame]
Row = dict[str, Any]

HERE = {"local_address": "10.0.0.1", "local_port": 5000, "remote_port": 554}


def state(t: int, old: str, new: str, **more: Any) -> Row:
    return {"t_ns": t, "op": "state", "old_state": old, "new_state": new, **more}


def life(t: int, **more: Any) -> list[Row]:
    """A connection that is opened, used and closed."""
    return [
        state(t, "close", "syn_sent", **{**more, "local_port": 0, "span": None}),
        state(t + 20, "syn_sent", "established", **{**more, "srtt_us": 900, "span": None}),
        {"t_ns": t + 50, "op": "sample", **more, "srtt_us": 400, "bytes_received": 100},
        state(t + 90, "established", "close_wait", **more, bytes_received=150, srtt_us=300),
        {"t_ns": t + 99, "op": "closed", **more, "bytes_received": 150, "bytes_sent": 10},
    ]


def events(table: Build, rows: list[Row], **more: Any) -> pl.DataFrame:
    common = {"pid": 1, "tid": 1, "owner_pid": 1, "labels": 0, "socket": 8, **HERE}
    return table("kernel_tcp", rows, **{**common, "remote_address": "10.0.0.9", **more})


def spans(table: Build) -> pl.DataFrame:
    return table(
        "spans",
        [{"span": 1, "stream_id": "cam-1"}, {"span": 2, "stream_id": "cam-2"}],
        t_ns=0,
        duration_ns=5,
        pid=1,
        tid=1,
        kind="service",
        stage="demux",
    )


def test_a_connection_from_its_opening_to_its_end(table: Build) -> None:
    found = connections.connections(events(table, life(100, span=1)), spans(table))
    assert found.to_dicts() == [
        {
            "socket": 8, "owner_pid": 1, "stream_id": "cam-1", "local_address": "10.0.0.1",
            "local_port": 5000, "remote_address": "10.0.0.9", "remote_port": 554, "t_ns": 100,
            "t_established_ns": 120, "handshake_ns": 20, "t_closed_ns": 199, "retransmits": 0,
            "bytes_sent": 10, "bytes_received": 150, "srtt_us": 300, "srtt_max_us": 900,
        }
    ]  # fmt: skip


def test_a_socket_that_is_used_again_is_another_connection(table: Build) -> None:
    rows = [*life(100, span=1), *life(1_000, span=2, remote_address="10.0.0.8")]
    accepted = [  # a server's: it has no step out of "close"
        state(2_000, "syn_recv", "established"),
        {"t_ns": 2_050, "op": "retransmit"},
        {"t_ns": 2_060, "op": "retransmit"},
    ]
    other = life(150, socket=9)
    found = connections.connections(events(table, [*rows, *accepted, *other]), spans(table))
    columns = ["t_ns", "stream_id", "t_closed_ns", "handshake_ns", "retransmits"]
    assert found.select(columns).rows() == [
        (100, "cam-1", 199, 20, 0),
        (150, None, 249, 20, 0),
        (1_000, "cam-2", 1_099, 20, 0),
        (2_000, None, None, None, 2),
    ]  # fmt: skip


def test_what_was_open_before_has_no_handshake(table: Build) -> None:
    rows = [{"t_ns": 5, "op": "sample", "span": 2, "srtt_us": None, "bytes_sent": 7}]
    found = connections.connections(events(table, rows), spans(table))
    assert found.select("stream_id", "t_established_ns", "handshake_ns", "srtt_us").rows() == [
        ("cam-2", None, None, None)
    ]


def test_by_stream(table: Build) -> None:
    rows = [
        *life(100, span=1),
        *life(1_000, span=1),
        *life(100, span=2, socket=9)[:3],
        {"t_ns": 160, "op": "retransmit", "socket": 9},
    ]
    found = connections.by_stream(events(table, rows), spans(table))
    assert found.columns == [
        *("stream_id", "remote_address", "connections", "open", "retransmits"),
        *("bytes_sent", "bytes_received", "srtt_us", "srtt_max_us"),
    ]
    assert found.rows() == [
        ("cam-2", "10.0.0.9", 1, 1, 1, 0, 100, 400.0, 900),
        ("cam-1", "10.0.0.9", 2, 0, 0, 20, 300, 300.0, 900),
    ]


def test_nothing_in_nothing_out(table: Build) -> None:
    assert connections.connections(table("kernel_tcp"), table("spans")).is_empty()
    assert connections.by_stream(table("kernel_tcp"), table("spans")).is_empty()


def test_a_missing_column_is_named(table: Build) -> None:
    with pytest.raises(InputError, match="'kernel_tcp' has no column 'socket'"):
        connections.connections(table("kernel_tcp").drop("socket"), table("spans"))
