"""How long does a runtime wait for a whole network: bridge, address, published port, isolation?

``dataplane-bridge`` is one executable; in the Go world it is a chain of bridge (which starts host-local), portmap and
firewall (ingressPolicy same-bridge). One container comes, is checked and goes, with one port, on a bridge that is there
already.

Peers      the Go chain of every directory that is given, by each backend of its portmap (its firewall always uses
           iptables); the same chain on our drop-ins, as it is after ``dpctl install --drop-in`` alone
Unit       milliseconds: the sum over a call's executables, each from exec to exit; what a runtime does between them,
           and the start of whatever is its driver, is in none of the sums. Milliseconds of the processors: of the
           executables and what they start, for us of the agent, too, until 2 ms after the end of a call
Fair       another container is on the bridge throughout, for all, as one usually is: to attach the programs to the
           first of a network, and detach them from the last, takes the kernel two grace periods, which are told in rows
           of their own, as is, for us alone, a bridge with a hundred containers and a thousand published ports; the
           same subnet, namespace, verbs and keys for all, on hosts of their own; no masquerade of egress, which would
           cost the Go chain five more calls of iptables; before and after, the kernel is asked for ports and addresses
Falsified  by less than eight times the Go chain's ADD, or by a control that differs from itself
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from bench.cni import Container, port
from bench.figures import (
    Better,
    Figure,
    Results,
    control_figure,
    count_figure,
    median_figure,
    ratio_figure,
    tail_figure,
)
from bench.figures.answers import Answer, Beside, Kind
from bench.figures.measure import block_medians, interval, paired
from bench.figures.plots import Axis, Bars, Plot, Role, bar
from bench.figures.rows import doubt_of
from bench.hosts.calls import AGENT, BOTH, CPU, VERBS, Timed, note, took
from bench.hosts.chains import DROP_INS, SINGLE, Chain, drop_ins, go_chain, go_roles, single, wrong
from bench.hosts.ours import Agent, Ours
from bench.instruments.starter import Starter
from bench.peers.plugins import GoPlugins, found
from bench.place import Host
from bench.stage import FIRST_PORT, Stage

AGAIN, ALONE, CROWDED = f"{SINGLE} again", f"{SINGLE} alone", f"{SINGLE} among many"
AT_LEAST = 8.0
NEAR = 0.1
"""How surely ours must take as long as itself: what is judged are factors."""
SECONDS = (110, 13)

_PORT = 5000
"""Below ``FIRST_PORT``: nobody else has it."""
_OTHERS, _PORTS_EACH = 100, 10


@dataclass(frozen=True, slots=True)
class _Subject:
    """A chain on a host of its own, and one container that comes and goes."""

    host: Host
    chain: Chain
    starter: Starter
    container: Container
    others: Collection[int]
    """Ports that are published throughout."""
    agent: Agent | None

    def round(self) -> Iterator[tuple[Timed, Mapping[str, Any]]]:
        """ADD, CHECK and DEL, each with what is attached after it."""
        result: Mapping[str, Any] = {}
        for verb in VERBS:
            before = self.agent.cpu_milliseconds if self.agent else 0.0
            called = self.chain.call(self.starter, verb, self.container, result or None)
            timed = took(verb, called.done, self.agent, before)
            result = {} if verb == "DEL" else called.result
            yield timed, result


def run(stage: Stage) -> None:
    """Measure."""
    stage.log.progress("making hosts")
    with ExitStack() as stack:
        own = _ours(stage, stack, single)
        subjects = {
            SINGLE: own,
            AGAIN: own,
            ALONE: _ours(stage, stack, single, others=0),
            CROWDED: _ours(stage, stack, single, others=stage.amount(_OTHERS, _OTHERS, 2), ports_each=_PORTS_EACH),
            DROP_INS: _ours(stage, stack, drop_ins),
        }
        for place, peer in enumerate(found(stage.peers)):
            host = stack.enter_context(stage.host(f"peer{place}"))
            chain = go_chain(GoPlugins(host, peer))
            subjects[chain.name] = _subject(stage, stack, host, chain, None)
        _prove(stage, subjects)
        stage.log.progress(f"measuring {len(subjects)} variants")
        few, many = stage.amount(3, 2, 1), stage.amount(4, 8, 1)
        for turn in stage.turns(list(subjects), stage.amount(40, 6, 2)):
            theirs = turn.variant not in (SINGLE, AGAIN, ALONE, CROWDED, DROP_INS)
            for _ in range(1 if theirs else many if turn.variant in (SINGLE, AGAIN) else few):
                for timed, _ in subjects[turn.variant].round():
                    note(stage.log, timed, turn.variant, block=turn.block)
        _prove(stage, subjects)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = list[Figure]()
    for verb in VERBS:
        own = results.of(verb, SINGLE)
        chains = list(go_roles(results))
        rows += [median_figure(f"{name}, {verb}", results.of(verb, name), "ms") for name in (SINGLE, DROP_INS, *chains)]
        rows.append(tail_figure(f"{SINGLE}, {verb}", own, "ms"))
        rows += [
            median_figure(f"{SINGLE}, {verb}: {what}", results.of(f"{verb}, {what}", SINGLE), "ms")
            for what in (CPU, AGENT)
        ]
        what = f"{SINGLE}, {verb}, the only container of its network"
        rows.append(median_figure(what, results.of(verb, ALONE), "ms", note="programs are attached and detached"))
        crowded, where = results.of(verb, CROWDED), f"{_OTHERS * _PORTS_EACH:,} ports present"
        rows.append(median_figure(f"{SINGLE}, {verb}, {where}", crowded, "ms"))
        rows.append(ratio_figure(f"{SINGLE}, {verb}, {where} / one", crowded, own, better=Better.LESS))
        for name in chains:
            limit = AT_LEAST if verb == "ADD" else None
            theirs, what = results.of(verb, name), f"{name} / {SINGLE}, {verb}"
            rows.append(ratio_figure(what, theirs, own, at_least=limit, better=Better.MORE, peer=True))
            theirs, ours = (results.of(f"{verb}, {BOTH}", who) for who in (name, SINGLE))
            rows.append(ratio_figure(f"{what}, {BOTH}", theirs, ours, better=Better.MORE, peer=True))
        rows.append(_control(results, verb))
    proved = {one.variant for one in results.samples if one.measure == "unproved"}
    what = f"variants that did not attach what they should, of {len(proved):,}"
    rows.append(count_figure(what, len(_wrong(results)) if proved else None, at_most=0))
    return rows


def plots(results: Results) -> list[Plot]:
    """ADD and DEL of each chain, side by side."""
    drawn: list[Plot] = []
    for verb in ("ADD", "DEL"):
        roles = {SINGLE: Role.OURS, DROP_INS: Role.OURS_TOO, **go_roles(results)}
        samples = {name: results.of(verb, name) for name in roles}
        bars = [
            bar(name, roles[name], interval(list(block_medians(found_there).values())))
            for name, found_there in samples.items()
            if found_there
        ]
        if bars:
            title = f"CNI {verb} of a whole network: bridge, address, published port, isolation"
            drawn.append(Bars(f"chain_{verb.lower()}", title, Axis("p50, ms"), tuple(bars)))
    return drawn


def answers(results: Results) -> list[Answer]:
    """A whole network's ADD."""
    own = results.of("ADD", SINGLE)
    besides = [
        Beside(role, name, interval(ratios))
        for name, role in go_roles(results).items()
        if (ratios := paired(own, results.of("ADD", name)))
    ]
    if not besides:
        return []
    unsure = doubt_of([_control(results, "ADD")], [one.ratio for one in besides])
    doubts = (unsure, "not all did what their names say" if _wrong(results) else "")
    return [
        Answer(
            Kind.UPDATE,
            "CNI ADD of a whole network, from exec to exit",
            "ms",
            interval(list(block_medians(own).values())),
            tuple(besides),
            doubt=". ".join(why for why in doubts if why),
        )
    ]


