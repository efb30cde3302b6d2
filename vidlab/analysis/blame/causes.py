"""What a frame's time can be spent on: the causes, in words, and what to do about each."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

#: A stage's own work on a CPU; inside a stage, off the CPU, and nothing says for what; waiting
#: for storage or a device; ready to run, and no CPU was free.
WORK, ASLEEP, IO, RUN_QUEUE = "work", "asleep", "io", "run_queue"

#: The garbage collector had stopped Python; another thread had the GIL; memory was asked of
#: the driver.
GARBAGE_COLLECTION, GIL, ALLOCATOR = "garbage_collection", "gil", "allocator"

#: In a queue; in a decoder, until earlier pictures are out; in an encoder that looks ahead.
QUEUE_WAIT, REORDERING, ENCODER_LAG = "queue_wait", "reordering", "encoder_lag"

#: Spent in vain on a frame that was lost; and what no span covers.
CORRUPT_INPUT, UNEXPLAINED = "corrupt_input", "unexplained"

#: The stage of time that no span covers.
NO_STAGE = "(between stages)"

#: What the names of queues begin with that say where they are.
PLACES = ("before ", "after ", "in ", "between ", "to ", "from ")


@dataclass(frozen=True)
class Cause:
    """A cause, and what to do about it.

    Attributes
    ----------
    name : str
        As in the column `cause`.
    words : str
        What happened: "wait for the GIL".
    where : str
        What says at which stage or queue, `{stage}`: "in {stage}".
    engine : str
        The engine that tells it.
    more : str
        Which engine would tell more; "" if none would.
    advice : str
        What a person can do, as a clause.
    exact : bool
        It is measured, not estimated.
    """

    name: str
    words: str
    where: str
    engine: str
    more: str
    advice: str
    exact: bool = True

    def said(self, stage: str | None) -> str:
        """Return the words with the stage, or the queue: "queue wait before encode"."""
        if stage is None or stage == NO_STAGE:
            return self.words
        if stage.startswith(PLACES):  # "in before encode" is no English
            return f"{self.words} {stage}"
        return f"{self.words} {self.where.format(stage=stage)}"


_ALL = (
    Cause(
        GARBAGE_COLLECTION,
        "garbage collection",
        "during {stage}",
        "Runtime",
        "GpuMemory",
        "make fewer objects that refer to each other, or gc.freeze() after the start and "
        "collect between frames",
    ),
    Cause(
        ALLOCATOR,
        "GPU memory asked of the driver",
        "in {stage}",
        "GpuMemory",
        "KernelEvents",
        "let the pool keep its memory: fill it before the first frame, keep sizes the same, "
        "and do not free all blocks while frames are on their way",
    ),
    Cause(
        RUN_QUEUE,
        "wait for a CPU",
        "in {stage}",
        "Frames",
        "KernelEvents",
        "give the process more CPUs, or run fewer threads: decoders and encoders start one a "
        "CPU unless told otherwise",
    ),
    Cause(
        GIL,
        "wait for the GIL",
        "in {stage}",
        "Runtime",
        "Profiles",
        "find the thread that holds it (vl.analysis.wakeups.holders) and move its work into "
        "another process, or into calls that let go of the GIL",
        exact=False,
    ),
    Cause(
        IO,
        "wait for storage or a device",
        "in {stage}",
        "KernelEvents",
        "",
        "read ahead, or move reading and writing off the frame's way",
    ),
    Cause(
        ASLEEP,
        "asleep (a lock, a timer or a slow service)",
        "in {stage}",
        "Frames",
        "KernelEvents",
        "look at what the stage waits for: its stacks show where it is off the CPU",
    ),
    Cause(
        WORK,
        "work",
        "of {stage}",
        "Frames",
        "Profiles",
        "make the stage cheaper, or run several of it: its CPU flame graph shows what takes long",
    ),
    Cause(
        QUEUE_WAIT,
        "queue wait",
        "in {stage!r}",
        "Frames",
        "Runtime",
        "see what the stage after the queue does meanwhile: speed it up, or run several of it; "
        "a longer queue only makes frames older",
    ),
    Cause(
        REORDERING,
        "reordering",
        "in {stage}",
        "Frames",
        "",
        "encode the input without B-frames or with fewer, or give the decoder fewer threads: "
        "each holds a frame back",
    ),
    Cause(
        ENCODER_LAG,
        "the encoder's look-ahead",
        "in {stage}",
        "Frames",
        "",
        "set the encoder's tune to zerolatency, or its look-ahead and B-frames to 0",
    ),
    Cause(
        CORRUPT_INPUT,
        "time spent in vain on a frame that was lost as corrupt",
        "at {stage}",
        "Frames",
        "",
        "look at the source: packets were damaged or are missing",
    ),
    Cause(
        UNEXPLAINED,
        "time that nothing recorded explains",
        "in {stage}",
        "Frames",
        "KernelEvents",
        "put the program's own code between stages into vl.stage(…)",
    ),
)

#: All causes, by name.
CAUSES = MappingProxyType({cause.name: cause for cause in _ALL})

#: In which order causes take what they overlap in: the first has it.
PRIORITY = tuple(CAUSES)
