"""The state in memory: every attachment, and what the sets of our table should hold, printed and packed.

What an agent needs within milliseconds when somebody flushed the ruleset: it is read from the state once, and follows
each change. Another process that changes the state makes it stale; it is read again then.

Be aware: who uses it holds the state's lock. ``is_device`` and ``is_port`` may be asked without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, KeysView, Mapping, ValuesView
from typing import TypeVar

from control.desired import ruleset
from control.desired.hooks import port_of
from control.model import Attachment, AttachmentKey
from control.state.database import Version
from control.state.store import Store
from dataplane.nft.elements import pack
from dataplane.nft.objects import Element
from dataplane.nft.transaction import Printed
from dataplane.types import IfIndex

T = TypeVar("T")

Packed = dict[bytes, tuple[bytes, Printed]]
"""packed key -> packed value and the element."""

_MAX_BEHIND = 32
"""Changes that the sets may be behind: whoever asks for these wants them within a millisecond or two."""


class Mirror:
    """See the module."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version: Version | None = None
        self._attachments: dict[AttachmentKey, Attachment] = {}
        self._sets: dict[str, Packed] | None = None
        self._behind: list[tuple[frozenset[Element], frozenset[Element]]] = []
        """What changes took away and brought that the sets do not show yet: nobody who changes one container waits
        until its elements are printed."""
        self._devices: Counter[IfIndex] = Counter()
        self._names: Counter[str] = Counter()
        self._veths: dict[IfIndex, dict[AttachmentKey, None]] = {}
        self._containers: dict[str, dict[AttachmentKey, None]] = {}
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

    def behind(self, veths: Iterable[IfIndex]) -> list[Attachment]:
        """All attachments of the containers that have one of these host veths."""
        self._follow()
        containers = {key.container for veth in veths for key in self._veths.get(veth, ())}
        return [self._attachments[key] for container in containers for key in self._containers.get(container, ())]

    def sets(self) -> Mapping[str, Packed]:
        """What each set of our table should hold; those that should be empty may be missing."""
        self._follow()
        if self._sets is None:
            self._sets = {}
            for one in self._attachments.values():
                _add(self._sets, ruleset.elements(one))
        for gone, come in self._behind:
            for element in gone:
                self._sets.get(element.set_name, {}).pop(pack(element).key, None)
            _add(self._sets, come)
        self._behind.clear()
        return self._sets

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
        if self._sets is not None:
            self._behind.append((gone, come))
            if len(self._behind) > _MAX_BEHIND:
                self.sets()

    def forget(self) -> None:
        """Read the state again before the next answer."""
        self._version = None

    def is_device(self, index: IfIndex, name: str = "") -> bool:
        """Whether an attachment has this device, or had one by this name."""
        return index in self._devices or name in self._names

    def is_port(self, index: IfIndex) -> bool:
        """Whether a link is the host veth of an attachment."""
        return index in self._veths

    def _follow(self) -> None:
        version = self._store.version
        if self._version == version:
            return
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
        self._attachments, self._sets, self._version = read, None, version
        self._behind.clear()
        self.readings += 1

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


def _add(sets: dict[str, Packed], elements: Iterable[Element]) -> None:
    for element in elements:
        packed = pack(element)
        # Whoever came first is the element's owner, as in the kernel.
        held = sets.setdefault(element.set_name, {})
        held.setdefault(packed.key, (packed.value, Printed(element, element.body())))


def _take(index: dict[T, dict[AttachmentKey, None]], place: T, key: AttachmentKey) -> None:
    index[place].pop(key)
    if not index[place]:
        del index[place]


def _add_to(counter: Counter[T], value: T, by: int) -> None:
    counter[value] += by
    if not counter[value]:
        del counter[value]
