"""Sweeps over a pipeline of 20 frames in the real CuPy on host memory."""

from __future__ import annotations

import pytest

import vidlab as vl
from vidlab.capture.gpu.engine import GpuMemory
from vidlab.capture.gpu.tracking import tracker
from vidlab.errors import InputError, RecordingError
from vidlab.lab.sweeps import sweep

pytestmark = pytest.mark.needs("hostcuda")

FRAMES, PER_FRAME = 20, 10


class Pipeline:
    """Ten buffers a frame. The first is kept if a later one fails, for some frames: the plant."""

    def __init__(self, leaks_at: int | None = None, recovers: bool = False) -> None:
        self.leaks_at = leaks_at
        self.recovers = recovers
        self.kept: list[object] = []
        self.delivered = 0

    def __call__(self) -> None:
        import cupy

        for number in range(FRAMES):
            picture = cupy.empty((90, 160, 3), "u1")
            try:
                tensors = [cupy.empty(1024 * size, "u1") for size in range(1, PER_FRAME)]
                self.delivered += len(tensors)
            except MemoryError:
                if number == self.leaks_at:
                    self.kept.append(picture)
                if not self.recovers:
                    raise


def test_after_each_failure_memory_comes_back():
    swept = sweep(Pipeline(), range(1, FRAMES * PER_FRAME + 1))
    assert [trial.nth for trial in swept.trials] == list(range(1, 201))
    assert swept.leaking == ()
    assert not any(trial.recovered for trial in swept.trials)
    assert all("OutOfMemoryError: Out of memory" in trial.raised for trial in swept.trials)
    assert tracker.active is None


def test_the_path_that_leaks_on_an_error_is_caught():
    swept = sweep(Pipeline(leaks_at=7), range(1, 201))
    # The first allocation of the frame is the one that is kept: its own failure keeps nothing.
    assert [trial.nth for trial in swept.leaking] == list(range(72, 81))
    assert {trial.left_bytes for trial in swept.leaking} == {(90 * 160 * 3 + 511) // 512 * 512}
    for trial in swept.leaking:
        assert "Pipeline.__call__" in trial.places[0]
        assert "test_sweeps.py" in str(trial)
    assert "memory did not come back after 9" in str(swept)


def test_a_pipeline_that_recovers():
    swept = sweep(Pipeline(recovers=True), (2, 3, 199))
    assert [trial.recovered for trial in swept.trials] == [True, True, True]
    assert {trial.raised for trial in swept.trials} == {None}


@pytest.mark.parametrize("error", ["invalid value", "launch out of resources"])
def test_other_errors(error):
    (trial,) = sweep(Pipeline(), [5], error=error).trials
    assert trial.raised.startswith("CUDARuntimeError: cudaError")


def test_it_ends_where_the_pipeline_ends():
    swept = sweep(Pipeline(), range(199, 300))
    assert [trial.nth for trial in swept.trials] == [199, 200]


def test_at_the_driver():
    import cupy

    pool = cupy.get_default_memory_pool()

    def pipeline():
        pool.free_all_blocks()
        Pipeline()()

    swept = sweep(pipeline, range(1, 6), level="driver")
    assert len(swept.trials) == 5
    assert swept.leaking == ()


def test_within_a_recording(tmp_path):
    with vl.record(tmp_path / "run", engines=[GpuMemory(holders=False)]):
        assert len(sweep(Pipeline(), range(1, 4)).trials) == 3
    failed = vl.open_run(tmp_path / "run").scan("allocations").collect()
    assert failed.filter(failed["status"] == "OutOfMemoryError").height == 3


def test_a_recording_without_gpu_memory_is_in_the_way(tmp_path):
    with vl.record(tmp_path / "run", engines=[]), pytest.raises(RecordingError, match="running"):
        sweep(Pipeline(), range(1, 4))


def test_nonsense_is_refused():
    with pytest.raises(InputError, match="counted from 1"):
        sweep(Pipeline(), range(3))
