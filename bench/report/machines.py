"""Where and when something was measured: facts beside a scenario's figures, and what differs between two runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from bench.figures.blocks import Table
from bench.figures.measure import MOST_STEAL
from bench.report.summary import Summary, Told

_FACTS = {
    "cpu": "processor",
    "cpus": "processors",
    "smt": "SMT",
    "governor": "frequency governor",
    "turbo": "turbo",
    "hypervisor": "hypervisor",
    "memory_mib": "memory, MiB",
    "clocksource": "clock source",
    "kernel": "kernel",
    "kernel_build": "kernel build",
    "kernel_config": "kernel configuration, SHA-256",
    "nft": "nft",
    "python": "Python",
    "compiler": "C compiler",
    "dataplane": "dataplane",
    "commit": "commit",
    "time": "measured at",
    "extent": "extent",
    "seed": "seed",
    "pinned": "executables on processor",
    "precedence": "packets are timed",
    "run": "run",
}
_OF_THE_MACHINE = (
    "cpu", "cpus", "smt", "governor", "turbo", "hypervisor", "memory_mib", "clocksource", "kernel", "kernel_build",
    "kernel_config", "mitigations",
)  # fmt: skip
_OF_THE_RUN = ("commit", "extent", "nft", "python", "compiler", "packages", "pinned", "precedence")
_UNAFFECTED = "Not affected"


def facts(summary: Summary) -> Table:
    """What the runs were on, a row a fact; where scenarios are of several runs that differ, the row has all values."""
    runs = [told.run for told in summary.scenarios]
    rows = [(label, _values(runs, name)) for name, label in _FACTS.items()]
    packages = sorted({name for run in runs for name in run.get("packages") or {}})
    rows += [(f"package {name}", _values([run.get("packages") or {} for run in runs], name)) for name in packages]
    rows.append(("mitigations", "\n".join(dict.fromkeys(mitigations(run) for run in runs))))
    rows.append(("steal", "\n".join(f"{told.name}: {_steal(told)}" for told in summary.scenarios if told.steal)))
    return Table(("", "this machine, this run"), tuple((label, value) for label, value in rows if value))


def beside(told: Told) -> Iterator[str]:
    """The same in a few lines, to stand beside the figures of a scenario."""
    run = told.run
    names = ("run", "commit", "time", "extent")
    which, commit, time, extent = (str(run.get(name, "")) for name in names)
    yield f"run {which} of commit {commit} at {time} ({extent})"
    where = [f"{run.get('cpu')} x {run.get('cpus')}", f"Linux {run.get('kernel')}", str(run.get("nft") or "")]
    where.append(f"hypervisor {run['hypervisor']}" if run.get("hypervisor") else "")
    where.append(_mitigated(run))
    yield "; ".join(part for part in where if part)
    if told.steal:
        yield f"steal {_steal(told)}"


def _steal(told: Told) -> str:
    """What the hypervisor gave to others while a scenario ran, of whose time, and what became of such blocks."""
    total, disturbed = len(told.steal), told.disturbed
    text = f"{median(told.steal):.1%} in the middle block, {max(told.steal):.1%} in the worst of {total}"
    text = f"{text}, of {told.run.get('steal_of', 'all processors together')}"
    if not disturbed:
        return text
    if disturbed == total:
        left_out = "kept, for there are no others: repeat it on a quiet machine"
    elif told.kept:
        left_out = f"left out, but for {told.kept} figures that have no others and are doubtful"
    else:
        left_out = "left out"
    return f"{text}; {disturbed} had more than {MOST_STEAL:.0%}: {left_out}"


def mitigations(run: Mapping[str, Any]) -> str:
    """What the kernel does against the processor's faults, in its words; empty where it was not asked."""
    found: Mapping[str, str] = run.get("mitigations") or {}
    affected = [f"{name}: {text}" for name, text in found.items() if text != _UNAFFECTED]
    return "\n".join(affected) or ("none needed" if found else "")


def _mitigated(run: Mapping[str, Any]) -> str:
    """The same, by name."""
    found: Mapping[str, str] = run.get("mitigations") or {}
    against = [name for name, text in found.items() if text.startswith("Mitigation")]
    exposed = [name for name, text in found.items() if text.startswith("Vulnerable")]
    words = [f"mitigations: {', '.join(against) or 'none'}"] if found else []
    return "; ".join([*words, *([f"vulnerable: {', '.join(exposed)}"] if exposed else [])])


def other_machine(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What two runs' machines differ in; where one of them does not tell, they do not."""
    return _apart(first, second, _OF_THE_MACHINE)


def other_run(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What two runs differ in besides the machine."""
    return _apart(first, second, _OF_THE_RUN)


def _apart(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    found = []
    for name in names:
        one, other = first.get(name), second.get(name)
        if name in first and name in second and one != other:
            found.append(f"{_FACTS.get(name, name)}: {_said(one)} and {_said(other)}")
    return found


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items()) or "none"
    return "none" if value in {None, ""} else str(value)


def _values(runs: list[Mapping[str, Any]], name: str) -> str:
    told = [run[name] for run in runs if run.get(name) not in {None, ""}]
    return "\n".join(dict.fromkeys(str(value) for value in told))
