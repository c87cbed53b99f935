"""The state in memory: every attachment, and what the sets of our table should hold, printed and packed.

    while not mirror.read_on():      a piece at a time, for who must let others go before the next
        ...

What an agent needs within milliseconds when somebody flushed the ruleset: it is read from the state once, and follows
each change. Another process that changes the state makes it stale; it is read again then.

Be aware: who uses it holds the state's lock. ``is_device`` and ``is_port`` may be asked without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, KeysView, Mapping, ValuesView
from dataclasses import dataclass, field
from typing import TypeVar

from control.desired.contents import contents, printed
from control.desired.hooks import port_of
from control.model import Attachment, AttachmentKey
from control.state.database import Version
from control.state.store import Store
from dataplane.nft.elements import pack
from dataplane.nft.objects import Element
from dataplane.nft.transaction import Printed
from dataplane.types import IfIndex

T = TypeVar("T")

_AT_ONCE = 2_000
"""Published ports that are packed in one piece; of one attachment always all."""
_MAX_BEHIND = 32
"""Changes that the sets may be behind before each change has a part in making up for it: whoever asks for these wants
them within a millisecond or two."""


@dataclass(slots=True)
class Contents:
    """What one set should hold, by packed keys."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    printed: dict[bytes, Printed] = field(default_factory=dict)


