"""``dpctl cni``: run a network's plugins as a runtime does, on a network namespace that is there already.

    dpctl cni add|check|del NET NETNS [--ifname eth0] [--id ID] [--args 'K=V;K=V'] [--cap JSON]
    dpctl cni gc NET --valid ID/IFNAME ... | --none-valid
    dpctl cni status NET

Made to be used in turn with cnitool: the same environment variables (CNI_PATH, NETCONFPATH, CAP_ARGS, CNI_ARGS,
CNI_IFNAME), the same container ID for the same path of a namespace, and the same cache.

Be aware: where cnitool's ``gc`` takes nothing for valid, and so deletes everything, here that must be said. And a
second ``add`` is refused before it starts: the DEL that follows a failed ADD would take the first one's interface away.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from control.cli.output import EXIT_PROBLEM, json_option, print_json
from dataplane.errors import DataplaneError
from plugin.environment import Verb
from plugin.errors import CniError
from plugin.jsontext import Json, JsonObject
from plugin.runtime.conflist import LIST, SINGLE, ConfList, find
from plugin.runtime.driver import Driver

PLUGIN_DIRECTORIES = (Path("/opt/cni/bin"), Path("/usr/lib/cni"), Path("/usr/libexec/cni"))
"""Where upstream and distributions put plugins."""
NAMESPACES = Path("/run/netns")


class CallError(DataplaneError):
    """A verb that did not succeed; the text holds every plugin's error."""


@dataclass(frozen=True, slots=True)
class _Call:
    """What all verbs are told: the network, who runs its plugins, and how to print."""

    net: str
    conf: Path
    path_dirs: tuple[Path, ...]
    cache: Path
    as_json: bool

    def conflist(self) -> ConfList:
        if "/" in self.net or Path(self.net).suffix in (*LIST, *SINGLE):
            return ConfList.load(self.net)
        return find(self.net, self.conf)

    def driver(self) -> Driver:
        return Driver(self.path_dirs or PLUGIN_DIRECTORIES, self.cache, stderr=sys.stderr)

    def say(self, verb: Verb, text: str, fields: Mapping[str, object]) -> None:
        if self.as_json:
            print_json({"verb": verb, **fields})
        else:
            click.echo(text)

    def fail(self, verb: Verb, what: str, errors: list[CniError], fields: Mapping[str, object]) -> CallError:
        """Print what programs read; the error that people read."""
        if self.as_json:
            print_json({"verb": verb, **fields, "errors": [_fields(error) for error in errors]})
        return CallError(f"could not {what}: {'; '.join(map(_words, errors))}")


@dataclass(frozen=True, slots=True)
class _Attachment:
    """The interface that a verb is about; without arguments those of its ADD count."""

    netns: str
    ifname: str
    container: str
    capability_args: JsonObject | None
    cni_args: str

    def fields(self, conflist: ConfList) -> dict[str, object]:
        return {"network": conflist.name, "container": self.container, "netns": self.netns, "ifname": self.ifname}

    def __str__(self) -> str:
        return f"{self.ifname} of {self.container}"


def namespace_path(netns: str) -> str:
    """A path, absolute and without ``..``, or a name in ``/run/netns``."""
    return os.path.normpath(Path(netns).absolute() if "/" in netns else NAMESPACES / netns)


def container_id(netns_path: str) -> str:
    """The container ID that cnitool makes of the path of a namespace."""
    return f"cnitool-{hashlib.sha512(netns_path.encode()).digest()[:10].hex()}"


def _capabilities(_context: click.Context, _option: click.Parameter, text: str | None) -> JsonObject | None:
    if text is None:
        return None
    try:
        value: Json = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.BadParameter('it is not a JSON object, such as {"portMappings": [...]}')
    return value


