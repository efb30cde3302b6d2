"""The set `sched`: when each thread was not on a CPU, for how long, and for what.

A row of `kernel_offcpu` is one wait of a thread: from the moment it was switched out to the
moment it ran again, on the CPU that `cpu` names. `state` says why it left:

preempted
    It could have run on, and another thread got the CPU (`state_code` 0, as a time slice ended
    or the thread itself gave way; 256, in the middle of the kernel). It waited for a CPU
    all the time.
sleeping, disk, stopped, traced, parked
    It waited for something: of `sleeping` a signal could have woken it (a lock, a pipe, a timer),
    of `disk` not (storage, as a rule). It then was woken at `wakeup_ns`, by the thread
    `waker_tid`, and from then on waited for a CPU.
new
    It was created, by `waker_tid`, and has not run before. (In a PID namespace other than the
    kernel's first its `tid` is told as 0.)

`runqueue_ns` is the part of the wait in which it waited for a CPU: the same that the kernel
adds up in the second number of ``/proc/PID/task/TID/schedstat``. Each row is one of the
switches that ``/proc/PID/task/TID/status`` counts, `preempted` as nonvoluntary and the others
as voluntary ones. Span, frame and labels are those of the waiting thread as it left.

What is not seen: waits under way as the recording begins, and those under way as it ends, which
are the set's hits that became nothing. A wait is lost, and counted as lost, if the kernel does
not report the switch that ends it; who woke it and when is null if the kernel does not report
that, as where a wake-up interrupts another program of the same CPU. A wait that an interrupt
ended (a timer, a device) names as its waker the thread that was interrupted, or none where the
CPU was idle.

How it works: a thread has an entry in the map `THREADS`, from the first time that it is switched
out until it exits. The waker is noted by ``sched_waking``, which happens on the waker's side, and
the time of waking by ``sched_wakeup``, when the thread is back in a run queue. ``sched_waking``
may come before the thread's own switch: so a waker that is noted stays until the thread runs.
"""

from __future__ import annotations

from collections.abc import Callable

from ..declaring.written import Attached, MapShape, Written
from ..kernel.bpf import MapType
from ..program import helpers
from ..program.blocks import Blocks
from ..program.context import ProgramContext
from ..program.encoding import R0, R1, R2, R3, R4, R8, R9, R10, Label
from ..program.instructions import Builder
from ..program.values import TracepointValues
from ..program.words import DURATION_PLACE, PLACES

#: HASH, tid u32 -> a thread's entry.
THREADS = "offcpu_threads"

#: So many threads of the recorded processes can be told apart at a time.
MOST_THREADS = 1 << 14

# A thread's entry: when it was switched out (0: it runs) u64 | when it was woken (0: not yet) u64
# | its span word, 32 bytes | tid u32 and pid u32, as they are told | why it left i64 | who woke
# it u32 | 4 bytes more.
_OUT, _WOKEN, _WORD, _IDENTITY, _STATE, _WAKER = 0, 8, 16, 48, 56, 64
_ENTRY_BYTES = 72

#: `prev_state` of sched_switch: what a thread that could run on has, and what an exited one.
_PREEMPTED, _IN_KERNEL = 0, 0x100
_EXITED = 0x10 | 0x20

#: Our own: the thread has not run before.
_NEW = -1

STATES = {
    _PREEMPTED: "preempted",
    _IN_KERNEL: "preempted",
    1: "sleeping",
    2: "disk",
    4: "stopped",
    8: "traced",
    0x40: "parked",
    0x80: "idle",
    _NEW: "new",
}

#: Flag of clone(2): the new one is a thread of the same process.
_CLONE_THREAD = 0x10000


def declarations() -> list[Written]:
    """Return the set."""
    return [
        Written(
            set="sched",
            name="offcpu",
            meaning="a thread's wait, from leaving a CPU to running again",
            returns=True,
            fields={
                "state": "i16",
                "state_code": "i64",
                "wakeup_ns": "i64",
                "runqueue_ns": "i64",
                "waker_tid": "u32",
            },
            texts={"state": STATES},
            zero_is_null=frozenset({"wakeup_ns", "runqueue_ns", "waker_tid"}),
            maps={THREADS: MapShape(MapType.HASH, 4, _ENTRY_BYTES, MOST_THREADS)},
            # In the order of attaching: waits are noted when their ends can be seen.
            attached=(
                Attached("sched", "sched_waking", _waking, rows=False),
                Attached("sched", "sched_wakeup", _wakeup, rows=False),
                Attached("sched", "sched_wakeup_new", _wakeup, rows=False),
                Attached("sched", "sched_switch", _switch),
                Attached("task", "task_newtask", _new_task, rows=False),
            ),
        )
    ]


