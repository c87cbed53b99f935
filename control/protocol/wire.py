"""Frames between the plugin and the agent: four bytes of length, big endian, then one JSON object.

    plugin -> agent   {"v": 3, "call": "cni", "environment": {"CNI_COMMAND": "ADD", ...}, "stdin": "{...}",
                       "netns_error": "", "plugin": "dataplane"}
    agent -> plugin   {"v": 3, "answer": "cni", "stdout": "{...}", "stderr": "", "exit_code": 0}

    dpctl -> agent    {"v": 3, "call": "ping"}
    agent -> dpctl    {"v": 3, "answer": "pong", "version": "0.1.0", "pid": 4711}

    dpctl -> agent    {"v": 3, "call": "events", "since": 0, "follow": true}
    agent -> dpctl    {"v": 3, "answer": "record", "record": {...}}            one for each, until the agent hangs up

    dpctl -> agent    {"v": 3, "call": "reconcile"}
    agent -> dpctl    {"v": 3, "answer": "reconciled", "found": [...], "left": [...], "error": ""}

Pure: bytes in, values out. Text that is no UTF-8 (standard input is whatever a runtime wrote) crosses byte by byte.

Be aware: the plugin imports this on every call, so the values are ``NamedTuple``s: ``dataclasses`` alone costs a third
of the start of a Python process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

VERSION = 3
MAX_BODY = 2 << 20
"""Bytes of JSON in a frame: twice the plugin's standard input, for escapes."""
HEADER_LENGTH = 4

_DEBUG = "DATAPLANE_DEBUG"
_REQUEST = "DATAPLANE_REQUEST"  # not carried: no caller chooses it
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_CARRIED = {"TRACEPARENT", _DEBUG}


class WireError(Exception):
    """A frame that does not follow the protocol, or that does not fit in one."""


class CniCall(NamedTuple):
    """One start of the plugin by a runtime; the descriptor of CNI_NETNS travels beside the frame."""

    environment: Mapping[str, str]
    """To an agent only what ``carried`` keeps is sent."""
    stdin: str
    """Standard input, decoded with ``surrogateescape``."""
    netns_error: str = ""
    """Why CNI_NETNS could not be opened; empty where it was, or was not given."""
    plugin: str = "dataplane"
    """The name that the executable was started by: which plugin it is to be."""

    @property
    def trace(self) -> str:
        """The trace that the call belongs to (TRACEPARENT as W3C Trace Context has it), or the agent's name for the
        call; empty where there is neither."""
        found = self.environment.get("TRACEPARENT", "")
        return found if _TRACEPARENT.fullmatch(found) else self.environment.get(_REQUEST, "")

    def named(self, name: str) -> CniCall:
        """The call, by this name where it belongs to no trace: the same in the log and in what its caller is told."""
        return self if self.trace else self._replace(environment={**self.environment, _REQUEST: name})


class Answer(NamedTuple):
    """What the plugin's process prints and how it ends."""

    stdout: str
    stderr: str = ""
    exit_code: int = 0


DECLINED = -1
"""In place of an exit status: the agent cannot serve this call, and nothing was changed; its process is to do so."""


class Ping(NamedTuple):
    """Is an agent there?"""


class Pong(NamedTuple):
    """One is."""

    version: str
    pid: int


class EventsCall(NamedTuple):
    """What happened?"""

    since: int = 0
    """The number of the last record that is known already; those that the agent still has come after it."""
    follow: bool = False
    """Whether to be told what happens from now on, until one of both hangs up."""


class RecordAnswer(NamedTuple):
    """Something that happened."""

    record: Mapping[str, object]


class ReconcileCall(NamedTuple):
    """Look at everything, and put back what others took away."""


class Reconciled(NamedTuple):
    """Done, as far as it went."""

    found: tuple[str, ...]
    left: tuple[str, ...]
    error: str = ""


AgentCall = CniCall | Ping | EventsCall | ReconcileCall
AgentAnswer = Answer | Pong | RecordAnswer | Reconciled


