"""What the causes of `analysis.blame` are called where there is room for a few words only."""

from __future__ import annotations

#: By the name of the cause, as in the column `cause`.
CAUSE_WORDS = {
    "work": "work",
    "queue_wait": "waiting in a queue",
    "reordering": "reordering",
    "encoder_lag": "encoder's look-ahead",
    "run_queue": "waiting for a CPU",
    "garbage_collection": "garbage collection",
    "gil": "waiting for the GIL",
    "allocator": "GPU memory allocation",
    "io": "storage or device",
    "asleep": "asleep",
    "corrupt_input": "lost as corrupt",
    "unexplained": "unexplained",
}
