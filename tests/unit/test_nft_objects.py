"""nft objects print themselves in nft's words, and refuse whatever could be more than it claims to be."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.nft.objects import MAX_COMMENT, BaseChain, ChainRef, Comment, Element, LinkIndex, Port, Rule, Set
from dataplane.nft.transaction import Transaction, add, create, delete, flush
from dataplane.types import IfIndex, Protocol

HOSTILE = json.loads((Path(__file__).parents[1] / "data" / "hostile_names.json").read_text())["names"]

WEB = Element("publish4", (Protocol.TCP, Port(8080)), (IPv4Address("10.88.0.2"), Port(80)), Comment("front/web/eth0"))


def test_an_element_prints_itself() -> None:
    """A map element reads as it would in nft's own listing."""
    assert str(WEB) == 'publish4 { tcp . 8080 comment "front/web/eth0" : 10.88.0.2 . 80 }'


def test_a_set_element_of_a_link_is_a_number() -> None:
    """Links are matched by index, with more digits than a link's name can have characters."""
    assert str(Element("members6", (LinkIndex(IfIndex(7)), IPv6Address("fd00::2")))) == (
        'members6 { "0000000000000007" . fd00::2 }'
    )


def test_a_transaction_shares_lines_between_elements_of_one_set() -> None:
    """A transaction is nft text, a command a line, in the order given."""
    other = Element("publish4", (Protocol.UDP, Port(53)), (IPv4Address("10.0.0.3"), Port(53)))
    text = Transaction((add(), create(WEB), create(other), delete(other), flush(Set("publish4", ("mark",))))).text()
    assert text.splitlines() == [
        "add table inet dataplane",
        f"create element inet dataplane publish4 {{ {WEB.body()}, udp . 53 : 10.0.0.3 . 53 }}",
        "delete element inet dataplane publish4 { udp . 53 : 10.0.0.3 . 53 }",
        "flush set inet dataplane publish4",
    ]


def test_declarations_read_as_nft() -> None:
    """Chains and rules are declared in nft's words."""
    chain = BaseChain("forward", "filter", "forward", 0)
    assert Transaction((add(chain), add(Rule("forward", "ct status dnat accept")))).text() == (
        "add chain inet dataplane forward { type filter hook forward priority 0; policy accept; }\n"
        "add rule inet dataplane forward ct status dnat accept\n"
    )


@pytest.mark.parametrize("name", [*HOSTILE, "Publish", "publish4; drop", "a" * 65])
def test_a_name_that_is_more_than_a_name_is_refused(name: str) -> None:
    """No hostile text can become the name of a set, a foreign chain, or an element's part."""
    if name not in {"accept", "drop", "x" * 16}:  # words that are names, whatever else nft takes them for
        with pytest.raises(ValueError, match="not a name of ours"):
            Set(name, ("mark",))
        with pytest.raises(ValueError, match="not a chain"):
            ChainRef("inet", "filter", name if name in HOSTILE else "a b")
    with pytest.raises(TypeError):
        Element("publish4", (name,))  # type: ignore[arg-type]


@given(st.text())
def test_a_comment_never_ends_its_quotes(text: str) -> None:
    """Whatever a comment accepts stays inside its quotes and fits what the kernel stores."""
    try:
        comment = Comment(text)
    except ValueError:
        return
    assert not set(comment.text) & set('"\\\n;{}')
    assert len(comment.text.encode()) <= MAX_COMMENT


def test_an_owner_that_is_too_long_is_shortened_where_it_is_longest() -> None:
    """The owner's comment keeps every part readable, fits in 128 bytes, and is nobody else's."""
    text = Comment.owner("front", "c" * 300, "eth0").text
    assert len(text) == MAX_COMMENT
    assert text.startswith("front/ccc")
    assert text.endswith("/eth0")
    assert text != Comment.owner("front", "c" * 299 + "d", "eth0").text


@pytest.mark.parametrize("text", ["accept;", "accept\ndrop", 'iifname "a" "', "a # b", ""])
def test_a_rule_is_one_statement(text: str) -> None:
    """A rule's text cannot end early and start another one."""
    with pytest.raises(ValueError, match="not a rule of ours"):
        Rule("forward", text)
