"""Attachments survive the state's documents unchanged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from control.codec import decode, encode
from control.conditions import parse
from control.model import ChecksumPolicy, ForeignChain, IngressPolicy, Options
from support.attachments import attachment, port

_PLAIN = attachment(
    "web",
    "10.11.0.2 fd00:11::2",
    port(8080),
    port(53, 53, "udp", "192.0.2.1"),
    port(99, 99, "sctp", "::"),
    options=Options(
        snat=False,
        masq_all=True,
        ip_masq=True,
        ingress_policy=IngressPolicy.ISOLATED,
        checksum=ChecksumPolicy.OBSERVE,
        conditions4=parse(["ip", "saddr", "!=", "10.0.0.0/8"], 4),
        forward_chains=(
            ForeignChain("inet", "filter", "forward"),
            ForeignChain("ip", "filter", "FORWARD", optional=True),
        ),
        admin_chain="CNI-ADMIN",
        firewalld_zone="trusted",
    ),
)
FULL = replace(
    _PLAIN,
    request=replace(
        _PLAIN.request,
        key=replace(_PLAIN.key, plugin="bridge"),
        netns="/run/netns/web",
        netns_inode=4711,
        guarded_mac="02:00:00:00:00:01",
        lease_dir="/var/lib/cni/networks",
    ),
)


@pytest.mark.parametrize("one", [FULL, attachment("plain", "10.11.0.3")], ids=["full", "plain"])
def test_a_document_reads_back_as_what_was_written(one: object) -> None:
    """decode(encode(x)) is x."""
    assert decode(encode(one)) == one  # type: ignore[arg-type]


def test_a_document_of_another_schema_is_refused() -> None:
    """A state of another version is not guessed at."""
    document = json.loads(encode(FULL)) | {"schema": 99}
    with pytest.raises(ValueError, match="schema 99"):
        decode(json.dumps(document))
