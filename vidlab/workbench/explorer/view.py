"""The explorer's board in the browser: charts made once, then only given rows and values.

Altair's own widget makes a chart anew with each change and forgets who listens to it. Here
Vega comes to a page once, offline, and a chart once (see `library`); after that a change
carries the rows that are new. `view.js` is the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets  # type: ignore[import-untyped]
import numpy as np
import polars as pl
import traitlets

from .library import Library

_HERE = Path(__file__).parent

#: Called with a part of the explorer's state that a brush or a click has set.
Asked = Callable[[dict[str, Any]], None]


class Board(anywidget.AnyWidget):
    """All views of the explorer: what is drawn is in its traits, what is done comes to `asked`.

    Attributes
    ----------
    panels : list of dict
        `label`, and `tabs`: each with a `title` and the names of its `views`.
    tabs : list of int
        Which tab of each panel is seen. The page sets it too.
    tables : dict
        By view that is a table, its columns: `column`, `title`, `pick`. Others are charts.
    sets : dict
        By view, the data sets that it draws; a view whose first is empty shows its note alone.
    awaited : list of str
        The data sets that are yet to come of an answer; a view that draws one of them waits.
    titles, said : dict
        By view, its heading; and its `note`, and `alt`: what is seen, in words.
    signals : dict
        Values of the specifications' parameters.
    notice : str
        The line of status.
    state : str
        What the button copies.
    number : int
        Grows with each answer; the page has it as `data-drawn` when it is drawn.
    """

    _esm = _HERE / "view.js"
    _css = _HERE / "view.css"

    library = traitlets.Instance(Library).tag(sync=True, **ipywidgets.widget_serialization)
    name = traitlets.Unicode().tag(sync=True)
    panels: Any = traitlets.List().tag(sync=True)
    tabs: Any = traitlets.List().tag(sync=True)
    tables = traitlets.Dict().tag(sync=True)
    sets = traitlets.Dict().tag(sync=True)
    awaited: Any = traitlets.List().tag(sync=True)
    titles = traitlets.Dict().tag(sync=True)
    said = traitlets.Dict().tag(sync=True)
    signals = traitlets.Dict().tag(sync=True)
    notice = traitlets.Unicode().tag(sync=True)
    state = traitlets.Unicode().tag(sync=True)
    number = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        asked: Asked,
        drawn: Callable[[], None],
        sets: Mapping[str, list[str]],
        **traits: Any,
    ) -> None:
        """Show the views; what is called, is called in the kernel's thread, one after the other.

        Parameters
        ----------
        asked : function of a dict
        drawn : function
            Called when a page has drawn an answer.
        sets : mapping
        **traits
        """
        self._asked, self._drawn = asked, drawn
        names = sorted({name for several in sets.values() for name in several})
        self.add_traits(**{f"set_{name}": traitlets.Dict().tag(sync=True) for name in names})
        super().__init__(sets=dict(sets), **traits)
        self.on_msg(self._receive)

    def draw(
        self, frames: Mapping[str, pl.DataFrame], awaited: Sequence[str] = (), **traits: Any
    ) -> None:
        """Send the rows of these data sets, and other traits, in one message; then draw.

        While sets are `awaited`, this is but a part of the answer.
        """
        with self.hold_sync():
            for name, frame in frames.items():
                self.set_trait(f"set_{name}", packed(frame))
            for name, value in traits.items():
                self.set_trait(name, value)
            self.awaited = list(awaited)
            self.number += not awaited

    def _receive(self, _: object, content: Any, __: object) -> None:
        said = content if isinstance(content, dict) else {}
        if said.get("drawn"):
            self._drawn()
        change = said.get("ask")
        if not isinstance(change, dict):
            return
        try:
            self._asked(change)
        finally:  # the page waits with its next question until then
            self.send({"answered": True})


def packed(frame: pl.DataFrame) -> dict[str, Any]:
    """Return a table as it goes to the page: numbers as float64 bytes, texts as int32 codes.

    Returns
    -------
    dict
        `rows`, and `columns`: by name `numbers`, or `values` and `codes`, -1 being null.
    """
    return {"rows": frame.height, "columns": {s.name: _packed(s) for s in frame}}


def _packed(column: pl.Series) -> dict[str, Any]:
    if column.dtype.is_numeric():
        numbers = column.cast(pl.Float64).to_numpy()  # a null is NaN there
        return {"numbers": numbers.tobytes()}
    # By hand: an expression of polars takes longer to set up than these few rows take.
    texts = column.to_list()
    values = sorted(set(texts) - {None})
    code = {None: -1, **{value: number for number, value in enumerate(values)}}
    return {"values": values, "codes": np.array([code[text] for text in texts], np.int32).tobytes()}
