"""A tree of names with values, and its table.

The table has one row a node, and as many for each step as there are: `step`, the node's
number `id`, its `parent` (null for the root), `name`, `layer` (what kind of node it is),
`depth` (0 for the root), `path` (all names from the root, joined by " > "), a value of its own
and one with all that is below it. A parent comes before its children, siblings by value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from .allocation_events import Ints

#: What nodes are called that are too small to be shown.
OTHER = "(other)"

_NODE: dict[str, Any] = {
    "id": pl.UInt32,
    "parent": pl.UInt32,
    "name": pl.String,
    "layer": pl.String,
    "depth": pl.Int32,
    "path": pl.String,
}


@dataclass
class Node:
    """A node in the making; `own` and `total` have one value a step."""

    name: str
    layer: str
    own: Ints
    total: Ints
    children: dict[tuple[str, str], Node] = field(default_factory=dict)

    @classmethod
    def root(cls, steps: int) -> Node:
        """Return the root of a tree with so many steps."""
        return cls("all", "root", np.zeros(steps, np.int64), np.zeros(steps, np.int64))

    def add(self, path: Sequence[tuple[str, str]], value: Ints) -> None:
        """Add a value to the node at the end of a path of (name, layer), and to all above it."""
        node = self
        node.total += value
        for name, layer in path:
            node = node.child(name, layer)
            node.total += value
        node.own += value

    def child(self, name: str, layer: str) -> Node:
        """Return the child of this name, which is made if it is not there."""
        found = self.children.get((name, layer))
        if found is None:
            zeros = np.zeros_like(self.own)
            found = self.children[name, layer] = Node(name, layer, zeros, zeros.copy())
        return found


def table(root: Node | None, prune: float, unit: str) -> pl.DataFrame:
    """Return a tree's table, with the columns `self_` and `total_` of a unit.

    Nodes that are at every step below the share `prune` of the largest total are put together
    as "(other)". No tree has an empty table.
    """
    types: dict[str, Any] = {f"self_{unit}": pl.Int64, f"total_{unit}": pl.Int64}
    schema = {"step": pl.Int32, **_NODE, **types}
    if root is None:
        return pl.DataFrame(schema=schema)
    if prune > 0:
        _pruned(root, prune * float(root.total.max()))
    nodes: list[tuple[int, int | None, str, str, int, str]] = []
    own, total = [], []
    waiting: list[tuple[Node, int | None, int, str]] = [(root, None, 0, root.name)]
    while waiting:
        node, parent, depth, path = waiting.pop()
        number = len(nodes)
        nodes.append((number, parent, node.name, node.layer, depth, path))
        own.append(node.own)
        total.append(node.total)
        ordered = sorted(node.children.values(), key=lambda child: (child.total.max(), child.name))
        waiting.extend((c, number, depth + 1, f"{path} > {c.name}") for c in ordered)
    steps = len(root.own)
    described = pl.DataFrame(nodes, schema=_NODE, orient="row")
    return pl.concat([described] * steps).select(
        pl.Series("step", np.repeat(np.arange(steps), len(nodes)), pl.Int32),
        *_NODE,
        pl.Series(f"self_{unit}", np.stack(own, axis=1).ravel(), pl.Int64),
        pl.Series(f"total_{unit}", np.stack(total, axis=1).ravel(), pl.Int64),
    )


def _pruned(node: Node, least: float) -> None:
    """Put children that are nowhere as large as `least` together, all the way down."""
    small = {key for key, child in node.children.items() if child.total.max() < least}
    if small:
        together = [node.children.pop(key) for key in small]
        other = node.child(OTHER, "other")
        for child in together:
            other.own += child.total
            other.total += child.total
    for child in node.children.values():
        _pruned(child, least)
