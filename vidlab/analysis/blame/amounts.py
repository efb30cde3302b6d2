"""How much of each frame's life each cause took, at each stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ...runs.run import Run
from . import stalls
from .causes import PRIORITY
from .intervals import Ints
from .lives import Lives, of_frames
from .parts import parts
from .pieces import TOLD

#: So many frames are taken apart at once: all that is known of them fits into memory.
AT_A_TIME = 50_000

_CAUSE_OF = np.array([PRIORITY.index(told.cause) for told in TOLD], np.int64)


@dataclass(frozen=True)
class Amounts:
    """How much of each frame's life each cause took, at each stage.

    Attributes
    ----------
    life, cause, stage : ndarray of int64
        The frame's row among those asked for, and indices into `PRIORITY` and `stages`.
        In this order.
    total_ns : ndarray of int64
        More than nothing; those of a frame add up to its life.
    stages : polars.Series
        The names of stages and queues, String.
    """

    life: Ints
    cause: Ints
    stage: Ints
    total_ns: Ints
    stages: pl.Series

    def of(self, first: int, last: int) -> Amounts:
        """Return the amounts of some of the frames, by their rows; which then begin with 0."""
        some = slice(*np.searchsorted(self.life, [first, last]))
        return Amounts(
            self.life[some] - first,
            self.cause[some],
            self.stage[some],
            self.total_ns[some],
            self.stages,
        )


def amounts(run: Run, frames: pl.DataFrame) -> Amounts:
    """Return how much of each frame's life each cause took at each stage.

    Parameters
    ----------
    run : Run
    frames : polars.DataFrame
        `frame`, each once, `t_demux_ns` and `t_done_ns`, and `pid` if known.
    """
    held = stalls.of_frames(run, frames)
    found = [_some(held, of_frames(run, some)) for some in frames.iter_slices(AT_A_TIME)] or [
        _some(held, of_frames(run, frames))
    ]
    if len(found) == 1:
        return found[0]
    stages = pl.concat([some.stages for some in found]).unique().sort()
    number = dict(zip(stages, range(len(stages)), strict=True))
    each = [
        np.array([number[stage] for stage in some.stages], np.int64)[some.stage] for some in found
    ]
    return Amounts(
        np.concatenate([some.life + AT_A_TIME * nth for nth, some in enumerate(found)]),
        np.concatenate([some.cause for some in found]),
        np.concatenate(each),
        np.concatenate([some.total_ns for some in found]),
        stages,
    )


def _some(held: stalls.Stalls, lives: Lives) -> Amounts:
    """The amounts of some lives, taken apart at once."""
    found = parts(held, lives)
    of_span, stages = _numbered(found.spans["stage"])
    table = found.table
    # One number for frame, cause and stage: far faster to group by than three columns.
    key = table["life"].to_numpy() * len(PRIORITY) + _CAUSE_OF[table["told"].to_numpy()]
    key = key * len(stages) + of_span[table["row"].to_numpy()]
    # Pieces come in a few runs that are in order: a sort that makes use of it is soon done.
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
    lasted = table["duration_ns"].to_numpy()[order]
    total_ns = np.add.reduceat(lasted, first) if first.size else lasted
    rest, stage = np.divmod(key[first], max(len(stages), 1))
    life, cause = np.divmod(rest, len(PRIORITY))
    return Amounts(life, cause, stage, total_ns, stages)


def _numbered(values: pl.Series) -> tuple[Ints, pl.Series]:
    """Return for each value its number, and the values by number."""
    codes = values.to_physical()
    known = pl.DataFrame({"code": codes, "value": values}).unique("code").sort("code")
    number = np.searchsorted(known["code"].to_numpy(), codes.to_numpy())
    return number.astype(np.int64), known["value"].cast(pl.String)
