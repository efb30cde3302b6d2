"""What a session has in the kernel, kept under a name: ``pin="NAME"``.

Everything lies under ``<bpffs>/vidlab/NAME/``: maps, dispatchers and links, and beside them a
map with a JSON value that says which probes these are, and where they are attached. So it
goes on while no vidlab runs, and the next recording of this name goes on with it: it reads
what the rings hold, and counts from where the one before it stopped.

Links are of all processes, since the next recording is of another process than this one;
the map of targets says whose events are meant. One recording at a time has a name: it holds
a lock on the folder, which the kernel lets go of however the recording ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeVar

from ...errors import InputError
from .kernel import pins
from .kernel.bpf import Descriptor, MapType
from .kernel.links import Link
from .kernel.maps import Map
from .kernel.pins import PinError
from .kernel.programs import Program
from .objects import Attachment, Objects
from .plan import Plan
from .program.words import COUNTS

#: Of what is kept: another version has other maps, or means something else by them.
_VERSION = 1

_STATE, _NEW_STATE = "state", "state-new"
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,90}")

#: How many probes an error names.
_SHOWN = 6

#: The fields of /proc/PID/stat after the name, of which this is when the process started.
_STARTED = 19


_Object = TypeVar("_Object", Map, Program)


class Pinned(Objects):
    """The kept objects of a name, held by one recording until `close`.

    Parameters
    ----------
    name : str
        Letters, digits, ``_`` and ``-``.
    plan : Plan
    ring_bytes : int
    sessions : bool
        As of `session.Session`.

    Attributes
    ----------
    new : bool
        Whether nothing was there before. Then it all goes again unless `settle` is called.

    Raises
    ------
    InputError
        If other probes are kept under this name.
    PinError
        If there is no BPF file system, or another recording has the name.
    PrivilegeError
        If this process may not.
    """

    def __init__(self, name: str, plan: Plan, ring_bytes: int, sessions: bool) -> None:
        self.name = name
        self._settled = False
        self._attached: dict[str, Attachment] = {}
        self._links = 0
        self._about = {
            "version": _VERSION,
            "identity": _identity(plan, ring_bytes, sessions),
            "probes": list(dict.fromkeys(member.label for member in plan.members)),
        }
        self._lock = _locked(name, make=True)
        try:
            self.new = not self._go_on()
        except BaseException:
            self._lock.close()
            raise

    @property
    def attached(self) -> dict[str, Attachment]:
        return dict(self._attached)

    def map(
        self,
        kind: str,
        name: str,
        type: MapType,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
    ) -> Map:
        what = _what(kind, name)
        fd = pins.get(self.name, what)
        if fd is None:
            made = Map.create(type, key_size, value_size, max_entries, flags, name)
            return _kept(made, self.name, what)
        try:
            known = Map.from_fd(fd)
        except BaseException:
            os.close(fd)
            raise
        shape = (known.type, known.key_size, known.value_size, known.max_entries)
        if shape != (type, key_size, value_size, max_entries):
            known.close()
            raise self._other(f"its map {name!r} has another shape")
        return known

    def program(self, name: str, make: Callable[[], Program], attach_type: int) -> Program:
        what = _what("program", name)
        fd = pins.get(self.name, what)
        if fd is None:
            return _kept(make(), self.name, what)
        try:
            return Program.from_fd(fd, attach_type)
        except BaseException:
            os.close(fd)
            raise

    def keep(self, links: Sequence[Link], places: dict[str, Attachment]) -> None:
        for number, link in enumerate(links, self._links):
            pins.pin(link.fd, self.name, f"link-{number}")
        self._links += len(links)
        self._attached |= places
        if self._settled:
            self._write_state()

    def settle(self) -> None:
        """Keep it from now on."""
        self._settled = True
        self._write_state()

    def close(self) -> None:
        """Let go of the name; what is kept goes on. Idempotent."""
        if self._lock.closed:
            return
        try:
            if self.new and not self._settled:
                pins.unpin(self.name)
        finally:
            self._lock.close()

    def _go_on(self) -> bool:
        """Take over what an earlier recording has kept; return whether one has."""
        state = _state(self.name)
        if state is None:  # one that was killed before it had attached anything for good
            for what in pins.pinned(self.name):
                (pins.folder(self.name) / what).unlink()
            return False
        if any(state.get(key) != self._about[key] for key in ("version", "identity")):
            shown = ", ".join(map(str, state["probes"][:_SHOWN]))
            more = len(state["probes"]) - _SHOWN
            raise self._other(f"it is on {shown}" + (f" and {more} more" if more > 0 else ""))
        self._links = state["links"]
        self._attached = {place: Attachment(*told) for place, told in state["attached"].items()}
        for what in pins.pinned(self.name):
            kind, _, number = what.partition("-")
            # Of one who was killed between two steps: its places will be attached again.
            if what == _NEW_STATE or (kind == "link" and int(number) >= self._links):
                (pins.folder(self.name) / what).unlink()
        return True

    def _write_state(self) -> None:
        """Replace what is told of this, in one step."""
        told = {
            **self._about,
            "links": self._links,
            "attached": {place: astuple(one) for place, one in self._attached.items()},
        }
        packed = zlib.compress(json.dumps(told).encode())
        value = len(packed).to_bytes(8, "little") + packed
        value += bytes(-len(value) % 8)
        with Map.create(MapType.ARRAY, 4, len(value), 1, 0, _STATE) as state:
            state.update(bytes(4), value)
            place = pins.pin(state.fd, self.name, _NEW_STATE)
            place.replace(place.with_name(_STATE))

    def _other(self, why: str) -> InputError:
        return InputError(
            f"the pin {self.name!r} is of other probes, or of another version or size ({why}): "
            f"record what it was made for, or remove it by 'vidlab probes unpin {self.name}'"
        )


def unpin(name: str) -> None:
    """Remove all that is kept under a name: its probes are taken off, its counts are gone.

    Raises
    ------
    InputError
        If nothing is kept under this name.
    PinError
        If there is no BPF file system, or a recording has the name at this moment.
    PrivilegeError
        If this process may not.
    """
    with _locked(name):
        pins.unpin(name)


def names() -> list[str]:
    """Return the names under which something is kept, sorted; empty without a BPF file system.

    Raises
    ------
    PinError
        If they may not be seen.
    """
    root = pins.file_system()
    if root is None:
        return []
    try:
        return sorted(place.name for place in (root / pins.FOLDER).iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PinError(f"{root / pins.FOLDER} cannot be read: {error.strerror}") from error


# --- targets --------------------------------------------------------------------------


def add_target(targets: Map, pid: int) -> None:
    """Have a process's events recorded; those of processes that have ended no more."""
    for key, value in list(targets.items()):
        if _started(int.from_bytes(key, "little")) != int.from_bytes(value, "little"):
            targets.delete(key)
    targets.update(pid.to_bytes(4, "little"), _started(pid).to_bytes(8, "little"))


