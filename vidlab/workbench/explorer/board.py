"""The explorer in a notebook: what is chosen, the controls of it, and the views that follow."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
import polars as pl

from ...analysis import appearance
from ...errors import InputError, VidlabError
from ...runs.run import Run, open_run
from ..notebooks import REPORT_VARIABLE
from . import state as states
from . import words
from .answers import Explored
from .controls import Controls
from .drawn import TABLES, drawn, legends
from .library import the_library
from .view import Board

#: What `explore` takes for a run.
AnyRun = Run | str | os.PathLike[str]

#: The views on the page: of each panel one tab is seen, and only what is seen is asked for.
PANELS: list[dict[str, Any]] = [
    {"label": "frames", "tabs": [{"title": "Frames", "views": ["overview", "latency"]}]},
    {
        "label": "over the same time",
        "tabs": [
            {"title": "Memory", "views": ["memory"]},
            {"title": "Kernel", "views": ["kernel"]},
            {"title": "Runtime", "views": ["runtime"]},
        ],
    },
    {
        "label": "details",
        "tabs": [
            {"title": "Stages", "views": ["stages", "tail"]},
            {"title": "Streams", "views": ["streams"]},
            {"title": "Profile", "views": ["profile", "flame"]},
            {"title": "Slow frames", "views": ["beyond", "beyond_flame", "beyond_memory"]},
            {"title": "One frame", "views": ["waterfall", "stacks", "frame_memory"]},
        ],
    },
]

#: Views whose chart draws more than the data set of their name.
_SETS = {"latency": ["latency", "worst"]}

#: The data sets of the first panel.
_FIRST = ("overview", "latency", "worst")

#: The tab of a chosen frame: its panel, and its place there.
_ONE_FRAME = 2, 4

#: How many of several runs are kept in memory.
_KEPT = 2

_numbers = itertools.count(1)


class Explorer:
    """A run, or several, sliced and brushed in a notebook. Made by `opening.explore`.

    Attributes
    ----------
    state : dict
        What is chosen: plain values that JSON takes. It can be set, to the whole or to a part;
        what is left out is chosen anew. See `explorer.state.checked` for its names.
    widget : ipywidgets.Widget
        What is shown.
    """

    def __init__(self, runs: Sequence[AnyRun], state: Mapping[str, Any] | None = None) -> None:
        if not runs:
            raise InputError("there is no run to explore: pass a run, a path, or several")
        self._runs = [run if isinstance(run, Run) else open_run(run) for run in runs]
        self._state = states.checked(state, len(self._runs))
        self._explored: dict[int, Explored] = {}
        self._drawn: dict[str, Any] = {}
        self._frames: dict[str, pl.DataFrame] = {}
        self._open()
        self._controls = Controls(self._choose, [run.path.name for run in self._runs])
        views = [view for panel in PANELS for tab in panel["tabs"] for view in tab["views"]]
        self._board = Board(
            self._choose,
            lambda: self._open().ahead(),
            {view: _sets(view) for view in views},
            library=the_library(),
            name=str(next(_numbers)),
            panels=PANELS,
            tabs=[0 for _ in PANELS],
            tables=TABLES,
            titles=words.TITLES,
        )
        self._controls.reset.on_click(lambda _: self._set({"run": self._state["run"]}))
        self._controls.refresh.on_click(lambda _: self.refresh())
        self._controls.state.observe(self._typed, "value")
        self._board.observe(lambda _: self._answer(), "tabs")
        self.widget = ipywidgets.VBox([self._controls.widget, self._board])
        self.widget.add_class("vidlab-explorer")
        self._offer()
        self._answer()

    @property
    def state(self) -> dict[str, Any]:
        return dict(self._state)

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self._become(states.checked(state, len(self._runs)))

    def refresh(self) -> None:
        """Read the run again, as it may have grown; if it cannot be read, say so and go on."""
        try:
            read = self._open().refresh()
            self._drawn.clear()
            self._offer()
        except VidlabError as error:
            self._say(str(error))
        else:
            self._answer()
            self._say(f"Read again: {read}.")

    def _open(self) -> Explored:
        """Return the chosen run, opened. Of several, the last `_KEPT` are kept in memory."""
        number = self._state["run"]
        found = self._explored.pop(number, None) or Explored(self._runs[number])
        self._explored[number] = found
        while len(self._explored) > _KEPT:
            del self._explored[next(iter(self._explored))]
        return found

    def _offer(self) -> None:
        explored = self._open()
        options = explored.options(self._state)
        self._codecs = sorted(options["codec"]) or [appearance.NO_CODEC]
        self._seconds = explored.seconds
        self._controls.offer(options, self._seconds, self._own_deadline)

    def _choose(self, change: Mapping[str, Any]) -> None:
        """Take over what a control, a brush or a click has set."""
        if "run" in change:  # what was chosen of one run may not be there in another
            change = {"stream_id": None, "time_s": None, "frame": None, **change}
        self._set({**self._state, **change})

    def _typed(self, change: Any) -> None:
        if self._controls._showing:
            return
        try:
            given = json.loads(change["new"] or "{}")
        except ValueError:
            self._say(
                f'This is no state, which is JSON such as {{"codec": "av1"}}: {change["new"]}'
            )
            self._controls.show(self._state)
            return
        self._set(given)

    def _set(self, state: Mapping[str, Any]) -> None:
        """Become this state; what is wrong with it is said in the line of status."""
        try:
            self._become(states.checked(state, len(self._runs)))
        except VidlabError as error:
            self._say(str(error))
            self._controls.show(self._state)

    def _become(self, state: dict[str, Any]) -> None:
        before, self._state = self._state, state
        if state["run"] != before["run"]:
            try:
                self._drawn.clear()
                self._offer()
            except VidlabError:
                self._state = before
                raise
        tabs = list(self._board.tabs)
        if state["frame"] is not None and state["frame"] != before["frame"]:
            tabs[_ONE_FRAME[0]] = _ONE_FRAME[1]
        if tabs != self._board.tabs:
            self._board.tabs = tabs  # which answers
        else:
            self._answer()

    def _answer(self) -> None:
        """Ask for what is seen and does not show this state, and send it to the page.

        The first panel goes before the others: the page draws it while they are answered.
        """
        views = self._seen()
        keys = {name: states.key(name, self._state) for view in views for name in _sets(view)}
        stale = [name for name, key in keys.items() if self._drawn.get(name) != key]
        first = [name for name in stale if name in _FIRST]
        rest = [name for name in stale if name not in _FIRST]
        parts = [(first, rest), (rest, [])] if first and rest else [(stale, [])]
        try:
            for names, awaited in parts:
                answers = self._open().answers(self._state, names)
                self._show(answers, views, awaited)
                self._drawn |= {name: keys[name] for name in names}
        except VidlabError as error:
            self._say(str(error))
        except Exception as error:  # a person sees it, and can go on
            self._say(f"This could not be answered: {type(error).__name__}: {error}")
        self._controls.show(self._state)

    def _seen(self) -> list[str]:
        tabs = zip(PANELS, self._board.tabs, strict=True)
        return [view for panel, tab in tabs for view in panel["tabs"][tab]["views"]]

    def _show(
        self, answers: Mapping[str, pl.DataFrame], views: Iterable[str], awaited: Sequence[str]
    ) -> None:
        frames = {name: drawn(name, answer) for name, answer in answers.items()}
        self._frames |= frames
        shown = [view for view in views if not any(name in awaited for name in _sets(view))]
        notes = self._open().notes(self._state, shown)
        said = dict(self._board.said)
        for view in shown:
            frame = self._frames[view]
            note = notes.get(view, "") or ("" if frame.height else words.EMPTY[view])
            said[view] = {"note": note, "alt": words.alt(view, frame)}
        self._board.draw(
            frames,
            awaited,
            said=said,
            signals=self._signals(),
            notice=self._notice(),
            state=json.dumps(self._state),
        )

    def _signals(self) -> dict[str, Any]:
        """Return the values of the charts' parameters."""
        state, frames = self._state, self._frames
        end = self._seconds or 1.0
        if frames["overview"].height:
            end = max(end, float(frames["overview"]["t_end_s"].max()))  # type: ignore[arg-type]
        from_s, to_s = state["time_s"] or (0.0, end)
        found = {c for frame in frames.values() if "codec" in frame.columns for c in frame["codec"]}
        self._codecs += sorted(found.difference(self._codecs))
        signals = {
            "span_from": 0.0,
            "span_to": end,
            "t_from": from_s,
            "t_to": max(to_s, from_s + 1e-6),
            "time_s": state["time_s"],
            "codecs": list(self._codecs),
            "colours": [appearance.codec_colour(codec) for codec in self._codecs],
            "deadline_ms": state["deadline_ms"] or self._own_deadline or 0,
            "stage": state["stage"] or "",
            "stream_id": state["stream_id"],
            "frame": "" if state["frame"] is None else str(state["frame"]),
        }
        return signals | legends(frames)

    @property
    def _own_deadline(self) -> Any:
        return self._runs[self._state["run"]].manifest.parameters.get("deadline_ms")

    def _notice(self) -> str:
        cells = self._frames["latency"]
        count = int(cells["frames"].sum()) if cells.height else 0
        what = "frame" if count == 1 else "frames"
        if self._state["stage"] is not None:
            what = f"{'time' if count == 1 else 'times'} through {self._state['stage']}"
        says = f"{count:,} {what} in this slice."
        if self._open().grown:
            says += " There is more of the run by now: Refresh reads it."
        return says

    def _say(self, text: str) -> None:
        self._board.awaited = []
        self._board.notice = text

    def __repr__(self) -> str:
        names = ", ".join(run.path.name for run in self._runs)
        return f"<explorer of {names}: open this notebook in JupyterLab and run its cells>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if os.environ.get(REPORT_VARIABLE):
            return {"text/plain": repr(self)}
        bundle = self.widget._repr_mimebundle_(**options)
        if bundle is None:
            return {"text/plain": repr(self)}
        return {**bundle, "text/plain": repr(self)}


def _sets(view: str) -> list[str]:
    return _SETS.get(view, [view])
