"""One client's connection: what it asks for is checked, done, written down and answered."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ....errors import InputError, VidlabError
from ..attaching import Attachment
from ..declaring.probes import declaration_from_json
from ..plan import Member, Plan
from ..session import Session
from .guard import Guard
from .peers import HeldProcess, Peer, RefusedError, check_target
from .protocol import (
    MOST_ANSWER,
    MOST_REQUEST,
    PROTOCOL,
    Channel,
    EndedError,
    ProtocolError,
    error_message,
)
from .requests import check_member, check_plan, read_opening

if TYPE_CHECKING:
    from .server import Broker


#: What reading a request raises that no client of ours makes.
_NONSENSE = (TypeError, ValueError, KeyError, AttributeError, RecursionError, OverflowError)


class Serving:
    """A connection, from its first request to its end, in a thread of its own.

    Parameters
    ----------
    broker : Broker
    connection : socket.socket
        Owned from now on.

    Attributes
    ----------
    began : float
        When it came (monotonic, in s).
    opened : bool
        Whether it has a session, or is getting one.
    peer : Peer or None
    """

    def __init__(self, broker: Broker, connection: socket.socket) -> None:
        self._broker = broker
        self._connection = connection
        self.began = time.monotonic()
        self.opened = False
        self.peer: Peer | None = None
        self._target: HeldProcess | None = None
        self._session: Session | None = None
        self._guard: Guard | None = None
        self._plan: Plan | None = None
        self._told = 0  # attachments that are written down
        self._why = "the client has closed the connection"

    def run(self) -> None:
        """Serve it until it ends; nothing is raised."""
        with contextlib.ExitStack() as undo:
            undo.callback(self._connection.close)
            try:
                self._run(undo)
            except EndedError as error:
                self._why = str(error)
            except Exception as error:  # one connection's failure is no other's
                self._why = f"{type(error).__name__}: {error}"[:500]
                self._broker.audit.refused(reason=f"failed: {self._why}", peer=self._facts())
            if self._session is not None:
                undo.callback(self._write_down_end)

    def evict(self) -> None:
        """End it: the place is needed. Called by another thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _run(self, undo: contextlib.ExitStack) -> None:
        limits = self._broker.limits
        try:
            self.peer = peer = Peer.of(self._connection)
        except RefusedError as error:
            self._broker.audit.refused(reason=str(error))
            return
        undo.callback(peer.close)
        bells = (self._broker.bell, peer.pidfd)
        channel = Channel(self._connection, MOST_REQUEST, bells)
        if peer.uid != self._broker.uid:
            self._answer_refusal(
                channel,
                RefusedError(
                    f"this broker serves user {self._broker.uid}, not user {peer.uid}",
                    "Run a broker of your own: 'sudo vidlab ebpf-broker'.",
                ),
            )
            return
        while True:
            begin_s = None if self._session is not None else limits.patience_s
            try:
                asked = channel.receive(begin_s, limits.patience_s)
            except ProtocolError as error:
                self._answer_refusal(channel, error)
                return
            self._answer(channel, asked, undo)

    def _answer(self, channel: Channel, asked: dict[str, Any], undo: contextlib.ExitStack) -> None:
        patience_s = self._broker.limits.patience_s
        descriptors: list[int] = []
        try:
            if asked.get("do") == "open":
                answer, descriptors = self._open(asked, undo)
                self._watch_target(channel)
            else:
                action = _ACTIONS.get(str(asked.get("do"))[:40])
                if action is None:
                    raise InputError(f"a broker does not know how to {str(asked.get('do'))[:40]!r}")
                answer = action(self, asked)
        except VidlabError as error:
            self._answer_refusal(channel, error)
            return
        except _NONSENSE as error:
            told = f"the request cannot be understood: {type(error).__name__}: {error}"
            self._answer_refusal(channel, InputError(told[:500]))
            return
        channel.send({"ok": answer}, patience_s, descriptors)

    def _answer_refusal(self, channel: Channel, error: VidlabError) -> None:
        self._broker.audit.refused(reason=str(error)[:500], peer=self._facts())
        channel.send(error_message(error), self._broker.limits.patience_s)

    # --- opening ----------------------------------------------------------------------

    def _open(
        self, asked: dict[str, Any], undo: contextlib.ExitStack
    ) -> tuple[dict[str, Any], list[int]]:
        assert self.peer is not None
        if self.opened:
            raise InputError("this connection has a session: connect again for another")
        if asked.get("protocol") != PROTOCOL:
            raise InputError(
                f"the broker speaks protocol {PROTOCOL}, and the client another: "
                "use the same version of vidlab for both"
            )
        plan, target_pid, ring_bytes = read_opening(asked, self.peer.pid)
        check_plan(plan, self.peer)
        self._broker.take_place(self, ring_bytes * len(plan.layouts))
        undo.callback(self._broker.give_place_back, self)
        with contextlib.ExitStack() as opening:
            target = HeldProcess.open(target_pid)
            opening.callback(target.close)
            check_target(target, self._broker.uid)
            session = Session(
                plan,
                target.pid,
                ring_bytes=ring_bytes,
                sessions=asked.get("sessions"),
                guarded=True,
            )
            try:
                guard = Guard(session.targets)
            except BaseException:
                session.close()
                raise
            opening.callback(guard.close)  # after the session, as long as it can tell anything
            opening.callback(session.close)
            # Again, now that it can neither become another program unseen, nor has its number
            # been another process's since it was first looked at.
            check_target(target, self._broker.uid)
            if not guard.holds(target.pid):
                raise RefusedError(
                    f"process {target.pid} has just executed a program", "Ask again."
                )
            self._broker.audit.write(
                "attached",
                peer=self._facts(),
                target=target.facts(),
                ring_bytes=ring_bytes,
                probes=[_told(one) for one in session.attachments],
                asked=plan.to_json(),
            )
            undo.push(opening.pop_all())
        self._session, self._target, self._guard, self._plan = session, target, guard, plan
        self._told = len(session.attachments)
        shared = session.shared
        maps = [*shared.rings.values(), shared.counts, shared.slots, *shared.metrics.values()]
        names = {"rings": list(shared.rings), "metrics": list(shared.metrics)}
        return {**self._state(), **names}, [map.fd for map in maps]

    def _watch_target(self, channel: Channel) -> None:
        """Have the target's number mean nobody once it has ended."""
        target, guard = self._target, self._guard
        assert target is not None
        assert guard is not None
        channel.watch(target.pidfd, lambda: guard.let_go(target.pid))

    # --- a session's requests ---------------------------------------------------------

    def _attach_pending(self, asked: dict[str, Any]) -> dict[str, Any]:
        session = self._current()
        session.attach_pending()
        late = session.attachments[self._told :]
        if late:
            self._told = len(session.attachments)
            assert self._target is not None
            self._broker.audit.write(
                "attached",
                peer=self._facts(),
                target=self._target.facts(),
                probes=[_told(one) for one in late],
            )
        return self._state()

    def _replace(self, asked: dict[str, Any]) -> dict[str, Any]:
        session, number = self._current(), asked["number"]
        if type(number) is not int:
            raise InputError("number is a probe's number")
        declaration = declaration_from_json(asked["declaration"])
        assert self.peer is not None
        check_member(Member(number, declaration), self.peer)
        self._broker.audit.write(
            "replaced", peer=self._facts(), number=number, declaration=declaration.to_json()
        )
        session.replace(number, declaration)
        return {}

    def _misses(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"misses": sorted(self._open_session().misses().items())}

    def _detach(self, asked: dict[str, Any]) -> dict[str, Any]:
        session = self._open_session()
        self._broker.audit.write("detached", peer=self._facts())
        session.detach()
        return {}

    def _open_session(self) -> Session:
        if self._session is None:
            raise InputError("there is no session yet: ask for one with 'open'")
        return self._session

    def _current(self) -> Session:
        """Return the session if it may still be changed: its target is what it was."""
        session = self._open_session()
        assert self._target is not None
        assert self._guard is not None
        check_target(self._target, self._broker.uid)
        if not self._guard.holds(self._target.pid):
            raise RefusedError(
                f"process {self._target.pid} has executed another program since",
                "Record it anew.",
            )
        return session

    def _state(self) -> dict[str, Any]:
        assert self._session is not None
        known = self._session
        answer: dict[str, Any] = {
            "attachments": [_told(one) for one in known.attachments],
            "problems": [],
            "pending": [member.number for member in known.pending],
        }
        room = MOST_ANSWER // 2
        for problem in known.problems:
            room -= 6 * len(problem) + 3  # as many bytes as JSON may need
            if room > 0:
                answer["problems"].append(problem)
        return answer

    def _write_down_end(self) -> None:
        with contextlib.suppress(VidlabError):
            self._broker.audit.write("ended", peer=self._facts(), why=self._why)

    def _facts(self) -> dict[str, Any]:
        peer = self.peer
        return {} if peer is None else {**peer.facts(), "uid": peer.uid}


def _told(one: Attachment) -> list[Any]:
    return [one.number, one.table, one.symbol, one.library, one.how]


#: What can be asked of a session.
_ACTIONS: dict[str, Callable[[Serving, dict[str, Any]], dict[str, Any]]] = {
    "attach_pending": Serving._attach_pending,
    "replace": Serving._replace,
    "misses": Serving._misses,
    "detach": Serving._detach,
}
