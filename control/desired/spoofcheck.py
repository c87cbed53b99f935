"""The MAC spoof check: frames that enter a bridge by a guarded port must carry their container's MAC as their source.

    bridge dataplane, spoofcheck (prerouting, -300): iif @guarded, (iif, ether saddr) not in @permitted -> count, drop

One rule whatever the number of containers, two elements for each. The table comes with the first guarded port of the
host and goes with the last.

    change(before, after, elsewhere=...)      from one collection of ports to another, and by swapping them back again
    rebuild(wanted, there=...)                whatever is there -> wanted

Be aware: only the source MAC of the frame is compared, as the bridge plugin does it; a MAC that is *named* in an ARP or
neighbour discovery packet is not. Frames to the bridge's own group addresses (01:80:c2:00:00:0X, such as STP) are taken
by the kernel before this hook.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256

from dataplane.doors import Nft
from dataplane.nft.objects import BaseChain, Comment, Element, EtherAddress, LinkIndex, Rule, Set, Table
from dataplane.nft.transaction import Command, Transaction, add, delete, flush
from dataplane.types import IfIndex

_GUARDED = Set("guarded", ("iface_index",), table=Table.BRIDGE)
PERMITTED = Set("permitted", ("iface_index", "ether_addr"), table=Table.BRIDGE)
_CHAIN = BaseChain("spoofcheck", "filter", "prerouting", -300, table=Table.BRIDGE)
_RULE = Rule(_CHAIN.name, "iif @guarded iif . ether saddr != @permitted counter drop", table=Table.BRIDGE)


@dataclass(frozen=True, slots=True)
class GuardedPort:
    """A bridge port, and the MAC that frames which enter by it must carry."""

    index: IfIndex
    address: EtherAddress
    owner: Comment | None = field(default=None, compare=False)
    """Whose port it is, for people who list the sets."""

    def elements(self) -> tuple[Element, Element]:
        """What it adds to the sets."""
        link = LinkIndex(self.index)
        return (
            Element(_GUARDED.name, (link,), comment=self.owner, table=Table.BRIDGE),
            Element(PERMITTED.name, (link, self.address), comment=self.owner, table=Table.BRIDGE),
        )


Ports = Collection[GuardedPort]


def change(before: Ports, after: Ports, *, elsewhere: bool) -> Transaction:
    """Go from some guarded ports to others; ``elsewhere`` says whether the host has more besides both.

    Empty where nothing changes. Refused by the kernel (ENOENT) where ports are guarded already, but the table is
    missing or another version's, or does not hold what is to be deleted.
    """
    held, wanted = _elements(before), _elements(after)
    if held.keys() == wanted.keys():
        return Transaction()
    if not (before or elsewhere):
        return _build(after)
    if not (after or elsewhere):
        return _removal()
    commands: list[Command] = [flush(_schema())]
    commands += [delete(element) for element in held if element not in wanted]
    commands += [add(element) for element in wanted if element not in held]
    return Transaction(tuple(commands))


def rebuild(wanted: Ports, *, there: bool) -> Transaction:
    """Guard exactly these ports, whatever is there; ``there`` says whether our bridge table is.

    Where nothing is wanted and nothing is there, nothing is done: a kernel without such tables is fine then.
    """
    if wanted:
        return _build(wanted)
    return _removal() if there else Transaction()


def differences(nft: Nft, wanted: Ports) -> Iterator[str]:
    """What the kernel lacks of these guarded ports, a sentence each. It is not asked where there are none."""
    if not wanted:
        return
    text = nft.skeleton_text(Table.BRIDGE)
    if not text:
        yield f"table {Table.BRIDGE} was wiped"
        return
    # nft 1.0.6 to 1.1.3 list the rule word for word as it was written.
    ruled = _RULE.text in map(str.strip, text.splitlines()) and f"hook {_CHAIN.hook} " in text
    if not ruled or nft.chains(Table.BRIDGE) != {_CHAIN.name: 1}:
        yield f"chains or rules of table {Table.BRIDGE} were altered"
    for element in _elements(wanted):
        if not nft.contains(element):
            yield f"element {element.set_name} {{ {element.body(comment=False)} }} of table {Table.BRIDGE} is missing"


@cache
def _schema() -> Set:
    """A set without elements whose name says which version of the table this is."""
    parts = [part.declaration() for part in (_GUARDED, PERMITTED, _CHAIN, _RULE)]
    return Set("schema_" + sha256("\n".join(parts).encode()).hexdigest()[:12], ("mark",), table=Table.BRIDGE)


def _build(ports: Ports) -> Transaction:
    table = (add(Table.BRIDGE), delete(Table.BRIDGE), add(Table.BRIDGE))
    skeleton = (add(_GUARDED), add(PERMITTED), add(_schema()), add(_CHAIN), add(_RULE))
    return Transaction((*table, *skeleton, *(add(element) for element in _elements(ports))))


def _removal() -> Transaction:
    return Transaction((add(Table.BRIDGE), delete(Table.BRIDGE)))


def _elements(ports: Iterable[GuardedPort]) -> dict[Element, None]:
    # In a fixed order, set by set, and each once: parts of one interface guard the same port.
    every = {element for port in ports for element in port.elements()}
    return dict.fromkeys(sorted(every, key=lambda element: (element.set_name, element.key_text())))
