"""When the reconciler wants what looked at: playbooks of events, times and outcomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.repair.reconciler import (
    EVERYTHING,
    LOOK_EVERY,
    PATIENCE,
    PAUSES,
    PEACE,
    RESYNC_EVERY,
    RETRIES,
    SOON,
    UNANNOUNCED,
    Outcome,
    Part,
    Reconciler,
)
from dataplane.events import (
    AddressChanged,
    Event,
    ForwardingChanged,
    HookChanged,
    LinkChanged,
    NamespaceGone,
    NotificationsLost,
    PinsChanged,
    PortChanged,
    SysctlWritten,
)
from dataplane.types import IfIndex
from support.playbook import BRIDGE, ENGINE, PORT, STRANGER, Playbook, Roster, changed, found


def link(index: IfIndex, name: str = "eth7", *, gone: bool = False) -> LinkChanged:
    """A link changed, or vanished."""
    return LinkChanged(index, name, "veth", IfIndex(0), gone)


def test_at_the_start_everything_is_looked_at() -> None:
    """Whatever happened before the agent ran is found at its start."""
    Playbook(started=False).syncs(*EVERYTHING, by=("the agent has started",)).ends().waits(LOOK_EVERY)


def test_a_strangers_transaction_in_our_table_is_looked_at_at_once() -> None:
    """What somebody did to our table is known by his name, and looked at without any delay."""
    play = Playbook().hears(changed("nft", 7)).syncs(Part.TABLES, by=("nft (7)",))
    play.ends(found(Part.TABLES)).waits(LOOK_EVERY)


def test_what_we_do_ourselves_is_no_news() -> None:
    """What the engine writes does not make it look."""
    Playbook().hears(changed("dpctl", ENGINE), HookChanged(PORT, ENGINE), HookChanged(BRIDGE, ENGINE)).waits(LOOK_EVERY)
    Playbook().hears(HookChanged(PORT, ENGINE), HookChanged(PORT, 7)).syncs(Part.VETHS)


def test_transactions_elsewhere_concern_only_what_we_have_elsewhere() -> None:
    """kube-proxy may change its own tables as often as it likes: ours are not read for it."""
    Playbook().hears(changed("kube-proxy", 9, others=True)).syncs(Part.FOREIGN, by=("kube-proxy (9)",)).ends().waits()


@pytest.mark.parametrize(
    ("event", "part"),
    [
        (HookChanged(BRIDGE), Part.PROGRAMS),
        (HookChanged(PORT), Part.VETHS),
        (HookChanged(PORT, port=ENGINE + 1), Part.VETHS),
        (HookChanged(IfIndex(0)), Part.PROGRAMS),
        (PinsChanged(), Part.PROGRAMS),
        (ForwardingChanged(IfIndex(0)), Part.SYSCTLS),
        (SysctlWritten("net/ipv4/ip_forward"), Part.SYSCTLS),
    ],
)
def test_each_event_leads_to_its_part(event: Event, part: Part) -> None:
    """A hint has just that looked at which it may be about."""
    Playbook().hears(event).syncs(part).ends().waits(LOOK_EVERY)


@pytest.mark.parametrize(
    "event",
    [link(BRIDGE), link(STRANGER, "br-front"), link(PORT), PortChanged(PORT, BRIDGE, gone=True)],
    ids=["bridge", "bridge-by-name", "port", "port-flags"],
)
def test_changes_of_our_links_are_gathered_for_a_moment(event: Event) -> None:
    """Links change in bursts: one look for all of them, as soon as the burst is over."""
    play = Playbook().hears(event).waits(SOON).after(SOON / 2).hears(event).after(SOON / 2)
    play.syncs(Part.LINKS).ends().waits(LOOK_EVERY - SOON)


@pytest.mark.parametrize("event", [link(STRANGER), PortChanged(STRANGER, BRIDGE, gone=False), HookChanged(STRANGER)])
def test_links_of_others_are_none_of_our_business(event: Event) -> None:
    """A busy host makes and deletes links all the time, and the agent sleeps."""
    Playbook().hears(event).waits(LOOK_EVERY)


def test_filters_of_a_containers_veth_have_that_one_looked_at() -> None:
    """A thousand containers are not asked for one of them; what is heard while a look runs is looked at next."""
    reconciler = Reconciler(Roster(), 0.0)
    first = reconciler.next(0.0)
    assert first is not None
    assert first.veths is None, "at the start all are looked at"
    reconciler.hear(HookChanged(PORT), 0.1)
    reconciler.ended(first, Outcome(), 0.2)
    second = reconciler.next(0.2)
    assert second is not None
    assert (second.parts, second.veths) == (frozenset({Part.VETHS}), frozenset({PORT}))
    reconciler.ended(second, Outcome(failed={Part.VETHS: "it failed"}), 0.3)
    again = reconciler.next(0.3 + RETRIES[0])
    assert again is not None
    assert again.veths is None
    reconciler.ended(again, Outcome(), 1.0)
    due = reconciler.next(LOOK_EVERY + 0.3 + RETRIES[0])
    assert due is not None
    assert due.parts == UNANNOUNCED
    assert due.veths == frozenset(), "those in turn"


def test_an_address_of_the_host_goes_to_the_checksum_program() -> None:
    """A wildcard port can be proved against the host's new address; on a bridge of ours it is the bridge's, too."""
    Playbook().hears(AddressChanged(STRANGER, gone=False)).after(SOON).syncs(Part.ADDRESSES).ends().waits()
    Playbook().hears(AddressChanged(BRIDGE, gone=True)).after(SOON).syncs(Part.ADDRESSES, Part.LINKS)


@pytest.mark.parametrize("event", [link(PORT, "veth1", gone=True), NamespaceGone("/run/netns/web")])
def test_a_container_that_vanished_is_collected_when_no_del_comes(event: Event) -> None:
    """A runtime's DEL is usually on its way: only after a while is it done without."""
    play = Playbook(collect_after=1.0).hears(event).after(SOON)
    if isinstance(event, LinkChanged):
        play.syncs(Part.LINKS).ends()
    play.waits(1.0 - SOON).after(1.0).syncs(Part.CONTAINERS).ends()


