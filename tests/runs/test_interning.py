"""Stacks as they are numbered, whatever a sampler told of them."""

from __future__ import annotations

import pytest

from vidlab.runs.interning import StackTable


@pytest.mark.parametrize("line", [-1, 2**31, 4_288_809_034, 2**63])
def test_a_line_that_can_be_none_is_unknown(line: int) -> None:
    table = StackTable()
    torn = table.number([("decode", "video.py", line), ("main", "main.py", 7)])
    assert table.number([("decode", "video.py", 0), ("main", "main.py", 7)]) == torn
    (frames,) = table.to_arrow()["frames"].to_pylist()
    assert [call["line"] for call in frames] == [0, 7]


def test_the_greatest_line_is_kept() -> None:
    table = StackTable()
    table.number([("f", "f.py", 2**31 - 1)])
    assert table.to_arrow()["frames"].to_pylist()[0][0]["line"] == 2**31 - 1
