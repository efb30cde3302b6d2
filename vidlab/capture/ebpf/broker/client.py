"""A session that a broker holds: what `session.Session` is, for who may not load programs."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

from ....errors import RecordingError, VidlabError
from ..attaching import Attachment
from ..declaring.probes import Declaration
from ..kernel.bpf import KernelError, MapType
from ..kernel.maps import Map, possible_cpus
from ..kernel.privileges import PrivilegeError
from ..plan import Member, Plan
from ..session import RING_BYTES, Shared
from .protocol import MOST_ANSWER, PROTOCOL, Channel, EndedError, close_all, error_from

#: How long a broker may take to begin its answer: it compiles, loads and attaches meanwhile.
_ANSWER_S = 60.0

#: How long a message may take, once it has begun.
_WHOLE_S = 10.0

_REMEDY = "Start one with 'sudo vidlab ebpf-broker', or name its socket: KernelEvents(broker=…)."


class RemoteSession:
    """Programs of a plan in the kernel, which a broker has loaded, and the maps to read them by.

    Parameters
    ----------
    path : Path
        The broker's socket.
    plan : Plan
    target : int
        The process: this one, or another of this user.
    ring_bytes : int
        Of each table's ring: a power of two.
    sessions : bool, optional
        As of `Session`.

    Attributes
    ----------
    shared : Shared
        Rings to be read, counts and metrics that can only be read, and the slots of threads.
    attachments : list of Attachment
    pending : list of Member

    Raises
    ------
    PrivilegeError
        If there is no broker, or it refuses.
    VidlabError
        As `Session`.
    """

    attachments: list[Attachment]
    pending: list[Member]

    def __init__(
        self,
        path: Path,
        plan: Plan,
        target: int,
        *,
        ring_bytes: int = RING_BYTES,
        sessions: bool | None = None,
    ) -> None:
        self._path = path
        self._plan = plan
        self._lock = threading.Lock()
        self._problems: list[str] = []
        self._over = self._refused = False
        with contextlib.ExitStack() as undo:
            self._channel = undo.enter_context(contextlib.closing(_connect(path)))
            descriptors: list[int] = []
            undo.callback(close_all, descriptors)
            answer = self._ask(
                "open",
                descriptors,
                protocol=PROTOCOL,
                plan=plan.to_json(),
                target=None if target == os.getpid() else target,
                ring_bytes=ring_bytes,
                sessions=sessions,
            )
            self.shared = self._take_maps(answer, descriptors, ring_bytes)
            undo.callback(self.shared.close)
            self._take_state(answer)
            self._undo = undo.pop_all()

    @property
    def problems(self) -> list[str]:
        """What could not be attached; and that the broker is gone, if so."""
        if not self._over and not self._channel.closed and not self._broker_lives():
            self._lost("it has ended")
        return self._problems

    def attach_pending(self) -> list[Attachment]:
        """Have it attach what waits for a library that is loaded now; return what was."""
        if self._over or self._refused:
            return []
        known = len(self.attachments)
        try:
            self._take_state(self._ask("attach_pending"))
        except EndedError:
            self.pending = []
        except VidlabError as error:  # it may not any more: asking again is no use
            self._refused, self.pending = True, []
            self._problems.append(str(error))
        return self.attachments[known:]

    def replace(self, number: int, declaration: Declaration) -> None:
        """Replace a running program by another; see `Session.replace`."""
        self._plan.replaced(number, declaration)  # what does not fit is told without asking
        self._ask("replace", number=number, declaration=declaration.to_json())

    def misses(self) -> dict[int, int]:
        """Return how often the kernel did not run a program; nothing if the broker is gone."""
        with contextlib.suppress(EndedError, TypeError, ValueError):
            told = self._ask("misses").get("misses")
            return {int(number): int(count) for number, count in told or ()}
        return {}

    def detach(self) -> None:
        """Take all programs off; what they wrote can still be read."""
        with contextlib.suppress(EndedError):
            self._ask("detach")

    def close(self) -> None:
        """Close this process's side. As the last one does, nothing is left in the kernel."""
        self._over = True
        self._undo.close()

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- asking -----------------------------------------------------------------------

    def _ask(self, do: str, descriptors: list[int] | None = None, **what: Any) -> dict[str, Any]:
        with self._lock:
            try:
                with contextlib.suppress(EndedError):  # it may have said why, and closed
                    self._channel.send({"do": do, **what}, _WHOLE_S)
                answer = self._channel.receive(_ANSWER_S, _WHOLE_S, descriptors)
            except EndedError as error:
                self._lost(str(error))
                raise EndedError(f"the broker at {self._path} does not answer: {error}") from error
        if "error" in answer:
            raise error_from(answer["error"])
        known = answer.get("ok")
        if not isinstance(known, dict):
            raise self._nonsense("an answer without a meaning")
        return known

    def _broker_lives(self) -> bool:
        try:
            return bool(self._channel.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _lost(self, why: str) -> None:
        if not self._over:
            self._over = True
            self._problems.append(
                f"the broker at {self._path} is gone ({why}): no kernel events are recorded "
                "since. Start it again and record anew"
            )

    def _take_state(self, answer: dict[str, Any]) -> None:
        try:
            attachments = [
                Attachment(int(number), str(table), str(symbol), str(library), str(how))
                for number, table, symbol, library, how in answer["attachments"]
            ]
            pending = [self._plan.members[number] for number in answer["pending"]]
            problems = [str(problem) for problem in answer["problems"]]
            if not all(0 <= one.number < len(self._plan.members) for one in attachments):
                raise ValueError("a number of no probe")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._nonsense(f"attachments: {error}") from error
        self.attachments = attachments
        self.pending = pending
        self._problems[:] = problems

    def _take_maps(self, answer: dict[str, Any], descriptors: list[int], ring_bytes: int) -> Shared:
        """Return the maps behind the descriptors, which own them; the list is then empty."""
        rings, metrics = answer.get("rings"), answer.get("metrics")
        if rings != list(self._plan.layouts) or metrics != list(self._plan.metrics):
            raise self._nonsense("other tables than were asked for; use one version of vidlab")
        if len(descriptors) != len(rings) + 2 + len(metrics):
            raise self._nonsense(f"{len(descriptors)} descriptors")
        expected = [
            *((MapType.RINGBUF, ring_bytes) for _ in rings),
            (MapType.PERCPU_ARRAY, max(len(self._plan.members), 1)),
            (MapType.HASH, None),
            *((MapType.PERCPU_HASH, None) for _ in metrics),
        ]
        possible_cpus()  # if that cannot be told, then before any map owns its descriptor
        with contextlib.ExitStack() as undo:
            maps = []
            for type, size in expected:
                try:
                    map = Map.from_fd(descriptors[0])
                except (KernelError, struct.error) as error:
                    raise self._nonsense(f"a descriptor of no map ({error})") from error
                del descriptors[0]
                maps.append(undo.enter_context(map))
                if map.type != type or size not in (None, map.max_entries):
                    raise self._nonsense(f"another map than was asked for: {map!r}")
            undo.pop_all()
        after = len(rings) + 2
        return Shared(
            dict(zip(rings, maps[: len(rings)], strict=True)),
            maps[len(rings)],
            maps[len(rings) + 1],
            dict(zip(metrics, maps[after:], strict=True)),
        )

    def _nonsense(self, what: str) -> RecordingError:
        return RecordingError(f"what answers at {self._path} is no broker of this vidlab: {what}")


def _connect(path: Path) -> Channel:
    """Return a connection to a broker that is root's or this user's own."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(os.fspath(path))
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("3i", credentials)
        if uid not in (0, os.geteuid()):
            raise PrivilegeError(f"what listens at {path} is user {uid}'s, not root's", _REMEDY)
    except (OSError, ValueError) as error:
        sock.close()
        raise PrivilegeError(f"no broker answers at {path}: {error}", _REMEDY) from error
    except BaseException:
        sock.close()
        raise
    return Channel(sock, MOST_ANSWER)
