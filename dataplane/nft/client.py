"""The door to nftables: transactions and questions, in the network namespace of this process.

What changes chains, rules or sets goes through libnftables, in nft's words; what changes elements alone goes to the
kernel as it is (``dataplane.nft.batch``), which is the same to it, and takes a tenth of the time.

Be aware: a ``LibNftables`` belongs to the namespace it was made in, and to one thread at a time. libnftables reports
text only; the errno is recovered from its wording, which is ``strerror`` of the C locale.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from functools import cached_property
from typing import Any

from dataplane.errors import ForeignChainError, MissingDependencyError, NftError
from dataplane.nft import batch
from dataplane.nft.chains import chains
from dataplane.nft.dump import has_set, held, holds, tables, values
from dataplane.nft.elements import Held
from dataplane.nft.fingerprint import fingerprint
from dataplane.nft.generation import generation
from dataplane.nft.objects import TABLE, ChainRef, Comment, Element, Set, Table
from dataplane.nft.transaction import Transaction

_ERROR = re.compile(r"Error: (?:Could not process rule: )?(?P<cause>[^\n;]+)")
_ERRNO = {os.strerror(number): number for number in errno.errorcode}


class LibNftables:
    """``dataplane.doors.Nft`` on the running kernel."""

    def __init__(self) -> None:
        self._owning = False

    def run(self, transaction: Transaction) -> None:
        """Apply all of it or nothing. Raises ``NftError``."""
        if not transaction:
            return
        tables = transaction.tables
        try:
            self._run(transaction, f"table {', '.join(tables)}")
        except NftError as error:
            raise explained(error) from None

    def generation(self) -> int:
        """How many transactions this namespace has seen, of ours and of others. Raises ``NftError``."""
        return generation()

    def contains(self, element: Element) -> bool:
        """Whether the kernel holds this element, with this value where it has one."""
        return holds(element)

    def table_text(self, table: Table = TABLE) -> str:
        """A table of ours as ``nft list table`` prints it; empty where it is not there."""
        return self._list(table, stateless=False, terse=False)

    def skeleton_text(self, table: Table = TABLE) -> str:
        """A table without elements and counters: equal to an earlier answer when chains and rules are untouched."""
        return self._list(table, stateless=True, terse=True)

    def fingerprint(self, table: Table = TABLE) -> str:
        """A word for chains, rules and declared sets of a table of ours: equal to an earlier answer where they are
        untouched; empty where the table is not there. Cheap, however much it holds. Raises ``NftError``."""
        return fingerprint(table)

    def has_set(self, declared: Set) -> bool:
        """Whether our table has a set or map of this name, whatever it holds. Cheap. Raises ``NftError``."""
        return has_set(declared)

    def sizes(self) -> dict[str, int]:
        """How many elements each set and map of our table holds; empty where the table is not there."""
        sets = (entry.get("set") or entry.get("map") for entry in self._objects(f"table {TABLE}"))
        return {declared["name"]: len(declared.get("elem", ())) for declared in sets if declared}

    def become_owner(self) -> bool:
        """From now on make all changes by the one socket that an ``OwnedTable`` belongs to; False where kernel or
        libnftables know no owned tables that outlive their owner. Tries it. Raises ``NftError``."""
        probe = f"{TABLE}_probe"
        try:
            self._command(
                f"add table {probe} {{ flags owner, persist; }}\ndelete table {probe}", "try", "an owned table"
            )
        except NftError as error:
            # libnftables does not know the word (before 1.1.0), or the kernel the flag (before 6.9).
            if error.errno in {0, errno.EOPNOTSUPP, errno.EINVAL}:
                return False
            raise
        self._owning = True
        return True

    def tables(self) -> frozenset[Table]:
        """Which of our tables there are. Raises ``NftError``."""
        return tables()

    def held(self, declared: Set) -> tuple[Held, ...]:
        """The elements of a set or map of ours, in no particular order; none where it is not there. Raises
        ``NftError``."""
        return held(declared)

    def values(self, declared: Set) -> dict[bytes, bytes]:
        """The same without comments: value by key. Quicker, of tens of thousands. Raises ``NftError``."""
        return values(declared)

    def chains(self, table: Table = TABLE) -> dict[str, int]:
        """The chains of a table of ours, and how many rules each holds, counting jumps to it; empty where the table is
        not there. Raises ``NftError``."""
        return chains(table)

    def insert_rules(self, chain: ChainRef, rules: tuple[str, ...], owner: Comment) -> None:
        """Put rules in front of a foreign chain, each with the owner's comment. Raises ``NftError``."""
        text = "".join(f'insert rule {chain} {rule} comment "{owner.text}"\n' for rule in reversed(rules))
        self._foreign(text, "accept our traffic in chain", chain)

    def delete_rules(self, chain: ChainRef, owner: Comment) -> None:
        """Remove the rules of a foreign chain that carry the owner's comment; no such chain is fine."""
        handles = self.rule_handles(chain, owner)
        if handles:
            text = "".join(f"delete rule {chain} handle {handle}\n" for handle in handles)
            self._foreign(text, "remove our rules from chain", chain)

    def has_chain(self, chain: ChainRef) -> bool:
        """Whether a foreign chain is there."""
        return any("chain" in entry for entry in self._objects(f"chain {chain}"))

    def rule_handles(self, chain: ChainRef, owner: Comment) -> tuple[int, ...]:
        """Handles of the rules in a foreign chain that carry the owner's comment."""
        rules = (entry["rule"] for entry in self._objects(f"chain {chain}") if "rule" in entry)
        return tuple(int(rule["handle"]) for rule in rules if rule.get("comment") == owner.text)

    def _run(self, transaction: Transaction, thing: str) -> None:
        # The owner of a table is a socket, and libnftables' is not ours.
        messages = None if self._owning else batch.messages(transaction)
        if messages is None:
            self._command(transaction.text(), "change", thing)
            return
        try:
            batch.send(messages)
        except OSError as error:
            raise NftError.from_errno("change", thing, error.errno or 0) from error

    def _foreign(self, text: str, verb: str, chain: ChainRef) -> None:
        try:
            self._command(text, verb, str(chain))
        except NftError as error:
            raise ForeignChainError(verb, str(chain), error.cause, error.errno) from error

    @cached_property
    def _library(self) -> Any:
        return new_library()

    def _list(self, table: Table, *, stateless: bool, terse: bool) -> str:
        library = self._library
        library.set_stateless_output(stateless)
        # The bindings know the flag, but offer no method for it.
        before = library._Nftables__set_output_flag("terse", terse)  # noqa: SLF001
        try:
            return self._command(f"list table {table}", "list", f"table {table}")
        except NftError as error:
            if error.errno == errno.ENOENT:
                return ""
            raise
        finally:
            library._Nftables__set_output_flag("terse", before)  # noqa: SLF001
            library.set_stateless_output(False)

    def _objects(self, listed: str) -> list[dict[str, Any]]:
        """What a table or chain consists of; nothing where it is not there."""
        library = self._library
        library.set_json_output(True)
        try:
            output = self._command(f"list {listed}", "read", listed)
        except NftError as error:
            if error.errno == errno.ENOENT:
                return []
            raise
        finally:
            library.set_json_output(False)
        answer: list[dict[str, Any]] = json.loads(output)["nftables"] if output else []
        return answer

    def _command(self, text: str, verb: str, thing: str) -> str:
        return command(self._library, text, verb, thing)


