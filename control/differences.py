"""What differs between the kernel and a desired state, a sentence each: CHECK's answer, and ``dpctl status``'s."""

from __future__ import annotations

from collections.abc import Iterator

from control import adminchain, ruleset, spoofcheck, zones
from control.planner import Desired
from dataplane.doors import Kernel, PortFlags
from dataplane.errors import LinkError
from dataplane.types import IfIndex


def differences(kernel: Kernel, wanted: Desired, skeleton: str | None) -> Iterator[str]:
    """Compare; ``skeleton`` is our table without elements as it was last written, None where it never was."""
    yield from _of_ruleset(kernel, wanted, skeleton)
    yield from _of_programs(kernel, wanted)
    for name, value in {**wanted.host_sysctls, **wanted.device_sysctls}.items():
        found = kernel.sysctls.read(name)
        if found != value:
            yield f"sysctl {name} is {found}, not {value}"
    for port, use in wanted.ports.items():
        yield from port_differences(kernel, port, use.needs)
    yield from adminchain.differences(kernel.nft, wanted.admin_chains)
    yield from spoofcheck.differences(kernel.nft, wanted.guards)
    yield from zones.differences(kernel.firewalld, wanted.sources)


def _of_ruleset(kernel: Kernel, wanted: Desired, skeleton: str | None) -> Iterator[str]:
    text = kernel.nft.skeleton_text()
    if not text:
        yield "table inet dataplane was wiped"
        return
    if text != skeleton:
        yield "chains or rules of table inet dataplane were altered"
    for element in sorted(wanted.elements, key=str):
        if not kernel.nft.contains(element):
            yield f"element {element.set_name} {{ {element.body(comment=False)} }} is missing"
    for chain, device in sorted(wanted.accepts, key=str):
        if chain.optional and not kernel.nft.has_chain(ruleset.chain_ref(chain)):
            continue
        found = kernel.nft.rule_handles(ruleset.chain_ref(chain), ruleset.accept_owner(device))
        if len(found) != len(ruleset.accept_rules(device)):
            yield f"chain {chain} has {len(found)} of the {len(ruleset.accept_rules(device))} accepts that it needs"


def _of_programs(kernel: Kernel, wanted: Desired) -> Iterator[str]:
    for program, device in sorted(wanted.hooks):
        if not any(hooked.program is program for hooked in kernel.programs.hooked(device)):
            yield f"program {program} is not attached to device {device}"
    if not wanted.entries:
        return
    if not kernel.programs.loaded():
        yield "the BPF programs are not loaded: their pins are gone, or of another version"
        return
    for (map_name, key), value in wanted.entries.items():
        entry = kernel.programs.get(map_name, key)
        if entry != value:
            yield f"BPF map {map_name}: entry {key.hex()} is {'wiped' if entry is None else 'altered'}"


def port_differences(kernel: Kernel, port: IfIndex, needs: PortFlags) -> Iterator[str]:
    """What a bridge port lacks."""
    try:
        found = kernel.links.port_flags(port)
    except LinkError:
        yield f"link {port} is no bridge port any more"
        return
    for name in ("hairpin", "isolated"):
        if getattr(needs, name) and not getattr(found, name):
            yield f"bridge port {port} is not {name}"
