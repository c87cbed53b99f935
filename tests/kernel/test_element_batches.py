"""Elements that are sent as messages: for nft they are what its own words would have made them."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address, IPv6Address

import pytest

from control.desired import ruleset
from dataplane.errors import NftError
from dataplane.nft import batch
from dataplane.nft.client import LibNftables
from dataplane.nft.objects import (
    Chain,
    Comment,
    Element,
    LinkIndex,
    Port,
    PortRange,
)
from dataplane.nft.transaction import Transaction, add, create, delete, flush
from dataplane.types import IfIndex, Protocol
from support.netns import Sandbox

OWNER = Comment("front/web/eth0")
LINK = LinkIndex(IfIndex(4711))
WEB4, WEB6 = IPv4Address("10.11.0.2"), IPv6Address("fd00:11::2")
HTTP = Port(80)

ELEMENTS = (
    Element("publish4", (Protocol.TCP, Port(8080)), (WEB4, HTTP), OWNER),
    Element("publish4", (Protocol.SCTP, Port(65535)), (WEB4, HTTP)),
    Element("publish4_host", (IPv4Address("192.0.2.1"), Protocol.UDP, Port(1)), (WEB4, HTTP), OWNER),
    Element("publish6", (Protocol.TCP, Port(8080)), (WEB6, HTTP), OWNER),
    Element("publish6_host", (IPv6Address("2001:db8::1"), Protocol.UDP, Port(53)), (WEB6, HTTP), Comment("x" * 128)),
    Element("ranges4", (Protocol.TCP, PortRange(Port(20000), Port(20099))), (WEB4,), OWNER),
    Element("ranges6_host", (IPv6Address("::1"), Protocol.UDP, PortRange(Port(7), Port(99))), (WEB6,), OWNER),
    Element("members4", (LINK, WEB4), comment=OWNER),
    Element("members6", (LINK, WEB6), comment=OWNER),
    Element("snat4", (LINK, WEB4)),
    Element("egress4", (WEB4,), comment=OWNER),
    Element("egress6", (WEB6,), comment=OWNER),
)
"""Every shape of element that attachments ask for."""


def skeleton() -> Transaction:
    return ruleset.skeleton(ruleset.Variant(), ())


def in_nfts_words(sandbox: Sandbox, transaction: Transaction) -> None:
    """Run a transaction as text, by nft itself."""
    sandbox.run("nft", "-f", "-", input=transaction.text())


def as_messages(sandbox: Sandbox, transaction: Transaction) -> None:
    """Run a transaction as messages; it must be one that can be."""
    messages = batch.messages(transaction)
    assert messages is not None
    sandbox.call(batch.send, messages)


def listed(sandbox: Sandbox) -> str:
    return sandbox.run("nft", "list", "table", "inet", "dataplane").stdout


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
def test_an_element_is_what_nft_would_have_made(sandbox: Sandbox, element: Element) -> None:
    """Key, range, value and comment are listed alike, and either way it is deleted again."""
    sandbox.call(LibNftables().run, skeleton())
    empty = listed(sandbox)
    in_nfts_words(sandbox, Transaction((create(element),)))
    wanted = listed(sandbox)
    as_messages(sandbox, Transaction((delete(element),)))
    assert listed(sandbox) == empty
    as_messages(sandbox, Transaction((create(element),)))
    assert listed(sandbox) == wanted != empty
    in_nfts_words(sandbox, Transaction((delete(element),)))
    assert listed(sandbox) == empty


def test_a_set_is_flushed(sandbox: Sandbox) -> None:
    """All of its elements go, and those of no other set."""
    sandbox.call(LibNftables().run, skeleton() + Transaction(tuple(map(create, ELEMENTS))))
    (publish4,) = (one for one in ruleset.PLAIN[0].maps() if one.name == "publish4")
    as_messages(sandbox, Transaction((flush(publish4),)))
    assert sandbox.run("nft", "list", "map", "inet", "dataplane", "publish4").stdout.count("8080") == 0
    assert "8080" in sandbox.run("nft", "list", "map", "inet", "dataplane", "publish6").stdout


def test_thousands_go_at_once_or_not_at_all(sandbox: Sandbox) -> None:
    """More than a message holds, and more than a socket sends unasked; one that is taken is a refusal of all."""
    many = tuple(
        Element("publish4", (protocol, Port(port)), (WEB4, HTTP), OWNER)
        for protocol in (Protocol.TCP, Protocol.UDP)
        for port in range(1, 10_001)
    )
    sandbox.call(LibNftables().run, skeleton())
    empty = listed(sandbox)
    as_messages(sandbox, Transaction((create(many[-1]),)))
    with pytest.raises(OSError, match="File exists") as raised:
        as_messages(sandbox, Transaction(tuple(map(create, many))))
    assert raised.value.errno == errno.EEXIST
    as_messages(sandbox, Transaction((delete(many[-1]),)))
    assert listed(sandbox) == empty
    as_messages(sandbox, Transaction(tuple(map(create, many))))
    assert listed(sandbox).count(OWNER.text) == len(many)
    as_messages(sandbox, Transaction(tuple(map(delete, many))))
    assert listed(sandbox) == empty


def test_the_first_refusal_is_told(sandbox: Sandbox) -> None:
    """Whatever is refused after it; and the next transaction is none the worse for it."""

    def run() -> list[int]:
        nft, told = LibNftables(), []
        for _ in range(2):
            for wanted in ((create(ELEMENTS[0]), delete(ELEMENTS[3])), (delete(ELEMENTS[3]), create(ELEMENTS[0]))):
                with pytest.raises(NftError) as raised:
                    nft.run(Transaction(wanted))
                told.append(raised.value.errno)
            nft.run(skeleton())
            nft.run(Transaction((create(ELEMENTS[0]),)))
        return told

    absent, taken = errno.ENOENT, errno.EEXIST
    assert sandbox.call(run) == [absent, absent, taken, absent]


def test_chains_and_rules_are_left_to_libnftables() -> None:
    """Only what consists of elements goes as messages."""
    assert batch.messages(Transaction((create(ELEMENTS[0]), flush(Chain("publish_host"))))) is None
    assert batch.messages(Transaction((add(),))) is None
    assert batch.messages(skeleton()) is None
