"""How long does a runtime wait for a whole network: bridge, address, published port, isolation?

``dataplane-bridge`` is one executable; in the Go world it is a chain of bridge (which starts host-local), portmap and
firewall (ingressPolicy same-bridge). One container comes and goes, with one port, on a bridge that is there already.

Peers      the Go chain; the same chain on our drop-ins, as it is after ``dpctl install --drop-in`` alone
Unit       milliseconds: the sum over a call's executables, each from exec to exit. What a runtime does between them,
           and the start of whatever is its driver, is in none of the sums
Fair       another container is on the bridge throughout, for all, as one usually is: to attach the programs to the
           first of a network, and detach them from the last, takes the kernel two grace periods, which are told in rows
           of their own; the same subnet, namespace, verbs and keys for all, on hosts of their own; no masquerade of
           egress, which would cost the Go chain five more calls of iptables
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
from bench.stage import Stage
from bench.starter import Starter

OURS, AGAIN, DROP_INS, GO = "dataplane-bridge", "dataplane-bridge again", "chain on our drop-ins", "Go chain"
ALONE = "dataplane-bridge alone"
AT_LEAST = 8.0

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
            ALONE: _ours(stage, stack, _SINGLE, alone=True),
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
        limit = AT_LEAST if verb == "ADD" else None
        rows.append(ratio_figure(f"{GO} / {OURS}, {verb}", theirs, own, at_least=limit))
        rows.append(control_figure(results.of(verb, AGAIN), own))
    return rows


def _ours(stage: Stage, stack: ExitStack, chain: Chain, *, alone: bool = False) -> Pair:
    host = stack.enter_context(stage.host(f"{chain[0][0]}-alone" if alone else chain[0][0]))
    ours = Ours(host)
    stack.enter_context(ours.agent())
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    return _pair(starter, host, [(ours.plugin(name), keys) for name, keys in chain], ours.environment, alone=alone)


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
    alone: bool = False,
) -> Pair:
    """ADD and DEL of one container; another one, unless it is to be alone, is added now and stays."""
    one, other = (
        Container(place.name, place.path, ports=(port(40000 + number, 80),))
        for number, place in enumerate(host.namespaces(["one", "other"]))
    )
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

    if not alone:
        add(other, environment("ADD", other))
    return pair


def _text(kind: str, keys: Mapping[str, object], container: Container, previous: object) -> str:
    """ADD gets the result of the plugin before, DEL that of the last."""
    ports = container.ports if kind in _TAKES_PORTS else ()
    return configuration(kind, NETWORK, ports, previous, **keys)
