"""Dispatch: which verb asks what of the engine, what is printed, and which code an error gets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from control.errors import (
    BusyError,
    DeviceNotFoundError,
    DifferenceError,
    EngineError,
    NotReadyError,
    PortConflictError,
)
from control.model import AttachmentKey, Options, PortMapping, Request
from control.protocol.wire import Answer, CniCall
from dataplane import __version__
from dataplane.errors import KernelError, MissingDependencyError, NftError
from dataplane.types import Protocol
from plugin.errors import Code
from plugin.frontend import serve
from plugin.skel import dispatch
from support.cni import (
    VERBS,
    VERSIONS,
    RecordingEngine,
    call,
    configuration,
    environment,
    error_of,
    open_netns,
    previous_result,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "cni"
KEY = AttachmentKey("front", "web", "eth0")
# Verb -> the first version of CNI that has it.
SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
ASKS = {"ADD": "add", "DEL": "delete", "CHECK": "check", "GC": "collect", "STATUS": "status"}


@pytest.fixture(scope="module")
def netns() -> Iterator[int]:
    """The descriptor of a container's network namespace."""
    with open_netns() as descriptor:
        yield descriptor


def gc_configuration(version: str = "1.1.0", **changed: Any) -> dict[str, Any]:
    return configuration(version, **{"cni.dev/valid-attachments": [{"containerID": "web", "ifname": "eth0"}]} | changed)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_in_every_version(verb: str, version: str, netns: int) -> None:
    """A verb that a version has asks the engine one thing and succeeds; the others end with code 1."""
    engine = RecordingEngine()
    answer = call(engine, verb=verb, conf=gc_configuration(version), netns=netns)
    if version < SINCE.get(verb, ""):
        error = error_of(answer)
        assert error["code"] == Code.INCOMPATIBLE_VERSION
        assert error["msg"] == f"config version does not allow {verb}"
        assert error["cniVersion"] == version
        assert engine.calls == []
    else:
        assert answer.exit_code == 0, answer
        assert [asked for asked, _ in engine.calls] == ([ASKS[verb]] if verb in ASKS else [])
        assert bool(answer.stdout) == (verb in {"ADD", "VERSION"})


@pytest.mark.parametrize("version", VERSIONS)
def test_add_prints_the_result_in_the_configurations_version(version: str, netns: int) -> None:
    """SPEC 1.1: the last plugin's result is the runtime's; a chained plugin passes prevResult on."""
    answer = call(RecordingEngine(), conf=configuration(version), netns=netns)
    assert json.loads(answer.stdout) == json.loads((GOLDEN / f"result-{version}.json").read_text())


def test_add_asks_for_the_attachment(netns: int) -> None:
    """The engine gets everything that was written, as one value."""
    engine = RecordingEngine()
    call(engine, conf=configuration(masqAll=True), netns=netns)
    request = engine.request()
    assert request == Request(
        key=KEY,
        addresses=(IPv4Address("10.11.0.10"), IPv6Address("fd00:11::10")),
        host_interfaces=("br-front", "veth0a1b2c3d"),
        mappings=(PortMapping(8080, 80, Protocol.TCP),),
        options=Options(masq_all=True),
        netns="/run/netns/web",
        netns_inode=request.netns_inode,
        mac="02:00:00:00:00:03",
    )
    assert request.netns_inode > 0


