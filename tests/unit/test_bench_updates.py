"""Updates of ports in everybody's words, and what is drawn from how long they took."""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import IPv4Address

import pytest

from bench.cni import Container
from bench.figures import Results
from bench.figures.answers import Answer
from bench.figures.measure import Sample
from bench.figures.plots import Bars, Curves, Role
from bench.scenarios import repair, rule_updates
from bench.scenarios.rule_updates import drawn as shown
from bench.scenarios.rule_updates.listings import OF_PORTMAP, RULESET, UnderWay
from bench.scenarios.rule_updates.portmap import added, deleted, handles
from bench.scenarios.rule_updates.publishers import MOST_CONTAINERS, present
from bench.scenarios.rule_updates.updates import MANY, ONE, RANGE, UPDATES, Ports, Update, Verb, elements, in_map
from control.desired.ruleset import runs
from control.model import PortMapping
from dataplane.types import Protocol

OWN = Container("own", "", "10.77.3.2/16")
ADD, REPLACE, DEL = (Update(verb, ONE) for verb in Verb)
SIZES = (0, 1, 1_000)


def test_each_update_begins_where_the_last_one_ended() -> None:
    """What comes is not there, what is replaced or goes is; the last one leaves nothing."""
    there: set[Ports] = set()
    for update in UPDATES:
        assert (update.ports in there) is (update.verb is not Verb.ADD)
        if update.verb is Verb.DEL:
            there.remove(update.ports)
        else:
            there.add(update.ports)
    assert not there


def test_updates_are_of_ports_that_no_crowd_has() -> None:
    """Not even the largest, and no two of them share one."""
    taken = {one["hostPort"] for container in present(60_000) for one in container.ports}
    own = [host for ports in (ONE, MANY, RANGE) for host, _ in ports.pairs(Verb.ADD)]
    assert len(own) == len(set(own)) == 133
    assert not taken & {*own}


@pytest.mark.parametrize(("ports", "single"), [(ONE, 1), (MANY, 32), (RANGE, 1)])
def test_only_a_range_is_one_element(ports: Ports, single: int) -> None:
    """In the map of nftables as in ours: 32 ports are 32 elements."""
    mappings = [PortMapping(host, inner, Protocol.TCP) for host, inner in ports.pairs(Verb.ADD)]
    assert len(runs(mappings)) == single
    assert len(elements(Update(Verb.ADD, ports), OWN)) == single


def test_an_update_is_one_transaction_of_elements() -> None:
    """It creates what comes, deletes what goes, and replaces by both."""
    gone = "delete element ip published ports { tcp . 40000 }\n"
    assert in_map(ADD, OWN) == "create element ip published ports { tcp . 40000 : 10.77.3.2 . 80 }\n"
    assert in_map(REPLACE, OWN) == f"{gone}create element ip published ports {{ tcp . 40000 : 10.77.3.2 . 180 }}\n"
    assert in_map(DEL, OWN) == gone
    span = "create element ip published ranges { tcp . 42000-42099 : 10.77.3.2 }\n"
    assert in_map(Update(Verb.ADD, RANGE), OWN) == span


def test_what_is_expected_afterwards_is_what_was_asked_for() -> None:
    """A replaced port has its new value, and one that went is expected not to be there."""
    ((element, there),) = elements(REPLACE, OWN)
    assert (element.value, there) == ((IPv4Address("10.77.3.2"), 180), True)
    assert [there for _, there in elements(DEL, OWN)] == [False]


def test_what_is_present_is_published_by_few() -> None:
    """So many ports in all, of no more containers than a host is given."""
    for count in (0, 1, 100, 60_000):
        made = present(count)
        assert sum(len(one.ports) for one in made) == count
        assert len(made) <= MOST_CONTAINERS


def test_portmap_adds_a_rule_a_port_and_two_a_container() -> None:
    """Behind the lines that each of its ADDs begins with."""
    lines = added(Update(Verb.ADD, MANY).container(OWN)).splitlines()
    assert lines[0] == 'add table ip cni_hostport { comment "CNI portmap plugin" ; }'
    assert lines[14] == 'add rule ip cni_hostport hostports tcp dport 41000 dnat to 10.77.3.2:80 comment "own"'
    assert sum('comment "own"' in line for line in lines) == 34


def test_portmap_deletes_what_carries_its_containers_name() -> None:
    """By handles that are in a listing, and nobody else's."""
    names = ("own", "other", "owner", None, "own")
    rules = [{"rule": {"handle": place, **({"comment": name} if name else {})}} for place, name in enumerate(names)]
    listed = json.dumps({"nftables": [{"metainfo": {}}, {"chain": {"handle": 7}}, *rules]})
    assert handles(listed, "own") == [0, 4]
    assert deleted("ip", "hostports", [4]) == "delete rule ip cni_hostport hostports handle 4\n"


def test_listings_are_counted_by_what_they_tell() -> None:
    """Elements and rules of published ports, and nothing else that looks like them."""
    ours = (
        "elements = { tcp . 5000 : 10.77.4.0 . 1,\n udp . 5000 : 10.77.4.0 . 1 }\n"
        "type inet_proto . inet_service : ipv4_addr\n dnat ip to meta l4proto . th dport map @ports\n"
    )
    assert RULESET.told(ours) == 2
    assert OF_PORTMAP[0].told('tcp dport 1 dnat to 10.0.0.1:1 comment "x"\nip saddr 10.0.0.1 masquerade\n') == 1


def test_an_update_counts_as_disturbed_only_while_a_listing_is_under_way() -> None:
    """From its beginning to its end."""
    listing = UnderWay(10.0, 20.0)
    assert listing.covers(10.0, 20.0)
    assert not listing.covers(9.9, 11.0)
    assert not listing.covers(19.0, 20.1)


