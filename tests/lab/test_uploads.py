"""Uploads: what each memory keeps of the pictures, and that without one nothing is kept."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import vidlab as vl
from vidlab.errors import VidlabError
from vidlab.lab import uploads
from vidlab.lab.uploads import BACKGROUND, LEAK_EVERY, MEMORIES, Uploads

pytestmark = pytest.mark.needs("hostcuda")

#: A picture of 8-bit numbers, and the input of 32-bit ones that is made of it.
SHAPE = (36, 64, 3)
PICTURE_BYTES = 36 * 64 * 3  # 13.5 grains of the pool
INPUT_BYTES = 4 * PICTURE_BYTES
GRAIN = 512


def grains(size: int) -> int:
    """What CuPy's pool gives for so many bytes."""
    return -(-size // GRAIN) * GRAIN


def used() -> int:
    import cupy

    gc.collect()
    return int(cupy.get_default_memory_pool().used_bytes())


def upload(sink: Uploads, count: int) -> None:
    for number in range(count):
        sink.upload(np.full(SHAPE, number, "u1"))


def test_without_a_memory_only_the_background_is_kept() -> None:
    before = used()
    sink = Uploads()
    upload(sink, 3)
    assert used() - before == 3 * grains(INPUT_BYTES)
    upload(sink, 5 * BACKGROUND)
    assert used() - before == BACKGROUND * grains(INPUT_BYTES)
    del sink
    assert used() == before


@pytest.mark.parametrize("holder", MEMORIES)
def test_each_memory_keeps_one_picture_in_so_many(holder: str) -> None:
    before = used()
    sink = Uploads(holder)
    for rounds in (1, 2, 20):
        upload(sink, rounds * LEAK_EVERY - sink._count)
        background = min(rounds * LEAK_EVERY, BACKGROUND) * grains(INPUT_BYTES)
        assert used() - before == background + rounds * grains(PICTURE_BYTES)
    del sink
    assert used() == before  # two streams of one codec do not share theirs


@pytest.mark.parametrize("holder", MEMORIES)
def test_the_holder_is_found_by_its_kind(holder: str, tmp_path: Path) -> None:
    sink = Uploads(holder)
    with vl.record(tmp_path, engines=[vl.GpuMemory()]):
        upload(sink, 5 * LEAK_EVERY)
    found = vl.open_run(tmp_path).scan("holders").collect()
    pictures = found.filter(pl.col("size_bytes") == grains(PICTURE_BYTES), pl.col("arrays") == 1)
    assert pictures.height == 5
    assert set(pictures["kind"].cast(pl.String)) == {holder}
    inputs = found.filter(pl.col("size_bytes") == grains(INPUT_BYTES))
    assert inputs.height == BACKGROUND
    assert all("_background" in text for text in inputs["holder"].cast(pl.String))


def test_what_is_uploaded_is_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Uploads("container")
    image = np.arange(PICTURE_BYTES, dtype="u1").reshape(SHAPE)
    sink.upload(image)
    assert (sink._memory.pictures[0].get() == image).all()  # type: ignore[union-attr]
    assert (sink._background[0].get() == image.transpose(2, 0, 1)).all()


def test_the_device_is_named() -> None:
    assert uploads.device() == "host memory (no GPU)"


def test_without_a_device_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def install() -> None:
        raise VidlabError("there is no C compiler")

    monkeypatch.setattr(uploads.hostcuda, "install", install)
    monkeypatch.setattr(uploads, "works", lambda: False)
    with pytest.raises(VidlabError, match="no C compiler"):
        uploads.device()
