"""A transaction: nft commands that the kernel applies all together or not at all, as a value that prints itself.

Transaction((create(element), delete(other))).text()
create element inet dataplane publish4 { tcp . 8080 comment "front/web/eth0" : 10.88.0.2 . 80 }
delete element inet dataplane publish4 { tcp . 8081 }
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

from dataplane.nft.elements import Held
from dataplane.nft.objects import TABLE, Chain, Element, Rule, Set, Table

Verb = Literal["add", "create", "delete", "flush"]

# libnftables parses one long command faster than many short ones, but keeps the whole line for its error messages.
_ELEMENTS_PER_COMMAND = 500


class Printed(NamedTuple):
    """An element as the kernel holds it, and what stands between the braces for it: printing many of them takes longer
    than nft does. A tuple, because there may be tens of thousands."""

    held: Held
    body: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Elements of one set or map that were printed before."""

    table: Table
    set_name: str
    elements: tuple[Printed, ...]


@dataclass(frozen=True, slots=True)
class OwnedTable:
    """A table that only the socket which made it can change, and that outlives that socket (Linux 6.9). Others see it;
    ``nft flush ruleset`` passes it by."""

    table: Table


@dataclass(frozen=True, slots=True)
class Command:
    """A verb of nft and what it is applied to."""

    verb: Verb
    target: Table | OwnedTable | Set | Chain | Rule | Element | Batch

    @property
    def table(self) -> Table:
        """The table that it changes."""
        return self.target if isinstance(self.target, Table) else self.target.table


@dataclass(frozen=True, slots=True)
class Transaction:
    """Commands in the order in which nft runs them."""

    commands: tuple[Command, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.commands)

    def __add__(self, other: Transaction) -> Transaction:
        return Transaction(self.commands + other.commands)

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables that it changes, in the order in which it comes to them."""
        return tuple(dict.fromkeys(command.table for command in self.commands))

    def text(self) -> str:
        """nft text, a command a line; elements of one set share a line."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        for (verb, table, set_name), run in groupby(self.commands, key=_batch):
            if set_name is None:
                yield from (_line(command) for command in run)
                continue
            bodies = [body for command in run for body in _bodies(command)]
            for start in range(0, len(bodies), _ELEMENTS_PER_COMMAND):
                chunk = ", ".join(bodies[start : start + _ELEMENTS_PER_COMMAND])
                yield f"{verb} element {table} {set_name} {{ {chunk} }}"


def add(target: Table | OwnedTable | Set | Chain | Rule | Element | Batch = TABLE) -> Command:
    """``add``: exists already is fine, except for a map key with another value."""
    return Command("add", target)


def create(target: Element) -> Command:
    """``create``: exists already is an error, which makes the kernel detect a key that is taken."""
    return Command("create", target)


def delete(target: Table | Set | Chain | Element = TABLE) -> Command:
    """``delete``: missing is an error."""
    return Command("delete", target)


def flush(target: Set | Chain) -> Command:
    """``flush``: all elements of a set, or all rules of a chain."""
    return Command("flush", target)


def _batch(command: Command) -> tuple[Verb, Table, str | None]:
    return command.verb, command.table, command.target.set_name if isinstance(command.target, Element | Batch) else None


def _bodies(command: Command) -> Iterable[str]:
    match command.target:
        case Batch(elements=elements):
            return (printed.body for printed in elements)
        case Element() as element:
            return (element.body(comment=command.verb != "delete"),)
    return ()


def _line(command: Command) -> str:
    target = command.target
    if isinstance(target, Table):
        return f"{command.verb} table {target}"
    if isinstance(target, OwnedTable):
        return f"{command.verb} table {target.table} {{ flags owner, persist; }}"
    if isinstance(target, Set | Chain) and command.verb in {"flush", "delete"}:
        kind = target.kind if isinstance(target, Set) else "chain"
        return f"{command.verb} {kind} {target.table} {target.name}"
    if isinstance(target, Element | Batch):
        raise TypeError(f"elements share a line: {target!r}")
    return f"{command.verb} {target.declaration()}"
