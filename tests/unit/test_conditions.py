"""Conditions of published ports: what is understood becomes one canonical nft match, the rest is refused."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.conditions import MAX_ITEMS, Condition, ConditionError, parse

CONDITION_TEXT = re.compile(
    r"(ip6? [sd]addr|iifname|meta mark) (!= )?(\{ )?(\"[A-Za-z0-9_.\-]{1,15}\"|[0-9a-fx.:/]+)(, \S+)*( \})?"
)


@pytest.mark.parametrize(
    ("items", "version", "text"),
    [
        (["ip", "saddr", "10.0.0.0/8"], 4, ["ip saddr 10.0.0.0/8"]),
        (["ip saddr 10.0.0.0/8"], 4, ["ip saddr 10.0.0.0/8"]),
        (["ip", "saddr", "!=", "10.0.0.0/8"], 4, ["ip saddr != 10.0.0.0/8"]),
        (["ip", "saddr", "==", "10.0.0.1"], 4, ["ip saddr 10.0.0.1"]),
        (["ip", "daddr", "ne", "10.0.0.1/32"], 4, ["ip daddr != 10.0.0.1"]),
        (["ip6", "daddr", "fd00::/8"], 6, ["ip6 daddr fd00::/8"]),
        (["ip saddr {10.0.0.0/8,192.168.0.1}"], 4, ["ip saddr { 10.0.0.0/8, 192.168.0.1 }"]),
        (["ip", "saddr", "{", "10.0.0.1", ",", "10.0.0.0", ",", "}"], 4, ["ip saddr 10.0.0.0/31"]),
        (["ip", "saddr", "10.0.0.5/8"], 4, ["ip saddr 10.0.0.0/8"]),
        (["ip", "saddr", "10.0.0.0-10.0.0.255"], 4, ["ip saddr 10.0.0.0/24"]),
        (["ip", "saddr", "{ 10.0.0.0/8, 10.1.0.0/16 }"], 4, ["ip saddr 10.0.0.0/8"]),
        (["-s", "10.0.0.0/8"], 4, ["ip saddr 10.0.0.0/8"]),
        (["!", "-d", "192.0.2.0/24"], 4, ["ip daddr != 192.0.2.0/24"]),
        (["!", "-d", "fc00::/7"], 6, ["ip6 daddr != fc00::/7"]),
        (["--source", "10.0.0.1,10.0.0.3"], 4, ["ip saddr { 10.0.0.1, 10.0.0.3 }"]),
        (["-i", "eth0"], 4, ['iifname "eth0"']),
        (["iifname", '"eth0"'], 6, ['iifname "eth0"']),
        (["iif", "eth0"], 4, ['iifname "eth0"']),
        (["meta", "iifname", "!=", "{ eth1, eth0 }"], 4, ['iifname != { "eth0", "eth1" }']),
        (["meta", "mark", "0x2000"], 4, ["meta mark 0x00002000"]),
        (["mark", "!=", "8192"], 4, ["meta mark != 0x00002000"]),
        (["-s", "10.0.0.0/8", "!", "-i", "wan0"], 4, ["ip saddr 10.0.0.0/8", 'iifname != "wan0"']),
        (["-s", "10.0.0.0/8", "ip saddr 10.0.0.0/8"], 4, ["ip saddr 10.0.0.0/8"]),
        (["iifname", "accept"], 4, ['iifname "accept"']),
        ([], 4, []),
        ([""], 4, []),
    ],
)
def test_understood(items: list[str], version: int, text: list[str]) -> None:
    """Matches of nft and of iptables are read, and printed in one way."""
    assert [str(condition) for condition in parse(items, version)] == text


@pytest.mark.parametrize(
    ("items", "version", "index"),
    [
        (["a", "b"], 4, 0),  # the portmap plugin's own tests use these words
        (["ip"], 4, 0),
        (["ip", "saddr"], 4, 1),
        (["ip", "saddr", "!="], 4, 2),
        (["ip", "protocol", "tcp"], 4, 1),
        (["ip6", "saddr", "::1"], 4, 0),
        (["ip", "saddr", "::1"], 4, 2),
        (["ip", "saddr", "10.0.0.1-::1"], 4, 2),
        (["ip", "saddr", "10.0.0.9-10.0.0.1"], 4, 2),
        (["ip6", "saddr", "fe80::1%eth0"], 6, 2),
        (["ip", "saddr", "@set"], 4, 2),
        (["ip", "saddr", "$x"], 4, 2),
        (["ip", "saddr", "{ 10.0.0.1"], 4, 2),
        (["ip", "saddr", "{ 10.0.0.1 10.0.0.2 }"], 4, 2),
        (["ip", "saddr", "{ }"], 4, 2),
        (["ip", "saddr", "10.0.0.1", "accept"], 4, 3),
        (["ip", "saddr", "10.0.0.1;", "accept"], 4, 2),
        (["ip", "saddr", "10.0.0.1\naccept"], 4, 2),
        (["-j", "ACCEPT"], 4, 0),
        (["!"], 4, 0),
        (["!", "ip", "saddr", "10.0.0.1"], 4, 1),
        (["-i", "eth+"], 4, 1),
        (["iifname", "eth*"], 4, 1),
        (["iifname", '"eth0'], 4, 1),
        (["iifname", '""'], 4, 1),
        (["iifname", '"eth0" accept #"'], 4, 1),
        (["meta", "mark", "-1"], 4, 2),
        (["meta", "mark", "0x100000000"], 4, 2),
        (["meta", "mark", "4294967296"], 4, 2),
        (["meta", "skuid", "0"], 4, 1),
        (["ip saddr 10.0.0.1"] * (MAX_ITEMS + 1), 4, MAX_ITEMS),
        ([f"-s {','.join(f'10.{i >> 7}.{i & 127}.{j * 2}' for i in range(300) for j in range(9))}"], 4, 0),
    ],
)
def test_refused(items: list[str], version: int, index: int) -> None:
    """What is not understood is refused, and the item of the list is known."""
    with pytest.raises(ConditionError) as error:
        parse(items, version)
    assert error.value.index == index


WORDS = st.sampled_from(
    ["ip", "ip6", "saddr", "daddr", "!=", "==", "!", "-s", "-d", "-i", "{", "}", ",", "meta", "mark", "iifname",
     "10.0.0.1", "10.0.0.0/8", "::1", '"', "\n", ";", "accept", "eth0", "*", "@x", "0x1"]
)  # fmt: skip


@given(st.lists(st.one_of(WORDS, st.text(max_size=12)), max_size=12), st.sampled_from([4, 6]))
def test_nothing_else_reaches_nft(items: list[str], version: int) -> None:
    """Whatever is asked for: it is refused, or its text is one match of the known form."""
    conditions: tuple[Condition, ...] = ()
    with suppress(ConditionError):
        conditions = parse(items, version)
    assert all(CONDITION_TEXT.fullmatch(str(condition)) for condition in conditions)


@given(st.lists(st.ip_addresses(v=4), min_size=1, max_size=8), st.booleans())
def test_reading_is_stable(addresses: list[object], negated: bool) -> None:
    """The text of a condition reads back as the same condition: equal wishes share their maps."""
    wish = f"ip saddr {'!= ' if negated else ''}{{ {', '.join(map(str, addresses))} }}"
    (condition,) = parse([wish], 4)
    assert parse([str(condition)], 4) == (condition,)
    assert isinstance(condition, Condition)
