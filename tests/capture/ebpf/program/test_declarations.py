"""What a declaration may say, the kernel takes: no verifier's refusal is left to be met."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from vidlab.capture.ebpf import Counter, Histogram, Probe, deref, duration, retval, string
from vidlab.capture.ebpf.declaring.operations import Expression, depth
from vidlab.capture.ebpf.declaring.values import MOST_DEPTH, Argument, Duration, Return
from vidlab.capture.ebpf.kernel import links
from vidlab.capture.ebpf.kernel.bpf import AttachType
from vidlab.capture.ebpf.program import calls, moments
from vidlab.capture.ebpf.program.context import ProgramContext
from vidlab.errors import InputError

from .lab import Kernel
from .test_expressions import conditions, numbers

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

#: What is left is looked for once, after all examples; and each takes as long as it takes.
FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

arguments = st.builds(Argument, st.integers(0, 5), st.just("u64"))
texts = st.builds(string, arguments | st.builds(deref, arguments), st.sampled_from([8, 64, 256]))
shallow = st.one_of(numbers, conditions).filter(lambda one: depth(one) <= MOST_DEPTH)


def known_at_entry(one: Expression) -> bool:
    return not any(isinstance(part, Return | Duration) for part in one.walk())


at_entry = st.one_of(shallow.filter(known_at_entry), texts)
at_exit = st.one_of(shallow, texts, st.just(duration()), st.just(retval()))
names = [f"f{number}" for number in range(12)]


@st.composite
def probes(draw: st.DrawFn) -> Probe:
    """Any probe that the checks of declarations let pass."""
    with_exit = draw(st.booleans())
    entry = draw(st.dictionaries(st.sampled_from(names[:6]), at_entry, max_size=4))
    exit = draw(st.dictionaries(st.sampled_from(names[6:]), at_exit, max_size=4))
    allowed = conditions.filter(lambda one: depth(one) <= MOST_DEPTH)
    when = draw(st.none() | (allowed if with_exit else allowed.filter(known_at_entry)))
    return Probe(
        "library",
        "function",
        entry,
        exit if with_exit else None,
        when,
        tid=draw(st.none() | st.integers(1, 1 << 22)),
        sample=draw(st.sampled_from([1, 1 / 2, 1 / 1000])),
    )


def load_all(kernel: Kernel, context: ProgramContext, source: object, returns: bool) -> None:
    """Load every program that can be made of a declaration."""
    if not returns:
        kernel.load(moments.entry(context, source))
        return
    for code in calls.call_pair(context, source):
        kernel.load(code)
    if links.has_sessions():
        kernel.load(calls.call_session(context, source), AttachType.UPROBE_SESSION)


@given(probes(), st.booleans(), st.booleans(), st.sampled_from([0, 500]))
@settings(max_examples=60, deadline=None, suppress_health_check=FIXTURE)
def test_what_can_be_declared_can_be_loaded(
    probe: Probe, targets: bool, by_cookie: bool, stash_room: int
) -> None:
    try:
        kernel = Kernel(None, {7: probe}, targets=targets, stash_room=stash_room, stash_entries=4)
    except InputError:  # a record that is too large
        assume(False)
    with kernel:
        context = kernel.context(7, **({"index": None} if by_cookie else {}))
        load_all(kernel, context, probe, probe.returns)


@given(numbers.filter(lambda one: depth(one) <= MOST_DEPTH), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None, suppress_health_check=FIXTURE)
def test_what_can_be_counted_can_be_loaded(
    value: Expression, with_exit: bool, histogram: bool
) -> None:
    of = Probe("library", "function", {}, {} if with_exit else None)
    try:
        source = Histogram("metric", of, value) if histogram else Counter("metric_total", of)
    except InputError:  # a value that is known at return only
        assume(False)
    with Kernel(None, {7: source}, stash_entries=4) as kernel:
        load_all(kernel, kernel.context(7), source, with_exit)
