"""Near names: what is offered for a name that is not there."""

from __future__ import annotations

import pytest

from vidlab.capture.ebpf.symbols import names as near_names
from vidlab.capture.ebpf.symbols import near, near_text

CUDA = ["cuMemAlloc_v2", "cuMemFree_v2", "cuMemAllocAsync", "cuMemcpyHtoD_v2", "cuCtxSetCurrent"]


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ("cuMemAlloc", "cuMemAlloc_v2"),
        ("cuMemAloc_v2", "cuMemAlloc_v2"),
        ("cumemalloc_V2", "cuMemAlloc_v2"),
        ("cuMemAlloc_v2_ptsz", "cuMemAlloc_v2"),
        ("cuCtxSetCurent", "cuCtxSetCurrent"),
        ("cuMemcpyHtoD", "cuMemcpyHtoD_v2"),
    ],
)
def test_the_nearest_name_comes_first(wanted, first):
    assert near(wanted, CUDA)[0] == first


def test_nothing_is_offered_that_is_not_near():
    assert near("avcodec_open2", CUDA) == []
    assert near_text("avcodec_open2", CUDA) == ""
    assert near("anything", []) == []


def test_no_more_than_asked_for_and_each_once():
    found = near("cuMemAlloc", CUDA * 2, most=2)
    assert len(found) == len(set(found)) == 2


def test_the_text_of_an_error():
    assert near_text("cuCtxSetCurent", CUDA) == "; did you mean cuCtxSetCurrent?"
    text = near_text("work_3", ["work_1", "work_2"])
    assert text == "; did you mean work_1 or work_2?"


def test_of_very_many_names_only_so_many_are_looked_at(monkeypatch):
    monkeypatch.setattr(near_names, "MOST_NAMES", 10)
    names = [f"other{number}" for number in range(10)]
    assert near("work", [*names[:9], "work_2"]) == ["work_2"]
    assert near("work", [*names, "work_2"]) == []


@pytest.mark.parametrize("wanted", ["", "x", "é", "a" * 10_000])
def test_a_name_of_any_kind_is_no_error(wanted):
    near(wanted, [*CUDA, "", "x", "é" * 300])
