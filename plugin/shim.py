"""What a runtime starts where the executable in C could not be built, and what that one goes on with without an agent.

    runtime -> main -> VERSION, as runtimes ask for it              nothing is imported
                    \\-> agent's socket -> answer                     the libraries are loaded there
                    \\-> no agent: plugin.skel in this process       the same code, only slower

    runtime -> plugin/native -> the same, and where no agent answers:
                    \\-> resume: plugin.skel in this process         what was read and opened is handed on

Be aware: a runtime waits for every import of this module. podman asks every plugin of every network for its VERSION,
nearly each time that it is called: what that needs is here, and all else is imported where it is known to be needed.
"""

from __future__ import annotations

import errno
import os
import sys

from dataplane.streams import open_standard_streams
from plugin.versions import CURRENT_VERSION, SUPPORTED_VERSIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from control.protocol.wire import Answer, CniCall

MAX_STDIN = 1 << 20
"""Bytes. One more is read, so that a longer input is refused and not cut."""

_SILENCE = 30_000
"""Milliseconds without a byte after which standard input is given up."""

_ASKED_FOR = {b"": CURRENT_VERSION, **{f'{{"cniVersion":"{one}"}}'.encode(): one for one in SUPPORTED_VERSIONS}}
"""Standard input of VERSION as libcni writes it, without spaces, and the version that it is of."""


def main(socket_path: str = "") -> NoReturn:
    """Serve the call that environment and standard input describe, and end the process.

    Which plugin it is to be, the name tells that the process was started by. No ``socket_path`` is the agent's own.
    """
    open_standard_streams()
    verb = os.environ.get("CNI_COMMAND", "")
    # Started by hand, without a verb: standard input may be a terminal.
    stdin, unreadable = _read_stdin() if verb else (b"", "")
    version = _ASKED_FOR.get(stdin.replace(b" ", b"").strip()) if verb == "VERSION" else None
    if version:
        _end("", _versions(version), 0)
    answer = _serve(socket_path, stdin, unreadable)
    _end(answer.stderr, answer.stdout, answer.exit_code)


def resume() -> NoReturn:
    """Serve a call that the executable in C read, and end the process.

    ``sys.argv``: ``-c``, the package's directory, which plugin it is to be, the descriptor of CNI_NETNS or nothing, why
    there is none, and ``declined`` where an agent answered so. Standard input is what the runtime wrote.
    """
    from control.protocol.wire import CniCall  # noqa: PLC0415 - see the module

    plugin, descriptor, netns_error, declined = sys.argv[2:]
    netns = int(descriptor) if descriptor else None
    if netns is not None:
        os.set_inheritable(netns, False)
    if not os.environ.get("CNI_COMMAND"):
        answer = _in_process(CniCall({}, "", plugin=plugin), None)
    else:
        stdin, unreadable = _read_stdin()
        call = CniCall(dict(os.environ), stdin.decode("utf-8", "surrogateescape"), netns_error, plugin)
        answer = _refused(unreadable) if unreadable else _in_process(call, netns, declined=bool(declined))
    _end(answer.stderr, answer.stdout, answer.exit_code)


def _serve(socket_path: str, stdin: bytes, unreadable: str) -> Answer:
    from control.protocol.client import SOCKET_PATH, AgentClient, AgentUnreachableError  # noqa: PLC0415 - see the module
    from control.protocol.wire import DECLINED, CniCall, WireError  # noqa: PLC0415

    plugin = sys.argv[0].rpartition("/")[2]
    verb = os.environ.get("CNI_COMMAND", "")
    if not verb:
        return _in_process(CniCall({}, "", plugin=plugin), None)
    if unreadable and verb != "VERSION":
        return _refused(unreadable)
    netns, netns_error = _open_netns(os.environ.get("CNI_NETNS", ""))
    call = CniCall(dict(os.environ), stdin.decode("utf-8", "surrogateescape"), netns_error, plugin)
    agent = AgentClient(socket_path or SOCKET_PATH)
    try:
        answer = agent.call(call, netns)
        # What is delegated to another plugin runs where it would without us: in the caller's directory and environment.
        return _in_process(call, netns, declined=True) if answer.exit_code == DECLINED else answer
    except (AgentUnreachableError, WireError):
        # Also where the agent had the whole call and its answer was lost: ADD and DEL are idempotent by the key of the
        # attachment. A call that the agent has begun holds a lock until it ends, and one that still waits there is
        # dropped, because its caller has hung up. WireError: an agent of another version, or a call too large for a
        # frame.
        return _in_process(call, netns)


def _versions(version: str) -> str:
    # As json.dumps would write it, whose import costs more than the rest.
    supported = ", ".join(f'"{one}"' for one in SUPPORTED_VERSIONS)
    return f'{{"cniVersion": "{version}", "supportedVersions": [{supported}]}}'


def _refused(cause: str) -> Answer:
    import json  # noqa: PLC0415 - see the module

    from control.protocol.wire import Answer  # noqa: PLC0415

    failure = {"cniVersion": CURRENT_VERSION, "code": 5, "msg": "could not read standard input", "details": cause}
    return Answer(json.dumps(failure), "", 1)


def _in_process(call: CniCall, netns: int | None, *, declined: bool = False) -> Answer:
    if sys.flags.no_site:
        # The installed executable skips site, for speed; the bindings of nftables and bcc are found by it.
        import site  # noqa: PLC0415 - see the module

        site.main()
    from plugin.frontend import serve_embedded  # noqa: PLC0415 - see the module

    return serve_embedded(call, netns, declined=declined)


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


def _read_stdin() -> tuple[bytes, str]:
    """Standard input, and why it could not be read."""
    import select  # noqa: PLC0415 - see the module

    chunks, missing = [], MAX_STDIN + 1
    written = select.poll()
    written.register(0, select.POLLIN)
    try:
        while missing:
            if not written.poll(_SILENCE):
                return b"", os.strerror(errno.ETIMEDOUT)
            if not (chunk := os.read(0, missing)):
                break
            chunks.append(chunk)
            missing -= len(chunk)
    except OSError as error:
        return b"", error.strerror or str(error)
    return b"".join(chunks), ""


def _end(stderr: str, stdout: str, exit_code: int) -> NoReturn:
    _write(2, stderr)
    written = _write(1, stdout)
    # Everything is closed and written. What is left of an orderly end costs milliseconds that a runtime waits for.
    os._exit(exit_code if written else 1)


def _write(descriptor: int, text: str) -> bool:
    """Write all of it; False where nobody reads any more (SIGPIPE is ignored in Python)."""
    rest = text.encode("utf-8", "backslashreplace")
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except OSError:
            return False
    return True
