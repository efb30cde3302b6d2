"""What a pprof profile holds: the messages of profile.proto as dataclasses.

The format is https://github.com/google/pprof/blob/main/proto/profile.proto. Where a message
refers to another by number, an object here refers to the object; where it refers to the
string table, there is the text. `id` is the number that the file gives it.

Every class keeps fields that this version does not know, as the bytes that they came in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import InputError


class PprofError(InputError):
    """Bytes that are no pprof profile, or a profile that cannot be written as one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a profile may take at most: whoever sends one decides nothing else about memory.

    Attributes
    ----------
    compressed_bytes : int
        As received.
    plain_bytes : int
        Decompressed.
    fields : int
        Fields and numbers of all its messages together. Each takes up to some 200 bytes to read.
    """

    compressed_bytes: int = 64 << 20
    plain_bytes: int = 256 << 20
    fields: int = 10_000_000


#: For files that the user names. For what comes from elsewhere, set narrower ones.
LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class ValueType:
    """What a sample's value is: such as `cpu` in `nanoseconds`."""

    type: str = ""
    unit: str = ""
    unknown: bytes = b""


@dataclass(frozen=True, slots=True)
class Label:
    """A label of a sample: a text, or a number with its unit, as the file has it."""

    key: str
    text: str = ""
    number: int = 0
    unit: str = ""
    unknown: bytes = b""

    @property
    def value(self) -> str | int:
        """Return the text, or the number if there is none."""
        return self.text or self.number


@dataclass(frozen=True, slots=True)
class Mapping:
    """A part of the process's address space that a binary was mapped to."""

    id: int
    memory_start: int = 0
    memory_limit: int = 0
    file_offset: int = 0
    filename: str = ""
    build_id: str = ""
    has_functions: bool = False
    has_filenames: bool = False
    has_line_numbers: bool = False
    has_inline_frames: bool = False
    unknown: bytes = b""


@dataclass(frozen=True, slots=True)
class Function:
    """A function: `system_name` is the mangled one."""

    id: int
    name: str = ""
    system_name: str = ""
    filename: str = ""
    start_line: int = 0
    unknown: bytes = b""


@dataclass(frozen=True, slots=True)
class Line:
    """A place in the source."""

    function: Function | None = None
    line: int = 0
    column: int = 0
    unknown: bytes = b""


@dataclass(frozen=True, slots=True)
class Location:
    """A place in the program: several lines, innermost first, if calls were inlined there."""

    id: int
    mapping: Mapping | None = None
    address: int = 0
    lines: tuple[Line, ...] = ()
    is_folded: bool = False
    unknown: bytes = b""


@dataclass(frozen=True, slots=True)
class Sample:
    """A stack, innermost location first, and a value of each of the profile's sample types."""

    locations: tuple[Location, ...] = ()
    values: tuple[int, ...] = ()
    labels: tuple[Label, ...] = ()
    unknown: bytes = b""


@dataclass(frozen=True, slots=True)
class Profile:
    """A whole profile.

    `mappings`, `locations` and `functions` are all that there are, referred to or not; the
    first mapping is the main binary. `drop_frames` and `keep_frames` are regular expressions
    for functions; `time_nanos` is since 1970. `period` is the time (or the bytes, …, by
    `period_type`) between samples.

    `strings` is the string table of a file with unknown fields, since these may refer to it.
    """

    sample_types: tuple[ValueType, ...] = ()
    samples: tuple[Sample, ...] = ()
    mappings: tuple[Mapping, ...] = ()
    locations: tuple[Location, ...] = ()
    functions: tuple[Function, ...] = ()
    drop_frames: str = ""
    keep_frames: str = ""
    time_nanos: int = 0
    duration_nanos: int = 0
    period_type: ValueType | None = None
    period: int = 0
    comments: tuple[str, ...] = ()
    default_sample_type: str = ""
    doc_url: str = ""
    unknown: bytes = b""
    strings: tuple[str, ...] = field(default=(), repr=False)
