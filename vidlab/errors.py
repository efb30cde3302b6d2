"""The errors that vidlab raises: each message says what was wrong and what to do next."""

from __future__ import annotations


class VidlabError(Exception):
    """Anything that vidlab reports as wrong. Catch this to catch them all."""


class RecordingError(VidlabError):
    """A recording cannot start, or is used after its end."""


class RunError(VidlabError):
    """A run on disk cannot be read, finished or verified."""


class SchemaError(RunError):
    """A run, or a table of it, has a schema that this version does not read."""


class InputError(VidlabError):
    """The user's input (a path, an option, a label, a video) cannot be used."""


class MissingDependencyError(VidlabError, ImportError):
    """An optional package or program is not installed; the message names how to get it."""


def missing_extra(package: str, extra: str) -> MissingDependencyError:
    """Return the error for a Python package that one of vidlab's extras brings."""
    return MissingDependencyError(
        f"this needs the package {package!r}, which is not installed: pip install 'vidlab[{extra}]'"
    )
