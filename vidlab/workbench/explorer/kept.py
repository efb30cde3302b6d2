"""Texts that take long to make, kept in the user's cache folder for the next time."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def kept(name: str, make: Callable[[], str]) -> str:
    """Return the text that was kept by this name, or else make it, and keep it.

    It lies in `$XDG_CACHE_HOME/vidlab`, or `~/.cache/vidlab`. Where nothing can be kept it is
    made anew each time.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vidlab"
    path = folder / name
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8")
    text = make()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=folder, encoding="utf-8", delete=False
        ) as unfinished:
            unfinished.write(text)
        Path(unfinished.name).replace(path)
    return text
