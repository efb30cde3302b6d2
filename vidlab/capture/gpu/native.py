"""Builds our C with the machine's compiler, once, into a per-user cache, and loads it.

vidlab ships its C as source: a wheel for every Python, and nothing to download on a machine
that has a compiler. What is built lies under ``$XDG_CACHE_HOME/vidlab/native/<key>``, where the
key is a hash of the sources, the flags, the compiler's version and the Python it is for: a
changed source never meets an old library.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ...errors import MissingDependencyError, VidlabError

FLAGS = ("-O2", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")

#: How much of a failed compiler's output an error shows.
SHOWN_LINES = 12


def compiler() -> str | None:
    """Return the C compiler that vidlab would use, or None: ``$CC``, else gcc, else cc.

    Returns
    -------
    str or None
        Its path, with the options that ``$CC`` may carry (``"ccache gcc"``).
    """
    chosen = os.environ.get("CC", "").strip()
    if chosen:
        return chosen if shutil.which(shlex.split(chosen)[0]) else None
    return shutil.which("gcc") or shutil.which("cc")


def build(name: str, sources: Sequence[Path], flags: Sequence[str] = ()) -> Path:
    """Compile C sources into a shared library and return where it lies.

    A library that was built before from the same sources is returned as it is. Several
    processes may build the same one at once: each builds its own, one of them stays.

    Parameters
    ----------
    name : str
        The file's name, such as ``"libhostcuda.so"``.
    sources : sequence of Path
        The C files, compiled together. Headers (``.h``) among them count for the key and are
        not compiled: name every header that a source includes.
    flags : sequence of str
        Further options for the compiler.

    Raises
    ------
    MissingDependencyError
        If there is no C compiler.
    VidlabError
        If the compiler fails; the message ends with its last lines.
    """
    command = compiler()
    if command is None:
        raise MissingDependencyError(_no_compiler())
    options = [*FLAGS, *flags]
    place = _cache() / _key(command, name, sources, options)
    library = place / name
    if not library.exists():
        _compile(command, sources, options, library)
    return library


def extension(name: str, sources: Path | Sequence[Path], flags: Sequence[str] = ()) -> ModuleType:
    """Build a CPython extension and import it.

    Parameters
    ----------
    name : str
        The module's full name; its sources define ``PyInit_<last part of the name>``.
    sources : Path or sequence of Path
        Its source, or all of them, as for `build`.
    flags : sequence of str
        Further options for the compiler.

    Returns
    -------
    ModuleType
        The module. It is entered in ``sys.modules``; a second call returns the same.

    Raises
    ------
    MissingDependencyError
        If there is no C compiler, or Python's own headers are not installed.
    VidlabError
        If it does not compile or does not load.
    """
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    include = Path(sysconfig.get_path("include"))
    if compiler() is not None and not (include / "Python.h").exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise MissingDependencyError(
            f"Python's C headers are not in {include}: apt install python{version}-dev"
        )
    units = [sources] if isinstance(sources, Path) else sources
    library = build(name.rpartition(".")[2] + ".so", units, [f"-I{include}", *flags])
    loader = importlib.machinery.ExtensionFileLoader(name, str(library))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise VidlabError(f"{library} was built but does not load: {error}") from error
    return sys.modules.setdefault(name, module)


def _no_compiler() -> str:
    chosen = os.environ.get("CC", "").strip()
    if chosen:
        return f"$CC is {chosen!r}, which is not a program on the path: unset it, or install it"
    return "this part of vidlab is built from C, and there is no C compiler: apt install gcc"


def _cache() -> Path:
    """Return a directory to build into: the user's cache, or, if that can't be written, our own."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # A relative XDG_CACHE_HOME is to be ignored, says the specification.
        home = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
        place = home / "vidlab" / "native"
        place.mkdir(parents=True, exist_ok=True)
        if os.access(place, os.W_OK | os.X_OK):
            return place
    except (OSError, RuntimeError):  # RuntimeError: no home directory is known
        pass
    return _temporary()


@functools.cache
def _temporary() -> Path:
    # Not a name that another user could have made before us: its library would run as ours.
    place = tempfile.mkdtemp(prefix="vidlab-native-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(place)


def _key(command: str, name: str, sources: Sequence[Path], options: Sequence[str]) -> str:
    digest = hashlib.sha256()
    parts = [name, command, _version(command), sysconfig.get_config_var("SOABI") or "", *options]
    for source in sources:
        parts += [source.name, source.read_text(encoding="utf-8")]
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:24]


@functools.cache
def _version(command: str) -> str:
    try:
        answer = subprocess.run(
            [*shlex.split(command), "--version"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise MissingDependencyError(f"the C compiler {command!r} does not run: {error}") from error
    return answer.stdout


def _compile(command: str, sources: Sequence[Path], options: Sequence[str], library: Path) -> None:
    """Compile into a directory of our own beside the target, then put it there whole."""
    scratch = Path(tempfile.mkdtemp(prefix="building-", dir=library.parent.parent))
    try:
        units = [str(source) for source in sources if source.suffix == ".c"]
        words = [*shlex.split(command), *units, "-o", str(scratch / library.name), *options]
        answer = subprocess.run(words, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            shown = "\n".join((answer.stderr or answer.stdout).splitlines()[-SHOWN_LINES:])
            raise VidlabError(f"{library.name} does not compile with {command!r}:\n{shown}")
        try:
            scratch.rename(library.parent)
        except OSError:
            # Another process was first. Its library is as good; without one, it's a real error.
            if not library.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
