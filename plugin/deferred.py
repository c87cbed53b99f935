"""DELs that could not be carried out: which are put off, and when they are tried again.

    deferred = Deferred(Queue())
    deferred.put_off(call, error)            -> a note, where the call is kept for later; "" where its caller is told
    deferred.catch_up(call, engine, say)     before an ADD or DEL: what waits for its attachment, and some of the rest
    deferred.replay(engine, say)             all that waits -> how many wait still

A runtime that is told of a failed DEL asks again and again, keeps the container's remains for that, or, worse, does not
call the plugins that come before ours in the chain. So a failure that is ours, or that will pass, is no failure of the
DEL: it is kept on disk (``control.protocol.queue``), the answer is success, and the agent, or the next call, does the
work.

A failure that is the caller's (the configuration, the environment), or another plugin's that we delegate to, is not.

A DEL is never carried out after the ADD that superseded it: its file is there for as long as anybody may yet carry it
out, and an ADD that sees it waits for the queue's lock.

Be aware: the descriptor of the namespace is not kept, and its path is forgotten: it may be another container's by then.
A DEL needs neither.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from control.errors import AbandonedError, BusyError
from control.lock import TIMEOUT
from control.protocol.queue import Entry, Queue, QueueError
from control.protocol.wire import CniCall
from plugin.call import OpenEngine
from plugin.errors import CniError, Code, cni_error
from plugin.skel import dispatch

BUDGET = 1.0
"""Seconds that a call may spend on what others left to be done."""

_PASSING = frozenset({Code.IO, Code.TRY_AGAIN})

Say = Callable[[str], object]
"""Takes a line for people."""


class Fate(Enum):
    """What became of a DEL that was tried again."""

    DONE = auto()
    WAITS = auto()
    REFUSED = auto()
    GONE = auto()
    """Somebody else has done it: there was nothing to try."""


class _Attachment(NamedTuple):
    plugin: str
    network: str
    container: str
    ifname: str


class Deferred:
    """See the module."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def put_off(self, call: CniCall, error: Exception) -> str:
        """Keep a DEL that failed for later, where that helps: a note that says so. Empty where its caller must know."""
        if call.environment.get("CNI_COMMAND") != "DEL" or not _is_ours(error):
            return ""
        failure = cni_error(error)
        try:
            self._queue.put(call)
        except (QueueError, OSError) as second:
            told = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
            told.add_note(f"the DEL cannot be kept for later either: {second}")
            return ""
        return f"dataplane: the DEL is kept for later: {failure.msg}: {failure.details}\n"

    def catch_up(self, call: CniCall, engine: OpenEngine, say: Say) -> list[Entry]:
        """Before an ADD or DEL: carry out what waits for its attachment, and, while all goes well, some of the rest.

        Never after an ADD: what fails now is dropped then. Of a DEL the entries whose work it does itself are returned:
        drop them when it has succeeded. Raises ``BusyError`` where another process has begun to replay them and does
        not end, and ``OSError`` where they cannot be dropped.
        """
        verb = call.environment.get("CNI_COMMAND")
        if verb not in {"ADD", "DEL"} or not len(self._queue):
            return []
        mine = _attachment(call)
        own = [entry for entry in self._queue.entries() if entry.call and _attachment(entry.call) == mine]
        with self._held(wait=bool(own) and verb == "ADD") as held:
            if held and verb == "ADD":
                for entry in own:
                    self._try(entry, engine, say)
                    self._queue.drop(entry)
            if held:
                self._try_some({entry.path for entry in own}, engine, say)
        return own if verb == "DEL" else []

    def forget(self, entries: Sequence[Entry]) -> None:
        """Drop entries whose work is done. One that cannot be dropped does no harm: a DEL may come twice.

        While others replay, all of them are left: one may be in their hands, and the next ADD has to see that.
        """
        if not entries:
            return
        with self._held(wait=False) as held:
            for entry in entries if held else ():
                with suppress(OSError):
                    self._queue.drop(entry)

    def replay(self, engine: OpenEngine, say: Say) -> int:
        """Carry out all that waits: how many wait still. Does nothing while others do that. Raises ``OSError``."""
        if len(self._queue):
            with self._held(wait=False) as held:
                for entry in self._queue.entries() if held else ():
                    self._try(entry, engine, say)
        return len(self._queue)

    def _try_some(self, besides: set[Path], engine: OpenEngine, say: Say) -> None:
        until = time.monotonic() + BUDGET
        for entry in self._queue.entries():
            if entry.path in besides:
                continue
            # One that fails may do so slowly, and where the engine is broken so will the others.
            if self._try(entry, engine, say) is Fate.WAITS or time.monotonic() > until:
                return

    def _try(self, entry: Entry, engine: OpenEngine, say: Say) -> Fate:
        # Whoever had the lock before us may have done it, and an ADD may have come after that.
        if not self._queue.waits(entry):
            return Fate.GONE
        if entry.call is None or entry.call.environment.get("CNI_COMMAND") != "DEL":
            return self._refuse(entry, entry.cause or "it is no DEL", say)
        failures: list[Exception] = []

        def note(_call: CniCall, error: Exception) -> str:
            failures.append(error)
            return ""

        environment = {name: value for name, value in entry.call.environment.items() if name != "CNI_NETNS"}
        dispatch(entry.call._replace(environment=environment, netns_error=""), None, engine, put_off=note)
        if not failures:
            self._queue.drop(entry)
            return Fate.DONE
        if _is_ours(failures[0]) or isinstance(failures[0], AbandonedError):
            return Fate.WAITS
        return self._refuse(entry, str(cni_error(failures[0])), say)

    def _refuse(self, entry: Entry, cause: str, say: Say) -> Fate:
        if aside := self._queue.set_aside(entry):
            say(f"dataplane: a DEL that was kept for later cannot be carried out, and is now {aside}: {cause}\n")
        return Fate.REFUSED

    @contextmanager
    def _held(self, *, wait: bool) -> Iterator[bool]:
        """Hold the queue; False where that is not possible, and this call need not wait for it."""
        taken = False
        try:
            with self._queue.held(TIMEOUT if wait else 0.0):
                taken = True
                yield True
        except (BusyError, OSError):
            # What waits of others may wait on; what waits for this attachment must not come after an ADD.
            if wait or taken:
                raise
            yield False


def _is_ours(error: Exception) -> bool:
    """Whether a failure is of the engine or of this host, or will pass."""
    if isinstance(error, ExceptionGroup):
        return any(map(_is_ours, error.exceptions))
    # CniError: what the caller wrote, or what another plugin said that we delegate to. Abandoned: the caller has done
    # the work itself by now, and perhaps undone it.
    if isinstance(error, CniError | AbandonedError):
        return False
    code = cni_error(error).code
    return code in _PASSING or code >= Code.FAILED


def _attachment(call: CniCall) -> _Attachment:
    environment = call.environment
    return _Attachment(
        call.plugin, _network(call.stdin), environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
    )


def _network(stdin: str) -> str:
    try:
        conf: object = json.loads(stdin)
    except (ValueError, RecursionError):
        return ""
    return str(conf.get("name", "")) if isinstance(conf, dict) else ""
