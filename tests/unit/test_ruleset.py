"""The ruleset: golden texts of the skeleton and of what attachments add."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.conditions import parse
from control.desired import ruleset
from control.desired.ruleset import DEFAULT_MARK, PLAIN, Group
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
    golden("skeleton", ruleset.skeleton(DEFAULT_MARK, ()).text())


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
    """Another mark is another skeleton, so that tables of two versions are never taken for each other."""
    assert ruleset.schema(DEFAULT_MARK) != ruleset.schema(1)


def test_ports_with_conditions_are_looked_up_before_those_without() -> None:
    """The narrower match comes first, whoever was added first."""
    group = Group(4, parse(["iifname", "eth1"], 4))
    rules = [
        line for line in ruleset.skeleton(1, [group]).text().splitlines() if " publish_any " in line and "@" in line
    ]
    assert rules[0].startswith('add rule inet dataplane publish_any iifname "eth1" dnat')
    assert len(rules) == 6


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