def test_check_asks_the_same_as_add(netns: int) -> None:
    """CHECK compares with exactly what the same configuration would ADD."""
    adding, checking = RecordingEngine(), RecordingEngine()
    call(adding, verb="ADD", netns=netns)
    call(checking, verb="CHECK", netns=netns)
    assert adding.request() == checking.request()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"prevResult": None},
        {"prevResult": 7},
        {"prevResult": {"interfaces": 7}},
        {"prevResult": {"ip4": {}}},
        {"prevResult": previous_result(ips=[{"address": "127.0.0.1/8"}])},
        {"runtimeConfig": None},
        {"runtimeConfig": {"portMappings": "x"}},
        {"runtimeConfig": {"portMappings": [{"hostPort": "80"}]}},
        {"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "hostIP": "ff02::1"}]}},
        {"snat": "perhaps"},
        {"ingressPolicy": 7},
        {"forwardChains": [["x"]]},
        {"externalSetMarkChain": "X"},
    ],
)
@pytest.mark.parametrize("env", [{}, {"CNI_NETNS": None}, {"CNI_NETNS": ""}, {"CNI_NETNS": "/gone"}])
def test_delete_needs_only_the_key(changed: dict[str, Any], env: dict[str, str | None]) -> None:
    """SPEC 1.1, DEL: "Plugins should generally complete a DEL action without error even if some resources are
    missing"; what an attachment was made with cannot keep it from being removed."""
    engine = RecordingEngine()
    answer = call(engine, conf=configuration(**changed), env=environment("DEL", **env))
    assert answer == Answer("", "", 0)
    assert engine.calls == [("delete", KEY)]


def test_gc_passes_on_what_is_valid() -> None:
    """SPEC 1.1, GC: what is not listed is to be removed; of this network only."""
    engine = RecordingEngine()
    assert call(engine, verb="GC", conf=gc_configuration()).exit_code == 0
    assert engine.calls == [("collect", ("front", frozenset({("web", "eth0")})))]


def test_gc_without_the_key_removes_nothing() -> None:
    """cnitool sends no list where it means "all of them": nothing is removed, and that is said."""
    engine = RecordingEngine()
    answer = call(engine, verb="GC", conf=configuration("1.1.0"))
    assert answer.exit_code == 0
    assert "GC did nothing" in answer.stderr
    assert engine.calls == []


def test_gc_with_an_empty_list_removes_all() -> None:
    """An empty list says that nothing is valid."""
    engine = RecordingEngine()
    nothing_valid: dict[str, Any] = {"cni.dev/valid-attachments": []}
    call(engine, verb="GC", conf=configuration("1.1.0", **nothing_valid))
    assert engine.calls == [("collect", ("front", frozenset()))]


@pytest.mark.parametrize("verb", VERBS[:-1])
@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"])
@pytest.mark.parametrize("value", [None, ""])
def test_missing_environment(verb: str, variable: str, value: str | None, netns: int) -> None:
    """SPEC 1.1, Error: "4 - Invalid necessary environment variables"; empty is as missing."""
    needed = {
        "CNI_CONTAINERID": {"ADD", "DEL", "CHECK"},
        "CNI_IFNAME": {"ADD", "DEL", "CHECK"},
        "CNI_NETNS": {"ADD", "CHECK"},
    }
    engine = RecordingEngine()
    answer = call(engine, conf=gc_configuration(), env=environment(verb, **{variable: value}), netns=netns)
    if verb in needed.get(variable, ()):
        error = error_of(answer)
        assert error["code"] == Code.INVALID_ENVIRONMENT
        assert variable in error["details"]
        assert engine.calls == []
    else:
        assert answer.exit_code == 0


def test_all_missing_variables_are_named() -> None:
    """One look is enough to repair a call."""
    error = error_of(call(RecordingEngine(), env={"CNI_COMMAND": "ADD"}))
    assert error["details"] == "ADD needs CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, missing or empty"


@pytest.mark.parametrize("command", ["add", "UPDATE", " ADD", "VERSION\n", "x" * 10_000])
def test_unknown_commands(command: str) -> None:
    """A command that CNI does not know is an error of the environment."""
    error = error_of(call(RecordingEngine(), env=environment(command)))
    assert error["code"] == Code.INVALID_ENVIRONMENT
    assert len(error["details"]) < 200


BAD_STDIN = ["", "{", "[]", "null", '{"a": NaN}', "[" * 10_000, "\udcff", "\ud800", '{"x": "' + "y" * (1 << 20) + '"}']