def _switch(context: ProgramContext) -> Builder:
    """One thread leaves the CPU, and another comes to it."""
    b = Builder()
    blocks = Blocks(b, context)
    values = TracepointValues(blocks)
    now = b.allocate(8)
    blocks.start()
    blocks.identify()
    arriving = b.label("arriving")
    _leave(b, blocks, values, now, arriving)
    b.place(arriving)
    _arrive(b, blocks, values, now)
    blocks.finish()
    return b


def _leave(b: Builder, blocks: Blocks, values: TracepointValues, now: int, done: Label) -> None:
    """Note when the current thread leaves, and why; of threads that are not recorded nothing."""
    exits, found = b.label("exits"), b.label("found")
    b.comment("who leaves")
    state = b.allocate(8)
    b.load(R1, 4, R10, blocks.thread)
    b.jump_if(R1, "==", 0, done)  # a CPU's idle thread
    blocks.only_targets(done)
    blocks.find_counts()
    blocks.read_time(now)
    values.field(b, "prev_state", R1)
    b.store(8, R10, state, R1)
    blocks.lookup(THREADS, blocks.thread)
    b.jump_if(R0, "!=", 0, found)
    b.load(R1, 8, R10, state)
    b.jump_if(R1, "&", _EXITED, done)
    b.comment("for the first time")
    _add(b, blocks, blocks.thread)
    blocks.lookup(THREADS, blocks.thread)
    b.jump_if(R0, "!=", 0, found)
    blocks.count("hits")
    blocks.count("lost_stash")
    b.jump(done)
    b.place(exits)
    _delete(b, blocks, blocks.thread)
    b.jump(done)
    b.place(found)
    b.move(R9, R0)
    _give_up(b, blocks)
    b.load(R1, 8, R10, state)
    b.jump_if(R1, "&", _EXITED, exits)
    blocks.count("hits")
    blocks.read_word(R9, _WORD)
    b.load(R1, 8, R10, blocks.identity)
    b.store(8, R9, _IDENTITY, R1)
    b.load(R1, 8, R10, state)
    b.store(8, R9, _STATE, R1)
    b.store(8, R9, _WOKEN, 0)
    b.load(R1, 8, R10, now)
    b.store(8, R9, _OUT, R1)


def _give_up(b: Builder, blocks: Blocks) -> None:
    """Count a wait at R9 whose end was not seen, if there is one: it is lost."""
    none, old = b.label("none"), b.label("old")
    b.load(R1, 8, R9, _OUT)
    b.jump_if(R1, "==", 0, none)
    b.load(R1, 8, R9, _STATE)
    b.jump_if(R1, "!=", _NEW, old)
    blocks.count("hits")  # as for `_arrive`
    b.place(old)
    blocks.count("lost_stash")
    b.place(none)


def _arrive(b: Builder, blocks: Blocks, values: TracepointValues, now: int) -> None:
    """Write the record of the wait that ends: that of the thread that runs next."""
    left, old = b.allocate(8), b.label("old")
    lost = b.label("lost")
    b.comment("who comes")
    with b.slot(8) as key:
        values.field(b, "next_pid", R1)
        b.store(4, R10, key, R1)
        blocks.lookup(THREADS, key)
    b.jump_if(R0, "==", 0, blocks.end)
    b.move(R9, R0)
    b.load(R1, 8, R9, _OUT)
    b.jump_if(R1, "==", 0, blocks.end)
    b.store(8, R10, left, R1)
    b.store(8, R9, _OUT, 0)
    blocks.find_counts()
    blocks.read_time(now)
    b.load(R1, 8, R9, _STATE)
    b.jump_if(R1, "!=", _NEW, old)
    blocks.count("hits")  # that it began was not a switch
    b.place(old)
    blocks.reserve(lost)
    b.store(8, R8, blocks.context.record_bytes - 8, 0)  # what no field takes
    blocks.write_identity()
    b.comment("not the current thread's")
    b.load(R1, 8, R9, _IDENTITY)
    b.store(8, R8, PLACES["tid"], R1)
    blocks.write_word(R9, _WORD)
    blocks.write_time(R10, left)
    _write_wait(b, blocks, now, left)
    b.store(4, R9, _WAKER, 0)
    blocks.submit()
    b.jump(blocks.end)
    blocks.count_at(lost, "lost_ring")


