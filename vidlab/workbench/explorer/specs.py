"""The views' specifications, as the page takes them; kept, as altair is slow to import."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...errors import missing_extra
from .kept import kept

_VIDLAB = Path(__file__).parents[2]

#: What the specifications are made by: another text makes others.
_MADE_BY = (
    *(f"charts/{name}.py" for name in ("explorer", "explorer_details", "explorer_parts", "theme")),
    "analysis/appearance.py",
)


@cache
def specifications() -> dict[str, Any]:
    """Return what `charts.explorer` says: `specs`, by view, and `looks`, by theme.

    They are kept by the version of altair and by the text of the modules that make them, so
    that altair is imported once for all, and not by each kernel.

    Raises
    ------
    MissingDependencyError
        If altair is not installed.
    """
    try:
        made_by = hashlib.sha256(version("altair").encode())
    except PackageNotFoundError as error:
        raise missing_extra("altair", "workbench") from error
    for path in _MADE_BY:
        made_by.update((_VIDLAB / path).read_bytes())
    found: dict[str, Any] = json.loads(
        kept(f"explorer-{made_by.hexdigest()[:16]}.json", lambda: json.dumps(_made()))
    )
    return found


def _made() -> dict[str, Any]:
    from ...charts import explorer as charts

    return {
        "specs": charts.specifications(),
        "looks": {"light": charts.looks(dark=False), "dark": charts.looks(dark=True)},
    }
