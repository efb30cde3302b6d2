"""Which libraries a name such as "libavcodec", "libcuda.so.1" or "av.libs/*.so*" means.

A wheel's libraries carry a hash in their names (`libavcodec-5e6b81c2.so.62.28.102`): they are
known by the name without it as well.
"""

from __future__ import annotations

import fnmatch
import os
import re

#: What a plain name may go on with: an extension module's tag, ".so", and version numbers.
_SUFFIX = re.compile(r"(\.(cpython-|pypy|abi)[^.]*)?\.so(\.\w+)*")
_VERSIONS = re.compile(r"(\.\w+)*")
_HASH = re.compile(r"-[0-9a-f]{8}(?=\.)")


class Pattern:
    """What a person wrote to name a library.

    Parameters
    ----------
    text : str
        One of: a name, with its version or without (``"libavcodec"``, ``"libavcodec.so.62"``);
        a glob of file names (``"libav*.so*"``); a path, from the root or from any folder on
        (``"/usr/lib/libx.so"``, ``"cupy_backends/cuda/api/runtime.*.so"``), which may be a glob;
        ``"*"`` for whatever is mapped.
    """

    def __init__(self, text: str) -> None:
        if text.startswith(("./", "../", "~")):
            text = os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111
        self.text = text
        self.glob = any(sign in text for sign in "*?[")
        self.is_path = "/" in text
        self.is_absolute = text.startswith("/")
        # What a name must begin with, to tell most names quickly. A hash comes after it.
        self._start = re.split(r"[.*?\[]", text, maxsplit=1)[0]
        #: Whether it means everything that is mapped.
        self.everything = text == "*"

    def matches(self, path: str) -> bool:
        """Whether it means a file, as far as its path tells."""
        if self.everything:
            return True
        if self.is_path:
            text = self.text if self.is_absolute else "*/" + self.text
            return (
                fnmatch.fnmatchcase(path, text)
                if self.glob or text != self.text
                else (path == self.text)
            )
        return self.names(path.rpartition("/")[2])

    def names(self, name: str) -> bool:
        """Whether it means a library of this file name or soname."""
        if not name.startswith(self._start):
            return False
        return any(self._names(known) for known in dict.fromkeys((name, without_hash(name))))

    def _names(self, name: str) -> bool:
        if self.glob:
            return fnmatch.fnmatchcase(name, self.text)
        if not name.startswith(self.text):
            return False
        rest = name[len(self.text) :]
        going_on = _VERSIONS if ".so" in self.text else _SUFFIX
        return not rest or going_on.fullmatch(rest) is not None

    def may_name(self, name: str) -> bool:
        """Whether a file of this name may have a soname that this means: `libx.so.1` for
        the file `libx.so.1.2`. They have the part before the first dot in common."""
        if self.is_path or self.everything or not name.startswith(self._start):
            return False
        stem = without_hash(name).partition(".")[0]
        return fnmatch.fnmatchcase(stem, self.text.partition(".")[0])


def without_hash(name: str) -> str:
    """Return a library's name without the hash that packing it into a wheel put in."""
    return _HASH.sub("", name, count=1)
