"""The two hosts of a CNI call: the agent with the engine that it keeps open, or this process with one of its own.

Entry point ``cni`` of the group ``dataplane.frontends``: the agent finds ``serve`` by that name and imports nothing of
here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from control.wire import Answer, CniCall
from plugin.commands import Engine
from plugin.skel import dispatch


def serve(call: CniCall, netns: int | None, engine: Engine) -> Answer:
    """Serve a call on an open engine; ``netns`` is the descriptor that came with the call. Never raises."""
    return dispatch(call.environment, call.stdin, netns, lambda: nullcontext(engine), call.netns_error)


def serve_embedded(call: CniCall, netns: int | None) -> Answer:
    """Serve a call in this process; a call that needs no engine opens none. Never raises."""
    return dispatch(call.environment, call.stdin, netns, _open_engine, call.netns_error)


def _open_engine() -> AbstractContextManager[Engine]:
    from control.engine import open_engine  # noqa: PLC0415 - the agent has it, and most refused calls do not need it

    return open_engine()
