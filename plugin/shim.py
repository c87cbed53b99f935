"""What a runtime starts, by whichever name: reads the call, has the agent serve it, or does the same work itself.

    runtime -> shim -> agent's socket -> answer                     the libraries are loaded there
                    \\-> no agent: plugin.skel in this process       the same code, only slower

Be aware: a runtime waits for every import of this module: the standard library only, and little of it. Everything
else is imported after it is known that no agent answers.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NoReturn

from control.client import SOCKET_PATH, AgentClient, AgentUnreachableError
from control.wire import AGAIN, Answer, CniCall, WireError

MAX_STDIN = 1 << 20
"""Bytes. One more is read, so that a longer input is refused and not cut."""


def main(socket_path: str = SOCKET_PATH) -> NoReturn:
    """Serve the call that environment and standard input describe, and end the process.

    Which plugin it is to be, the name tells that the process was started by.
    """
    answer = _serve(AgentClient(socket_path), sys.argv[0].rpartition("/")[2])
    _write(2, answer.stderr)
    written = _write(1, answer.stdout)
    # Everything is closed and written. What is left of an orderly end costs milliseconds that a runtime waits for.
    os._exit(answer.exit_code if written else 1)


def _serve(agent: AgentClient, plugin: str) -> Answer:
    verb = os.environ.get("CNI_COMMAND")
    if not verb:
        # Started by hand: standard input may be a terminal, and there is nothing to ask an agent.
        return _in_process(CniCall({}, "", plugin=plugin), None)
    try:
        stdin = _read_stdin().decode("utf-8", "surrogateescape")
    except OSError as error:
        if verb != "VERSION":
            return _unreadable(error)
        stdin = ""
    netns, netns_error = _open_netns(os.environ.get("CNI_NETNS", ""))
    call = CniCall(dict(os.environ), stdin, netns_error, plugin)
    try:
        answer = agent.call(call, netns)
        return agent.call(call._replace(whole=True), netns) if answer.exit_code == AGAIN else answer
    except (AgentUnreachableError, WireError):
        # Also where the agent had the whole call and its answer was lost: ADD and DEL are idempotent by the key of the
        # attachment. A call that the agent has begun holds the state's lock until it ends, and one that still waits
        # there is dropped, because its caller has hung up. WireError: an agent of another version, or a call too large
        # for a frame.
        return _in_process(call._replace(whole=True), netns)


def _unreadable(error: OSError) -> Answer:
    cause = error.strerror or str(error)
    failure = {"cniVersion": "1.1.0", "code": 5, "msg": "could not read standard input", "details": cause}
    return Answer(json.dumps(failure), "", 1)


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
        chunk = os.read(0, missing)
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
