"""The chains of our tables and how much each holds, by netlink: without a listing, whatever users wrote into them.

libnftables would have to understand every rule to list it as JSON, and lists all elements besides; the kernel tells
each chain with one number (NFT_MSG_GETCHAIN).

Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

from dataplane.errors import NftError
from dataplane.netlink import DUMP, attributes, exchange, text
from dataplane.nft.objects import Table

_NETFILTER = 12  # NETLINK_NETFILTER
_GETCHAIN = 10 << 8 | 4  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN
_GENMSG = 4  # bytes of nfgenmsg: family, version, resource
_TABLE, _NAME, _USE = 1, 3, 6  # NFTA_CHAIN_*, the last 32 bits in network order


def chains(table: Table) -> dict[str, int]:
    """The chains of a table and how many rules each holds; empty where the table is not there. Raises ``NftError``.

    Of a chain that others jump to, the jumps are counted as well.
    """
    family, name = table.identity
    try:
        answers = exchange(_NETFILTER, _GETCHAIN, DUMP, bytes([family, 0, 0, 0]))
    except OSError as error:
        raise NftError.from_errno("list", f"the chains of table {table}", error.errno or 0) from error
    every = (attributes(answer[_GENMSG:]) for answer in answers)
    return {text(one[_NAME]): int.from_bytes(one[_USE], "big") for one in every if text(one[_TABLE]) == name}
