"""How long does a runtime wait for a whole network: bridge, address, published port, isolation?

``dataplane-bridge`` is one executable; in the Go world it is a chain of bridge (which starts host-local), portmap and
firewall (ingressPolicy same-bridge). One container comes and goes, with one port, on a bridge that is there already.

Peers      the Go chain; the same chain on our drop-ins, as it is after ``dpctl install --drop-in`` alone
Unit       milliseconds: the sum over a call's executables, each from exec to exit. What a runtime does between them,
           and the start of whatever is its driver, is in none of the sums
Fair       another container is on the bridge throughout, for all, as one usually is: to attach the programs to the
           first of a network, and detach them from the last, takes the kernel two grace periods, which are told in rows
           of their own, as is, for us alone, a bridge with a hundred containers and a thousand published ports; the
           same subnet, namespace, verbs and keys for all, on hosts of their own; no masquerade of egress, which would
           cost the Go chain five more calls of iptables
Falsified  by less than eight times the Go chain's ADD, or by a control that differs from itself
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from bench.cni import Container, configuration, port
from bench.ours import Ours
from bench.peers import GO_PLUGINS, NETWORK, GoPlugins
from bench.place import Host
from bench.report import Figure, Results, control_figure, median_figure, percentile_figure, ratio_figure
from bench.stage import FIRST_PORT, Stage
from bench.starter import Starter

OURS, AGAIN, DROP_INS, GO = "dataplane-bridge", "dataplane-bridge again", "chain on our drop-ins", "Go chain"
ALONE = "dataplane-bridge alone"
CROWDED = "dataplane-bridge among many"
AT_LEAST = 8.0

_OTHERS, _PORTS_EACH = 100, 10

Chain = tuple[tuple[str, Mapping[str, object]], ...]
Pair = Callable[[], dict[str, float]]

_BRIDGE = {
    "bridge": "br-bench",
    "isGateway": True,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.77.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    },
}
_POLICY = {"ingressPolicy": "same-bridge"}
_CHAIN: Chain = (("bridge", _BRIDGE), ("portmap", {}), ("firewall", _POLICY))
_SINGLE: Chain = (("dataplane-bridge", {**_BRIDGE, **_POLICY}),)
_TAKES_PORTS = {"portmap", "dataplane-bridge"}


def run(stage: Stage) -> None:
    """Measure."""
    pairs = stage.amount(5, 3, 1)
    with ExitStack() as stack:
        single = _ours(stage, stack, _SINGLE)
        variants = {
            OURS: single,
            AGAIN: single,
            ALONE: _ours(stage, stack, _SINGLE, others=0),
            CROWDED: _ours(stage, stack, _SINGLE, others=stage.amount(_OTHERS, _OTHERS, 2), ports_each=_PORTS_EACH),
            DROP_INS: _ours(stage, stack, _CHAIN),
            GO: _go(stage, stack),
        }
        for pair in variants.values():
            pair()  # the bridge is made, what is loaded once is loaded
        for turn in stage.turns(list(variants), stage.amount(60, 30, 2)):
            for _ in range(pairs):
                for verb, spent in variants[turn.variant]().items():
                    stage.log.sample(verb, turn.variant, spent, block=turn.block)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = []
    for verb in ("ADD", "DEL"):
        own, theirs = results.of(verb, OURS), results.of(verb, GO)
        rows += [median_figure(f"{name}, {verb}", results.of(verb, name), "ms") for name in (OURS, DROP_INS, GO)]
        rows.append(percentile_figure(f"{OURS}, {verb}, p99", own, 0.99, "ms"))
        what = f"{OURS}, {verb}, the only container of its network"
        rows.append(median_figure(what, results.of(verb, ALONE), "ms", note="programs are attached and detached"))
        crowded, where = results.of(verb, CROWDED), f"{_OTHERS * _PORTS_EACH:,} ports present"
        rows.append(median_figure(f"{OURS}, {verb}, {where}", crowded, "ms"))
        rows.append(ratio_figure(f"{OURS}, {verb}, {where} / one", crowded, own))
        limit = AT_LEAST if verb == "ADD" else None
        rows.append(ratio_figure(f"{GO} / {OURS}, {verb}", theirs, own, at_least=limit))
        rows.append(control_figure(results.of(verb, AGAIN), own))
    return rows


def _ours(stage: Stage, stack: ExitStack, chain: Chain, *, others: int = 1, ports_each: int = 1) -> Pair:
    host = stack.enter_context(stage.host(f"{chain[0][0]}-{others}"))
    ours = Ours(host)
    stack.enter_context(ours.agent())
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    plugins = [(ours.plugin(name), keys) for name, keys in chain]
    return _pair(starter, host, plugins, ours.environment, others=others, ports_each=ports_each)


def _go(stage: Stage, stack: ExitStack) -> Pair:
    host = stack.enter_context(stage.host("go"))
    go = GoPlugins(host)
    stage.log.note(f"Go portmap and firewall write their rules by {go.backend}")
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    return _pair(starter, host, [(GO_PLUGINS / name, keys) for name, keys in _CHAIN], go.environment)


def _pair(
    starter: Starter,
    host: Host,
    chain: list[tuple[Path, Mapping[str, object]]],
    environment: Callable[[str, Container], dict[str, str]],
    *,
    others: int = 1,
    ports_each: int = 1,
) -> Pair:
    """ADD and DEL of one container, with one port; so many others, with so many ports each, are added now and stay."""
    place, *places = host.namespaces(["one", *(f"other{number}" for number in range(others))])
    one = Container(place.name, place.path, ports=(port(40000, 80),))
    environments = {verb: environment(verb, one) for verb in ("ADD", "DEL")}

    def add(container: Container, variables: Mapping[str, str]) -> tuple[float, object]:
        spent, result = 0.0, None
        for path, keys in chain:
            done = starter.run(path, variables, _text(path.name, keys, container, result))
            spent, result = spent + done.milliseconds, json.loads(done.output)
        return spent, result

    def pair() -> dict[str, float]:
        added, result = add(one, environments["ADD"])
        deleted = sum(
            starter.run(path, environments["DEL"], _text(path.name, keys, one, result)).milliseconds
            for path, keys in reversed(chain)
        )
        return {"ADD": added, "DEL": deleted}

    for number, place in enumerate(places):
        first = FIRST_PORT + number * ports_each
        ports = tuple(port(first + more, 1 + more) for more in range(ports_each))
        other = Container(place.name, place.path, ports=ports)
        add(other, environment("ADD", other))
    return pair


def _text(kind: str, keys: Mapping[str, object], container: Container, previous: object) -> str:
    """ADD gets the result of the plugin before, DEL that of the last."""
    ports = container.ports if kind in _TAKES_PORTS else ()
    return configuration(kind, NETWORK, ports, previous, **keys)
