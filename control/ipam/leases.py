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

Be aware: a lease without ifname is released by whichever interface of its container leaves without another lease, as
host-local does. It is not given back to a repeated ``lease``: it may be another interface's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from control.errors import DifferenceError, NoAddressError, NotReadyError
from control.ipam.ranges import Lease, RangeSet
from control.lock import locked
from dataplane.types import Address

DATA_DIR = Path("/var/lib/cni/networks")
"""host-local's own."""

_LAST = "last_reserved_ip."
_UNFINISHED = ".lease"
_MAX_BYTES = 4096
_FIRST_OF_ADDRESS = frozenset("0123456789abcdef:")


class Owner(NamedTuple):
    """Who holds a lease. Without ``ifname``: a container, in a lease of the old form."""

    container: str
    ifname: str

    def __str__(self) -> str:
        return f'container "{self.container}" (interface {self.ifname or "unknown"})'


@dataclass(frozen=True, slots=True)
class Leased:
    """The answer to ``LeaseStore.lease``."""

    leases: tuple[Lease, ...]
    """One of each range set, in their order."""
    fresh: bool
    """Whether the attachment held none of them before."""


class LeaseStore:
    """The leases of one network. Nothing is kept between calls: what is on disk counts."""

    def __init__(self, network: str, data_dir: Path = DATA_DIR) -> None:
        self._network, self._directory = network, data_dir / network

    def lease(self, owner: Owner, sets: Sequence[RangeSet], requested: Mapping[int, Address] | None = None) -> Leased:
        """Lease one address of each set; ``requested`` says which, by the index of the set.

        Raises ``NoAddressError`` where a set is exhausted or a requested address is another's, ``BusyError`` and
        ``OSError``; then the leases are as they were before.
        """
        doing = f'could not lease an address for {owner} on network "{self._network}"'
        with self._noting(doing):
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self._locked(doing):
            taken = self._names()
            held = [name for name, holder in self._leases(taken) if holder == owner and _is_address(name)]
            fresh: list[str] = []
            leases = []
            try:
                for index, pool in enumerate(sets):
                    lease = self._choose(index, pool, (requested or {}).get(index), held, taken)
                    leases.append(lease)
                    if (name := str(lease.address.ip)) not in held:
                        self._write(name, owner)
                        fresh.append(name)
                        (self._directory / f"{_LAST}{index}").write_text(name, encoding="ascii")
            except BaseException:
                for name in fresh:
                    (self._directory / name).unlink(missing_ok=True)
                raise
        return Leased(tuple(leases), fresh=len(fresh) == len(leases))

    def release(self, owner: Owner) -> None:
        """Release what an attachment holds, be it nothing. Raises ``BusyError`` and ``OSError``."""
        if not self._directory.is_dir():
            return
        with self._locked(f'could not release the addresses of {owner} on network "{self._network}"'):
            found = self._leases(self._names())
            mine = [name for name, holder in found if holder == owner]
            for name in mine or [name for name, holder in found if holder == Owner(owner.container, "")]:
                (self._directory / name).unlink(missing_ok=True)

    def check(self, owner: Owner, addresses: Sequence[Address]) -> None:
        """Raise ``DifferenceError`` where the attachment does not hold these addresses, or none at all."""
        differences = []
        with self._reading(f'could not check the addresses of {owner} on network "{self._network}"') as names:
            leases = dict(self._leases(names))
        accepted = (owner, Owner(owner.container, ""))
        for address in addresses:
            where = self._directory / str(address)
            if str(address) not in names:
                differences.append(f"{address} is not leased: {where} is missing, so another container can get it")
            elif (holder := leases.get(str(address))) not in accepted:
                differences.append(f"{address} is leased to {holder or 'nobody who can be read'}, see {where}")
        if not differences and not any(holder in accepted for holder in leases.values()):
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
        with self._locked(f'could not collect the addresses of network "{self._network}"'):
            for name in sorted(filter(_is_address, self._names())):
                holder = self._holder(name)
                if holder and (holder in valid or (not holder.ifname and holder.container in containers)):
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
        self, index: int, pool: RangeSet, requested: Address | None, held: Sequence[str], taken: set[str]
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

    def _exhausted(self, index: int, pool: RangeSet, names: set[str]) -> str:
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
        unfinished = self._directory / _UNFINISHED
        unfinished.write_text(f"{owner.container}\r\n{owner.ifname}", encoding="utf-8", newline="")
        try:
            (self._directory / name).hardlink_to(unfinished)
        finally:
            unfinished.unlink(missing_ok=True)

    def _leases(self, names: set[str]) -> list[tuple[str, Owner]]:
        # Ten thousand leases are read in a few dozen milliseconds; to parse their names, too, would double that.
        holders = ((name, self._holder(name)) for name in sorted(names) if name[0] in _FIRST_OF_ADDRESS)
        return [(name, holder) for name, holder in holders if holder]

    def _holder(self, name: str) -> Owner | None:
        """Who a lease is of; None where that cannot be read."""
        try:
            descriptor = os.open(f"{self._directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            text = os.read(descriptor, _MAX_BYTES).decode(errors="replace").strip()
        except IsADirectoryError:
            return None
        finally:
            os.close(descriptor)
        container, _, ifname = text.partition("\r\n")
        return Owner(container, ifname) if container else None

    def _names(self) -> set[str]:
        names = set(os.listdir(self._directory))  # noqa: PTH208 - names are all that is needed, of up to 65,000
        if _UNFINISHED in names:  # its writer was killed: the lock is ours
            (self._directory / _UNFINISHED).unlink()
        return names

    @contextmanager
    def _reading(self, doing: str) -> Iterator[set[str]]:
        if not self._directory.is_dir():
            yield set()
            return
        with self._locked(doing):
            yield self._names()

    @contextmanager
    def _locked(self, doing: str) -> Iterator[None]:
        with self._noting(doing), locked(self._directory / "lock"):
            yield

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
