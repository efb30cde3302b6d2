"""Vega as one JavaScript module, made of what vl-convert brings, and kept for the next time."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from ...errors import missing_extra
from .kept import kept

#: What the page calls.
_EXPORTED = "export { vegaEmbed };"


@cache
def module() -> str:
    """Return the text of a JavaScript module that exports `vegaEmbed`.

    To put it together takes seconds, so it is kept (see `kept`) by the version of vl-convert.

    Raises
    ------
    MissingDependencyError
        If vl-convert is not installed.
    """
    try:
        made_of = version("vl-convert-python")
    except PackageNotFoundError as error:
        raise missing_extra("vl-convert-python", "workbench") from error
    return kept(f"vega-of-vl-convert-{made_of}.js", _made)


def _made() -> str:
    import vl_convert

    code: str = vl_convert.javascript_bundle(_EXPORTED)
    return code
