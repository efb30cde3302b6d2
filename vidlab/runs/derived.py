"""Labels that the user's functions derive from others, such as a region from `stream_id`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InputError, RunError
from ..labelsets import LabelSet, ruled
from ..schema import LABELS

#: Per label, a function of a label set's values; it may return None for no label.
Derive = Mapping[str, Callable[[dict[str, Any]], Any]]


class DerivedLabels:
    """Adds the labels that the user's functions derive.

    Functions see values as the rules for labels leave them, and what they return is
    subject to the rules too.

    Parameters
    ----------
    derive : Mapping[str, callable]
        Per label, a function of the other labels' values.
    failed : callable
        Called with the label and the error when a function fails for the first time.

    Raises
    ------
    InputError
        If a label has a meaning of its own, or is not given a function.
    """

    def __init__(self, derive: Derive, failed: Callable[[str, Exception], None]) -> None:
        check_derive(derive)
        self._derive = dict(derive)
        self._report = failed
        self._failed: set[str] = set()

    def line(self, labels: LabelSet) -> dict[str, Any]:
        """Return a label set as it is written down."""
        values = dict(labels.values)
        for key, function in self._derive.items():
            if key in values:
                continue
            try:
                value = function(dict(labels.values))
                if value is not None:
                    values.update(ruled({key: str(value)}))
            except Exception as error:  # the user's code: whatever it raises is a finding
                if key not in self._failed:
                    self._failed.add(key)
                    with contextlib.suppress(Exception):
                        self._report(key, error)
        return {"id": labels.id, "values": values, "sample_rate": labels.sample_rate}


def check_derive(derive: Derive) -> None:
    """Raise InputError unless these are functions for labels that can be derived."""
    own = {column.name for column in LABELS}
    for key, function in derive.items():
        if not key.isidentifier() or key in own:
            raise InputError(
                f"derive gives further labels, such as 'region'; it cannot give {key!r}"
            )
        if not callable(function):
            raise InputError(
                f"derive[{key!r}] must be a function of the labels, such as "
                f"lambda labels: labels['stream_id'][:3]; it is {function!r}"
            )


def name_of(function: Callable[..., Any]) -> str:
    """Return "module:name", by which a child process may know the function."""
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"


def function_named(name: str) -> Callable[[dict[str, Any]], Any]:
    """Return the function of this name, which is looked up when it is called.

    Nothing is imported for it: that might run code that this process would not have run.
    """
    module, _, attribute = name.partition(":")

    def call(labels: dict[str, Any]) -> Any:
        function = getattr(sys.modules.get(module), attribute, None)
        if function is None:
            raise RunError(
                "a child process that was not forked derives labels only by functions "
                "of modules that it has imported, not by lambdas"
            )
        return function(labels)

    return call
