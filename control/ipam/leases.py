"""Leases on disk, as host-local keeps them: either plugin may take over from the other at any time and loses none.

    DIR/NETWORK/10.11.0.7            "<container>\\r\\n<ifname>"; very old ones hold the container alone
    DIR/NETWORK/fd00:11::7
    DIR/NETWORK/last_reserved_ip.0   where the circle of range set 0 goes on
    DIR/NETWORK/lock                 held (flock) by whoever reads or writes here
    DIR/NETWORK/.lease               a lease being written; only seen where its writer was killed

A lease is written whole under another name and then linked to its own: it is never seen empty or in part, and never
takes the place of another. An attachment that was killed between two addresses leaves leases that say whose they are,
so that its DEL or a GC releases them.

A repeated ``lease`` of an attachment gives the leases that it holds already, where host-local says that duplicate
allocation is not allowed: an ADD that was killed before it could answer can be repeated.

The agent remembers who holds what (``control.ipam.holders``), but nothing is given away or released by memory alone.

Be aware: a lease without ifname is released by whichever interface of its container leaves without another lease, as
host-local does. It is not given back to a repeated ``lease``: it may be another interface's.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from control.errors import DifferenceError, NoAddressError, NotReadyError
from control.ipam.holders import Holders, Owner, held_in, read_owner
from control.ipam.ranges import Lease, RangeSet
from control.lock import locked
from dataplane.crashpoints import Point, reached
from dataplane.types import Address

__all__ = ["DATA_DIR", "LeaseStore", "Leased", "Owner"]

DATA_DIR = Path("/var/lib/cni/networks")
"""host-local's own."""

_LAST = "last_reserved_ip."
_UNFINISHED = ".lease"


@dataclass(frozen=True, slots=True)
class Leased:
    """The answer to ``LeaseStore.lease``."""

    leases: tuple[Lease, ...]
    """One of each range set, in their order."""
    fresh: bool
    """Whether the attachment held none of them before."""


