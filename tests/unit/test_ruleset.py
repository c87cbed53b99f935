"""The ruleset: golden texts of the skeleton and of what attachments add."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.conditions import parse
from control.desired import ruleset
from control.desired.ruleset import PLAIN, Group, Variant
from control.model import Options
from support.attachments import attachment, port

GOLDEN = Path(__file__).parents[1] / "golden" / "nft"

CASES = {
    "plain": attachment("web", "10.11.0.2", port(8080)),
    "dual_stack": attachment("web", "10.11.0.2 fd00:11::2", port(8080), port(53, 53, "udp"), port(99, 99, "sctp")),
    "host_address": attachment("web", "10.11.0.2 fd00:11::2", port(8080, address="192.0.2.1"), port(81, address="::")),
    "no_snat": attachment("web", "10.11.0.2", port(8080), options=Options(snat=False)),
    "masq_all": attachment("web", "10.11.0.2", port(8080), options=Options(masq_all=True)),
    "ip_masq": attachment("web", "10.11.0.2 fd00:11::2", options=Options(ip_masq=True)),
    "conditions": attachment(
        "web", "10.11.0.2", port(8080), options=Options(conditions4=parse(["ip", "saddr", "!=", "10.0.0.0/8"], 4))
    ),
    "ranges": attachment(
        "web",
        "10.11.0.2",
        *(port(number, number, "udp") for number in range(20000, 20100)),
        *(port(number, number, address="192.0.2.1") for number in range(3000, 3016)),
        *(port(number, number) for number in range(4000, 4015)),  # one too few
        *(port(number, number + 1) for number in range(5000, 5016)),  # other numbers inside
    ),
    "two_addresses_of_a_family": attachment("web", "10.11.0.2 10.11.0.3", port(8080)),
}


def golden(name: str, text: str) -> None:
    """Compare with a golden file; the message has the whole text, so that it can be reviewed and kept."""
    path = GOLDEN / f"{name}.nft"
    assert path.exists(), f"no golden file {path.name}; it would be:\n{text}"
    assert text == path.read_text()


def test_the_skeleton() -> None:
    """The table without a container is what the golden file says, word for word."""
    golden("skeleton", ruleset.skeleton(Variant(localnet=False), ()).text())


def test_the_skeleton_where_nftables_serves_localhost() -> None:
    """There it has one chain and two rules more, and another schema; nothing else differs."""
    without = set(ruleset.skeleton(Variant(localnet=False), ()).text().splitlines())
    more = ruleset.skeleton(Variant(), ()).text()
    assert "".join(f"{line}\n" for line in more.splitlines() if line not in without) == (
        f"add {ruleset.schema(Variant()).declaration()}\n"
        "add chain inet dataplane loopback_guard { type filter hook prerouting priority -300; policy accept; }\n"
        'add rule inet dataplane loopback_guard ip daddr 127.0.0.0/8 iif != "lo" counter drop\n'
        "add rule inet dataplane source ip saddr 127.0.0.0/8 oif . ip daddr @snat4"
        " ct status & (dnat | snat) == dnat masquerade\n"
    )


@pytest.mark.parametrize("name", CASES)
def test_what_an_attachment_adds(name: str) -> None:
    """The transaction of an ADD is what the golden file says, word for word."""
    one = CASES[name]
    groups = frozenset(ruleset.group_of(one, target.version) for target in ruleset.targets(one)) - set(PLAIN)
    change = ruleset.change(frozenset(), frozenset(ruleset.elements(one)))
    golden(f"add_{name}", (ruleset.regroup(frozenset(), groups) + change).text())


def test_a_change_only_has_the_difference() -> None:
    """From one mapping to another: the old element is deleted, the new one created, the rest untouched."""
    before = frozenset(ruleset.elements(attachment("web", "10.11.0.2", port(8080), port(8081))))
    after = frozenset(ruleset.elements(attachment("web", "10.11.0.2", port(8080), port(9090))))
    assert ruleset.change(before, after).text().splitlines() == [
        "delete element inet dataplane publish4 { tcp . 8081 : 10.11.0.2 . 80 }",
        'create element inet dataplane publish4 { tcp . 9090 comment "front/web/eth0" : 10.11.0.2 . 80 }',
    ]


def test_the_schema_follows_the_rules() -> None:
    """Another mark is another skeleton, and so is another way to serve localhost: tables of two versions or variants
    are never taken for each other."""
    variants = [Variant(), Variant(1), Variant(localnet=False), Variant(1, localnet=False)]
    assert len({ruleset.schema(variant) for variant in variants}) == len(variants)


def test_ports_with_conditions_are_looked_up_before_those_without() -> None:
    """The narrower match comes first, whoever was added first."""
    group = Group(4, parse(["iifname", "eth1"], 4))
    text = ruleset.skeleton(Variant(), [group]).text()
    for chain, count in (("publish_in", 6), ("publish_out", 6), ("publish_host", 6)):
        rules = [line for line in text.splitlines() if f" {chain} " in line and " map @" in line]
        assert rules[0].startswith(f'add rule inet dataplane {chain} iifname "eth1" dnat')
        assert len(rules) == count


@pytest.mark.parametrize("version", [4, 6])
def test_one_host_address_comes_before_all(version: int) -> None:
    """Ports on one address of the host are looked up before those on all, and only for an address that has any."""
    lines = ruleset.skeleton(Variant(), ()).text().splitlines()
    for chain in ("publish_in", "publish_out"):
        rules = [line.partition(f" {chain} ")[2] for line in lines if f"rule inet dataplane {chain} " in line]
        assert rules[0] == "fib daddr type != local accept"
        ip = "ip" if version == 4 else "ip6"
        jump = rules.index(f"{ip} daddr @specific{version} jump publish_host")
        assert jump < min(place for place, rule in enumerate(rules) if f"@publish{version}" in rule)
    assert not any(
        " map @" in line and "_host" in line for line in lines if "rule inet dataplane publish_host" not in line
    )


@given(st.sets(st.integers(1, 200), max_size=120), st.sampled_from([0, 1]))
def test_runs_lose_no_mapping(ports: set[int], offset: int) -> None:
    """Whatever is published, each mapping is in exactly one run, and only ranges that keep their numbers are joined."""
    mappings = [port(number, number + offset) for number in ports]
    found = ruleset.runs(mappings)
    assert sorted((mapping for run in found for mapping in run), key=str) == sorted(mappings, key=str)
    for run in found:
        numbers = [mapping.host_port for mapping in run]
        assert numbers == list(range(numbers[0], numbers[0] + len(run)))
        assert len(run) == 1 or (len(run) >= ruleset.MIN_RANGE and not offset)