def test_collecting_can_be_switched_off() -> None:
    """``collect_after = 0``: only ``dpctl gc`` removes what no DEL came for, also at the start and after a loss."""
    play = Playbook(collect_after=0).hears(NamespaceGone("/run/netns/web")).waits(LOOK_EVERY)
    play.hears(NotificationsLost("route")).syncs(*EVERYTHING).ends().after(RESYNC_EVERY).syncs(*EVERYTHING)


def test_the_start_gives_a_del_its_time() -> None:
    """What is gone when the agent starts, or after a loss, is collected no sooner than what goes while it runs."""
    Playbook(collect_after=1.0).waits(1.0).after(1.0).syncs(Part.CONTAINERS)


def test_lost_notifications_have_everything_looked_at() -> None:
    """What was not heard may have been anything."""
    Playbook().hears(NotificationsLost("ruleset")).syncs(
        *EVERYTHING, by=("notifications were lost (ruleset)",)
    ).ends().waits()


def test_what_is_heard_during_a_sync_is_the_next_ones() -> None:
    """The kernel may change behind the back of a look: what was heard meanwhile is looked at again, once."""
    play = Playbook().hears(changed("nft", 7)).syncs(Part.TABLES)
    play.hears(changed("nft", 8), changed("nft", 9), PinsChanged())
    play.ends(found(Part.TABLES)).syncs(Part.TABLES, Part.PROGRAMS).ends().waits()


def test_what_is_unannounced_is_looked_at_every_few_seconds() -> None:
    """A detached tcx link makes no event."""
    play = Playbook()
    for _ in range(3):
        play.waits(LOOK_EVERY).after(LOOK_EVERY).syncs(*UNANNOUNCED, by=()).ends()


def test_everything_is_looked_at_now_and_then() -> None:
    """Also what no rule of ours expects to happen comes right in the end."""
    Playbook(collect_after=0).after(RESYNC_EVERY).syncs(*EVERYTHING, by=()).ends().waits(LOOK_EVERY)


def failing(*parts: Part) -> Outcome:
    """These parts could not be looked at, or put right."""
    return Outcome(failed=dict.fromkeys(parts, "could not change it"))