class LeaseStore:
    """The leases of one network: what is on disk counts."""

    def __init__(self, network: str, data_dir: Path = DATA_DIR) -> None:
        self._network, self._directory = network, data_dir / network

    def lease(self, owner: Owner, sets: Sequence[RangeSet], requested: Mapping[int, Address] | None = None) -> Leased:
        """Lease one address of each set; ``requested`` says which, by the index of the set.

        Raises ``NoAddressError`` where a set is exhausted or a requested address is another's, ``BusyError`` and
        ``OSError``; then the leases are as they were before.
        """
        doing = f'could not lease an address for {owner} on network "{self._network}"'
        with self._noting(doing):
            if not self._directory.is_dir():
                self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self._locked(doing) as taken:
            held = [name for name in self._held(taken, owner) if _is_address(name)]
            fresh: list[str] = []
            leases = []
            try:
                for index, pool in enumerate(sets):
                    lease = self._choose(index, pool, (requested or {}).get(index), held, taken)
                    leases.append(lease)
                    if (name := str(lease.address.ip)) not in held:
                        self._write(name, owner)
                        fresh.append(name)
                        self._note_last(index, name)
            except BaseException:
                for name in fresh:
                    (self._directory / name).unlink(missing_ok=True)
                raise
        return Leased(tuple(leases), fresh=len(fresh) == len(leases))

    def release(self, owner: Owner) -> None:
        """Release what an attachment holds, be it nothing. Raises ``BusyError`` and ``OSError``."""
        if not self._directory.is_dir():
            return
        with self._locked(f'could not release the addresses of {owner} on network "{self._network}"') as found:
            for name in self._held(found, owner) or self._held(found, Owner(owner.container, "")):
                (self._directory / name).unlink(missing_ok=True)
                reached(Point.LEASE_RELEASED)

    def check(self, owner: Owner, addresses: Sequence[Address]) -> None:
        """Raise ``DifferenceError`` where the attachment does not hold these addresses, or none at all."""
        differences = []
        with self._reading(f'could not check the addresses of {owner} on network "{self._network}"') as leases:
            accepted = (owner, Owner(owner.container, ""))
            holds = any(self._held(leases, one) for one in accepted)
            for address in addresses:
                where = self._directory / str(address)
                if str(address) not in leases:
                    differences.append(f"{address} is not leased: {where} is missing, so another container can get it")
                elif (holder := leases.get(str(address))) not in accepted:
                    differences.append(f"{address} is leased to {holder or 'nobody who can be read'}, see {where}")
        if not differences and not holds:
            differences.append(f"{owner} holds no lease in {self._directory}")
        if differences:
            raise DifferenceError(tuple(differences))

    def collect(self, valid: frozenset[tuple[str, str]]) -> None:
        """Release every lease of no valid (container, ifname); of the old form, of no valid container.

        What holds no name of a container, such as an empty file that a killed host-local left, is released, too. Raises
        an ``ExceptionGroup`` of ``OSError`` after having tried all, and ``BusyError``.
        """
        if not self._directory.is_dir():
            return
        containers = {container for container, _ in valid}
        errors: list[Exception] = []

        def is_valid(holder: Owner | None) -> bool:
            return holder is not None and (holder in valid or (not holder.ifname and holder.container in containers))

        with self._locked(f'could not collect the addresses of network "{self._network}"') as found:
            for name in sorted(filter(_is_address, found)):
                if is_valid(found.get(name)) or is_valid(self._holder(name)):
                    continue
                try:
                    (self._directory / name).unlink(missing_ok=True)
                except OSError as error:
                    errors.append(error)
        if errors:
            raise ExceptionGroup(f'could not release every address of network "{self._network}"', errors)

    def status(self, sets: Sequence[RangeSet]) -> None:
        """Raise ``NotReadyError`` where a set has no free address or leases cannot be written."""
        existing = next(one for one in (self._directory, *self._directory.parents) if one.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
            raise NotReadyError(f'could not lease an address on network "{self._network}": {existing} is not writable')
        with self._reading(f'could not count the addresses of network "{self._network}"') as names:
            for index, pool in enumerate(sets):
                if len(names) >= pool.size and pool.next_free(None, names) is None:
                    raise NotReadyError(self._exhausted(index, pool, names))

    def _choose(
        self, index: int, pool: RangeSet, requested: Address | None, held: Sequence[str], taken: Holders
    ) -> Lease:
        if requested is not None:
            one = pool.range_of(requested)
            if one is None:
                raise NoAddressError(f"could not lease {requested}: it is not in range set {index} ({pool})")
            if str(requested) in taken and str(requested) not in held:
                holder = self._holder(str(requested)) or "nobody who can be read"
                raise NoAddressError(
                    f'could not lease {requested} on network "{self._network}": it is leased to {holder}; '
                    "request another, or release it by the DEL of that container"
                )
            return one.lease(requested)
        for name in held:
            address = ip_address(name)
            if one := pool.range_of(address):
                return one.lease(address)
        lease = pool.next_free(self._last(index), taken)
        if lease is None:
            raise NoAddressError(self._exhausted(index, pool, taken))
        return lease

    def _exhausted(self, index: int, pool: RangeSet, names: Collection[str]) -> str:
        count = sum(pool.range_of(ip_address(name)) is not None for name in filter(_is_address, names))
        return (
            f'no address is free in range set {index} ({pool}) of network "{self._network}": {count} of {pool.size} '
            f"are leased in {self._directory}; remove containers, have the runtime run GC, or configure a larger range"
        )

    def _last(self, index: int) -> Address | None:
        try:
            return ip_address((self._directory / f"{_LAST}{index}").read_text(encoding="ascii").strip())
        except (FileNotFoundError, ValueError):
            return None  # none yet, or cut short by a crash: the circle starts anew

    def _write(self, name: str, owner: Owner) -> None:
        # By os, as everything here that an ADD waits for: pathlib doubles the time.
        unfinished = f"{self._directory}/{_UNFINISHED}"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, f"{owner.container}\r\n{owner.ifname}".encode())
            reached(Point.LEASE_BEGUN)
            os.link(unfinished, f"{self._directory}/{name}")
            reached(Point.LEASE_LINKED)
        finally:
            os.close(descriptor)
            os.unlink(unfinished)  # noqa: PTH108 - as above
        reached(Point.LEASE_WRITTEN)

    def _note_last(self, index: int, name: str) -> None:
        # Not emptied before it is written: ext4, for one, takes that for a reason to write to the disk at once.
        path = f"{self._directory}/{_LAST}{index}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(descriptor, os.pwrite(descriptor, name.encode(), 0))
        finally:
            os.close(descriptor)

    def _held(self, holders: Holders, owner: Owner) -> list[str]:
        return [name for name in holders.of(owner) if self._holder(name) == owner]

    def _holder(self, name: str) -> Owner | None:
        """Who a lease is of, by a look at it; None where that cannot be read."""
        try:
            return read_owner(self._directory, name)
        except FileNotFoundError:
            return None

    @contextmanager
    def _reading(self, doing: str) -> Iterator[Holders]:
        if not self._directory.is_dir():
            yield Holders(self._directory)
            return
        with self._locked(doing) as holders:
            yield holders

    @contextmanager
    def _locked(self, doing: str) -> Iterator[Holders]:
        with self._noting(doing), locked(self._directory / "lock"):
            # What a killed writer left, whose lock is ours now.
            (self._directory / _UNFINISHED).unlink(missing_ok=True)
            yield held_in(self._directory)

    @contextmanager
    def _noting(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.add_note(doing)
            raise


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