def taken(update: Update, variant: str, size: int, *values: float) -> list[Sample]:
    """A sample a block."""
    return [Sample(update.name, variant, value, size, block) for block, value in enumerate(values)]


def results(*more: Iterable[Sample]) -> Results:
    """Everybody at every size, in five blocks: ours 2 ms, nft 4, portmap 40 and more with each port; ``more`` goes
    before that."""
    samples = [one for part in more for one in part]
    changed = {(one.measure, one.variant, one.size) for one in samples}
    for update in UPDATES:
        for size in SIZES:
            spent = {shown.NFT: 4.0, shown.LIBRARY: 0.2, shown.ENGINE: 1.0, shown.PORTMAP: 40.0 + size}
            for variant, value in {shown.OURS: 2.0, shown.AGAIN: 2.0, **spent}.items():
                if (update.name, variant, size) not in changed:
                    samples += taken(update, variant, size, *[value] * 5)
    samples.append(Sample(shown.PROVED, shown.OURS, 100))
    return Results({}, tuple(samples))


def test_answers_say_how_many_times_faster_and_how_that_grows() -> None:
    """Ratios are ours / theirs at the largest size; growth is from the smallest."""
    add, *_, engine = made = shown.answers(results())
    assert len(made) == 4
    assert [(one.role, one.ratio.middle) for one in add.besides] == [(Role.PURE, 0.5), (Role.TODAY, 2 / 1040)]
    assert add.growth is not None
    assert (add.growth.ratio.middle, add.growth.larger) == (1.0, 1_000)
    portmap = add.besides[1].growth
    assert portmap is not None
    assert portmap.ratio.middle == 26.0
    assert not any(one.doubt for one in made)
    assert engine.besides[0].ratio.middle == 5.0


@pytest.mark.parametrize(
    "wrong",
    [[Sample(shown.UNPROVED, shown.NFT, 1)], taken(ADD, shown.AGAIN, 1_000, *[9.0] * 5)],
    ids=["not proved", "the control differs"],
)
def test_a_row_says_why_it_says_nothing(wrong: list[Sample]) -> None:
    """What was not proved, and a control that differs from itself, are doubts about the answer."""
    assert shown.answers(results(wrong))[0].doubt


def test_no_samples_are_no_answers() -> None:
    """And no plots; figures say that nothing was measured."""
    nothing = Results({})
    assert not shown.answers(nothing)
    assert not shown.plots(nothing)
    assert not repair.answers(nothing)
    assert not repair.plots(nothing)
    assert all(one.value is None for one in (*shown.figures(nothing), *repair.figures(nothing)))


def test_figures_are_judged_where_there_is_a_promise() -> None:
    """Ours is flat and faster than portmap, the control agrees, everything was proved: all is met."""
    rows = {one.what: one for one in shown.figures(results())}
    assert rows["dataplane, ADD 1 port: 1,000 present / 0"].met is True
    assert rows[f"{shown.PORTMAP} / dataplane: ADD 1 port, 0 present"].value == 20.0
    assert rows[f"control: DEL 1 port, the same twice, at 0 to {max(SIZES):,}"].met is True
    assert rows["updates and listings that were not proved"].note == "of 100"
    assert not [one.what for one in rows.values() if one.met is False]


def test_plots_have_no_zero_on_a_logarithmic_axis() -> None:
    """What was measured with nothing present is drawn at 1 where 1 was not measured, and left out where it was."""
    listing = [Sample(shown.LISTING, RULESET.name, 3.0, size, 0) for size in (0, 1_000)]
    for plot in shown.plots(results(listing)):
        assert isinstance(plot, Curves)
        assert all(point.x >= 1 and point.y > 0 for line in plot.lines for point in line.points)
        sizes = [1, 1_000]
        assert all([point.x for point in line.points] == sizes for line in plot.lines)


def test_updates_during_a_listing_stand_beside_those_alone() -> None:
    """A bar each, with what happens to the ratio as a figure."""
    both = [
        Sample(f"{update.name}, {when}", variant, value, 1_000, block)
        for update in (ADD, DEL)
        for variant in (shown.OURS, shown.NFT)
        for when, value in ((shown.ALONE, 2.0), (shown.DISTURBED, 6.0))
        for block in range(3)
    ]
    (bars,) = (plot for plot in shown.plots(results(both)) if isinstance(plot, Bars))
    assert len(bars.bars) == 8
    rows = {one.what: one.value for one in shown.figures(results(both))}
    assert rows["dataplane, ADD 1 port, 1,000 present: during a listing / alone"] == 3.0


def test_tables_survey_every_update() -> None:
    """A row for each update of each, a column for each size."""
    (text,) = rule_updates.tables(results())
    assert text.count("\n| ") == 2 + len(UPDATES) * 5
    assert "| ADD 1 port | portmap 1.9.1, nftables | 40 | 41 | 1,040 |" in text


def test_a_repair_answers_for_the_largest_size_and_its_growth() -> None:
    """Restored after a flush; a damage that was not repaired is a doubt."""
    flush = next(iter(repair.DAMAGE))
    samples = [
        Sample("restored", flush, value, size, block)
        for size, value in ((1, 4.0), (10_000, 100.0))
        for block in range(3)
    ]
    (answer,) = repair.answers(Results({}, tuple(samples)))
    assert isinstance(answer, Answer)
    assert (answer.ours.middle, answer.besides, answer.doubt) == (100.0, (), "")
    assert answer.growth is not None
    assert answer.growth.ratio.middle == 25.0
    samples.append(Sample("not restored", flush, 5.0, 10_000, 4))
    assert repair.answers(Results({}, tuple(samples)))[0].doubt