@pytest.mark.parametrize("stdin", BAD_STDIN, ids=range(len(BAD_STDIN)))
@pytest.mark.parametrize("verb", VERBS)
def test_bad_stdin(verb: str, stdin: str, netns: int) -> None:
    """SPEC 1.1, Error: "6 - Failed to decode content", for every verb; VERSION answers whatever it is asked."""
    engine = RecordingEngine()
    answer = call(engine, verb=verb, conf=stdin, netns=netns)
    if verb == "VERSION":
        assert answer.exit_code == 0
    else:
        assert error_of(answer)["code"] == Code.DECODE
    assert engine.calls == []


@pytest.mark.parametrize("verb", VERBS[:-1])
def test_no_name(verb: str, netns: int) -> None:
    """SPEC 1.1, Error: "7 - Invalid network config", for example one without a name."""
    engine = RecordingEngine()
    error = error_of(call(engine, verb=verb, conf=gc_configuration(name=None), netns=netns))
    assert (error["code"], error["details"]) == (Code.INVALID_CONFIG, "name: is missing")
    assert engine.calls == []


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
def test_no_previous_result(verb: str, netns: int) -> None:
    """Used alone, the plugin says where it belongs."""
    engine = RecordingEngine()
    error = error_of(call(engine, verb=verb, conf=configuration(prevResult=None), netns=netns))
    assert error["code"] == Code.INVALID_CONFIG
    assert "must be called as a chained plugin; add it after bridge or ptp" in error["details"]
    assert engine.calls == []


def test_ports_need_an_address(netns: int) -> None:
    """A port that could lead nowhere is an error; without ports an attachment needs no address."""
    bare = previous_result(ips=[])
    error = error_of(call(RecordingEngine(), conf=configuration(prevResult=bare), netns=netns))
    assert error["code"] == Code.INVALID_CONFIG
    assert error["details"].startswith("prevResult.ips:")
    assert call(RecordingEngine(), conf=configuration(prevResult=bare, runtimeConfig=None), netns=netns).exit_code == 0


ONLY4, ONLY6 = previous_result()["ips"]


def published(only: dict[str, Any], *hosts: str) -> dict[str, Any]:
    """A container with one address, and port 8080 published on these."""
    entries = [{"hostPort": 8080, "containerPort": 80, "hostIP": host} for host in hosts]
    return configuration(prevResult=previous_result(ips=[only]), runtimeConfig={"portMappings": entries})


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
@pytest.mark.parametrize(
    ("only", "hosts", "details"),
    [
        (ONLY4, ["::1"], "portMappings[0].hostIP: ::1 is IPv6, and the container has no IPv6 address"),
        (ONLY4, ["", "2001:db8::1"], "portMappings[1].hostIP: 2001:db8::1 is IPv6, and the container has no IPv6"),
        (ONLY6, ["192.0.2.1"], "portMappings[0].hostIP: 192.0.2.1 is IPv4, and the container has no IPv4 address"),
        (ONLY6, ["::ffff:192.0.2.1"], "portMappings[0].hostIP: 192.0.2.1 is IPv4"),
        (ONLY4, ["::"], "portMappings[0].hostIP: :: is IPv6, and the container has no IPv6 address"),
        (ONLY4, ["192.0.2.1", "::"], "portMappings[1].hostIP: :: is IPv6, and the container has no IPv6 address"),
    ],
)
def test_a_host_address_of_a_family_that_the_container_lacks(
    verb: str, only: dict[str, Any], hosts: list[str], details: str, netns: int
) -> None:
    """A host address that can lead to no address of the container is refused, and so is :: where nothing else is."""
    engine = RecordingEngine()
    error = error_of(call(engine, verb=verb, conf=published(only, *hosts), netns=netns))
    assert error["code"] == Code.INVALID_CONFIG
    assert error["details"].startswith(f"runtimeConfig.{details}")
    assert engine.calls == []


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
@pytest.mark.parametrize(
    ("only", "hosts", "left_out"),
    [
        (ONLY4, [""], ""),
        (ONLY6, [""], ""),
        (ONLY4, ["0.0.0.0"], ""),
        (ONLY6, ["::"], ""),
        (ONLY4, ["0.0.0.0", "::"], "portMappings[1] publishes nothing on ::: the container has no IPv6 address"),
        (ONLY4, ["::", "0.0.0.0"], "portMappings[0] publishes nothing on ::: the container has no IPv6 address"),
        (ONLY6, ["0.0.0.0", "::"], "portMappings[0] publishes nothing on 0.0.0.0: the container has no IPv4 address"),
        # What nerdctl writes where no address was given, for networks of IPv6 alone, too.
        (ONLY6, ["0.0.0.0"], "portMappings[0] publishes nothing on 0.0.0.0: the container has no IPv4 address"),
    ],
)
def test_every_address_of_a_family_that_the_container_lacks(
    verb: str, only: dict[str, Any], hosts: list[str], left_out: str, netns: int
) -> None:
    """``-p 8080:80`` works whichever wildcards a runtime writes for it; what has no effect is noted."""
    answer = call(RecordingEngine(), verb=verb, conf=published(only, *hosts), netns=netns)
    assert answer.exit_code == 0
    assert answer.stderr == (f"dataplane: runtimeConfig.{left_out}\n" if left_out else "")


