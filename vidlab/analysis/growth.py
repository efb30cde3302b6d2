"""Does what is in use grow: by how much, by more than chance, and does it go on?

The series here are in-use blocks or bytes of many groups at once, sampled at equal
steps of a run; a row is a group.

**By more than chance** (`chance`). The null hypothesis is a walk: what is in use wanders
up and down with no preference, as the content of a full cache does. Such a walk that has
never come down by more than d steps has climbed g steps with the probability
((d + 1) / (d + 2)) ** g: at each new height it is as likely to fall by d + 1 before it
climbs one more as the gambler's ruin has it. (For d = 0 that is the sign test.) What
hovers around a level, as buffers in flight do, climbs by far less than a walk.

**Does it go on** (`slows_down`). Blocks that come and stay are a point process in time: a
leak has a constant rate; a cache that fills up has a falling one, since what it holds
already need not be put in. Constant against exponentially falling and power-law rates, by
likelihood ratio: Cox and Lewis, *The Statistical Analysis of Series of Events*, 1966 (where
the former is known as Laplace's trend test); Crow, *Reliability Analysis for Complex,
Repairable Systems*, 1974 (the latter). A warm-up followed by a constant rate does not
count as slowing down.

**By how much** (`slope`). Increments between equally spaced moments are independent if
what stays, stays; their mean with Student's t interval makes no assumption about what a
block weighs. Where the level only hovers, increments cancel each other and the interval
is too wide rather than too narrow.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Increments of which a slope's interval is made.
INCREMENTS = 20

#: In so many equal sections of time growth is looked for.
SECTIONS = 5

#: Twice the log-likelihood by which a falling rate must beat a constant one: one constant
#: rate in a hundred does so by chance (half of chi-squared with one degree of freedom).
_FALLING = 5.41

#: So many are expected where none comes in one of a hundred cases.
_SURELY = -math.log(0.01)

_DECAYS = np.linspace(0, 12, 97)
_BENDS, _POWERS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0), np.linspace(0, 3, 31)


def retained(series: Floats) -> Floats:
    """Return the lowest value from each moment on: what is never given back any more."""
    return np.minimum.accumulate(series[..., ::-1], axis=-1)[..., ::-1]


def moves(series: Floats) -> npt.NDArray[np.int64]:
    """Return how often each series moves, up or down."""
    count: npt.NDArray[np.int64] = np.count_nonzero(np.diff(series, axis=-1), axis=-1)
    return count


def chance(series: Floats) -> Floats:
    """Return the probability that a walk without preference climbs as each series does.

    1 for a series that ends no higher than it begins. Steps that are not 1 are measured
    in the root mean square of the steps that the series makes.
    """
    steps = np.diff(series, axis=-1)
    count = np.maximum(1, np.count_nonzero(steps, axis=-1))
    step = np.sqrt((steps**2).sum(axis=-1) / count)
    step = np.where(step > 0, step, 1.0)
    climb = (series[..., -1] - series[..., 0]) / step
    fall = (np.maximum.accumulate(series, axis=-1) - series).max(axis=-1) / step
    return np.where(climb > 0, (1 - 1 / (fall + 2)) ** np.maximum(climb, 0), 1.0)


def stopped(series: Floats) -> bool:
    """Return whether a series does not climb in the last section, though it should have.

    At the rate of the other sections it would have with 99 % probability.
    """
    last = round((series.size - 1) * (SECTIONS - 1) / SECTIONS)
    steps = np.diff(retained(series))
    if steps[last:].any() or not steps.any():
        return not steps.any()
    before = steps[:last]
    expected = before.sum() ** 2 / (before**2).sum() / (SECTIONS - 1)
    return bool(expected > _SURELY)


def sections(series: Floats) -> npt.NDArray[np.bool_]:
    """Return for each series in which of `SECTIONS` sections it climbs for good."""
    edges = np.linspace(0, series.shape[-1] - 1, SECTIONS + 1).round().astype(int)
    climbs: npt.NDArray[np.bool_] = np.diff(retained(series)[..., edges], axis=-1) > 0
    return climbs


def slope(series: Floats, confidence: float = 0.95) -> tuple[Floats, Floats, Floats]:
    """Return each series' mean growth a step, and its confidence interval."""
    steps = series.shape[-1] - 1
    edges = np.linspace(0, steps, min(steps, INCREMENTS) + 1).round().astype(int)
    rates = np.diff(series[..., edges], axis=-1) / np.diff(edges)
    n = rates.shape[-1]
    mean = (series[..., -1] - series[..., 0]) / steps
    margin = student_t(confidence, n - 1) * rates.std(axis=-1, ddof=1) / math.sqrt(n)
    return mean, mean - margin, mean + margin


def slows_down(arrivals: Floats, warm_up: float) -> bool:
    """Return whether blocks that stay come at a rate that falls.

    Parameters
    ----------
    arrivals : ndarray
        How many came, in equal bins of the run.
    warm_up : float
        The share of the run that may have a rate of its own.
    """
    n = arrivals.size
    begun = round(warm_up * n)
    if 2 * _gain(arrivals[begun:], _falling_shapes(n - begun)) > _FALLING:
        return True
    falling = _gain(arrivals, _falling_shapes(n))
    return 2 * falling > _FALLING and _gain(
        arrivals, _two_levels(arrivals, begun)
    ) <= falling + math.log(max(2.0, arrivals.sum()))


def _two_levels(arrivals: Floats, begun: int) -> Floats:
    """Return rates that are constant before and after a moment in the warm-up, one a row."""
    ends = np.arange(1, max(2, begun + 1))
    sums = np.cumsum(arrivals)
    before, after = sums[ends - 1] / ends, (sums[-1] - sums[ends - 1]) / (arrivals.size - ends)
    return np.where(np.arange(arrivals.size) < ends[:, None], before[:, None], after[:, None])


def _falling_shapes(n: int) -> Floats:
    """Return falling rates, one a row, over n bins."""
    middle = (np.arange(n) + 0.5) / n
    decays = np.exp(-_DECAYS[:, None] * middle)
    powers = [(1 + bend * middle) ** -_POWERS[:, None] for bend in _BENDS]
    return np.concatenate([decays, *powers])


def _gain(arrivals: Floats, shapes: Floats) -> float:
    """Return the log-likelihood by which the best of these rates beats a constant one.

    It is that of a Poisson process, divided by how much more the arrivals scatter than
    one does: buffers may come several at a time.
    """
    total = arrivals.sum()
    if total <= 0:
        return 0.0
    scatter = max(1.0, float((np.diff(arrivals) ** 2).mean() / 2 / arrivals.mean()))
    shares = np.maximum(shapes / shapes.sum(axis=-1, keepdims=True), 1e-12)
    gains = (arrivals * np.log(shares * arrivals.size)).sum(axis=-1)
    return float(gains.max()) / scatter


def student_t(confidence: float, freedom: int) -> float:
    """Return the two-sided quantile of Student's t distribution.

    By the expansion of Fisher and Cornish around the normal quantile; within 0.5 % from 5
    degrees of freedom on, for 99 % and less.
    """
    from statistics import NormalDist

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    n = float(max(1, freedom))
    terms = (
        z,
        (z**3 + z) / 4 / n,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96 / n**2,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / n**3,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160 / n**4,
    )
    return sum(terms)
