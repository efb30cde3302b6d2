"""Vega as one JavaScript module, made of what vl-convert brings, and kept for the next time."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from ...errors import missing_extra
from .kept import kept

#: What the page calls.
_EXPORTED = "export { vegaEmbed };"


@cache
def module() -> str:
    """Return the text of a JavaScript module that exports `vegaEmbed`.

    To put it together takes seconds, so it is kept (see `kept`) by the versions of altair
    and vl-convert.

    Raises
    ------
    MissingDependencyError
        If altair or vl-convert is not installed.
    """
    try:
        versions = version("altair"), version("vl-convert-python")
    except ImportError as error:
        raise missing_extra(str(error.name), "workbench") from error
    return kept(f"vega-altair-{versions[0]}-vl-convert-{versions[1]}.js", _made)


def _made() -> str:
    try:
        import altair
        import vl_convert
    except ImportError as error:
        raise missing_extra(error.name or "vl-convert-python", "workbench") from error
    lite = altair.SCHEMA_VERSION.lstrip("v").rpartition(".")[0]
    code: str = vl_convert.javascript_bundle(_EXPORTED, vl_version=lite)
    return code
