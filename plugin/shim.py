"""What a runtime starts as ``dataplane``: reads the call, has the agent serve it, or does the same work itself.

    runtime -> shim -> agent's socket -> answer                     the libraries are loaded there
                    \\-> no agent: plugin.skel in this process       the same code, only slower

Be aware: a runtime waits for every import of this module: the standard library only, and little of it. Everything
else is imported after it is known that no agent answers.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from control.client import SOCKET_PATH, AgentClient, AgentUnreachableError
from control.wire import Answer, CniCall, WireError, carried

MAX_STDIN = 1 << 20
"""Bytes. One more is read, so that a longer input is refused and not cut."""


def main(socket_path: str = SOCKET_PATH) -> NoReturn:
    """Serve the call that environment and standard input describe, and end the process."""
    answer = _serve(AgentClient(socket_path))
    _write(2, answer.stderr)
    written = _write(1, answer.stdout)
    # Everything is closed and written. What is left of an orderly end costs milliseconds that a runtime waits for.
    os._exit(answer.exit_code if written else 1)


def _serve(agent: AgentClient) -> Answer:
    environment = carried(os.environ)
    if not environment.get("CNI_COMMAND"):
        # Started by hand: standard input may be a terminal, and there is nothing to ask an agent.
        return _in_process(CniCall(environment, ""), None)
    stdin = _read_stdin().decode("utf-8", "surrogateescape")
    netns, netns_error = _open_netns(environment.get("CNI_NETNS", ""))
    call = CniCall(environment, stdin, netns_error)
    try:
        return agent.call(call, netns)
    except (AgentUnreachableError, WireError):
        # Also where the agent had the whole call and its answer was lost: ADD and DEL are idempotent by the key of the
        # attachment. A call that the agent has begun holds the state's lock until it ends, and one that still waits
        # there is dropped, because its caller has hung up. WireError: an agent of another version, or a call too large
        # for a frame.
        return _in_process(call, netns)


def _in_process(call: CniCall, netns: int | None) -> Answer:
    if sys.flags.no_site:
        # The installed executable skips site, for speed; the bindings of nftables and bcc are found by it.
        import site  # noqa: PLC0415 - see the module

        site.main()
    from plugin.frontend import serve_embedded  # noqa: PLC0415 - see the module

    return serve_embedded(call, netns)


def _open_netns(path: str) -> tuple[int | None, str]:
    if not path:
        return None, ""
    try:
        # Once: a path can be made to lead elsewhere between two looks at it. O_NONBLOCK: one that leads to a FIFO must
        # not hold up the runtime. No O_NOFOLLOW: /proc/PID/ns/net is a link.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), ""
    except OSError as error:
        # Fine for a DEL; the other verbs will say so.
        return None, error.strerror or str(error)


def _read_stdin() -> bytes:
    chunks, missing = [], MAX_STDIN + 1
    while missing:
        try:
            chunk = os.read(0, missing)
        except OSError:
            break  # closed, or a directory: as good as empty, and refused as that
        if not chunk:
            break
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)


def _write(descriptor: int, text: str) -> bool:
    """Write all of it; False where nobody reads any more (SIGPIPE is ignored in Python)."""
    rest = text.encode("utf-8", "backslashreplace")
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except OSError:
            return False
    return True