def _ours(
    stage: Stage, stack: ExitStack, made: Callable[[Ours], Chain], *, others: int = 1, ports_each: int = 1
) -> _Subject:
    host = stack.enter_context(stage.host(f"{made.__name__}-{others}"))
    ours = Ours(host, on_root=True)
    agent = stack.enter_context(ours.agent())
    return _subject(stage, stack, host, made(ours), agent, others=others, ports_each=ports_each)


def _subject(
    stage: Stage,
    stack: ExitStack,
    host: Host,
    chain: Chain,
    agent: Agent | None,
    *,
    others: int = 1,
    ports_each: int = 1,
) -> _Subject:
    """One container with one port; so many others, with so many ports each, are added now and stay."""
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    place, *places = host.namespaces(["one", *(f"other{number}" for number in range(others))])
    for number, other in enumerate(places):
        first = FIRST_PORT + number * ports_each
        ports = tuple(port(first + more, 1 + more) for more in range(ports_each))
        chain.call(starter, "ADD", Container(other.name, other.path, ports=ports))
    one = Container(place.name, place.path, ports=(port(_PORT, 80),))
    return _Subject(host, chain, starter, one, range(FIRST_PORT, FIRST_PORT + others * ports_each), agent)


def _prove(stage: Stage, subjects: Mapping[str, _Subject]) -> None:
    """A round of each, whose every step is looked at; so the bridge is made, and what is loaded once is loaded."""
    for name, one in subjects.items():
        doubts = [wrong(one.host, one.chain, one.container, result, one.others) for _, result in one.round()]
        stage.log.sample("unproved", name, float(any(doubts)))
        for verb, doubt in zip(VERBS, doubts, strict=True):
            if doubt:
                stage.log.note(f"{name}: after {verb} {doubt}")


def _control(results: Results, verb: str) -> Figure:
    above, below = results.of(verb, AGAIN), results.of(verb, SINGLE)
    return control_figure(above, below, f"control: {verb}, the same twice", of=len(VERBS), within=NEAR)


def _wrong(results: Results) -> Collection[str]:
    return {one.variant for one in results.samples if one.measure == "unproved" and one.value}
