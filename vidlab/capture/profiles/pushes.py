"""What pyroscope's agent sends: a `PushRequest`, with pprof profiles in it.

The message is of Pyroscope's `push.v1` (https://github.com/grafana/pyroscope, api/push/v1)::

    PushRequest       { repeated RawProfileSeries series = 1 }
    RawProfileSeries  { repeated LabelPair labels = 1; repeated RawSample samples = 2 }
    LabelPair         { string name = 1; string value = 2 }
    RawSample         { bytes raw_profile = 1; string ID = 2 }

The label `__name__` of a series says which profile it is: `process_cpu` or `memory`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from ...errors import InputError
from ...formats import pprof, protobuf

#: What a push may take: a large one of the agent, of 2,000 deep stacks, has 0.2 MB.
MOST_BYTES = 8 << 20
_MOST_PLAIN_BYTES = 64 << 20
_MOST_FIELDS = 4_000_000
_MOST_SERIES = 64

LIMITS = pprof.Limits(MOST_BYTES, _MOST_PLAIN_BYTES, _MOST_FIELDS)


class PushError(InputError):
    """Bytes that are no push, or too large a one."""


@dataclass(frozen=True, slots=True)
class PushedProfile:
    """A profile of a push: what it is called, and what it holds."""

    name: str
    samples: pprof.Samples


def read_push(body: bytes, compressed: bool) -> list[PushedProfile]:
    """Return the profiles that are in the body of a push.

    Parameters
    ----------
    body : bytes
    compressed : bool
        Whether it is gzip data.

    Raises
    ------
    PushError
        If it is no whole push, or too large.
    """
    plain = _decompressed(body) if compressed else body
    try:
        found = []
        for field in protobuf.fields(plain):
            if field.number == 1 and field.type == protobuf.LENGTH:
                found += _series(plain[field.start : field.stop])
                if len(found) > _MOST_SERIES:
                    raise PushError(f"a push may have {_MOST_SERIES} profiles, this has more")
    except PushError:
        raise
    except InputError as error:
        raise PushError(f"not a push of profiles: {error}") from error
    return found


def _series(data: bytes) -> list[PushedProfile]:
    name, profiles = "", []
    for field in protobuf.fields(data):
        if field.type != protobuf.LENGTH:
            continue
        part = data[field.start : field.stop]
        if field.number == 1:
            pair = _texts(part)
            if pair.get(1) == b"__name__":
                name = pair.get(2, b"").decode("utf-8", "replace")
        elif field.number == 2 and (profile := _texts(part).get(1)):
            profiles.append(profile)
            if len(profiles) > _MOST_SERIES:
                raise PushError(f"a push may have {_MOST_SERIES} profiles, this has more")
    return [PushedProfile(name, pprof.samples(profile, LIMITS)) for profile in profiles]


def _texts(data: bytes) -> dict[int, bytes]:
    return {
        field.number: data[field.start : field.stop]
        for field in protobuf.fields(data)
        if field.type == protobuf.LENGTH
    }


def _decompressed(body: bytes) -> bytes:
    unpack = zlib.decompressobj(wbits=31)
    try:
        plain = unpack.decompress(body, _MOST_PLAIN_BYTES)
    except zlib.error as error:
        raise PushError(f"the push is damaged gzip data: {error}") from error
    if unpack.unconsumed_tail:
        raise PushError(f"the push has more than {_MOST_PLAIN_BYTES:,} bytes when decompressed")
    if not unpack.eof:
        raise PushError("the push is cut off: its gzip data has no end")
    return plain
