"""What a host's kernel holds of nftables, whoever's tables it is in: asked by netlink, in microseconds.

    Held(host).has((2, "published"), element)        whether this very element is in a map
    Held(host).rules((2, "cni_hostport"))            how many rules each chain has; jumps to it are counted, too
    Held(host).transactions()                        how many there were
    Held(host).settle()                              what a transaction removed is freed when this returns

An answer by ``nft`` would be a process each, and with many elements a listing.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from bench.place import Host
from dataplane.namespaces import inside
from dataplane.netlink import DUMP, NESTED, attribute, attributes, each_attribute, exchange, text, text_attribute
from dataplane.nft.elements import asked_by, each_held, pack
from dataplane.nft.generation import generation
from dataplane.nft.objects import Element

Table = tuple[int, str]
"""Its family (NFPROTO_*) and its name."""

OURS: Table = (1, "dataplane")
PURE: Table = (2, "published")
PORTMAP: Table = (2, "cni_hostport")

_NETFILTER = 12  # NETLINK_NETFILTER
_GETCHAIN, _GETSETELEM = 10 << 8 | 4, 10 << 8 | 13  # NFNL_SUBSYS_NFTABLES, NFT_MSG_*
_GENMSG = 4  # bytes of nfgenmsg: family, version, resource
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_USE = 1, 3, 6  # NFTA_CHAIN_*
_TABLE, _SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_ELEMENT, _KEY, _VALUE = 1, 1, 1  # NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE


class Held:
    """See the module."""

    def __init__(self, host: Host) -> None:
        self._netns = host.netns

    def as_expected(self, table: Table, expected: Sequence[tuple[Element, bool]]) -> bool:
        """Whether each of these elements is there, or is not. Raises ``OSError``."""
        with self._netns.open("rb") as netns:
            return inside(netns.fileno(), lambda: all(_has(table, element) is there for element, there in expected))

    def rules(self, table: Table) -> dict[str, int]:
        """The chains of a table, and how much each is used by rules in it and jumps to it. Raises ``OSError``."""

        def there() -> dict[str, int]:
            answers = exchange(_NETFILTER, _GETCHAIN, DUMP, bytes([table[0], 0, 0, 0]))
            every = [attributes(answer[_GENMSG:]) for answer in answers]
            mine = [one for one in every if text(one[_CHAIN_TABLE]) == table[1]]
            return {text(one[_CHAIN_NAME]): int.from_bytes(one[_CHAIN_USE], "big") for one in mine}

        with self._netns.open("rb") as netns:
            return inside(netns.fileno(), there)

    def transactions(self) -> int:
        """How many transactions there were. Raises ``NftError``."""
        with self._netns.open("rb") as netns:
            return inside(netns.fileno(), generation)

    def settle(self) -> None:
        """Wait until the kernel has freed what was removed, which takes it an RCU grace period (milliseconds). Else
        the next to close a socket, a question here or any nft that ends, would wait for that, and would keep
        transactions waiting as long."""

        def there() -> None:
            # nft_rcv_nl_event() of nf_tables, with the commit mutex of the namespace held.
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as netlink:
                netlink.bind((0, 0))

        with self._netns.open("rb") as netns:
            inside(netns.fileno(), there)


def _has(table: Table, element: Element) -> bool:
    wanted = pack(element)
    # Of intervals the kernel finds whichever holds the key, and tells its bounds.
    key = attribute(_KEY | NESTED, attribute(_VALUE, asked_by(element)))
    body = bytes([table[0], 0, 0, 0]) + text_attribute(_TABLE, table[1]) + text_attribute(_SET, element.set_name)
    body += attribute(_ELEMENTS | NESTED, attribute(_ELEMENT | NESTED, key))
    try:
        answers = exchange(_NETFILTER, _GETSETELEM, 0, body)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    lists = (raw for answer in answers for kind, raw in each_attribute(answer[_GENMSG:]) if kind == _ELEMENTS)
    return any(one.packed == wanted for raw in lists for one in each_held(raw))