def test_a_failed_part_is_tried_again_ever_later() -> None:
    """A kernel that refuses is asked again, and not all the time; when it begins to, everything is looked at."""
    play = Playbook(collect_after=0).hears(changed("nft", 7)).syncs(Part.TABLES)
    play.ends(failing(Part.TABLES)).syncs(*EVERYTHING - {Part.TABLES}, by=("a sync failed",)).ends()
    for pause in RETRIES:
        play.idles(pause).syncs(Part.TABLES).ends(failing(Part.TABLES))
    play.idles(RETRIES[-1]).syncs(Part.TABLES).ends().idles(LOOK_EVERY)
    play.hears(changed("nft", 8)).syncs(Part.TABLES)


def test_a_part_that_fails_keeps_no_other_waiting() -> None:
    """Programs that cannot be loaded are no reason to leave ports closed."""
    play = Playbook().hears(PinsChanged()).syncs(Part.PROGRAMS)
    play.ends(failing(Part.PROGRAMS)).syncs(*EVERYTHING - {Part.PROGRAMS}).ends()
    for _ in range(3):
        play.hears(PinsChanged(), changed("nft", 7)).syncs(Part.TABLES).ends(found(Part.TABLES))


def test_a_fight_slows_down_and_is_told() -> None:
    """Whoever deletes our table ten times a second does not get us to write it ten times a second."""
    play = Playbook()
    for _ in range(PATIENCE - 1):
        play.hears(changed("loop", 66)).syncs(Part.TABLES).ends(found(Part.TABLES)).after(0.1)
        assert not play.fights
    for pause in (*PAUSES, PAUSES[-1]):
        play.hears(changed("loop", 66)).syncs(Part.TABLES).ends(found(Part.TABLES))
        assert [(fight.part, fight.opponents, fight.pause) for fight in play.fights] == [
            (Part.TABLES, ("loop (66)",), pause)
        ]
        # What is not fought over does not wait for it.
        play.hears(changed("loop", 66), PinsChanged()).syncs(Part.PROGRAMS).ends().idles(pause)


def test_peace_ends_a_fight() -> None:
    """After some quiet time repairs are as quick as ever."""
    play = Playbook()
    for _ in range(PATIENCE):
        play.hears(changed("loop", 66)).syncs(Part.TABLES).ends(found(Part.TABLES))
    assert play.fights
    play.after(PEACE + 1).syncs(*UNANNOUNCED).ends()
    play.hears(changed("nft", 7)).syncs(Part.TABLES).ends(found(Part.TABLES))
    assert not play.fights
    play.hears(changed("nft", 7)).syncs(Part.TABLES)


def test_a_look_that_finds_nothing_is_no_repair() -> None:
    """Somebody who changes our table to what it was may do so for ever."""
    play = Playbook()
    for _ in range(3 * PATIENCE):
        play.hears(changed("harmless", 5)).syncs(Part.TABLES).ends()
        assert not play.fights


_EVENTS = st.sampled_from(
    [changed("nft", 7), changed("x", 8, others=True), PinsChanged(), link(BRIDGE), link(PORT, gone=True),
     NotificationsLost("route"), SysctlWritten("net/ipv4/ip_forward"), AddressChanged(BRIDGE, gone=True)]
)  # fmt: skip
_OUTCOMES = st.sampled_from(
    [Outcome(), found(Part.TABLES), found(Part.LINKS, Part.TABLES), Outcome(failed={Part.TABLES: "no"})]
)


@given(st.lists(st.tuples(_EVENTS, st.floats(0, 5), _OUTCOMES), max_size=60))
def test_nothing_that_was_heard_is_ever_forgotten(script: list[tuple[Event, float, Outcome]]) -> None:
    """Whatever happens, each part that was dirty is looked at within a bounded time after the last event."""
    now = 1000.0
    reconciler = Reconciler(Roster(), now, collect_after=1.0)
    for event, pause, outcome in script:
        reconciler.hear(event, now)
        now += pause
        sync = reconciler.next(now)
        if sync is not None:
            reconciler.ended(sync, outcome, now)
    reconciler.hear(NotificationsLost("route"), now)
    seen: set[Part] = set()
    limit = now + RETRIES[-1] + PAUSES[-1] + 1
    while seen < EVERYTHING:
        assert reconciler.wake <= limit
        now = max(now, reconciler.wake)
        sync = reconciler.next(now)
        if sync is not None:
            seen |= sync.parts
            reconciler.ended(sync, Outcome(), now)
