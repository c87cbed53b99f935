"""Hostile input: names that would be more than names, and input that nobody meant. Refused with a code, nothing asked.

The oracle for everything: exit status 0 or 1; on failure one CNI error on standard output, with a code from the table
and no bug's code; no traceback; the engine is asked for nothing that was not valid.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.model import AttachmentKey, Request
from plugin.errors import Code
from support.cni import VERBS, RecordingEngine, call, configuration, environment, error_of, open_netns, previous_result

NAMES: list[str] = json.loads((Path(__file__).parent.parent / "data" / "hostile_names.json").read_text())["names"] + [
    "../" * 100, "x" * 4096, "eth0\n", "eth0\0", "\ud800", "a/b", "a\tb", "%s%n", "${IFS}", "{{7*7}}",
]  # fmt: skip

# Words of nft and numbers, option-like or one dot in the middle: harmless as names, and so they are accepted.
HARMLESS_IDENTIFIERS = {"0x1", "accept", "drop", "x" * 16}
HARMLESS_INTERFACES = {"0x1", "accept", "drop", "-rf"}


@pytest.fixture(scope="module")
def netns() -> Iterator[int]:
    """The descriptor of a container's network namespace."""
    with open_netns() as descriptor:
        yield descriptor


def check(engine: RecordingEngine, conf: object, netns: int | None, env: dict[str, str], *, code: Code | None) -> None:
    """One call: refused with this code and nothing asked, or (None) served."""
    answer = call(engine, conf=conf, netns=netns, env=env)
    if code is None:
        assert answer.exit_code == 0, answer
        assert len(engine.calls) == 1
        return
    assert error_of(answer)["code"] == code
    assert engine.calls == []


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK"])
class TestHostileNames:
    """Each name in each place where a runtime, a user or a container can put one."""

    def test_as_container_id(self, verb: str, name: str, netns: int) -> None:
        """A container ID is letters, digits, '_', '.' and '-', as SPEC has it; code 4."""
        expected = None if name in HARMLESS_IDENTIFIERS else Code.INVALID_ENVIRONMENT
        check(RecordingEngine(), configuration(), netns, environment(verb, CNI_CONTAINERID=name), code=expected)

    def test_as_interface_name(self, verb: str, name: str, netns: int) -> None:
        """An interface name is at most 15 harmless characters; code 4."""
        conf = configuration(
            prevResult=previous_result(interfaces=[{"name": "br0"}, {"name": name, "sandbox": "/x"}], ips=[]),
            runtimeConfig=None,
        )
        expected = None if name in HARMLESS_INTERFACES else Code.INVALID_ENVIRONMENT
        if name == "\ud800":  # does not even get as far as its own check where the configuration holds it, too
            conf = configuration()
        check(RecordingEngine(), conf, netns, environment(verb, CNI_IFNAME=name), code=expected)

    def test_as_network_name(self, verb: str, name: str, netns: int) -> None:
        """A network name obeys the rules of a container ID; code 7."""
        expected = None if name in HARMLESS_IDENTIFIERS else Code.INVALID_CONFIG
        if name == "\ud800":
            expected = Code.DECODE
        check(RecordingEngine(), configuration(name=name or None), netns, environment(verb), code=expected)

    def test_as_bridge_name(self, verb: str, name: str, netns: int) -> None:
        """The kernel allows almost any bridge name; ours are those that are safe in any text. DEL does not look."""
        interfaces = [{"name": name}, {"name": "eth0", "sandbox": "/x"}]
        conf = configuration(prevResult=previous_result(interfaces=interfaces, ips=[{"address": "10.0.0.2/24"}]))
        expected = None if name in HARMLESS_INTERFACES or verb == "DEL" else Code.INVALID_CONFIG
        if name == "\ud800":
            expected = Code.DECODE
        check(RecordingEngine(), conf, netns, environment(verb), code=expected)

    def test_as_netns_path(self, verb: str, name: str, netns: int) -> None:
        """The path of the namespace is only ever opened: as text it may be anything, and it is not opened here."""
        expected = Code.INVALID_ENVIRONMENT if not name and verb != "DEL" else None
        check(RecordingEngine(), configuration(), netns, environment(verb, CNI_NETNS=name), code=expected)

    def test_as_arguments_and_vendor_values(self, verb: str, name: str, netns: int) -> None:
        """What is not read cannot hurt: arguments, labels and other people's keys are passed by."""
        conf = configuration(args={"cni": {"labels": [{"key": name, "value": name}]}}, **{f"x-{name}": name})
        expected = Code.DECODE if name == "\ud800" else None
        check(RecordingEngine(), conf, netns, environment(verb, CNI_ARGS=f"K8S_POD_NAME={name}"), code=expected)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_hostile_words_in_other_keys(name: str, netns: int) -> None:
    """A choice, a condition, a chain, a protocol or an address that is none is refused; code 7."""
    code = Code.DECODE if name == "\ud800" else Code.INVALID_CONFIG
    word = name or "?"
    for conf in (
        configuration(ingressPolicy=word),
        configuration(checksum=word),
        configuration(conditionsV4=["ip", "saddr", word]),
        configuration(conditionsV4=[f"{word}x", "10.0.0.1"]),
        configuration(forwardChains=[{"family": word, "table": "filter", "chain": "forward"}]),
        configuration(runtimeConfig={"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": word}]}),
        configuration(runtimeConfig={"portMappings": [{"hostPort": 1, "containerPort": 1, "hostIP": word}]}),
        configuration(runtimeConfig={"portMappings": [{"hostPort": word, "containerPort": 1}]}),
    ):
        check(RecordingEngine(), conf, netns, environment("ADD"), code=code)


