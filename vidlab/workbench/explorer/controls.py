"""The explorer's controls: dropdowns, sliders and fields, each of a part of the state."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets  # type: ignore[import-untyped]

#: Called with the part of the state that a control has set.
Changed = Callable[[dict[str, Any]], None]

#: The choice that narrows nothing.
ALL = "all"

_QUANTILES = (
    0.01, 0.05, 0.1, 0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97,
    0.98, 0.99, 0.992, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0,
)  # fmt: skip

#: Limits of latency that a slider offers, in ms: ten to a power of ten.
_LIMITS = tuple(float(f"{10 ** (step / 10):.3g}") for step in range(-10, 51))
_NONE, _ANY = 0.0, 1e9

_LABELS = ("codec", "gpu", "stage")


class Controls:
    """The controls, in `widget`; what a person sets is told to `changed`.

    Parameters
    ----------
    changed : function of a dict
    runs : sequence of str
        What the runs are called; a single one is not asked for.
    """

    def __init__(self, changed: Changed, runs: Sequence[str]) -> None:
        self._changed = changed
        self._showing = False
        wide = {"style": {"description_width": "auto"}}
        self.run = ipywidgets.Dropdown(
            options=[(name, number) for number, name in enumerate(runs)], description="run", **wide
        )
        self.stream_id = ipywidgets.Combobox(
            description="stream", placeholder=ALL, continuous_update=False, **wide
        )
        self.codec, self.gpu, self.stage = (
            ipywidgets.Dropdown(options=[(ALL, "")], description=name, **wide) for name in _LABELS
        )
        self.time_s = ipywidgets.FloatRangeSlider(description="time (s)", **wide)
        self.latency_ms = ipywidgets.SelectionRangeSlider(
            description="latency (ms)",
            options=[("0", _NONE), *((f"{ms:,g}", ms) for ms in _LIMITS), ("any", _ANY)],
            **wide,
        )
        self.quantile = ipywidgets.SelectionSlider(
            options=[(_percent(share), share) for share in _QUANTILES],
            value=0.99,
            description="quantile",
            **wide,
        )
        self.deadline_ms = ipywidgets.Text(
            description="deadline (ms)", continuous_update=False, **wide
        )
        self.deadline_ms.tooltip = (
            "a frame is late beyond it; empty: the run's own or, where it has none, three frames' "
            "time of its stream"
        )
        self.frame = ipywidgets.Text(
            description="frame", placeholder="none", continuous_update=False, **wide
        )
        self.state = ipywidgets.Text(description="state", continuous_update=False, **wide)
        self.state.tooltip = "what is chosen, as JSON: copy it, or put another in its place"
        self.reset = ipywidgets.Button(description="Reset", tooltip="choose nothing")
        self.refresh = ipywidgets.Button(description="Refresh", tooltip="read the run again")
        self._listen()
        self.widget = self._laid_out(len(runs) > 1)

    def offer(
        self, options: Mapping[str, Sequence[Any]], seconds: float, own_deadline_ms: float | None
    ) -> None:
        """Offer what a run has: values of the labels, its length, and its own deadline or None."""
        own = "three frames" if own_deadline_ms is None else f"{own_deadline_ms:,g} (the run's)"
        with _Quiet(self):
            self.deadline_ms.placeholder = own
            self.stream_id.options = [str(name) for name in options["stream_id"]]
            for name in _LABELS:
                control = getattr(self, name)
                control.options = [(ALL, ""), *((str(value), value) for value in options[name])]
            end = max(seconds, 1e-3)
            self.time_s.max = end
            self.time_s.step = end / 1000
            self.time_s.readout_format = ".1f" if end >= 5 else ".3f"

    def show(self, state: Mapping[str, Any]) -> None:
        """Show a state; nothing is told to `changed`."""
        with _Quiet(self):
            self.run.value = state["run"]
            self.stream_id.value = state["stream_id"] or ""
            for name in _LABELS:
                control, value = getattr(self, name), "" if state[name] is None else state[name]
                if value not in [known for _, known in control.options]:
                    control.options = [*control.options, (str(value), value)]
                control.value = value
            whole = self.time_s.min, self.time_s.max
            self.time_s.value = tuple(state["time_s"] or whole)
            low, high = state["latency_ms"] or (_NONE, _ANY)
            self.latency_ms.value = _nearest(low), _nearest(high)
            self.quantile.value = min(_QUANTILES, key=lambda share: abs(share - state["quantile"]))
            chosen = state["deadline_ms"]
            self.deadline_ms.value = "" if chosen is None else f"{chosen:.15g}"
            self.frame.value = "" if state["frame"] is None else str(state["frame"])
            self.state.value = json.dumps(
                {name: value for name, value in state.items() if value is not None}
            )

    def _listen(self) -> None:
        def told(name: str, meant: Callable[[Any], Any]) -> None:
            def changed(change: Any) -> None:
                if not self._showing:
                    self._changed({name: meant(change["new"])})

            getattr(self, name).observe(changed, "value")

        told("run", lambda value: value)
        told("stream_id", lambda value: value.strip() or None)
        for name in _LABELS:
            told(name, lambda value: None if value == "" else value)
        told("time_s", self._chosen_time)
        told("latency_ms", lambda value: None if value == (_NONE, _ANY) else list(value))
        told("quantile", lambda value: value)
        told("deadline_ms", lambda value: _number(value) if value.strip() else None)
        told("frame", lambda value: value.strip() or None)

    def _chosen_time(self, value: tuple[float, float]) -> list[float] | None:
        return None if value == (self.time_s.min, self.time_s.max) else list(value)

    def _laid_out(self, several: bool) -> ipywidgets.Widget:
        rows = (
            [
                *([(self.run, "220px")] if several else []),
                (self.stream_id, "180px"),
                (self.codec, "130px"),
                (self.gpu, "100px"),
                (self.stage, "190px"),
                (self.deadline_ms, "215px"),
                (self.frame, "150px"),
                (self.reset, "70px"),
                (self.refresh, "80px"),
            ],
            [
                (self.time_s, "320px"),
                (self.latency_ms, "320px"),
                (self.quantile, "260px"),
                (self.state, "240px"),
            ],
        )
        boxes = []
        for row in rows:
            for control, width in row:
                control.layout = ipywidgets.Layout(width=width, margin="1px 6px 1px 0")
            children = [control for control, _ in row]
            boxes.append(ipywidgets.HBox(children, layout=ipywidgets.Layout(flex_flow="row wrap")))
        return ipywidgets.VBox(boxes)


class _Quiet:
    """While it lasts, what the controls show is not told."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls

    def __enter__(self) -> None:
        self._controls._showing = True

    def __exit__(self, *_: object) -> None:
        self._controls._showing = False


def _percent(share: float) -> str:
    return f"{share * 100:g} %"


def _number(text: str) -> float | str:
    """Return the number; what is none, or beyond all bounds, stays text: the state refuses it."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if number <= _ANY else text


def _nearest(ms: float) -> float:
    return min((_NONE, *_LIMITS, _ANY), key=lambda limit: abs(limit - ms))
