"""What is counted in the kernel without a record each: by labels, and by buckets of a value.

Buckets are log-linear. Values below 8 have one each; from there on each power of two is cut
into 8 buckets of equal width. The kernel finds a value's bucket by integer arithmetic, and
agrees with `bucket_of` on every value of 64 bit.
"""

from __future__ import annotations

from ..declaring.metrics import Histogram, Metric
from . import helpers
from .blocks import Blocks
from .encoding import R0, R1, R2, R3, R4, R10, Label, Register
from .expressions import Compiler
from .instructions import Builder
from .words import VALUES

#: Each power of two has 1 << SUB_BITS buckets.
SUB_BITS = 3
SUB_BUCKETS = 1 << SUB_BITS

#: How many buckets there are, for values of 64 bit.
BUCKETS = (64 - SUB_BITS + 1) * SUB_BUCKETS


def bucket_of(value: int) -> int:
    """Return the bucket in which the kernel counts a value below 2^64; below zero as zero."""
    value = max(value, 0)
    shift = max(value.bit_length() - 1 - SUB_BITS, 0)
    return shift * SUB_BUCKETS + (value >> shift)


def bounds(bucket: int) -> tuple[int, int]:
    """Return the least value of a bucket and the least beyond it, in the value's unit."""
    shift = max(bucket // SUB_BUCKETS - 1, 0)
    low = (bucket - shift * SUB_BUCKETS) << shift
    return low, low + (1 << shift)


def add_value(
    blocks: Blocks, compiler: Compiler, metric: Metric, base: Register, word: int, full: Label
) -> None:
    """Count a hit under the labels of the span word that was read to `base` + `word`.

    It goes to `full` if the map has no room for a bucket that was empty before.
    """
    b = blocks.b
    with b.slot(8) as key, b.slot(8) as one:
        if isinstance(metric, Histogram):
            b.comment(f"the bucket of {metric.value!r}")
            compiler.value(metric.value)
            write_bucket(b, metric.value.signed)
        else:
            b.move(R0, 0)
        b.store(4, R10, key + 4, R0)
        b.load(R1, 4, base, word + 16)
        b.store(4, R10, key, R1)
        b.comment(f"one more of {metric.metric}")
        known, counted = b.label("known"), b.label("counted")
        blocks.lookup(VALUES, key)
        b.jump_if(R0, "!=", 0, known)
        b.store(8, R10, one, 1)
        b.load_map(R1, VALUES)
        blocks.address(R2, R10, key)
        blocks.address(R3, R10, one)
        b.move(R4, helpers.NO_EXIST)
        b.call(helpers.MAP_UPDATE)
        b.jump_if(R0, "==", 0, counted)
        b.comment("another was first on this CPU, or there is no room")
        blocks.lookup(VALUES, key)
        b.jump_if(R0, "==", 0, full)
        b.place(known)
        b.move(R1, 1)
        b.atomic_add(R0, 0, R1)
        b.place(counted)
        blocks.count("emitted")


def write_bucket(b: Builder, signed: bool = False) -> None:
    """Turn R0 from a value into its bucket; what is below zero counts as zero."""
    done = b.label("bucket")
    if signed:
        positive = b.label("positive")
        b.jump_if(R0, "s>=", 0, positive)
        b.move(R0, 0)
        b.place(positive)
    b.jump_if(R0, "<", SUB_BUCKETS, done)
    b.comment("R2 = the exponent, by halves of what is left of the value")
    b.move(R1, R0)
    b.move(R2, 0)
    for bits in (32, 16, 8, 4, 2, 1):
        smaller = b.label(f"below_2_{bits}")
        b.move(R3, R1)
        b.alu(R3, ">>", bits)
        b.jump_if(R3, "==", 0, smaller)
        b.move(R1, R3)
        b.alu(R2, "+", bits)
        b.place(smaller)
    b.alu(R2, "-", SUB_BITS)
    b.alu(R0, ">>", R2)
    b.alu(R2, "<<", SUB_BITS)
    b.alu(R0, "+", R2)
    b.place(done)
