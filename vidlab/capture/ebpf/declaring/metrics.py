"""What is counted in the kernel, without an event each: counters and histograms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from ....errors import InputError
from .checks import check_at_return, check_parts
from .expressions import from_json
from .operations import Expression, check_number, number
from .probes import Declaration, Tracepoint, declaration_from_json
from .values import Duration, Return

_METRIC = re.compile(r"[a-z_][a-z0-9_]{0,127}")


@dataclass(frozen=True, eq=False)
class Metric:
    """What counters and histograms have. Both are kept apart by the labels of the span."""

    KIND: ClassVar[str]

    metric: str
    of: Declaration

    def __post_init__(self) -> None:
        if not (isinstance(self.metric, str) and _METRIC.fullmatch(self.metric)):
            raise InputError(f"{self.metric!r} is no metric's name: a-z, 0-9 and _, from a letter")
        if not isinstance(self.of, Declaration):
            raise InputError(f"{self.metric} counts hits of a Probe, Tracepoint or Usdt")
        if self.of.values:
            names = ", ".join(self.of.values)
            raise InputError(f"{self.metric} only counts, so its probe keeps no fields: {names}")

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; `metric_from_json` is the way back."""
        return {"kind": self.KIND, "metric": self.metric, "of": self.of.to_json()}


@dataclass(frozen=True, eq=False)
class Counter(Metric):
    """Counts the hits for which the declaration's `when` holds.

    Parameters
    ----------
    metric : str
        Its name, as OpenMetrics has them: ends in `_total`.
    of : Probe, Tracepoint or Usdt
        Without fields.
    """

    KIND = "counter"


@dataclass(frozen=True, eq=False)
class Histogram(Metric):
    """Counts the hits by a value of theirs.

    Buckets are log-linear: each power of two is cut into 8 of equal width, so that a
    bucket is at most an eighth of its lower bound wide; values below 8 have one each.

    Parameters
    ----------
    metric : str
        Its name.
    of : Probe, Tracepoint or Usdt
        Without fields.
    value : Expression
        What is counted; below zero it counts as zero. `duration() // 1000` is in µs.
    unit : str
        The value's unit.
    """

    KIND = "histogram"

    value: Expression
    unit: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "value", number(self.value))
        check_number(self.value, self.metric)
        check_parts(self.value, self.metric, isinstance(self.of, Tracepoint))
        if self.of.returns:
            check_at_return(self.value, self.metric)
        at_return = any(isinstance(part, Return | Duration) for part in self.value.walk())
        if at_return and not self.of.returns:
            raise InputError(f"{self.metric}: {self.value!r} needs a Probe with exit={{}}")
        if not isinstance(self.unit, str):
            raise InputError(f"the unit of {self.metric} is a text, not {self.unit!r}")

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "value": self.value.to_json(), "unit": self.unit}


def metric_from_json(values: object) -> Metric:
    """Return the metric of which this is the JSON, or raise InputError."""
    if not isinstance(values, dict):
        raise InputError(f"{str(values)[:80]!r} is no metric")
    if values.get("kind") not in (Counter.KIND, Histogram.KIND):
        raise InputError(f"{str(values.get('kind'))[:40]!r} is no kind of metric")
    of = declaration_from_json(values.get("of"))
    metric = values.get("metric")
    if values.get("kind") == Counter.KIND:
        return Counter(metric, of)  # type: ignore[arg-type]
    return Histogram(
        metric,  # type: ignore[arg-type]
        of,
        from_json(values.get("value")),
        str(values.get("unit", "")),
    )
