"""Attachments survive the state's documents unchanged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.conditions import parse
from control.model import ChecksumPolicy, ForeignChain, IngressPolicy, Options
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
        guarded_mac="02:00:00:00:00:01",
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


def test_a_document_of_a_later_schema_is_refused() -> None:
    """A state of another version is not guessed at."""
    with pytest.raises(DocumentError, match="schema 99"):
        decode(redone(encode(FULL), schema=99))


def test_a_document_of_an_earlier_schema_is_read() -> None:
    """The third schema had no digest; the second, besides, no parts, guarded ports or leases."""
    assert decode(redone(encode(FULL), schema=3)) == FULL
    plain = attachment("plain", "10.11.0.3", port(8080))
    raw = json.loads(redone(encode(plain), schema=2, key=["front", "plain", "eth0"]))
    for name in ("guardedMac", "leaseDir", "yielded"):
        del raw[name]
    for name in ("adminChain", "firewalldZone"):
        del raw["options"][name]
    assert decode(json.dumps(raw)) == plain


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
