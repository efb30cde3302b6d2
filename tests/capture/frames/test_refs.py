"""Frame identity rides on what it names, and never changes."""

from __future__ import annotations

import gc
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from vidlab import labelsets
from vidlab.capture.frames import arrays
from vidlab.capture.frames.refs import (
    FrameRef,
    Traced,
    attach,
    find_ref,
    frame_ref,
    ref_of,
    with_user,
)


@pytest.fixture
def ref() -> FrameRef:
    labels = labelsets.sampled(labelsets.intern({"stream_id": "cam", "gpu": 1}), 0.5)
    return frame_ref(1 << 52 | 3 << 32 | 7, 7, 70, 60, labels, 123, user="mine")


def test_a_ref_cannot_be_changed(ref: FrameRef) -> None:
    with pytest.raises(AttributeError, match="cannot be changed"):
        ref.pts = 1  # type: ignore[misc]
    with pytest.raises(AttributeError, match="cannot be changed"):
        del ref.seq
    assert not hasattr(ref, "__dict__")


def test_another_user_is_another_object_of_the_same_frame(ref: FrameRef) -> None:
    other = with_user(ref, "mine")
    assert other is not ref
    assert other == ref
    assert (other.pts, other.labels, other.user) == (70, ref.labels, "mine")


def test_labels_cross_to_another_process_as_text(ref: FrameRef) -> None:
    data = pickle.dumps(ref)
    assert b"cam" in data
    arrived = pickle.loads(data)
    assert arrived == ref
    assert (arrived.seq, arrived.pts, arrived.dts, arrived.t_demux_ns) == (7, 70, 60, 123)
    assert labelsets.get(arrived.labels).values == {"gpu": 1, "stream_id": "cam"}
    assert labelsets.get(arrived.labels).sample_rate == 0.5
    assert arrived.user is None


def test_arrays_and_their_views_carry_identity(ref: FrameRef) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    assert ref_of(image) is None
    assert attach(image, ref)
    assert ref_of(image) is ref
    assert ref_of(image[2:4]) is ref
    assert ref_of(image[2:4].reshape(-1)[::2]) is ref
    assert ref_of(image.copy()) is None


def test_a_view_that_is_named_names_its_siblings(ref: FrameRef) -> None:
    image = np.zeros(192, np.uint8).reshape(8, 8, 3)
    attach(image, ref)
    assert ref_of(image[2:4]) is ref  # whose base is the flat array


def test_the_table_forgets_arrays_that_are_gone(ref: FrameRef) -> None:
    gc.collect()
    before = len(arrays._table)
    for _ in range(100):
        attach(np.zeros(8), ref)
    assert len(arrays._table) <= before + 1


def test_find_ref_looks_shallowly_into_what_a_queue_item_is(ref: FrameRef) -> None:
    @dataclass
    class Item:
        number: int
        image: Any

    image = np.zeros(3)
    attach(image, ref)
    traced = Traced("tensor", ref)
    for item in (ref, traced, image, (1, image), [None, traced], {"image": image}, Item(1, image)):
        assert find_ref(item) is ref
    for item in (None, 5, "text", (), {}, ((image,),), object(), np.zeros(3)):
        assert find_ref(item) is None


def test_what_cannot_carry_identity_says_so(ref: FrameRef) -> None:
    assert not attach("text", ref)
    value, carried = Traced(1, ref)
    assert (value, carried) == (1, ref)
