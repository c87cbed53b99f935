"""What keeps established connections alive while our table is away: a table that nobody else can flush.

    with anchored():        # in an agent, for as long as it runs
        ...

The kernel goes on translating the packets of a connection, by what conntrack remembers, only while *some* NAT chain is
registered, and it tracks connections only while *some* rule asks for that. ``nft flush ruleset`` often takes the last
of both: until ours are back the host itself answers the packets of established connections, with a reset. So the agent
holds a table of its own with one NAT chain that translates nothing and one rule that asks conntrack. Its owner is a
socket (flag ``owner``, Linux 5.12): others can neither flush nor delete it, and it vanishes with the agent.

Be aware: connections that begin while our table is away are not translated until their entries are flushed; see
``doors.Flows``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dataplane.nft.client import command, new_library

TABLE = "inet dataplane_anchor"
"""Not one of ``objects.Table``: no attachment asks for anything in it, and nothing compares it."""

_TEXT = f"""
add table {TABLE} {{ flags owner; comment "keeps NAT of established connections over a flush; goes with the agent"; }}
add chain {TABLE} keep {{ type nat hook output priority 300; }}
add rule {TABLE} keep ct state new accept
"""


@contextmanager
def anchored() -> Iterator[None]:
    """Hold it. Raises ``NftError`` where kernel or libnftables know no owned tables."""
    library = new_library()
    command(library, _TEXT, "hold", f"table {TABLE}")
    yield
    # The socket, and with it the table, goes with what holds the library.
    del library
