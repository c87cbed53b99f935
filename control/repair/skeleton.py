"""Whether chains, sets and rules of our table are still as they were written, at the price of one message.

The state keeps the skeleton's fingerprint, and the generation of the ruleset at which it was last found right, with the
name of the schema that it was right by. As long as the kernel answers with that generation nobody has changed anything,
and where it does not, the fingerprint costs the same however many elements there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum

from control.desired.ruleset import Variant, schema
from control.state.store import Store
from dataplane.crashpoints import Point, reached
from dataplane.doors import Nft
from dataplane.errors import DataplaneError

_FINGERPRINT, _GENERATION = "fingerprint", "generation"


class Chains(StrEnum):
    """What became of the chains and rules of our table."""

    INTACT = "as they were written"
    ALTERED = "chains or rules of table inet dataplane were altered"
    MISSING = "table inet dataplane was wiped"
    OTHER = "table inet dataplane is another version's, or made for another mark or way to serve localhost"


class Skeleton:
    """See the module. The caller holds the state's lock."""

    def __init__(self, nft: Nft, store: Store, variant: Variant) -> None:
        self._nft, self._store, self._schema = nft, store, schema(variant)
        self.own: deque[int] = deque(maxlen=64)
        """The last generations that were certainly our own doing, the newest last."""
        self._passed: dict[str, str] = {}
        self._written = 0

    def keep(self) -> bool:
        """Take what is there for right: it was just written, ``untouched_by`` others; whether it certainly is, because
        nobody else wrote anything to any table since."""
        self._passed.clear()
        self._store.keep_fact(_FINGERPRINT, self._nft.fingerprint())
        self._store.keep_fact(_GENERATION, self._seen(self._written))
        reached(Point.SKELETON_KEPT)
        return self._nft.generation() == self._written

    def doubt(self) -> None:
        """Take what is there for altered, whatever it is."""
        self._store.keep_fact(_FINGERPRINT, "")
        self._store.keep_fact(_GENERATION, "")

    def intact(self) -> bool:
        """Whether the skeleton is as it was last written. Never written is not intact."""
        return self.chains() is Chains.INTACT

    def chains(self) -> Chains:
        """What became of the skeleton since it was last written."""
        generation = self._seen(self._nft.generation())
        if generation == self._store.fact(_GENERATION):
            return Chains.INTACT
        found, known = self._nft.fingerprint(), self._store.fact(_FINGERPRINT)
        if not found:
            return Chains.MISSING
        if not self._nft.has_set(self._schema):
            return Chains.OTHER
        if found != known:
            return Chains.ALTERED
        self._store.keep_fact(_GENERATION, generation)
        return Chains.INTACT

    @contextmanager
    def untouched_by(self, transactions: int) -> Iterator[list[DataplaneError]]:
        """Go on trusting the skeleton over so many transactions of our own, which change elements only, once the state
        has the ``passed`` facts: it keeps them with the change itself.

        Any other number of transactions meanwhile means that somebody else was there, too; and so may an error, which
        is raised, or put into the list.
        """
        errors: list[DataplaneError] = []
        before = self._nft.generation()
        self._passed.clear()
        yield errors
        after = self._nft.generation()
        self._written = before + transactions
        if after - before != transactions or errors:
            return
        if transactions == 1:
            # Of several, one may have had nothing to do, and a stranger's have taken its number.
            self.own.append(after)
        if self._store.fact(_GENERATION) == self._seen(before):
            self._passed[_GENERATION] = self._seen(after)

    def passed(self) -> Mapping[str, str]:
        """The facts that the state is to keep together with the change that was just made."""
        return self._passed

    def _seen(self, generation: int) -> str:
        return f"{generation} {self._schema.name}"