def test_localhost_of_ipv6_is_published(netns: int) -> None:
    """A port on ::1, beside one on 127.0.0.1 or alone, is a port like any other where the container has IPv6."""
    entries = [{"hostPort": 8080, "containerPort": 80, "hostIP": host} for host in ("127.0.0.1", "::1")]
    answer = call(RecordingEngine(), conf=configuration(runtimeConfig={"portMappings": entries}), netns=netns)
    assert (answer.exit_code, answer.stderr) == (0, "")


def test_both_families_of_different_ports_are_no_dual_publication(netns: int) -> None:
    """:: leading to another container port than 0.0.0.0 is a wish of its own, and refused where it cannot be met."""
    conf = published(ONLY4, "0.0.0.0", "::")
    conf["runtimeConfig"]["portMappings"][1]["containerPort"] = 81
    error = error_of(call(RecordingEngine(), conf=conf, netns=netns))
    assert error["details"].startswith("runtimeConfig.portMappings[1].hostIP: :: is IPv6")


def test_a_range_that_a_family_lacks_is_one_note(netns: int) -> None:
    """However many ports have no effect for the same reason, it is said once."""
    entries = [
        {"hostPort": port, "containerPort": port, "hostIP": host}
        for host in ("0.0.0.0", "::")
        for port in range(20000, 20500)
    ]
    conf = published(ONLY4) | {"runtimeConfig": {"portMappings": entries}}
    answer = call(RecordingEngine(), conf=conf, netns=netns)
    assert answer.stderr.startswith("dataplane: runtimeConfig.portMappings[500] and 499 more publish nothing on ::")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK"])
def test_a_container_id_that_is_too_long(verb: str, netns: int) -> None:
    """255 characters are fine; of one more the limit is named, and not the character set, which it keeps to."""
    call_with = partial(call, conf=configuration(), netns=netns)
    assert call_with(RecordingEngine(), env=environment(verb, CNI_CONTAINERID="x" * 255)).exit_code == 0
    error = error_of(call_with(RecordingEngine(), env=environment(verb, CNI_CONTAINERID="x" * 256)))
    assert error["code"] == Code.INVALID_ENVIRONMENT
    assert error["details"] == f"CNI_CONTAINERID: '{'x' * 64}'... is 256 characters long, and 255 is the limit"


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
@pytest.mark.parametrize("path", ["/proc/self/ns/net", "/proc/self/ns/uts", "/proc/self/status", "/dev/null", "/proc"])
def test_what_is_no_namespace_of_a_container(verb: str, path: str) -> None:
    """Neither the host's own namespace, nor one of another kind, nor a file, device or directory."""
    engine = RecordingEngine()
    descriptor = os.open(path, os.O_RDONLY)
    error = error_of(call(engine, verb=verb, netns=descriptor))
    os.close(descriptor)
    assert error["code"] == Code.INVALID_NETNS
    assert "CNI_NETNS" in error["details"]
    assert engine.calls == []


