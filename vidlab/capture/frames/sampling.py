"""Which frames are recorded: all of a transcode, one in a hundred of a playback.

A frame is recorded whole or not at all. The decision follows from its stream's name
and its number alone, so it is the same in every process that meets the frame. What
is recorded bears its rate in its label set, so that counts and percentiles stay right.
With `adaptive` sampling that is decided only when it is known what has become of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import InputError
from ...hashing import fnv1a


class Sampling:
    """The share of frames that is recorded, per operation.

    Parameters
    ----------
    rates : Mapping[str, float]
        From an operation, the value of the label `operation`, to a share in (0, 1].
        Frames of any other operation are all recorded.

    Raises
    ------
    InputError
        If a share is not above 0 and at most 1.

    Examples
    --------
    >>> sampling = Sampling({"playback": 0.01})
    >>> sampling.rate({"operation": "playback"}), sampling.rate({"operation": "transcode"})
    (0.01, 1.0)
    """

    #: Whether all frames are recorded for now, and those to be kept are chosen afterwards.
    chooses_later = False

    def __init__(self, rates: Mapping[str, float]) -> None:
        for operation, rate in rates.items():
            if not 0 < rate <= 1:
                raise InputError(
                    f"the sampling rate of {operation!r} is a share above 0 and at most 1, "
                    f"such as 0.01, not {rate!r}"
                )
        self.rates = {str(operation): float(rate) for operation, rate in rates.items()}

    def parameters(self) -> dict[str, Any]:
        """Return what makes another one like it, as JSON values."""
        return dict(self.rates)

    def tell(self, forget: Callable[[], None]) -> None:
        """Call this method of a source, for as long as there is one, when a rate changes."""

    def rate(self, labels: Mapping[str, object]) -> float:
        """Return the share of frames with these labels that is recorded."""
        return self.rates.get(str(labels.get("operation")), 1.0)


def is_sampled(stream_hash: int, seq: int, rate: float) -> bool:
    """Return whether frame number `seq` of the stream is recorded.

    Parameters
    ----------
    stream_hash : int
        `fnv1a` of the stream's name.
    seq : int
        The frame's number in the stream.
    rate : float
        The share to be recorded.
    """
    return rate >= 1.0 or fnv1a(seq.to_bytes(4, "little"), stream_hash) < rate * (1 << 64)
