"""Dispatch: one CNI call in, what the process prints and its exit status out. It never raises.

    answer = dispatch(call, netns, open_engine)
    answer.stdout      the result, or {"cniVersion", "code", "msg", "details"}: a CNI error is on standard output
    answer.stderr      notes for people
    answer.exit_code   0 or 1

The order of checks is that of Go's skel, so that a bad call gets the answer that runtimes know: environment, JSON,
version, name, and then the verb.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable

from control.model import DEFAULT_PLUGIN
from control.protocol.wire import DECLINED, Answer, CniCall
from dataplane import __version__
from plugin import commands
from plugin.call import Call, Netns, OpenEngine, Outcome
from plugin.environment import Verb, parse_environment
from plugin.errors import CniError, Code, WholeEnvironmentNeededError, cni_error
from plugin.jsontext import parse_object
from plugin.versions import CURRENT_VERSION, SUPPORTED_VERSIONS

PLUGINS = {
    DEFAULT_PLUGIN: "",
    "dataplane-bridge": "",
    "bridge": "1.9.0",
    "firewall": "1.9.0",
    "host-local": "1.9.0",
    "portmap": "1.9.0",
    "isolation": "0.0.4",
    "cni-nftables-firewall": "1.0.11",
    "cni-nftables-portmap": "1.0.11",
}
"""The plugins that the executable can be, by the name it is started by, and for those that it stands in for the version
of theirs whose configuration it serves. By any other name it is the first."""

DEBUG = "DATAPLANE_DEBUG"
"""Set to anything, it puts the traceback of a failure on standard error."""


PutOff = Callable[[CniCall, Exception], str]
"""Takes a call that failed: a note where it is kept for later, and so no failure of the call; else nothing."""


def dispatch(
    call: CniCall,
    netns: int | None,
    engine: OpenEngine,
    *,
    whole: bool = True,
    put_off: PutOff = lambda _call, _error: "",
) -> Answer:
    """Serve a call.

    ``call.stdin`` is decoded with ``surrogateescape``; ``netns`` is the open descriptor of CNI_NETNS and stays the
    caller's; ``engine`` is only entered when the call was found valid. Where the environment is not the ``whole`` of
    the caller's, a call that delegates to another plugin is declined. A failure that ``put_off`` takes is none.
    """
    plugin = call.plugin if call.plugin in PLUGINS else DEFAULT_PLUGIN
    if not call.environment.get("CNI_COMMAND"):
        return Answer("", _about(plugin))
    said: list[str] = []
    try:
        outcome = _serve(call, plugin, Netns(netns, call.netns_error), engine, said.append, whole=whole)
    except WholeEnvironmentNeededError:
        return Answer("", "", DECLINED)
    except Exception as error:  # noqa: BLE001 - the border: whatever went wrong, a runtime gets CNI's words for it
        if note := put_off(call, error):
            return Answer("", "".join((*said, note)))
        answer = failed(call, error)
        told = f"dataplane: {cni_error(error)}{_traced(call)}\n" if call.trace else ""
        return answer._replace(stderr="".join((*said, told, answer.stderr)))
    notes = (f"dataplane: {note}{_traced(call)}\n" for note in outcome.notes)
    return Answer(outcome.stdout, "".join((*said, *notes)))


def _serve(
    call: CniCall, plugin: str, netns: Netns, engine: OpenEngine, say: Callable[[str], object], *, whole: bool
) -> Outcome:
    invocation = parse_environment(call.environment)
    if invocation.verb is Verb.VERSION:
        return Outcome(_versions(call.stdin))
    conf = parse_object(_raw(call.stdin))
    return commands.run(Call(plugin, invocation, conf, netns, engine, call.environment, whole, say))


def _traced(call: CniCall) -> str:
    """By what name the agent's log has this call, for whoever reads what its caller was told."""
    return f" (trace {call.trace})" if call.trace else ""


def _raw(stdin: str) -> bytes:
    try:
        return stdin.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise CniError(Code.DECODE, "could not decode the network configuration on stdin", str(error)) from None


def _about(plugin: str) -> str:
    # Started by hand, or by nerdctl, which reads the version from here and compares it with that of the plugin whose
    # name this is.
    served = PLUGINS[plugin]
    version = f"{served}+dataplane.{__version__}" if served else __version__
    return f"CNI {plugin} plugin v{version}\nCNI protocol versions supported: {', '.join(SUPPORTED_VERSIONS)}\n"


def _versions(stdin: str) -> str:
    return json.dumps({"cniVersion": _version_of(stdin), "supportedVersions": SUPPORTED_VERSIONS})


def _version_of(stdin: str) -> str:
    """The version that the caller writes in; ours where it cannot be told."""
    try:
        version = parse_object(_raw(stdin)).get("cniVersion")
    except CniError:
        return CURRENT_VERSION
    return version if isinstance(version, str) and version in SUPPORTED_VERSIONS else CURRENT_VERSION


def failed(call: CniCall, error: Exception) -> Answer:
    """The answer to a call that ended with a failure."""
    failure = cni_error(error)
    body: dict[str, str | int] = {
        "cniVersion": _version_of(call.stdin),
        "code": int(failure.code),
        "msg": failure.msg,
    }
    if failure.details:
        body["details"] = failure.details
    debug = call.environment.get(DEBUG)
    return Answer(json.dumps(body), "".join(traceback.format_exception(error)) if debug else "", 1)