class Mirror:
    """See the module."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version: Version | None = None
        self._attachments: dict[AttachmentKey, Attachment] = {}
        self._sets: dict[str, Contents] = {}
        self._unpacked: dict[AttachmentKey, Attachment] = {}
        """The attachments whose elements are not in there yet, as they were when the first of them was packed."""
        self._behind: list[tuple[frozenset[Element], frozenset[Element]]] = []
        """What changes since then took away and brought that the sets do not show yet: nobody who changes one container
        waits until its elements are printed. Attachments share elements, so these follow when all are packed, in turn.
        """
        self._devices: Counter[IfIndex] = Counter()
        self._names: Counter[str] = Counter()
        self._veths: dict[IfIndex, dict[AttachmentKey, None]] = {}
        self._containers: dict[str, dict[AttachmentKey, None]] = {}
        self._namespaces: Counter[str] = Counter()
        self._interfaces: Counter[tuple[str, str, str]] = Counter()
        """How many attachments each consists of."""
        self._sizes: Counter[str] = Counter()
        self.readings = 0
        """How often the whole state was read: once, and each time that somebody else had changed it."""

    def attachments(self) -> ValuesView[Attachment]:
        """Every attachment of the state."""
        self._follow()
        return self._attachments.values()

    def veths(self) -> KeysView[IfIndex]:
        """The host veths of all attachments."""
        self._follow()
        return self._veths.keys()

    def owners(self) -> dict[IfIndex, str]:
        """The containers by their host veths."""
        self._follow()
        return {veth: next(iter(keys)).container for veth, keys in self._veths.items()}

    def namespaces(self) -> frozenset[str]:
        """The paths of the containers' network namespaces, as far as they were told."""
        self._follow()
        return frozenset(self._namespaces)

    def sizes(self) -> dict[str, int]:
        """Interfaces by network."""
        self._follow()
        return dict(self._sizes)

    def behind(self, veths: Iterable[IfIndex]) -> list[Attachment]:
        """All attachments of the containers that have one of these host veths."""
        self._follow()
        containers = {key.container for veth in veths for key in self._veths.get(veth, ())}
        return [self._attachments[key] for container in containers for key in self._containers.get(container, ())]

    def sets(self) -> Mapping[str, Contents]:
        """What each set of our table should hold; those that should be empty may be missing."""
        while not self.read_on():
            continue
        return self._sets

    def read_on(self) -> bool:
        """Read the state, where that has not been done, or pack the elements of a few attachments more; whether nothing
        is left to be done."""
        if self._follow():
            return False
        ports = 0
        while self._unpacked and ports < _AT_ONCE:
            one = self._unpacked.pop(next(iter(self._unpacked)))
            _add(self._sets, contents(one))
            ports += len(one.request.mappings)
        if self._unpacked:
            return False
        self._catch_up()
        return True

    def changed(
        self, key: AttachmentKey, new: Attachment | None, gone: frozenset[Element], come: frozenset[Element]
    ) -> None:
        """Follow a change that was just committed, the only one since this was last asked; ``gone`` and ``come`` are
        the elements that it took away and brought."""
        if self._version is None:
            return  # never read yet
        former, self._version = self._version, self._store.version
        openings, number = former
        if self._version != (openings, number + 1):
            self.forget()
            return
        self._put(key, new)
        if not self._sets:
            # Nothing is packed that could be behind.
            self._unpacked.pop(key, None)
            if new is not None:
                self._unpacked[key] = new
            return
        self._behind.append((gone, come))
        if len(self._behind) > _MAX_BEHIND:
            self.read_on()

    def forget(self) -> None:
        """Read the state again before the next answer."""
        self._version = None

    def is_device(self, index: IfIndex, name: str = "") -> bool:
        """Whether an attachment has this device, or had one by this name."""
        return index in self._devices or name in self._names

    def is_port(self, index: IfIndex) -> bool:
        """Whether a link is the host veth of an attachment."""
        return index in self._veths

    def _follow(self) -> bool:
        """Whether the state had to be read."""
        version = self._store.version
        if self._version == version:
            return False
        read = {one.key: one for one in self._store.attachments()}
        # At once, because who asks about links does not wait for the lock.
        self._devices = Counter(one.device.index for one in read.values())
        self._names = Counter(one.device.name for one in read.values())
        veths: dict[IfIndex, dict[AttachmentKey, None]] = {}
        self._containers = {}
        for one in read.values():
            self._containers.setdefault(one.key.container, {})[one.key] = None
            if veth := port_of(one):
                veths.setdefault(veth, {})[one.key] = None
        self._veths = veths
        self._namespaces = Counter(one.request.netns for one in read.values() if one.request.netns)
        self._interfaces = Counter(key.interface for key in read)
        self._sizes = Counter(network for network, _, _ in self._interfaces)
        self._attachments, self._version = read, version
        self._sets, self._unpacked = {}, dict(read)
        self._behind.clear()
        self.readings += 1
        return True

    def _catch_up(self) -> None:
        for gone, come in self._behind:
            for element in gone:
                if held := self._sets.get(element.set_name):
                    packed = pack(element).key
                    held.values.pop(packed, None)
                    held.printed.pop(packed, None)
            _add(self._sets, ((element.set_name, printed(element)) for element in come))
        self._behind.clear()

    def _put(self, key: AttachmentKey, new: Attachment | None) -> None:
        former = self._attachments.pop(key, None)
        if new is not None:
            self._attachments[key] = new
            self._count(new, 1)
            self._containers.setdefault(key.container, {})[key] = None
            if veth := port_of(new):
                self._veths.setdefault(veth, {})[key] = None
        if former is not None:
            self._count(former, -1)
            if (veth := port_of(former)) and (new is None or port_of(new) != veth):
                _take(self._veths, veth, key)
            if new is None:
                _take(self._containers, key.container, key)

    def _count(self, one: Attachment, by: int) -> None:
        _add_to(self._devices, one.device.index, by)
        _add_to(self._names, one.device.name, by)
        if one.request.netns:
            _add_to(self._namespaces, one.request.netns, by)
        before = len(self._interfaces)
        _add_to(self._interfaces, one.key.interface, by)
        _add_to(self._sizes, one.key.network, len(self._interfaces) - before)


def _add(sets: dict[str, Contents], elements: Iterable[tuple[str, Printed]]) -> None:
    for name, one in elements:
        wanted = sets.get(name)
        if wanted is None:
            wanted = sets[name] = Contents()
        # Whoever came first is the element's owner, as in the kernel.
        if one.held.key not in wanted.values:
            wanted.values[one.held.key] = one.held.value
            wanted.printed[one.held.key] = one


def _take(index: dict[T, dict[AttachmentKey, None]], place: T, key: AttachmentKey) -> None:
    index[place].pop(key)
    if not index[place]:
        del index[place]


def _add_to(counter: Counter[T], value: T, by: int) -> None:
    counter[value] += by
    if not counter[value]:
        del counter[value]