def test_a_namespace_that_could_not_be_opened() -> None:
    """The kernel's answer to the shim reaches the user."""
    answer = serve(
        CniCall(environment("ADD"), json.dumps(configuration()), "No such file or directory"), None, RecordingEngine()
    )
    error = error_of(answer)
    assert error["code"] == Code.INVALID_NETNS
    assert error["details"] == "CNI_NETNS: could not open '/run/netns/web': No such file or directory"


ENGINE_ERRORS: list[tuple[Exception, Code, str]] = [
    (PortConflictError('already published by container "web"'), Code.PORT_CONFLICT, 'published by container "web"'),
    (DeviceNotFoundError("none of the host interfaces"), Code.INVALID_CONFIG, "none of the host interfaces"),
    (DifferenceError(("port 80 is gone", "so is 81")), Code.DIFFERENCE, "port 80 is gone; so is 81"),
    (NotReadyError("no bpffs"), Code.NOT_AVAILABLE, "no bpffs"),
    (BusyError("locked for 30 s"), Code.TRY_AGAIN, "locked for 30 s"),
    (MissingDependencyError("apt-get install"), Code.MISSING_DEPENDENCY, "apt-get install"),
    (NftError.from_errno("apply", "the ruleset", 1), Code.KERNEL, "could not apply the ruleset: Operation not"),
    (EngineError("no"), Code.FAILED, "no"),
    (OSError(28, "No space left on device"), Code.IO, "No space left"),
]


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC"])
@pytest.mark.parametrize(
    ("failure", "code", "text"), ENGINE_ERRORS, ids=[str(int(code)) for _, code, _ in ENGINE_ERRORS]
)
def test_engine_errors(verb: str, failure: Exception, code: Code, text: str, netns: int) -> None:
    """Every failure has its code, and keeps its words."""
    error = error_of(call(RecordingEngine(failure), verb=verb, conf=gc_configuration(), netns=netns))
    assert error["code"] == code
    assert text in error["details"]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (NotReadyError("x"), Code.NOT_AVAILABLE),
        (MissingDependencyError("x"), Code.NOT_AVAILABLE),
        (KernelError("a", "b", "c"), Code.NOT_AVAILABLE),
        (BusyError("x"), Code.TRY_AGAIN),
    ],
)
def test_status_errors(failure: Exception, code: Code) -> None:
    """SPEC 1.1, STATUS: "50 - The plugin is not available (i.e. cannot service ADD requests)"."""
    assert error_of(call(RecordingEngine(failure), verb="STATUS", conf=configuration("1.1.0")))["code"] == code


def test_gc_reports_all_errors() -> None:
    """SPEC 1.1, GC: "If an error is encountered, a plugin should continue; removing as many resources as possible, and
    report the errors back to the runtime"; with one code where all have the same."""
    second = NftError.from_errno("delete", "element b", 16)
    second.add_note("while removing front/db/eth0")
    same = ExceptionGroup("could not remove all", [NftError.from_errno("delete", "element a", 16), second])
    error = error_of(call(RecordingEngine(same), verb="GC", conf=gc_configuration()))
    assert error["code"] == Code.KERNEL
    assert "element a" in error["details"]
    assert "element b: Device or resource busy; while removing front/db/eth0" in error["details"]
    mixed = ExceptionGroup("could not remove all", [BusyError("a"), same])
    assert error_of(call(RecordingEngine(mixed), verb="GC", conf=gc_configuration()))["code"] == Code.FAILED