def _started(pid: int) -> int:
    """Return when a process started, which tells it from others of its number; 0 if it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[_STARTED])
    except (OSError, IndexError, ValueError):
        return 0


# --- the folder -----------------------------------------------------------------------


def _locked(name: str, make: bool = False) -> Descriptor:
    """Return a descriptor that holds the lock on a name, until it is closed everywhere."""
    while True:
        place = pins.folder(name, make)
        try:
            lock = Descriptor(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except FileNotFoundError:
            if make:
                continue  # its last owner has just removed it
            known = names()
            there = f"there is {', '.join(known)}" if known else "there are no pins"
            raise InputError(f"nothing is pinned under {name!r}: {there}") from None
        except OSError as error:
            raise PinError(f"{place} cannot be used: {error.strerror}") from error
        with contextlib.ExitStack() as undo:
            undo.enter_context(lock)
            try:
                fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                same = os.path.samestat(os.fstat(lock.fd), place.stat())
            except BlockingIOError:
                raise PinError(
                    f"the pin {name!r} is in use by a recording, and its rings have one reader: "
                    "wait for its end, or take another name"
                ) from None
            except FileNotFoundError:
                same = False
            if same:
                undo.pop_all()
                return lock


def _kept(made: _Object, name: str, what: str) -> _Object:
    """Pin what was made and return it."""
    try:
        pins.pin(made.fd, name, what)
    except BaseException:
        made.close()
        raise
    return made


def _state(name: str) -> dict[str, Any] | None:
    """Return what is told of a name; None if there is none."""
    fd = pins.get(name, _STATE)
    if fd is None:
        return None
    try:
        map = Map.from_fd(fd)
    except BaseException:
        os.close(fd)
        raise
    with map:
        value = map.lookup(bytes(4)) or b""
    try:
        size = int.from_bytes(value[:8], "little")
        told = json.loads(zlib.decompress(value[8 : 8 + size]))
        if not {"probes", "links", "attached"} <= told.keys():
            raise ValueError("it says too little")
    except (ValueError, AttributeError, zlib.error) as error:
        raise PinError(
            f"the pin {name!r} is not one of vidlab's ({error}): remove it by "
            f"'vidlab probes unpin {name}'"
        ) from error
    return dict(told)


def _identity(plan: Plan, ring_bytes: int, sessions: bool) -> str:
    """Return what the same probes, with the same records, have in common."""
    about = [
        [(member.label, member.source.to_json()) for member in plan.members],
        [(table, str(layout.dtype.descr)) for table, layout in plan.layouts.items()],
        [ring_bytes, sessions, COUNTS],
    ]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _what(kind: str, name: str) -> str:
    """Return a pin's own name: the file system takes no dots, and not any length."""
    if not _PLAIN.fullmatch(name):
        name = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{kind}-{name}"
