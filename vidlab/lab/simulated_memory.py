"""The GPU memory of a pipeline, computed rather than run: tables as a finished run has them.

Blocks (see `simulated_blocks`) lie in chunks that a pool takes from the driver, four blocks
of one size each, and once during the run gives back where all four are free. The device's
samples add up to the byte: what the driver gave, the context, other processes, and a plant
if one is asked for.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ..errors import InputError
from . import simulated_tables as tables
from .simulated import Stream
from .simulated_blocks import Blocks, Cache, Delayed, Ints, Keeper, Leak, of_stream

__all__ = [
    "STARTED_NS",
    "Cache",
    "Delayed",
    "Leak",
    "SimulatedMemory",
    "simulated_allocations",
]

#: When every simulated recording began, and what lies between the openings of two streams.
STARTED_NS, _OPEN_NS = 10**15, 5_000_000

#: What the sites ask for: 1080p as NV12 and as RGB, a network's input, odd ones.
SIZES = (3_110_400, 6_220_800, 4_915_200, 1_000, 262_144, 123 * 8)
_GRAIN = 512

#: Blocks of a chunk, and bytes of address space between two chunks.
_SLOTS, _GAP_BYTES = 4, 2 << 20

#: How long calls take: of a pool, and of the driver within one.
_POOL_NS, _DRIVER_NS = 3_000, 60_000

#: The share of the run at which the pool gives back what it can.
_RELEASED_AT = 0.6


@dataclass(frozen=True)
class SimulatedMemory:
    """The tables of a simulated run, with the columns of `vidlab.schema`."""

    allocations: pl.DataFrame
    stacks: pl.DataFrame
    gpu_samples: pl.DataFrame
    frames: pl.DataFrame
    holders: pl.DataFrame


def simulated_allocations(
    frames: int = 2_000,
    streams: int = 4,
    sites: int = 6,
    seed: int = 0,
    leaks: Sequence[Leak] = (),
    *,
    caches: Sequence[Cache] = (),
    delayed: Sequence[Delayed] = (),
    per_frame: int = 6,
    driver: bool = True,
    real_gpu: bool = False,
    plant_bytes: int = 0,
    plant_at: float = 0.5,
    sample_seconds: float = 0.25,
) -> SimulatedMemory:
    """Return the tables of a simulated run. The same arguments make the same tables.

    Parameters
    ----------
    frames, streams, sites : int
        Frames of all streams together; each stream has its own labels and thread. A site is
        a place in the code, stack number site + 1.
    seed : int
        Of all that is random.
    leaks, caches, delayed : sequences of Leak, Cache and Delayed
        What keeps blocks longer than their frame.
    per_frame : int
        At how many sites a frame takes a block: neighbours, from a random one on.
    driver : bool
        Also simulate addresses and the driver level, which takes most of the time. Without,
        every block has an address of its own, and samples nothing to add up to.
    real_gpu : bool
        Samples as of a real device, with a context and other processes, not of hostcuda.
    plant_bytes, plant_at : int, float
        Bytes taken of device 0 behind the tracker's back, from this share of the run on.
    sample_seconds : float
        Between two samples of a device.

    Raises
    ------
    InputError
        If there are fewer frames than streams, or a keeper names a site that is not there.
    """
    keepers: tuple[Keeper, ...] = (*leaks, *caches, *delayed)
    if not 1 <= streams <= frames or sites < 1:
        raise InputError(f"{frames} frames of {sites} sites can't make {streams} streams")
    if any(not 0 <= keeper.site < sites for keeper in keepers):
        raise InputError(f"a leak, cache or delay names a site that is not among the {sites}")
    random = np.random.default_rng([seed, 7])
    opened = [Stream(index) for index in range(streams)]
    counts = [frames // streams + (s.index < frames % streams) for s in opened]
    begun = [_begun(stream, n, random) for stream, n in zip(opened, counts, strict=True)]
    blocks = Blocks.together(
        [of_stream(s, begun[s.index], sites, per_frame, keepers, random) for s in opened]
    )
    end_ns = int(max(moments[-1] for moments in begun)) + 10**9
    pool = _Pool(opened, blocks, STARTED_NS + int(_RELEASED_AT * (end_ns - STARTED_NS)))
    pool.serve(driver)
    first = np.cumsum([0, *counts])
    events = tables.allocations(
        opened, blocks, pool.placed(), pool.chunks, first, sites, (_POOL_NS, _DRIVER_NS)
    )
    return SimulatedMemory(
        events,
        tables.stacks(sites),
        tables.gpu_samples(
            events,
            np.arange(STARTED_NS, end_ns, int(sample_seconds * 1e9)),
            real_gpu,
            STARTED_NS + int(plant_at * (end_ns - STARTED_NS)),
            plant_bytes,
        ),
        tables.frames(opened, begun),
        tables.holders(opened, blocks, pool.placed(), keepers, end_ns),
    )


def _begun(stream: Stream, count: int, random: np.random.Generator) -> Ints:
    """When each frame of a stream was read."""
    interval = 1e9 / stream.rate
    jitter = random.exponential(interval / 50, count).clip(0, interval / 4)
    paced = np.arange(count) * interval + jitter
    begun: Ints = (STARTED_NS + (stream.index + 1) * _OPEN_NS + paced).astype(np.int64)
    return begun


class _Pool:
    """Gives each block an address and a number, and takes chunks from the driver for them.

    Everything happens in the order of the calls' begins; a chunk was taken just before the
    block that needed it.
    """

    def __init__(self, streams: Sequence[Stream], blocks: Blocks, release_ns: int) -> None:
        self._blocks = blocks
        self._release_ns = release_ns
        self._device = np.array([stream.gpu or 0 for stream in streams])[blocks.stream]
        asked = np.array(SIZES)[blocks.site % len(SIZES)]
        self._size = -(-asked // _GRAIN) * _GRAIN
        self._address = np.zeros(len(asked), np.int64)
        self._generation = np.zeros(len(asked), np.int64)
        self._filled = np.zeros(len(asked), bool)
        self.chunks: list[tables.Chunk] = []

    def placed(self) -> tables.Placed:
        """Return where each block lies."""
        return tables.Placed(
            self._device, self._size, self._address, self._generation, self._filled
        )

    def serve(self, driver: bool) -> None:
        """Place all blocks; without the driver level, each at an address of its own."""
        if not driver:
            count = len(self._size)
            self._generation = np.arange(1, count + 1)
            self._address = (1 << 46) + np.arange(count) * (8 << 20)
            return
        blocks, generation = self._blocks, 0
        freed = np.flatnonzero(blocks.free_ns >= 0)
        times = np.concatenate([blocks.t_ns, blocks.free_ns[freed], [self._release_ns]])
        which = np.concatenate([np.arange(len(blocks.t_ns)), freed, [-1]])
        taking = np.arange(len(times)) < len(blocks.t_ns)
        order = np.argsort(times, kind="stable")
        free: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (address, chunk's index)
        used: list[int] = []  # blocks in each chunk
        home = [0] * len(blocks.t_ns)
        edge: dict[int, int] = {}
        steps = (which[order].tolist(), taking[order].tolist(), times[order].tolist())
        sizes, devices = self._size.tolist(), self._device.tolist()
        for block, takes, t_ns in zip(*steps, strict=True):
            if block < 0:
                self._release(free, used, t_ns)
                continue
            key = (devices[block], sizes[block])
            slots = free.setdefault(key, [])
            if not takes:
                address = int(self._address[block])
                heapq.heappush(slots, (address, home[block]))
                used[home[block]] -= 1
                continue
            if not slots:
                device, size = key
                start = edge.get(device, (0x7F << 40) + (device << 38))
                edge[device] = start + size * _SLOTS + _GAP_BYTES
                generation += 1
                self.chunks.append(tables.Chunk(block, start, size * _SLOTS, generation, t_ns))
                used.append(0)
                slots.extend((start + n * size, len(used) - 1) for n in range(_SLOTS))
                self._filled[block] = True
            address, home[block] = heapq.heappop(slots)
            used[home[block]] += 1
            generation += 1
            self._address[block], self._generation[block] = address, generation

    def _release(
        self,
        free: dict[tuple[int, int], list[tuple[int, int]]],
        used: list[int],
        t_ns: int,
    ) -> None:
        empty = {index for index, count in enumerate(used) if not count}
        for slots in free.values():
            slots[:] = sorted(slot for slot in slots if slot[1] not in empty)
        for index in empty:
            self.chunks[index].free_ns = t_ns + 1_000 * index
