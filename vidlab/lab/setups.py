"""What an experiment is to be: parameters as a person writes them, checked and spelt out.

Lists are text with commas between, so that notebooks and command lines can give them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..capture.ebpf.engine import KernelEvents
from ..capture.engine import Engine
from ..capture.frames.engine import Frames
from ..capture.gpu.devices.sampler import GpuSampler
from ..capture.gpu.engine import GpuMemory
from ..capture.profiles.engine import Profiles
from ..capture.runtime.engine import Runtime
from ..errors import InputError, missing_extra
from ..labelsets import normalise_codec
from . import backends, planting
from . import sources as streams_of
from .clips import CLIPS
from .faults import CORRUPT_PACKETS, LEAK, Fault
from .pipeline import Source

#: A frame of a clip that is made is late beyond so many frame intervals: decoders that reorder,
#: and AV1's, take up to four.
DEADLINE_INTERVALS = 5

#: Samples a second. The agent looks at all threads of the pipeline, six a stream, for each.
SAMPLE_RATE = 10

#: Streams of clips that are made, unless another number is asked for.
STREAMS = 4

#: What to record with, by name.
ENGINES: dict[str, Callable[[], list[Engine]]] = {
    "frames": lambda: [Frames()],
    "gpu": lambda: [GpuMemory(), GpuSampler()],
    "kernel": lambda: [KernelEvents(["sched"])],
    "runtime": lambda: [Runtime()],
    "profiles": lambda: [Profiles(sample_rate=SAMPLE_RATE)],
}

#: Instead of a list, all that there are.
ALL = "all"

#: The codecs of clips that can be made.
CODECS = {clip.name: clip for clip in CLIPS}

#: One path, or several.
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Setup:
    """What is run, recorded and planted.

    Attributes
    ----------
    sources : list of Source
        A stream each.
    faults : list of Fault
    engines : list of Engine
    device : str or None
        The name of the device that the pictures are copied to; None: they are not.
    why_not : str
        Why there is no device.
    gpu : int or None
        The label `gpu` of all frames, and the device's index.
    parameters : dict
        For the run's manifest, as JSON values.
    """

    sources: list[Source]
    faults: list[Fault]
    engines: list[Engine]
    device: str | None = None
    why_not: str = ""
    gpu: int | None = None
    parameters: dict[str, Any] | None = None


def set_up(
    input: Paths = "",
    streams: int | None = None,
    codec: str | Sequence[str] = "",
    gpu: int | None = None,
    backend: str = backends.AUTO,
    engines: str | Sequence[str] = "frames,gpu,runtime",
    faults: str | Sequence[str] = "",
    deadline_ms: float | None = None,
    seconds: float | None = None,
) -> Setup:
    """Return the setup of these parameters, which are those of `experiment.run_experiment`.

    Clips that are not there yet are made.

    Raises
    ------
    InputError
        If a parameter makes no sense, by itself or with the others.
    MissingDependencyError
        If a package is missing that is needed for what is asked for.
    """
    _check("streams", streams, whole=True)
    _check("seconds", seconds)
    _check("deadline_ms", deadline_ms)
    recorded, kinds = _names("engines", engines, ENGINES), _names("faults", faults, planting.KINDS)
    codecs = _names("codec", codec, CODECS, normalise_codec)
    inputs = _paths(input)
    _check_together(inputs, recorded, kinds, codecs)
    device, why_not = backends.ready(backend, gpu)
    if device is None and LEAK in kinds:
        raise InputError(f"what leaks is GPU memory, and there is none: {why_not}")
    sources = (
        streams_of.own(inputs, streams, seconds)
        if inputs
        else _made(streams or STREAMS, seconds, codecs, kinds)
    )
    planted = planting.planted(kinds, sources)
    parameters = {
        "deadline_ms": deadline_ms or (None if inputs else usual_deadline_ms(sources)),
        "device": device,
        "planted": [fault.facts() for fault in planted],
        "experiment": {
            "input": [str(path) for path in inputs],
            "streams": len(sources),
            "codec": codecs,
            "gpu": gpu,
            "backend": backend,
            "engines": recorded,
            "faults": kinds,
            "seconds": seconds,
        },
    }
    return Setup(
        sources,
        planted,
        [engine for name in recorded if device or name != "gpu" for engine in ENGINES[name]()],
        device,
        why_not,
        gpu,
        {name: value for name, value in parameters.items() if value is not None},
    )


def usual_deadline_ms(sources: Sequence[Source]) -> float:
    """Return the deadline for streams of clips that were made, in milliseconds."""
    return round(float(DEADLINE_INTERVALS * 1000 / min(source.rate for source in sources)), 1)


def _made(
    streams: int, seconds: float | None, codecs: Collection[str], kinds: Collection[str]
) -> list[Source]:
    names = [f"cam-{number + 1}" for number in range(streams)]
    corrupt = [planting.struck(CORRUPT_PACKETS, names)] if CORRUPT_PACKETS in kinds else []
    clips = [CODECS[name] for name in codecs] or CLIPS
    return streams_of.made(streams, seconds, clips, corrupt)


def _check_together(
    inputs: Sequence[Path],
    engines: Collection[str],
    kinds: Collection[str],
    codecs: Collection[str],
) -> None:
    """InputError if one of these makes no sense with another."""
    if "frames" not in engines:
        raise InputError("without the engine frames nothing tells which were late: name it too")
    if "profiles" in engines and importlib.util.find_spec("pyroscope") is None:
        raise missing_extra("pyroscope-io", "profile")
    if inputs and codecs:
        raise InputError(
            "codec says which clips are made, and your own input has its own: leave out one of them"
        )
    if inputs and CORRUPT_PACKETS in kinds:
        raise InputError(
            "corrupt_packets is planted in clips that are made: leave it, or your own input, out"
        )


def _names(
    what: str,
    given: str | Sequence[str],
    known: Collection[str],
    plain: Callable[[str], str] = str.strip,
) -> list[str]:
    """Return the names in a text with commas between, or in a list; each once.

    InputError if one is not of the known ones.
    """
    if given == ALL:
        return list(known)
    texts = given.split(",") if isinstance(given, str) else given
    names = list(dict.fromkeys(plain(text) for text in texts if text.strip()))
    for name in names:
        if name not in known:
            raise InputError(
                f"{what}: there is no {name!r}; there are {', '.join(known)}, and {ALL}"
            )
    return names


def _paths(given: Paths) -> list[Path]:
    """Return the paths: of a text that is a file's name, that one; else those between commas."""
    if not isinstance(given, str):
        return [Path(given)] if isinstance(given, os.PathLike) else [Path(one) for one in given]
    texts = [given] if Path(given).is_file() else given.split(",")
    return [Path(text.strip()) for text in texts if text.strip()]


def _check(name: str, value: float | None, whole: bool = False) -> None:
    kind = int if whole else int | float
    if value is not None and (
        not isinstance(value, kind) or isinstance(value, bool) or not 0 < value < float("inf")
    ):
        a_number = "a whole number" if whole else "a number"
        raise InputError(f"{name} is {a_number} above 0, not {value!r}; None is for the usual")
