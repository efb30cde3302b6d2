"""`%load_ext vidlab`: `%%record` records a cell, `%explain` says why frames were late.

Both take the options of the command line, from the one definition in `arguments`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import keyword
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from ..errors import VidlabError
from . import arguments, cells

if TYPE_CHECKING:
    from ..runs.run import Run

#: The magics of each shell that has them.
_loaded: dict[int, VidlabMagics] = {}


def load(shell: InteractiveShell) -> None:
    """Register the magics with a shell."""
    unload(shell)
    magics = _loaded[id(shell)] = VidlabMagics(shell)
    for (kind, name), function in magics.functions().items():
        shell.magics_manager.register_function(function, kind, name)
    shell.input_transformers_cleanup.append(cells.transform)


def unload(shell: InteractiveShell) -> None:
    """Leave a shell as it was before `load`."""
    magics = _loaded.pop(id(shell), None)
    if magics is not None:
        shell.input_transformers_cleanup.remove(cells.transform)
        for kind, name in magics.functions():
            shell.magics_manager.magics[kind].pop(name, None)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong without ending the process, which is the kernel."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}\n{self.prog}? says more")


def _record_parser() -> _Parser:
    parser = _Parser(
        prog=cells.FIRST,
        description="Record what the code of this cell does, as `vidlab record` does a script.",
        allow_abbrev=False,
    )
    arguments.add_recording(parser)
    parser.add_argument(
        "--into", type=_variable, metavar="NAME", help="put the run into this variable"
    )
    parser.add_argument("script", nargs="*", help=argparse.SUPPRESS)
    return parser


def _explain_parser() -> _Parser:
    parser = _Parser(
        prog="%explain",
        description="Say why frames were late. RUN is a run's folder, or a variable that has "
        "one, or the run.",
        allow_abbrev=False,
    )
    arguments.add_run(parser)
    arguments.add_explain(parser)
    arguments.add_json(parser)
    return parser


class VidlabMagics:
    """The magics of one shell; their options are the command line's."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._record_parser = _record_parser()
        self._explain_parser = _explain_parser()

    def functions(self) -> dict[tuple[str, str], Callable[..., Any]]:
        """Return the magics by kind and name, as a shell registers them."""
        return {("cell", "record"): self.record, ("line", "explain"): self.explain}

    def record(self, line: str, cell: str) -> None:
        # Here comes who asks for the options, and who calls the magic by its name: of the others
        # `cells.transform` has made something else.
        lines = [f"{cells.FIRST} {line}\n", *cell.splitlines(keepends=True)]
        transformed = cells.transform(lines)
        if transformed is lines:
            _parsed(self._record_parser, [cells.HELP[0]])
        else:
            self._shell.run_cell("".join(transformed))  # type: ignore[no-untyped-call]

    def begin(self, line: str) -> None:
        """Begin to record the cell that runs: what `cells.transform` makes of its first line."""
        expanded = self._shell.var_expand(line, depth=1)  # type: ignore[no-untyped-call]
        words = _words(expanded)
        options = _parsed(self._record_parser, words)
        if options is None:
            return
        if options.script:
            raise UsageError(
                f"{cells.FIRST} records the code of its cell, and {options.script[0]!r} is none of "
                f"its options. A script: !vidlab record {shlex.join(options.script)}"
            )
        with _told():
            cells.record_cell(self._shell, arguments.recording(options), words, options.into)

    def explain(self, line: str) -> Any:
        options = _parsed(self._explain_parser, _words(line))
        if options is None:
            return None
        from .explain import answers  # of polars and altair, which a recording does without

        with _told():
            found = answers.as_asked(self._run(options.run), options)
            if not options.json:
                return found
            print(json.dumps(found.facts(), indent=2))  # noqa: T201  # what a cell shows
        return None

    def _run(self, named: Path) -> Run | str | os.PathLike[str]:
        """Return the run, or the folder, that this is the name of."""
        from ..runs.run import Run

        held = self._shell.user_ns.get(str(named))
        return held if isinstance(held, Run | str | os.PathLike) else named


def _variable(text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a variable")
    return text


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{line!r} cannot be read as options ({error}): close it") from None


def _parsed(parser: _Parser, words: Sequence[str]) -> argparse.Namespace | None:
    """Return what the words say; None if they ask for the options, which are shown."""
    with contextlib.suppress(SystemExit):
        return parser.parse_args(words)
    return None


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Have vidlab's own errors told in a line, without the way through vidlab."""
    try:
        yield
    except VidlabError as error:
        raise UsageError(str(error)) from error


# What `%%record?` and `%explain?` show.
VidlabMagics.record.__doc__ = _record_parser().format_help()
VidlabMagics.explain.__doc__ = _explain_parser().format_help()
