"""The generation of the ruleset: the kernel's count of nftables transactions in this network namespace.

One message there and back (NFT_MSG_GETGEN), however large the ruleset is, where listing it costs milliseconds: whoever
finds the generation of last time need not look whether anything was changed.

Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

from dataplane.errors import NftError
from dataplane.netlink import attributes, question

_NETFILTER = 12  # NETLINK_NETFILTER
_GETGEN = 10 << 8 | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_GENMSG = bytes(4)  # nfgenmsg: any family
_GEN_ID = 1  # NFTA_GEN_ID, 32 bits in network order


def generation() -> int:
    """The number of the last transaction. Raises ``NftError``."""
    try:
        answer = question(_NETFILTER, _GETGEN, _GENMSG)
    except OSError as error:
        raise NftError.from_errno("read", "the generation of the ruleset", error.errno or 0) from error
    return int.from_bytes(attributes(answer[len(_GENMSG) :])[_GEN_ID], "big")
