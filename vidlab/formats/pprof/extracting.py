"""The samples of a pprof file as columns: what a recorder needs of it, and fast.

`reading` returns all that a file holds, an object for each message. This leaves out what
only a symboliser needs (addresses, mappings) and puts equal stacks and equal labels together.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..protobuf import Ints, ProtobufError
from .columns import FUNCTION, LABEL, LINE, LOCATION, MAPPING, VALUE_TYPE, File, Messages
from .model import LIMITS, Limits, PprofError, ValueType

#: Function, file and line.
Call = tuple[str, str, int]

#: Innermost call first.
Stack = tuple[Call, ...]

#: In the order of the file, where a key may come more than once.
Labels = tuple[tuple[str, str | int], ...]

#: The sample type that counts samples, by its name in Go's profiles.
_COUNT = ValueType("samples", "count")


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of a profile.

    Attributes
    ----------
    types : tuple of ValueType
        What the values are, in the order of their columns.
    values : ndarray of int64, shape (samples, types)
    stack : ndarray of int64, shape (samples,)
        The index in `stacks` of each sample's stack.
    calls : list of Call
        The distinct calls, inlined ones included. A location without a name is its address,
        in the mapped file.
    stack_calls : ndarray of int32, stack_edges : ndarray of int64
        The distinct stacks: the calls of stack `i` are those of the indices
        `stack_calls[stack_edges[i]:stack_edges[i + 1]]`. A sample without locations has none.
    label_set : ndarray of int64, shape (samples,)
        The index in `label_sets` of each sample's labels.
    label_sets : list of Labels
        The distinct labels. A sample without labels has ().
    time_nanos, duration_nanos : int
        When the profile began, since 1970, and what time it is of; 0 if not told.
    period_type : ValueType or None
    period : int
        What is between two samples, in the unit of `period_type`; 0 if not told.
    comments : tuple of str
    """

    types: tuple[ValueType, ...]
    values: Ints
    stack: Ints
    calls: list[Call]
    stack_calls: npt.NDArray[np.int32]
    stack_edges: Ints
    label_set: Ints
    label_sets: list[Labels]
    time_nanos: int
    duration_nanos: int
    period_type: ValueType | None
    period: int
    comments: tuple[str, ...]

    @property
    def stacks(self) -> list[Stack]:
        """Return the distinct stacks, made anew each time."""
        calls = np.fromiter(self.calls, np.object_, len(self.calls))
        flat = calls[self.stack_calls].tolist()
        return [tuple(flat[begin:end]) for begin, end in pairwise(self.stack_edges.tolist())]

    def times_seen(self) -> Ints:
        """Return how often each sample was seen: what the file counts, else its value by the
        period if it is of that type; 0 if neither is told. Shape (samples,)."""
        if _COUNT in self.types:
            return self.values[:, self.types.index(_COUNT)]
        if self.period_type not in self.types or self.period <= 0:
            return np.zeros(len(self.values), np.int64)
        taken = self.values[:, self.types.index(self.period_type)] / self.period
        return np.maximum(np.rint(taken), 1).astype(np.int64)


def samples(data: bytes, limits: Limits = LIMITS) -> Samples:
    """Return the samples of a pprof profile, gzip or plain.

    Bytes of a text that are not UTF-8 become U+FFFD.

    Raises
    ------
    PprofError
        If the bytes are no pprof profile, or it is beyond the limits.
    """
    try:
        file = File(data, limits)
        texts = file.decoded("replace")
        rows, values = file.samples()
        stack, calls, stack_calls, stack_edges = _stacks(file, rows, texts)
        label_set, label_sets = _labels(rows, texts)
        types = _value_types(file, "sample_types", texts)
        return Samples(
            types,
            values.values.reshape(rows.count, len(types)),
            stack,
            calls,
            stack_calls,
            stack_edges,
            label_set,
            label_sets,
            int(file.numbers("time_nanos")[0]),
            int(file.numbers("duration_nanos")[0]),
            next(reversed(_value_types(file, "period_type", texts)), None),
            int(file.numbers("period")[0]),
            tuple(texts[i] for i in file.checked(file.many("comments").values, "comments")),
        )
    except ProtobufError as error:
        raise PprofError(f"not a pprof profile: {error}") from error


def _value_types(file: File, name: str, texts: list[str]) -> tuple[ValueType, ...]:
    found = file.parts(name, VALUE_TYPE)
    columns = (found.texts("type").tolist(), found.texts("unit").tolist())
    return tuple(ValueType(texts[type], texts[unit]) for type, unit in zip(*columns, strict=True))