def test_a_bug_is_reported_as_one(netns: int) -> None:
    """An exception that nobody thought of: code 999 and its text, the traceback only where it is asked for."""
    answer = call(RecordingEngine(LookupError("x")), netns=netns)
    assert json.loads(answer.stdout)["code"] == Code.INTERNAL
    assert json.loads(answer.stdout)["details"] == "unexpected LookupError: x"
    assert (answer.stderr, answer.exit_code) == ("", 1)
    debugged = call(RecordingEngine(LookupError("x")), env=environment("ADD", DATAPLANE_DEBUG="1"), netns=netns)
    assert debugged.stderr.startswith("Traceback")
    assert debugged.stdout == answer.stdout


def test_an_engine_that_cannot_be_opened() -> None:
    """What fails before the first request is an error like any other."""

    def broken() -> Any:
        raise MissingDependencyError("python3-nftables is missing")

    answer = dispatch(CniCall(environment("DEL"), json.dumps(configuration())), None, broken)
    assert error_of(answer)["code"] == Code.MISSING_DEPENDENCY


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        ("", "1.1.0"),
        ('{"cniVersion": "0.2.0"}', "0.2.0"),
        ('{"cniVersion": "0.4.0"}', "0.4.0"),
        ('{"cniVersion": 7}', "1.1.0"),
        ('{"cniVersion": "9"}', "1.1.0"),
    ],
)
def test_version(stdin: str, version: str) -> None:
    """SPEC 1.1, VERSION: the caller's version and all supported ones."""
    answer = call(RecordingEngine(), conf=stdin, env={"CNI_COMMAND": "VERSION"})
    golden = json.loads((GOLDEN / "version.json").read_text())
    assert json.loads(answer.stdout) == golden | {"cniVersion": version}


def test_started_by_hand() -> None:
    """Without CNI_COMMAND the plugin says what it is, on standard error; nerdctl reads the version there."""
    answer = call(RecordingEngine(), env={})
    about = f"CNI dataplane plugin v{__version__}\nCNI protocol versions supported: {', '.join(VERSIONS)}\n"
    assert answer == Answer("", about, 0)


def test_notes_go_to_standard_error(netns: int) -> None:
    """What has no effect is said where it does not disturb the result."""
    answer = call(RecordingEngine(), conf=configuration(backend="iptables"), netns=netns)
    assert answer.stderr == "dataplane: backend is ignored: this plugin always works by nftables\n"
    assert json.loads(answer.stdout)["interfaces"]


GOLDEN_ERRORS: dict[str, Callable[[int], Answer]] = {
    "error-version": lambda _: call(RecordingEngine(), conf=configuration("0.5.0")),
    "error-environment": lambda _: call(RecordingEngine(), env={"CNI_COMMAND": "ADD"}),
    "error-decode": lambda _: call(RecordingEngine(), conf="[1]"),
    "error-config": lambda _: call(
        RecordingEngine(), conf=configuration(runtimeConfig={"portMappings": [{"hostPort": "80", "containerPort": 80}]})
    ),
    "error-conflict": lambda netns: call(
        RecordingEngine(
            PortConflictError('could not publish 8080/tcp: already published by container "web" (network "front")')
        ),
        netns=netns,
    ),
}


@pytest.mark.parametrize("name", GOLDEN_ERRORS)
def test_golden_errors(name: str, netns: int) -> None:
    """Errors read as their golden files have it."""
    error = error_of(GOLDEN_ERRORS[name](netns))
    assert json.dumps(error, indent=2) + "\n" == (GOLDEN / f"{name}.json").read_text()


def test_a_portmap_without_ports(netns: int) -> None:
    """portmap has nothing to do for a container without ports, and asks the engine nothing; greenpau's masquerades."""
    conf = configuration(runtimeConfig=None)
    for plugin, asked in (("portmap", []), ("cni-nftables-portmap", ["add"]), ("dataplane", ["add"])):
        engine = RecordingEngine()
        answer = call(engine, conf=conf | {"type": plugin}, netns=netns, plugin=plugin)
        assert answer.exit_code == 0, answer
        assert [verb for verb, _ in engine.calls] == asked