def carried(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a call carries: CNI's, the trace context (W3C), and the switch for tracebacks."""
    return {name: value for name, value in environment.items() if _is_carried(name)}


def encode_call(call: AgentCall) -> bytes:
    """The frame of a call. Raises ``WireError`` where it is larger than a frame may be."""
    if not isinstance(call, CniCall):
        return _frame({"call": _CALLS[type(call)], **call._asdict()})
    return _frame({"call": "cni", **call._asdict(), "environment": carried(call.environment)})


def encode_answer(answer: AgentAnswer) -> bytes:
    """The frame of an answer. Raises ``WireError`` where it is larger than a frame may be."""
    return _frame({"answer": _ANSWERS[type(answer)], **answer._asdict()})


def body_length(header: bytes) -> int:
    """How many bytes follow a frame's header. Raises ``WireError`` where they are more than a frame may have."""
    if len(header) != HEADER_LENGTH:
        raise WireError(f"a frame's header has {HEADER_LENGTH} bytes, not {len(header)}")
    length = int.from_bytes(header, "big")
    if length > MAX_BODY:
        raise WireError(f"a frame of {length} bytes is larger than a frame may be ({MAX_BODY})")
    return length


def decode_call(body: bytes) -> AgentCall:
    """What the agent was asked. Raises ``WireError``."""
    message = _Message(body)
    match message.text("call"):
        case "cni":
            texts = (message.text(name) for name in ("stdin", "netns_error", "plugin"))
            return CniCall(message.environment(), *texts)
        case "ping":
            return Ping()
        case "events":
            return EventsCall(message.number("since"), message.switch("follow"))
        case "reconcile":
            return ReconcileCall()
        case other:
            raise WireError(f"unknown call {other[:64]!r}")


def decode_answer(body: bytes) -> AgentAnswer:
    """What the agent answered. Raises ``WireError``."""
    message = _Message(body)
    match message.text("answer"):
        case "cni":
            return Answer(message.text("stdout"), message.text("stderr"), message.number("exit_code"))
        case "pong":
            return Pong(message.text("version"), message.number("pid"))
        case "record":
            return RecordAnswer(message.record("record"))
        case "reconciled":
            return Reconciled(message.texts("found"), message.texts("left"), message.text("error"))
        case other:
            raise WireError(f"unknown answer {other[:64]!r}")


_CALLS: dict[type, str] = {Ping: "ping", EventsCall: "events", ReconcileCall: "reconcile"}
_ANSWERS: dict[type, str] = {Answer: "cni", Pong: "pong", RecordAnswer: "record", Reconciled: "reconciled"}


def _frame(fields: Mapping[str, object]) -> bytes:
    try:
        body = json.dumps({"v": VERSION, **fields}, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise WireError(f"a message holds text that cannot be encoded: {error.reason}") from None
    if len(body) > MAX_BODY:
        raise WireError(f"a message of {len(body)} bytes is larger than a frame may be ({MAX_BODY})")
    return len(body).to_bytes(HEADER_LENGTH, "big") + body


def _is_carried(name: str) -> bool:
    return name.startswith("CNI_") or name in _CARRIED


class _Message:
    """The object in a frame, read field by field."""

    def __init__(self, body: bytes) -> None:
        try:
            decoded: object = json.loads(body.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError) as error:
            raise WireError(f"a frame does not hold JSON: {error}") from None
        if not isinstance(decoded, dict):
            raise WireError("a frame does not hold a JSON object")
        self._fields: dict[str, object] = decoded
        if self.number("v") != VERSION:
            raise WireError(f"version {self.number('v')} of the protocol is spoken there, {VERSION} here")

    def text(self, name: str) -> str:
        return _text(self._fields.get(name), name)

    def number(self, name: str) -> int:
        value = self._fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise WireError(f"{name} is not an integer")
        return value

    def switch(self, name: str) -> bool:
        value = self._fields.get(name)
        if not isinstance(value, bool):
            raise WireError(f"{name} is neither true nor false")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._fields.get(name)
        if not isinstance(value, list):
            raise WireError(f"{name} is not a list")
        return tuple(_text(one, name) for one in value)

    def record(self, name: str) -> Mapping[str, object]:
        value = self._fields.get(name)
        if not isinstance(value, dict):
            raise WireError(f"{name} is not an object")
        return value

    def environment(self) -> dict[str, str]:
        value = self._fields.get("environment")
        if not isinstance(value, dict):
            raise WireError("environment is not an object")
        for name in value:
            if not _is_carried(name):
                raise WireError(f"environment carries {name[:64]!r}, which is none of CNI's")
        return {name: _text(item, f"environment.{name[:64]}") for name, item in value.items()}


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise WireError(f"{name} is not a string")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise WireError(f"{name} holds half of a surrogate pair") from None
    return value
