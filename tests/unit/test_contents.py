"""What sets should hold, packed and printed at once: the same as their elements say one by one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from control.conditions import parse
from control.desired import ruleset
from control.desired.contents import contents
from control.model import Attachment, Options, PortMapping
from dataplane.nft.elements import Held, pack, unpack
from dataplane.types import Protocol
from support.attachments import attachment

ADDRESSES = ("10.11.0.2", "fd00:11::2", "10.11.0.2 fd00:11::2")
HOSTS = (None, "0.0.0.0", "::", "192.0.2.1", "2001:db8::1")
CONDITIONS = ((), parse(["ip", "saddr", "10.0.0.0/8"], 4))
SETS = {declared.name: declared for declared in ruleset.SETS}


@st.composite
def mappings(draw: st.DrawFn) -> tuple[PortMapping, ...]:
    """Single ports, and a range of them that keeps its numbers."""
    first, protocol = draw(st.integers(1, 60_000)), draw(st.sampled_from(Protocol))
    host = draw(st.sampled_from(HOSTS))
    where = ip_address(host) if host else None
    shift = draw(st.sampled_from([0, 1]))
    run = [PortMapping(first + n, first + n + shift, protocol, where) for n in range(draw(st.sampled_from([1, 5, 20])))]
    return tuple(run)


@st.composite
def attachments(draw: st.DrawFn) -> Attachment:
    """An attachment with published ports of all kinds."""
    options = Options(
        snat=draw(st.booleans()),
        masq_all=draw(st.booleans()),
        ip_masq=draw(st.booleans()),
        conditions4=draw(st.sampled_from(CONDITIONS)),
    )
    ports = [one for run in draw(st.lists(mappings(), max_size=3)) for one in run]
    made = attachment("web", draw(st.sampled_from(ADDRESSES)), *ports, options=options)
    return replace(made, device=replace(made.device, routed=draw(st.booleans())))


@given(attachments())
def test_contents_are_the_elements(one: Attachment) -> None:
    """Whatever is published, packed bytes, owner and text are those of the elements; and they unpack to them."""
    elements = list(ruleset.elements(one))
    told = list(contents(one))
    wanted = {
        (element.set_name, Held(*pack(element), element.comment.text if element.comment else ""), element.body())
        for element in elements
    }
    assert {(name, printed.held, printed.body) for name, printed in told} == wanted
    assert len(told) == len(elements)
    known = {(name, unpack(SETS[name], printed.held)) for name, printed in told if name in SETS}
    assert known == {(element.set_name, element) for element in elements if element.set_name in SETS}


def test_contents_have_what_others_may_share() -> None:
    """The container's address, and the one address of the host that it has a port on, each once and nobody's."""
    ports = [PortMapping(number, 80, Protocol.TCP, ip_address("192.0.2.1")) for number in (8080, 8081)]
    everywhere = PortMapping(8082, 80, Protocol.TCP, ip_address("0.0.0.0"))
    told = list(contents(attachment("web", "10.11.0.2", *ports, everywhere)))
    for name, address in (("specific4", "192.0.2.1"), ("sources4", "10.11.0.2")):
        assert [one.held for found, one in told if found == name] == [Held(ip_address(address).packed, b"", "")]
    assert not [name for name, _ in told if name in {"specific6", "sources6"}]
