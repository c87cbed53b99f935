"""Dispatch: one CNI call in, what the process prints and its exit status out. It never raises.

    answer = dispatch(environment, stdin, netns, open_engine)
    answer.stdout      the result, or {"cniVersion", "code", "msg", "details"}: a CNI error is on standard output
    answer.stderr      notes for people
    answer.exit_code   0 or 1

The order of checks is that of Go's skel, so that a bad call gets the answer that runtimes know: environment, JSON,
version, name, and then the verb.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping

from control.wire import Answer
from dataplane import __version__
from plugin import commands
from plugin.commands import Netns, OpenEngine, Outcome
from plugin.config import CURRENT_VERSION, SUPPORTED_VERSIONS, UNSUPPORTED_VERSIONS
from plugin.environment import Verb, parse_environment
from plugin.errors import CniError, Code, cni_error
from plugin.jsontext import parse_object

DEBUG = "DATAPLANE_DEBUG"
"""Set to anything, it puts the traceback of a failure on standard error."""


def dispatch(
    environment: Mapping[str, str], stdin: str, netns: int | None, engine: OpenEngine, netns_error: str = ""
) -> Answer:
    """Serve a call.

    ``stdin`` is decoded with ``surrogateescape``; ``netns`` is the open descriptor of CNI_NETNS and stays the caller's;
    ``engine`` is only entered when the call was found valid.
    """
    if not environment.get("CNI_COMMAND"):
        return Answer("", _about())
    try:
        outcome = _serve(environment, stdin, Netns(netns, netns_error), engine)
    except Exception as error:  # noqa: BLE001 - the border: whatever went wrong, a runtime gets CNI's words for it
        return _failed(error, stdin, debug=bool(environment.get(DEBUG)))
    return Answer(outcome.stdout, "".join(f"dataplane: {note}\n" for note in outcome.notes))


def _serve(environment: Mapping[str, str], stdin: str, netns: Netns, engine: OpenEngine) -> Outcome:
    invocation = parse_environment(environment)
    if invocation.verb is Verb.VERSION:
        return Outcome(_versions(stdin))
    return commands.run(invocation, parse_object(_raw(stdin)), netns, engine)


def _raw(stdin: str) -> bytes:
    try:
        return stdin.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise CniError(Code.DECODE, "could not decode the network configuration on stdin", str(error)) from None


def _about() -> str:
    # Started by hand, or by nerdctl, which reads the version from here.
    return f"CNI dataplane plugin v{__version__}\nCNI protocol versions supported: {', '.join(SUPPORTED_VERSIONS)}\n"


def _versions(stdin: str) -> str:
    version = _version_of(stdin, known=(*UNSUPPORTED_VERSIONS, *SUPPORTED_VERSIONS))
    return json.dumps({"cniVersion": version, "supportedVersions": SUPPORTED_VERSIONS})


def _version_of(stdin: str, known: tuple[str, ...]) -> str:
    """The version that the caller writes in; ours where it cannot be told."""
    try:
        version = parse_object(_raw(stdin)).get("cniVersion")
    except CniError:
        return CURRENT_VERSION
    return version if isinstance(version, str) and version in known else CURRENT_VERSION


def _failed(error: Exception, stdin: str, *, debug: bool) -> Answer:
    failure = cni_error(error)
    body: dict[str, str | int] = {
        "cniVersion": _version_of(stdin, known=SUPPORTED_VERSIONS),
        "code": int(failure.code),
        "msg": failure.msg,
    }
    if failure.details:
        body["details"] = failure.details
    return Answer(json.dumps(body), "".join(traceback.format_exception(error)) if debug else "", 1)
