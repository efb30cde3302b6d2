"""The charts' specifications as Vega takes them, kept: altair is slow to import and compile."""

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

#: What the specifications are made by: another text, or another version, makes others.
_MADE_BY = (
    *(f"charts/{name}.py" for name in ("explorer", "explorer_details", "explorer_parts", "theme")),
    "charts/waterfall.py",
    "analysis/appearance.py",
    "analysis/causewords.py",
    "workbench/explorer/specs.py",
)
_PACKAGES = ("altair", "vl-convert-python")


@cache
def specifications() -> dict[str, dict[str, Any]]:
    """Return the charts of `charts.explorer` as Vega's specifications: by look, then by view.

    The looks are `light` and `dark`.

    Raises
    ------
    MissingDependencyError
        If altair or vl-convert is not installed.
    """
    made_by = hashlib.sha256()
    for package in _PACKAGES:
        try:
            made_by.update(version(package).encode())
        except PackageNotFoundError as error:
            raise missing_extra(package, "workbench") from error
    for path in _MADE_BY:
        made_by.update((_VIDLAB / path).read_bytes())
    found: dict[str, dict[str, Any]] = json.loads(
        kept(f"explorer-{made_by.hexdigest()[:16]}.json", lambda: json.dumps(_made()))
    )
    return found


def _made() -> dict[str, dict[str, Any]]:
    import altair
    import vl_convert

    from ...charts import explorer as charts

    lite = altair.SCHEMA_VERSION.lstrip("v").rpartition(".")[0]
    found: dict[str, dict[str, Any]] = {}
    for look, dark in (("light", False), ("dark", True)):
        # The board says in words what is seen; to describe each mark would take half the time.
        config = {**charts.looks(dark), "aria": False}
        found[look] = {
            view: _tips_when_seen(vl_convert.vegalite_to_vega(spec, vl_version=lite, config=config))
            for view, spec in charts.specifications().items()
        }
    return found


def _tips_when_seen(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a specification whose tooltips the page makes when they are seen.

    Vega would make one for each of thousands of marks, each time that they change. Here a
    mark's names its expression, in `tips` of `usermeta`, and brings the datum.
    """
    tips: list[str] = []

    def put_off(marks: list[dict[str, Any]]) -> None:
        for mark in marks:
            put_off(mark.get("marks", []))
            update = mark.get("encode", {}).get("update", {})
            if "tooltip" in update:
                tips.append(update["tooltip"]["signal"])
                update["tooltip"] = {"signal": f"{{datum: datum, tip: {len(tips) - 1}}}"}

    put_off(spec["marks"])
    return {**spec, "usermeta": {**spec.get("usermeta", {}), "tips": tips}}
