"""How long does a runtime wait for one published port, and does it matter how many there are?

One port is added and deleted through the chained plugin, from exec to exit, while 0, 1,000 and 10,000 ports are present
(100 containers with 10 or 100 each).

Peers      Go portmap, on a host with as many ports of its own; ``nft -f -`` and libnftables in process, which change
           one element of a map of that size, and nothing else; the start of a static program that does nothing
Unit       milliseconds of wall time; ratios are of medians within a block
Fair       our network has another container throughout, as a network usually has: to attach the programs to the first,
           and detach them from the last, takes the kernel two grace periods, which are told in rows of their own;
           every variant and size has a host of its own; the main plugin's work is done before, for all
Falsified  by more than 3 ms, by a median at 10,000 ports that is 20 % above that at 0, by less than ten times portmap,
           or by a control that differs from itself

portmap's rules at 1,000 and 10,000 ports are put in place by ``iptables-restore``, in the form that one real ADD of it
was checked to write; its own ADDs of so many take the better part of an hour. Where one of its calls takes seconds, it
has fewer rounds: the column n says how many.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from bench.cni import Container, configuration, port
from bench.ours import Ours
from bench.peers import GO_PLUGINS, NETWORK, GoPlugins, Libnftables, NftProcess
from bench.place import Host
from bench.report import Figure, Results, control_figure, median_figure, percentile_figure, ratio_figure
from bench.stage import Stage, containers
from bench.starter import Starter

OURS, AGAIN, GO, NFT, LIBRARY, FLOOR = "dataplane", "dataplane again", "go portmap", "nft -f -", "libnftables", "noop"
ALONE = "dataplane alone"
SIZES = (0, 1_000, 10_000)
AT_MOST = 3.0
FLAT = 1.2
AT_LEAST = 10.0

_PORT = 40000
_CONTAINERS = 100
_SLOW = 500.0
"""Milliseconds of a pair from which a variant has fewer rounds."""
_SLOW_ROUNDS = 3

Pair = Callable[[], dict[str, float]]
"""Adds and deletes a port; milliseconds by verb."""


def run(stage: Stage) -> None:
    """Measure."""
    sizes = SIZES[: stage.amount(3, 3, 1)]
    pairs = stage.amount(10, 5, 1)
    variants: dict[str, tuple[str, int, Pair]] = {}
    with ExitStack() as stack:
        for size in sizes:
            stage.log.progress(f"making hosts with {size:,} ports present")
            ours = _ours(stage, stack, size)
            pairs_of = {OURS: ours, AGAIN: ours, GO: _go(stage, stack, size), NFT: _nft(stage, stack, size)}
            pairs_of[LIBRARY] = _library(stage, stack, size)
            if not size:
                pairs_of |= {FLOOR: _floor(stage, stack), ALONE: _ours(stage, stack, 0, alone=True)}
            variants |= {f"{variant} at {size}": (variant, size, pair) for variant, pair in pairs_of.items()}
        slow = [name for name, (_, _, pair) in variants.items() if sum(pair().values()) > _SLOW]
        for name in slow:
            stage.log.note(f"{name}: a pair takes more than {_SLOW / 1000:g} s, so {_SLOW_ROUNDS} rounds of one pair")
        for turn in stage.turns(sorted(variants), stage.amount(40, 24, 2)):
            variant, size, pair = variants[turn.variant]
            if turn.variant in slow and turn.block >= _SLOW_ROUNDS:
                continue
            for _ in range(1 if turn.variant in slow else pairs):
                for verb, spent in pair().items():
                    stage.log.sample(verb, variant, spent, size=size, block=turn.block)


def figures(results: Results) -> list[Figure]:
    """The rows of the table."""
    rows = []
    for verb in ("ADD", "DEL"):
        sizes = results.sizes(verb, OURS)
        for size in sizes:
            samples = results.of(verb, OURS, size)
            where = f"{verb}, {size:,} ports present"
            rows.append(median_figure(f"dataplane {where}", samples, "ms", AT_MOST))
            rows.append(percentile_figure(f"dataplane {where}, p99", samples, 0.99, "ms"))
        for size in sizes[1:]:
            what = f"dataplane {verb}, {size:,} ports / none"
            rows.append(ratio_figure(what, results.of(verb, OURS, size), results.of(verb, OURS, 0), at_most=FLAT))
        for size in sizes:
            where = f"{verb}, {size:,} ports present"
            theirs, own = results.of(verb, GO, size), results.of(verb, OURS, size)
            rows.append(median_figure(f"Go portmap {where}", theirs, "ms"))
            rows.append(ratio_figure(f"Go portmap / dataplane {where}", theirs, own, at_least=AT_LEAST))
            rows += [
                median_figure(f"{name} one element, {where}", results.of(verb, name, size), "ms")
                for name in (NFT, LIBRARY)
            ]
        what = f"dataplane {verb}, the only container of its network"
        rows.append(median_figure(what, results.of(verb, ALONE), "ms", note="programs are attached and detached"))
        control = [one for size in sizes for one in results.of(verb, AGAIN, size)]
        rows.append(control_figure(control, [one for size in sizes for one in results.of(verb, OURS, size)]))
    rows.append(median_figure("floor: a static program that does nothing", results.of("ADD", FLOOR), "ms"))
    return rows


def _ours(stage: Stage, stack: ExitStack, size: int, *, alone: bool = False) -> Pair:
    host = stack.enter_context(stage.host("ours-alone" if alone else f"ours-{size}"))
    ours = Ours(host)
    present, own = _fleet(stage, host, size)
    stack.enter_context(ours.agent())
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    plugin = ours.plugin("dataplane")
    for container in () if alone else present:
        starter.run(plugin, ours.environment("ADD", container), _text("dataplane", container))
    text = _text("dataplane", own)
    environments = {verb: ours.environment(verb, own) for verb in ("ADD", "DEL")}
    return lambda: {verb: starter.run(plugin, env, text).milliseconds for verb, env in environments.items()}


def _go(stage: Stage, stack: ExitStack, size: int) -> Pair:
    host = stack.enter_context(stage.host(f"go-{size}"))
    go = GoPlugins(host)
    present, own = _fleet(stage, host, size)
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    go.preload(starter, [container for container in present if container.ports])
    if not size:
        stage.log.note(f"Go portmap writes its rules by {go.backend}")
    text = _text("portmap", own)
    environments = {verb: go.environment(verb, own) for verb in ("ADD", "DEL")}
    plugin = GO_PLUGINS / "portmap"
    return lambda: {verb: starter.run(plugin, env, text).milliseconds for verb, env in environments.items()}


def _nft(stage: Stage, stack: ExitStack, size: int) -> Pair:
    host = stack.enter_context(stage.host(f"nft-{size}"))
    nft = NftProcess(host, size)
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    return lambda: {verb: nft.change(starter, verb, _PORT).milliseconds for verb in ("ADD", "DEL")}


def _library(stage: Stage, stack: ExitStack, size: int) -> Pair:
    library = Libnftables(stack.enter_context(stage.host(f"library-{size}")), size)
    return lambda: dict(library.changes(_PORT, 1))


def _floor(stage: Stage, stack: ExitStack) -> Pair:
    host = stack.enter_context(stage.host("floor"))
    starter = stack.enter_context(Starter(host, stage.native, stage.cpu))
    if not stage.native.static:
        stage.log.note("the floor is a dynamically linked program: there is no static libc here")
    return lambda: {"ADD": starter.run(stage.native.noop, {}).milliseconds}


def _fleet(stage: Stage, host: Host, size: int) -> tuple[list[Container], Container]:
    """Containers that ask for so many ports together, and one more with the port that is measured. One is there at
    least, without a port, so that no call is the first or the last of its network."""
    count = min(size, size if stage.many else _CONTAINERS) or 1
    *present, own = containers(host, count + 1, size // count)
    return present, replace(own, ports=(port(_PORT, 80),))


def _text(kind: str, container: Container) -> str:
    return configuration(kind, NETWORK, container.ports, container.previous_result())