def _stacks(
    file: File, rows: Messages, texts: list[str]
) -> tuple[Ints, list[Call], npt.NDArray[np.int32], Ints]:
    """Return each sample's index in the distinct stacks, and these: see `Samples`."""
    locations = file.parts("locations", LOCATION)
    calls, edges = _calls(file, locations, texts)
    wanted = rows.many("locations")
    where = locations.find(wanted.values, "location")
    if (where < 0).any():
        raise PprofError("not a pprof profile: a sample refers to the location 0")
    counts = np.diff(edges)[where]
    if (counts == 1).all():
        places, ends = edges[where], wanted.edges
    else:
        places, bounds = _ranges(edges[where], counts)
        ends = bounds[wanted.edges]
    # Two locations may be the same call: at two addresses of a line.
    numbers: dict[Call, int] = {}
    number = np.array([numbers.setdefault(call, len(numbers)) for call in calls.tolist()], np.int32)
    flat = number[places]
    index, first = _distinct(flat, ends)
    if len(first) < len(index):
        counts = np.diff(ends)[first]
        places, ends = _ranges(ends[:-1][first], counts)
        flat = flat[places]
    return index, list(numbers), flat, ends


def _ranges(begins: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Return the numbers of the ranges that begin there and are so long, one after the other,
    and where those of each begin; then how many there are."""
    bounds = np.concatenate(([0], np.cumsum(counts)))
    return np.repeat(begins - bounds[:-1], counts) + np.arange(bounds[-1]), bounds


def _calls(
    file: File, locations: Messages, texts: list[str]
) -> tuple[npt.NDArray[np.object_], Ints]:
    """Return the calls of all locations, and where those of each begin."""
    functions = file.parts("functions", FUNCTION)
    lines = locations.parts("lines", LINE)
    names = [*map(texts.__getitem__, functions.texts("name").tolist()), ""]
    files = [*map(texts.__getitem__, functions.texts("filename").tolist()), ""]
    index = lines.indices("function", functions).tolist()
    found = zip(index, lines.numbers("line").tolist(), strict=True)
    calls = ((names[function], files[function], line) for function, line in found)
    made = np.fromiter(calls, np.object_, lines.count)
    counts = np.diff(lines.edges)
    bare = np.flatnonzero(counts == 0)
    if not len(bare):
        return made, lines.edges
    edges = np.concatenate(([0], np.cumsum(np.maximum(counts, 1))))
    both = np.empty(edges[-1], np.object_)
    both[np.arange(lines.count) + (edges - lines.edges)[lines.owner]] = made
    both[edges[bare]] = _addresses(file, locations, bare, texts)
    return both, edges


def _addresses(
    file: File, locations: Messages, bare: Ints, texts: list[str]
) -> npt.NDArray[np.object_]:
    """Return locations that nobody has named as calls: the address, in the mapped file."""
    mappings = file.parts("mappings", MAPPING)
    files = [*map(texts.__getitem__, mappings.texts("filename").tolist()), ""]
    index = locations.indices("mapping", mappings)[bare].tolist()
    addresses = locations.numbers("address").view(np.uint64)[bare].tolist()
    calls = ((hex(at), files[place], 0) for place, at in zip(index, addresses, strict=True))
    return np.fromiter(calls, np.object_, len(bare))


def _labels(rows: Messages, texts: list[str]) -> tuple[Ints, list[Labels]]:
    """Return each sample's index in the distinct label sets, and these."""
    found = rows.parts("labels", LABEL)
    names = (found.texts("key"), found.texts("text"), found.numbers("number"))
    flat = np.stack(names, axis=1)
    edges = found.edges
    index, first = _distinct(flat.reshape(-1), 3 * edges)
    sets = [
        tuple(
            (texts[key], texts[text] if text else number)
            for key, text, number in flat[edges[place] : edges[place + 1]].tolist()
        )
        for place in first
    ]
    return index, sets


def _distinct(values: npt.NDArray[np.signedinteger], edges: Ints) -> tuple[Ints, list[int]]:
    """Return which of the distinct sequences each `values[edges[i]:edges[i + 1]]` is, and
    of each of these the first `i`."""
    data = values.tobytes()
    known: dict[bytes, int] = {}
    index = np.array(
        [
            known.setdefault(data[start:stop], len(known))
            for start, stop in pairwise((values.itemsize * edges).tolist())
        ],
        np.int64,
    )
    return index, np.unique(index, return_index=True)[1].tolist()