def _pairs(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for text in texts:
        container, separator, ifname = text.partition("/")
        if not (container and separator and ifname) or "/" in ifname:
            raise click.BadParameter(f"{text!r} is not ID/IFNAME")
        pairs.append((container, ifname))
    return tuple(pairs)


_DIRECTORY = click.Path(path_type=Path)
_ON_NETWORK = (
    click.argument("net"),
    click.option(
        "--conf", type=_DIRECTORY, envvar="NETCONFPATH", default=Path("/etc/cni/net.d"), show_default=True,
        help="Where conflists are (NETCONFPATH).",
    ),
    click.option(
        "--cni-bin", "path_dirs", type=_DIRECTORY, envvar="CNI_PATH", multiple=True,
        help=f"Where plugins are; may be repeated (CNI_PATH).  [default: {', '.join(map(str, PLUGIN_DIRECTORIES))}]",
    ),
    click.option(
        "--cache", type=_DIRECTORY, default=Path("/var/lib/cni"), show_default=True,
        help="Where results are kept, in libcni's format.",
    ),
    json_option,
)  # fmt: skip
_ON_ATTACHMENT = (
    click.argument("netns"),
    click.option("--ifname", envvar="CNI_IFNAME", default="eth0", show_default=True, help="The container's interface."),
    click.option("--id", "container", help="The container ID.  [default: cnitool's, made of NETNS]"),
    click.option("--args", "cni_args", envvar="CNI_ARGS", default="", help='CNI_ARGS: "K=V;K=V".'),
    click.option(
        "--cap", "capability_args", envvar="CAP_ARGS", callback=_capabilities, metavar="JSON",
        help='Capability arguments: {"portMappings": [{"hostPort": 8080, "containerPort": 80}]} (CAP_ARGS).',
    ),
)  # fmt: skip


def _on_network(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command NET and its options, as its first argument."""

    @functools.wraps(command)
    def run(net: str, conf: Path, path_dirs: tuple[Path, ...], cache: Path, *, as_json: bool, **others: object) -> None:
        command(_Call(net, conf, path_dirs, cache, as_json), **others)

    for option in reversed(_ON_NETWORK):
        run = option(run)
    return run


def _on_attachment(command: Callable[[_Call, _Attachment], None]) -> Callable[..., None]:
    """Give a command NET, NETNS and their options, as its two arguments."""

    @functools.wraps(command)
    def run(
        call: _Call,
        netns: str,
        ifname: str,
        container: str | None,
        cni_args: str,
        capability_args: JsonObject | None,
    ) -> None:
        path = namespace_path(netns)
        command(call, _Attachment(path, ifname, container or container_id(path), capability_args, cni_args))

    for option in reversed(_ON_ATTACHMENT):
        run = option(run)
    return _on_network(run)


@click.group()
def cni() -> None:
    """Run a network's plugins as a runtime does: ADD, CHECK, DEL, GC, STATUS.

    NET is the name of a network, or the path of a conflist; NETNS a name in /run/netns, or a path.
    """


@cni.command()
@_on_attachment
def add(call: _Call, attachment: _Attachment) -> None:
    """Attach a network namespace to a network, and print the result."""
    conflist, driver = call.conflist(), call.driver()
    _check_namespace(attachment.netns)
    what = f'add {attachment} to network "{conflist.name}"'
    try:
        if driver.attached(conflist, attachment.container, attachment.ifname):
            raise CallError(f"could not {what}: it is there already; dpctl cni del it first")
        result = driver.add(conflist, *_arguments(attachment))
    except CniError as error:
        raise call.fail(Verb.ADD, what, [error], attachment.fields(conflist)) from error
    call.say(Verb.ADD, json.dumps(result, indent=2), {**attachment.fields(conflist), "result": result})


@cni.command()
@_on_attachment
def check(call: _Call, attachment: _Attachment) -> None:
    """Ask the plugins whether everything is as the ADD left it."""
    conflist = call.conflist()
    _check_namespace(attachment.netns)
    fields = attachment.fields(conflist)
    try:
        call.driver().check(conflist, *_arguments(attachment))
    except CniError as error:
        what = f'check {attachment} on network "{conflist.name}"'
        raise call.fail(Verb.CHECK, what, [error], fields) from error
    if conflist.disable_check:
        _note("the list says disableCheck: no plugin was asked")
    call.say(Verb.CHECK, f"{conflist.name}: {attachment} is as it should be", fields)


@cni.command(name="del")
@_on_attachment
def delete(call: _Call, attachment: _Attachment) -> None:
    """Detach a network namespace from a network; again is fine."""
    conflist = call.conflist()
    fields = attachment.fields(conflist)
    try:
        call.driver().delete(conflist, *_arguments(attachment))
    except CniError as error:
        what = f'delete {attachment} from network "{conflist.name}"'
        raise call.fail(Verb.DEL, what, [error], fields) from error
    call.say(Verb.DEL, f"{conflist.name}: {attachment} is deleted", fields)


@cni.command()
@_on_network
@click.option(
    "--valid", multiple=True, callback=_pairs, metavar="ID/IFNAME", help="What may not be touched; may be repeated."
)
@click.option("--none-valid", is_flag=True, help="Nothing is valid: delete every attachment of the network.")
def gc(call: _Call, valid: tuple[tuple[str, str], ...], *, none_valid: bool) -> None:
    """Remove what containers that are no longer there have left on a network."""
    if bool(valid) == none_valid:
        raise click.UsageError(
            "say what is valid: --valid ID/IFNAME for every attachment to keep, or --none-valid to delete all of them"
        )
    conflist = call.conflist()
    fields = {"network": conflist.name, "valid": [{"containerID": one, "ifname": ifname} for one, ifname in valid]}
    try:
        call.driver().gc(conflist, valid)
    except ExceptionGroup as group:
        errors = [error for error in group.exceptions if isinstance(error, CniError)]
        raise call.fail(Verb.GC, f'collect garbage on network "{conflist.name}"', errors, fields) from group
    if conflist.disable_gc:
        _note("the list says disableGC: nothing was done")
    elif not conflist.at_least("1.1.0"):
        _note(f"CNI {conflist.cni_version} has no GC: only attachments in {call.cache} were looked at")
    call.say(Verb.GC, f"{conflist.name}: nothing is left but {len(valid)} valid attachments", fields)


@cni.command()
@_on_network
def status(call: _Call) -> None:
    """Ask the plugins whether an ADD could be served. Exit status 3 where one says no."""
    conflist = call.conflist()
    if not conflist.at_least("1.1.0"):
        _note(f"CNI {conflist.cni_version} has no STATUS: no plugin was asked")
    try:
        call.driver().status(conflist)
    except CniError as error:
        fields = {"network": conflist.name, "ready": False, "errors": [_fields(error)]}
        call.say(Verb.STATUS, f"{conflist.name}: not ready: {_words(error)}", fields)
        click.get_current_context().exit(EXIT_PROBLEM)
    call.say(Verb.STATUS, f"{conflist.name}: ready", {"network": conflist.name, "ready": True, "errors": []})


def _arguments(attachment: _Attachment) -> tuple[str, str, str, JsonObject | None, str]:
    """The arguments of the driver's verbs, after the list."""
    return (
        attachment.container,
        attachment.netns,
        attachment.ifname,
        attachment.capability_args,
        attachment.cni_args,
    )


def _check_namespace(path: str) -> None:
    if not Path(path).exists():
        raise CallError(f"could not find the network namespace {path}: make it by ip netns add, or say its path")


def _note(text: str) -> None:
    click.echo(f"note: {text}", err=True)


def _words(error: CniError) -> str:
    return "; ".join([str(error), *getattr(error, "__notes__", [])])


def _fields(error: CniError) -> dict[str, object]:
    return {
        "code": int(error.code),
        "msg": error.msg,
        "details": error.details,
        "plugin": error.plugin,
        "notes": getattr(error, "__notes__", []),
    }
