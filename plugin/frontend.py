"""The two hosts of a CNI call: the agent with the engine that it keeps open, or this process with one of its own.

Entry points ``cni`` and ``replay`` of the group ``dataplane.frontends``: the agent finds ``serve`` and ``replay`` by
these names and imports nothing of here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from control.errors import BusyError, NotReadyError
from control.protocol.queue import Queue
from control.protocol.wire import Answer, CniCall
from plugin.call import Engine, OpenEngine
from plugin.deferred import Deferred
from plugin.skel import dispatch, failed

_WITHOUT_AGENT = frozenset({"DEL", "GC"})
"""What must work whatever the settings say: a runtime's clean-up."""
_DEFERRED = Deferred(Queue())


def serve(call: CniCall, netns: int | None, engine: Engine) -> Answer:
    """Serve a call on an open engine; ``netns`` is the descriptor that came with the call. Never raises."""
    return _serve(call, netns, lambda: nullcontext(engine), lambda: nullcontext(engine), whole=False)


def serve_embedded(call: CniCall, netns: int | None, *, declined: bool = False) -> Answer:
    """Serve a call in this process, because no agent answered, or the agent ``declined``; a call that needs no engine
    opens none. Never raises."""
    verb = call.environment.get("CNI_COMMAND", "")
    without_agent = declined or verb in _WITHOUT_AGENT
    return _serve(call, netns, lambda: _open_engine(without_agent=without_agent), _open_any_engine, whole=True)


def replay(engine: Engine) -> int:
    """Carry out the DELs that were kept for later, on an open engine: how many wait still.

    For the agent's start, and now and then while any wait. Raises ``OSError`` where the queue cannot be read.
    """
    return _DEFERRED.replay(lambda: nullcontext(engine), _say)


def _say(line: str) -> None:
    """Tell people, where they can be told: nothing is left undone because standard error is full or closed."""
    # ValueError: it was closed here. None: it was before Python started.
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(line)


def _serve(call: CniCall, netns: int | None, engine: OpenEngine, any_engine: OpenEngine, *, whole: bool) -> Answer:
    said: list[str] = []
    try:
        done_with_it = _DEFERRED.catch_up(call, any_engine, said.append)
    except (BusyError, OSError) as error:
        return failed(call, error)
    answer = dispatch(call, netns, engine, whole=whole, put_off=_DEFERRED.put_off)
    if answer.exit_code == 0:
        _DEFERRED.forget(done_with_it)
    return answer._replace(stderr="".join((*said, answer.stderr)))


def _open_any_engine() -> AbstractContextManager[Engine]:
    return _open_engine(without_agent=True)


@contextmanager
def _open_engine(*, without_agent: bool) -> Iterator[Engine]:
    from control.engine import open_engine  # noqa: PLC0415 - the agent has it, and most refused calls do not need it

    with open_engine() as engine:
        if engine.agent_required and not without_agent:
            raise NotReadyError(
                'no agent answers, and the settings say agent = "required": start it (dpctl agent), or change that'
            )
        yield engine
