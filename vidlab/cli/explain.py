"""The verb `explain`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from ..workbench import arguments


def add_verbs(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verb `explain`."""
    explain = verb(
        "explain",
        _explain,
        "why frames were late: what took them longer than usual, or where one frame's time went",
        """
        vidlab explain runs/demo
        vidlab explain runs/demo --codec av1 --deadline-ms 120
        vidlab explain runs/demo --frame cam-3:117
        vidlab explain runs/demo --worst --json
        """,
    )
    arguments.add_run(explain)
    arguments.add_explain(explain)
    arguments.add_json(explain)


def _explain(options: argparse.Namespace) -> int:
    from ..workbench.explain import answers

    found = answers.as_asked(options.run, options)
    print(json.dumps(found.facts(), indent=2) if options.json else found)
    return 0
