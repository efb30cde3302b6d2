"""The maps that programs share, by name, and what their keys and values look like.

`Code.encode` takes the maps' descriptors by these names. All numbers are little-endian.
"""

from __future__ import annotations

from ..declaring.record import HEADER

#: RINGBUF: the records of one table.
RING = "ring"
#: PERCPU_ARRAY, u32 -> `COUNTS` as u64: what became of each program's hits, by its number.
COUNTS_MAP = "counts"
#: HASH, tid u32 -> u64: the address of the thread's span word.
SLOTS = "slots"
#: HASH, pid u32 -> u64: the processes whose events are recorded.
TARGETS = "targets"
#: HASH, `STASH_KEY` -> `stash_bytes`: calls under way.
STASH = "stash"
#: ARRAY of one value like the stash's, never written: what a large one begins as.
BLANK = "blank"
#: ARRAY, u32 -> u64: how many hits came to be sampled, by the program's number.
SAMPLES = "samples"
#: PERCPU_HASH, labels u32 and bucket u32 -> u64: what a counter or histogram counted.
VALUES = "values"
#: PROG_ARRAY: the programs that a dispatcher goes on to.
PROGRAMS = "programs"

#: What is counted of each program, in this order. Hits = filtered + sampled_out + emitted +
#: lost_ring + lost_stash + the calls under way. Orphans are returns for which nothing was
#: kept: of calls that began before the probe was there, and, where entry and return are a
#: pair of links, of calls that were filtered, sampled out or not kept for want of room.
COUNTS = (
    "hits",
    "filtered",
    "sampled_out",
    "emitted",
    "lost_ring",
    "lost_stash",
    "orphans",
    "spare",
)

#: Sizes in bytes of the keys and values of `SLOTS`.
SLOT_KEY, WORD_ADDRESS = 4, 8

#: A thread's span word: span u64 | frame u64 | labels u64 | span u64 again. It is being
#: written while the first and the last differ.
WORD_BYTES = 32

#: The key of a call under way: process and thread u64 | a token that tells calls apart u64.
STASH_KEY = 16

#: How many calls can be under way.
STASH_ENTRIES = 1 << 14

# A call under way: t_ns u64 | span u64 | frame u64 | labels u64 | 6 arguments u64 | the
# fields of the record. It is the same for every version of a program, so that one can be
# exchanged while calls are under way.
STASH_TIME, STASH_WORD, STASH_ARGUMENTS, STASH_FIELDS = 0, 8, 32, 80

#: How many arguments are kept of a call.
KEPT_ARGUMENTS = 6

#: What a stash may take of a program's stack; a larger one is filled in its map.
MOST_ON_STACK = 304

#: Where the fields begin in a record, without and with a duration.
FIELDS_START, FIELDS_START_OF_CALLS = 40, 48

#: Where each field that all records have is, in bytes.
PLACES = dict(zip([name for name, _ in HEADER], [0, 8, 12, 16, 24, 32, 36, 38], strict=True))
DURATION_PLACE = 40


def stash_bytes(record_bytes: int) -> int:
    """Return the size of a stash for records of so many bytes; 0: of what is only counted."""
    return STASH_FIELDS + max(record_bytes - FIELDS_START_OF_CALLS, 0)