def served_or_refused(verb: str, stdin: str, netns: int | None, env: dict[str, str] | None = None) -> None:
    """The oracle of the module."""
    engine = RecordingEngine()
    answer = call(engine, conf=stdin, netns=netns, env=environment(verb) if env is None else env)
    assert answer.exit_code in {0, 1}
    if answer.exit_code:
        error_of(answer)
        assert engine.calls == []
    for _, asked in engine.calls:
        # Values check themselves as they are made: to make them again is to check them again.
        if isinstance(asked, Request):
            assert AttachmentKey(asked.key.network, asked.key.container, asked.key.ifname) == asked.key
            assert len({(one.protocol, one.host_port, one.host_address) for one in asked.mappings}) == len(
                asked.mappings
            )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FUZZ = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@FUZZ
@given(verb=st.sampled_from(VERBS), raw=st.binary(max_size=300))
def test_random_bytes(verb: str, raw: bytes, netns: int) -> None:
    """Whatever bytes are on standard input, the answer is CNI's."""
    served_or_refused(verb, raw.decode("utf-8", "surrogateescape"), netns)


@FUZZ
@given(verb=st.sampled_from(VERBS), value=JSON)
def test_random_json(verb: str, value: Any, netns: int) -> None:
    """Whatever JSON is on standard input, the answer is CNI's."""
    served_or_refused(verb, json.dumps(value), netns)


WHOLE = configuration(
    "1.1.0",
    snat=True,
    masqAll=False,
    ipMasq=True,
    ingressPolicy="isolated",
    checksum="observe",
    conditionsV4=["ip", "saddr", "10.0.0.0/8"],
    conditionsV6=["!", "-s", "fd00::/8"],
    forwardChains=["inet filter forward", {"family": "ip", "table": "t", "chain": "c"}],
    args={"cni": {}},
    runtimeConfig={"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "udp", "hostIP": "::1"}]},
    **{"cni.dev/valid-attachments": [{"containerID": "web", "ifname": "eth0"}]},
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every value in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


@FUZZ
@given(
    verb=st.sampled_from(VERBS),
    changes=st.lists(st.tuples(st.sampled_from(places(WHOLE)[1:]), JSON), min_size=1, max_size=3),
)
def test_mutated_configuration(verb: str, changes: list[tuple[tuple[Any, ...], Any]], netns: int) -> None:
    """A valid configuration with anything in the place of some of its values is served, or refused in CNI's words."""
    conf = copy.deepcopy(WHOLE)
    for path, value in changes:
        target: Any = conf
        for key in path[:-1]:
            target = target[key] if isinstance(target, dict | list) and _has(target, key) else None
        if isinstance(target, dict) or (isinstance(target, list) and _has(target, path[-1])):
            target[path[-1]] = value
    served_or_refused(verb, json.dumps(conf), netns)


def _has(value: Any, key: Any) -> bool:
    if isinstance(value, list):
        return isinstance(key, int) and key < len(value)
    return key in value


@FUZZ
@given(verb=st.sampled_from(VERBS), cut=st.integers(0, 2000), byte=st.integers(0, 255))
def test_damaged_configuration(verb: str, cut: int, byte: int, netns: int) -> None:
    """A configuration cut off, or with a byte flipped, is served, or refused in CNI's words."""
    raw = json.dumps(WHOLE).encode()
    cut %= len(raw)
    served_or_refused(verb, raw[:cut].decode(), netns)
    served_or_refused(verb, (raw[:cut] + bytes([byte]) + raw[cut + 1 :]).decode("utf-8", "surrogateescape"), netns)


@FUZZ
@given(
    env=st.dictionaries(
        st.sampled_from(["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS", "CNI_PATH"]),
        st.text(max_size=20) | st.sampled_from([*NAMES, *VERBS]),
    )
)
def test_random_environment(env: dict[str, str], netns: int) -> None:
    """Whatever is in the environment, the answer is CNI's."""
    served_or_refused("", json.dumps(WHOLE), netns, env)


@pytest.mark.parametrize(
    "stdin",
    [
        '{"a": "' + "\\" * 1_000_000,
        '"' * 1_000_000,
        '{"cniVersion": "1.0.0", "name": "x", "conditionsV4": ["' + "ip saddr " * 100_000 + '"]}',
        '{"cniVersion": "1.0.0", "name": "x", "conditionsV4": [' + ", ".join(['"-s"', '"::/0"'] * 50_000) + "]}",
        json.dumps(configuration(runtimeConfig={"portMappings": [{"hostPort": 80, "containerPort": 80}] * 20_000})),
    ],
    ids=["escapes", "quotes", "words", "conditions", "mappings"],
)
def test_large_input_is_read_in_time(stdin: str, netns: int) -> None:
    """Input of the largest size takes time in proportion: none of the readers goes over it again and again."""
    assert len(stdin) <= 1 << 20
    start = time.monotonic()
    served_or_refused("ADD", stdin, netns)
    assert time.monotonic() - start < 3