def _write_wait(b: Builder, blocks: Blocks, now: int, left: int) -> None:
    """Write how long it waited, for what, and from when on for a CPU: R8 from R9."""
    place = _places(blocks)
    runnable, woken, told = b.label("runnable"), b.label("woken"), b.label("told")
    b.load(R2, 8, R10, now)
    b.load(R3, 8, R10, left)
    b.load(R4, 8, R9, _STATE)
    b.move(R1, R2)
    b.alu(R1, "-", R3)
    b.store(8, R8, DURATION_PLACE, R1)
    b.store(2, R8, place("state"), R4)
    b.store(8, R8, place("state_code"), R4)
    b.store(8, R8, place("wakeup_ns"), 0)
    b.store(8, R8, place("runqueue_ns"), R1)
    b.store(4, R8, place("waker_tid"), 0)
    b.jump_if(R4, "==", _PREEMPTED, told)
    b.jump_if(R4, "==", _IN_KERNEL, told)
    b.load(R1, 8, R9, _WOKEN)
    b.jump_if(R1, "!=", 0, woken)
    b.store(8, R8, place("runqueue_ns"), 0)  # not known
    b.jump(runnable)
    b.place(woken)
    b.store(8, R8, place("wakeup_ns"), R1)
    b.alu(R2, "-", R1)
    b.store(8, R8, place("runqueue_ns"), R2)
    b.place(runnable)
    b.load(R1, 4, R9, _WAKER)
    b.store(4, R8, place("waker_tid"), R1)
    b.place(told)


def _places(blocks: Blocks) -> Callable[[str], int]:
    layout = blocks.context.layout
    assert layout is not None
    return layout.offset


def _wakeup(context: ProgramContext) -> Builder:
    """A thread is in a run queue again, or for the first time."""
    b = Builder()
    blocks = Blocks(b, context)
    blocks.start()
    _find_thread(b, blocks)
    b.load(R1, 8, R9, _OUT)
    b.jump_if(R1, "==", 0, blocks.end)  # it has not left yet: it will not sleep
    b.load(R1, 8, R9, _WOKEN)
    b.jump_if(R1, "!=", 0, blocks.end)
    blocks.read_time(_WOKEN, R9)
    blocks.finish()
    return b


def _waking(context: ProgramContext) -> Builder:
    """The current thread is about to wake another."""
    b = Builder()
    blocks = Blocks(b, context)
    blocks.start()
    _find_thread(b, blocks)
    blocks.identify()
    b.load(R1, 4, R10, blocks.identity)
    b.store(4, R9, _WAKER, R1)
    blocks.finish()
    return b


def _new_task(context: ProgramContext) -> Builder:
    """The current thread has created another thread or process."""
    b = Builder()
    blocks = Blocks(b, context)
    values = TracepointValues(blocks)
    key, lost = b.allocate(8), b.label("lost")
    blocks.start()
    values.field(b, "clone_flags", R1)
    b.alu(R1, "&", _CLONE_THREAD)
    b.jump_if(R1, "==", 0, blocks.end)  # a process of its own
    blocks.find_counts()
    blocks.identify()
    blocks.only_targets(blocks.end)
    values.field(b, "pid", R1)
    b.store(4, R10, key, R1)
    _add(b, blocks, key)
    blocks.lookup(THREADS, key)
    b.jump_if(R0, "==", 0, lost)
    b.move(R9, R0)
    # How our PID namespace numbers the new thread cannot be asked for here.
    told = R1 if context.namespace is None else 0
    b.load(R1, 4, R10, key)
    b.store(4, R9, _IDENTITY, told)
    b.load(R1, 4, R10, blocks.identity + 4)
    b.store(4, R9, _IDENTITY + 4, R1)
    b.load(R1, 4, R10, blocks.identity)
    b.store(4, R9, _WAKER, R1)
    b.store(8, R9, _STATE, _NEW)
    blocks.read_time(_OUT, R9)
    b.jump(blocks.end)
    b.place(lost)
    blocks.count("hits")
    blocks.count("lost_stash")
    blocks.finish()
    return b


def _find_thread(b: Builder, blocks: Blocks) -> None:
    """Set R9 to the entry of the thread that the event is about, or end the program."""
    with b.slot(8) as key:
        TracepointValues(blocks).field(b, "pid", R1)
        b.store(4, R10, key, R1)
        blocks.lookup(THREADS, key)
    b.jump_if(R0, "==", 0, blocks.end)
    b.move(R9, R0)


def _add(b: Builder, blocks: Blocks, key: int) -> None:
    """Make an entry of zeros for the tid at `key` on the stack, in place of an old one."""
    with b.slot(_ENTRY_BYTES) as entry:
        for at in range(0, _ENTRY_BYTES, 8):
            b.store(8, R10, entry + at, 0)
        b.load_map(R1, THREADS)
        blocks.address(R2, R10, key)
        blocks.address(R3, R10, entry)
        b.move(R4, helpers.ANY)
        b.call(helpers.MAP_UPDATE)


def _delete(b: Builder, blocks: Blocks, key: int) -> None:
    """Remove the entry of the tid at `key` on the stack."""
    b.load_map(R1, THREADS)
    blocks.address(R2, R10, key)
    b.call(helpers.MAP_DELETE)
