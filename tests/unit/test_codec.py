"""Attachments survive the state's documents unchanged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.conditions import parse
from control.model import Attachment, ChecksumPolicy, ForeignChain, GuardPolicy, IngressPolicy, Options
from control.state.codec import DocumentError, decode, encode
from support.attachments import attachment, port

_PLAIN = attachment(
    "web",
    "10.11.0.2 fd00:11::2",
    port(8080),
    port(53, 53, "udp", "192.0.2.1"),
    port(99, 99, "sctp", "::"),
    options=Options(
        snat=False,
        masq_all=True,
        ip_masq=True,
        ingress_policy=IngressPolicy.ISOLATED,
        checksum=ChecksumPolicy.OBSERVE,
        conditions4=parse(["ip", "saddr", "!=", "10.0.0.0/8"], 4),
        forward_chains=(
            ForeignChain("inet", "filter", "forward"),
            ForeignChain("ip", "filter", "FORWARD", optional=True),
        ),
        admin_chain="CNI-ADMIN",
        firewalld_zone="trusted",
    ),
)
FULL = replace(
    _PLAIN,
    request=replace(
        _PLAIN.request,
        key=replace(_PLAIN.key, plugin="bridge"),
        netns="/run/netns/web",
        netns_inode=4711,
        mac="02:00:00:00:00:01",
        lease_dir="/var/lib/cni/networks",
    ),
)


@pytest.mark.parametrize("one", [FULL, attachment("plain", "10.11.0.3")], ids=["full", "plain"])
def test_a_document_reads_back_as_what_was_written(one: object) -> None:
    """decode(encode(x)) is x."""
    assert decode(encode(one)) == one  # type: ignore[arg-type]


def redone(document: str, **changed: object) -> str:
    """The document with other contents, and without a digest, as earlier versions wrote them."""
    return json.dumps(json.loads(document.partition("\n")[0]) | changed)


def guarded_by(one: Attachment, guard: GuardPolicy) -> Attachment:
    """The attachment with another guard."""
    return replace(one, request=replace(one.request, options=replace(one.options, guard=guard)))


def test_a_document_of_a_later_schema_is_refused() -> None:
    """A state of another version is not guessed at."""
    with pytest.raises(DocumentError, match="schema 99"):
        decode(redone(encode(FULL), schema=99))


def test_a_document_of_an_earlier_schema_is_read() -> None:
    """The third schema had no digest; the second, besides, no parts or leases. None guarded more than MACs."""
    guarded = redone(encode(FULL), schema=3, guardedMac=FULL.request.mac, mac="")
    assert decode(guarded) == guarded_by(FULL, GuardPolicy.MAC)
    plain = attachment("plain", "10.11.0.3", port(8080))
    raw = json.loads(redone(encode(plain), schema=2, key=["front", "plain", "eth0"]))
    for name in ("mac", "leaseDir", "yielded"):
        del raw[name]
    for name in ("fillPorts", "guard"):
        del raw["options"][name]
    for name in ("adminChain", "firewalldZone"):
        del raw["options"][name]
    assert decode(json.dumps(raw)) == guarded_by(plain, GuardPolicy.OFF)


@given(st.integers(0, len(encode(FULL)) - 1), st.integers(0, 7))
def test_a_bit_that_flipped_is_noticed(place: int, bit: int) -> None:
    """Wherever it is."""
    raw = bytearray(encode(FULL).encode())
    raw[place] ^= 1 << bit
    with pytest.raises(DocumentError):
        decode(raw.decode(errors="replace"))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"schema":3}', '{"schema":3,"options":7,"device":[]}'])
def test_what_is_no_document_is_refused(text: str) -> None:
    """With one error, whatever it is."""
    with pytest.raises(DocumentError):
        decode(text)
