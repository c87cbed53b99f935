"""Addresses of containers in the zones of a firewalld that may run beside us.

firewalld rejects what is forwarded between zones, whatever our chains accept; what it does by a published port it lets
through by itself. Where none runs there is nothing to do, and nothing is wrong: one that is started later has no zone
for our containers until the next ADD of each, or ``dpctl reconcile``; so has one that was reloaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from dataplane.doors import Firewalld
from dataplane.errors import FirewalldError
from dataplane.steps import DistrustSource, Step, TrustSource
from dataplane.types import Address

Sources = Collection[tuple[str, Address]]
"""(zone, address of a container)."""


def change(before: Sources, after: Sources) -> Iterator[Step]:
    """The steps from some addresses in zones to others."""
    # An address can be in one zone only: out of the old one first.
    yield from (DistrustSource(*source) for source in _sorted(before) if source not in after)
    yield from (TrustSource(*source) for source in _sorted(after) if source not in before)


def differences(firewalld: Firewalld, wanted: Sources) -> Iterator[str]:
    """The addresses that are not in their zones, a sentence each; none where no firewalld runs."""
    if not wanted:
        return
    try:
        if not firewalld.running():
            return
        held = {zone: firewalld.sources(zone) for zone in sorted({zone for zone, _ in wanted})}
    except FirewalldError as error:
        yield str(error)
        return
    for zone, address in _sorted(wanted):
        if address not in held[zone]:
            yield f"address {address} is not in firewalld zone {zone}"


def _sorted(sources: Sources) -> list[tuple[str, Address]]:
    return sorted(set(sources), key=lambda source: (source[0], source[1].version, int(source[1])))
