"""The generation of the ruleset: the kernel's count of nftables transactions in this network namespace.

One message there and back (NFT_MSG_GETGEN), however large the ruleset is, where listing it costs milliseconds: whoever
finds the generation of last time need not look whether anything was changed.

Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

import errno
import socket
import struct

from dataplane.errors import NftError

_NETLINK_NETFILTER = 12
_GETGEN = 10 << 8 | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 1
_NFTA_GEN_ID = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_GENMSG = struct.Struct(">BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_ERRNO = struct.Struct("=i")
_GEN_ID = struct.Struct(">I")
_TIMEOUT = 5.0  # seconds; the kernel answers before send returns
_WHAT = "the generation of the ruleset"


def generation() -> int:
    """The number of the last transaction. Raises ``NftError``."""
    request = _HEADER.pack(_HEADER.size + _GENMSG.size, _GETGEN, _NLM_F_REQUEST, 0, 0) + _GENMSG.pack(0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as netlink:
            netlink.settimeout(_TIMEOUT)
            netlink.send(request)
            answer = netlink.recv(4096)
    except OSError as error:
        raise NftError.from_errno("read", _WHAT, error.errno or 0) from error
    return parse(answer)


def parse(answer: bytes) -> int:
    """The number in the kernel's answer. Raises ``NftError``, also for what is no such answer."""
    try:
        _, kind, _, _, _ = _HEADER.unpack_from(answer)
        if kind == _NLMSG_ERROR:
            (number,) = _ERRNO.unpack_from(answer, _HEADER.size)
            raise NftError.from_errno("read", _WHAT, -number)
        at = _HEADER.size + _GENMSG.size
        while at < len(answer):
            length, attribute = _ATTRIBUTE.unpack_from(answer, at)
            if attribute == _NFTA_GEN_ID:
                found: int = _GEN_ID.unpack_from(answer, at + _ATTRIBUTE.size)[0]
                return found
            at += max(_ATTRIBUTE.size, length + 3 & ~3)
    except struct.error:
        pass
    raise NftError.from_errno("read", _WHAT, errno.EPROTO)
