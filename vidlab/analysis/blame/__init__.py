"""Blame: what made a frame late, and how much of the lateness each cause is to blame for.

* `waterfall`: one frame's life in parts, each put down to a cause; `evidence`: the rows behind;
  `OneFrame`: both at once.
* `typical`: how long punctual frames spend on each cause at each stage.
* `per_frame`: what each late frame spent, beyond that; `ranked`: added up, the worst first.
* `untold`: what engines that were not on would have told.
* `CAUSES`: the causes, in words, and what to do about each.

These read a `Run`: it takes several of its tables to tell one cause, and works with those
that are there. They do not say when a frame is late: `latency.late` does.
"""

from .baseline import Baseline, typical
from .causes import CAUSES, Cause
from .engines import untold
from .oneframe import OneFrame, evidence, waterfall
from .perframe import per_frame
from .ranking import ranked

__all__ = [
    "CAUSES",
    "Baseline",
    "Cause",
    "OneFrame",
    "evidence",
    "per_frame",
    "ranked",
    "typical",
    "untold",
    "waterfall",
]