def new_library() -> Any:
    """libnftables, with a socket of its own. Raises ``MissingDependencyError``."""
    try:
        import nftables  # noqa: PLC0415 - costs 20 ms: only for who talks to the kernel
    except ImportError as error:
        raise MissingDependencyError(
            f"no nftables bindings for {sys.executable}: install the package python3-nftables and use the "
            "system's python3 (a virtual environment needs --system-site-packages)"
        ) from error
    library = nftables.Nftables()
    library.set_numeric_proto_output(False)
    return library


def command(library: Any, text: str, verb: str, thing: str) -> str:
    """Run commands in nft's words; what it printed. Raises ``NftError``."""
    code, output, errors = library.cmd(text)
    if code:
        raise _error(errors, verb, thing)
    return str(output)


def explained(error: NftError) -> NftError:
    """The error of a change, with who is in the way where somebody owns the table."""
    if error.errno == errno.EPERM:
        hint = "the table may be owned by the agent (ownership in the settings): dpctl reconcile asks it; or stop it"
        return NftError(error.verb, error.thing, error.cause, error.errno, hint)
    return error


def _error(errors: str, verb: str, thing: str) -> NftError:
    found = _ERROR.search(errors)
    cause = found["cause"].strip() if found else errors.strip().partition("\n")[0] or "libnftables gave no reason"
    return NftError(verb, thing, cause, _ERRNO.get(cause, 0))
