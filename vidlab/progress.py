"""Progress bars for whatever takes more than a second, in a terminal and in JupyterLab."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

#: Called with how many more steps are done.
Advance = Callable[[float], None]


@contextlib.contextmanager
def progress(what: str, total: float | None = None, unit: str = "it") -> Iterator[Advance]:
    """Show a bar while the block runs; the block calls what it is given with each advance.

    Nothing is shown where nobody would see it: outside a terminal and a notebook,
    without tqdm (the extra `workbench`), or if it is over within half a second.
    """
    if not in_notebook() and not sys.stderr.isatty():  # tqdm leaves a thread behind even so
        yield lambda steps: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield lambda steps: None
        return
    with tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=True,
        delay=0.5,
        leave=False,
    ) as bar:
        yield bar.update


def in_notebook() -> bool:
    """Return whether this process is a notebook's kernel, which shows what is written to stderr."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
