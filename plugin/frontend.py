"""The two hosts of a CNI call: the agent with the engine that it keeps open, or this process with one of its own.

Entry point ``cni`` of the group ``dataplane.frontends``: the agent finds ``serve`` by that name and imports nothing of
here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from control.errors import NotReadyError
from control.wire import Answer, CniCall
from plugin.call import Engine
from plugin.skel import dispatch

_WITHOUT_AGENT = frozenset({"DEL", "GC"})
"""What must work whatever the settings say: a runtime's clean-up."""


def serve(call: CniCall, netns: int | None, engine: Engine) -> Answer:
    """Serve a call on an open engine; ``netns`` is the descriptor that came with the call. Never raises."""
    return dispatch(call, netns, lambda: nullcontext(engine), whole=False)


def serve_embedded(call: CniCall, netns: int | None, *, declined: bool = False) -> Answer:
    """Serve a call in this process, because no agent answered, or the agent ``declined``; a call that needs no engine
    opens none. Never raises."""
    verb = call.environment.get("CNI_COMMAND", "")
    return dispatch(call, netns, lambda: _open_engine(without_agent=declined or verb in _WITHOUT_AGENT))


@contextmanager
def _open_engine(*, without_agent: bool) -> Iterator[Engine]:
    from control.engine import open_engine  # noqa: PLC0415 - the agent has it, and most refused calls do not need it

    with open_engine() as engine:
        if engine.agent_required and not without_agent:
            raise NotReadyError(
                'no agent answers, and the settings say agent = "required": start it (dpctl agent), or change that'
            )
        yield engine
