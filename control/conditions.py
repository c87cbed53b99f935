"""``conditionsV4`` and ``conditionsV6``: extra matches that a published port asks for, checked word by word.

A condition list is the portmap plugin's: tokens of nft matches, or of the iptables matches ``-s``, ``-d`` and ``-i``
(with ``!`` before them). Every word is recognised here or refused, so that what reaches nft is ours.

    parse(["ip", "saddr", "!=", "10.0.0.0/8"], 4)    -> (Condition("ip saddr", "!=", ("10.0.0.0/8",)),)
    parse(["!", "-d", "192.0.2.0/24"], 4)            -> (Condition("ip daddr", "!=", ("192.0.2.0/24",)),)
    parse(["iifname", "{ eth0, eth1 }"], 4)          -> (Condition("iifname", "", ('"eth0"', '"eth1"')),)

    match       nft                                   iptables                    value
    source      ip saddr, ip6 saddr                   -s  --source  --src         address, prefix, first-last
    target      ip daddr, ip6 daddr                   -d  --destination  --dst    address, prefix, first-last
    device      iifname, iif, meta iifname, meta iif  -i  --in-interface          name of a link
    mark        mark, meta mark                                                   number of 32 bits

Be aware: ``iif`` is read as ``iifname``, which also matches a link that is created later. Addresses are merged and
written as prefixes, so that two ways to say the same become the same condition. Interface wildcards are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Network,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
    summarize_address_range,
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One nft match: ``field [!=] value`` or ``field [!=] { value, value }``; ``str()`` is its nft text."""

    field: str
    operator: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        value = self.values[0] if len(self.values) == 1 else "{ " + ", ".join(self.values) + " }"
        return " ".join(part for part in (self.field, self.operator, value) if part)


class ConditionError(ValueError):
    """A list of conditions that is not understood. ``index`` says which item of the list it is about."""

    def __init__(self, index: int, reason: str) -> None:
        self.index, self.reason = index, reason
        super().__init__(reason)


MAX_ITEMS = 256
"""Items of one list: conditions are evaluated for each new connection, one after the other."""

MAX_VALUES = 1024
"""Values of one condition, after ranges were written as prefixes."""

_IP = {4: "ip", 6: "ip6"}
_DEVICE, _MARK = "iifname", "meta mark"
_NEGATED = {"!=": "!=", "ne": "!=", "==": "", "eq": ""}
_IPTABLES = {
    "saddr": ("-s", "--source", "--src"),
    "daddr": ("-d", "--destination", "--dst"),
    _DEVICE: ("-i", "--in-interface"),
}
_TOKEN = re.compile(r'[{},]|"[^"]*"|[^\s{},"]+|"')
_LINK = re.compile(r'"([A-Za-z0-9_.\-]{1,15})"|([A-Za-z0-9_.\-]{1,15})')
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}")


def parse(items: Sequence[str], version: int) -> tuple[Condition, ...]:
    """Read a condition list of one IP version (4 or 6); all of its conditions must hold. Raises ``ConditionError``.

    As with the portmap plugin it makes no difference how words are spread over the items.
    """
    if len(items) > MAX_ITEMS:
        raise ConditionError(MAX_ITEMS, f"more than {MAX_ITEMS} items")
    tokens = _Tokens(items)
    found: dict[Condition, None] = {}
    while tokens.more():
        found[_condition(tokens, version)] = None
    return tuple(found)


class _Tokens:
    """The words of a list, read one by one; an error points at the item that the last word came from."""

    def __init__(self, items: Sequence[str]) -> None:
        self._words: list[tuple[int, str]] = [
            (index, word) for index, item in enumerate(items) for word in _TOKEN.findall(item)
        ]
        self._next = 0
        self._last = max(len(items) - 1, 0)

    def more(self) -> bool:
        return self._next < len(self._words)

    def peek(self) -> str:
        return self._words[self._next][1] if self.more() else ""

    def take(self, expected: str) -> str:
        if not self.more():
            raise ConditionError(self._last, f"ends where {expected} is expected")
        self._next += 1
        return self._words[self._next - 1][1]

    def refuse(self, reason: str) -> ConditionError:
        return ConditionError(self._words[self._next - 1][0], reason)


def _condition(tokens: _Tokens, version: int) -> Condition:
    word = tokens.take("a match")
    if word == "!" or word.startswith("-"):
        return _iptables_condition(tokens, word, version)
    field = _nft_field(tokens, word, version)
    operator = _NEGATED[tokens.take("a comparison")] if tokens.peek() in _NEGATED else ""
    return Condition(field, operator, _normal(tokens, field, version, _nft_values(tokens)))


def _iptables_condition(tokens: _Tokens, word: str, version: int) -> Condition:
    operator = "!=" if word == "!" else ""
    option = tokens.take("-s, -d or -i") if operator else word
    name = next((name for name, spellings in _IPTABLES.items() if option in spellings), None)
    if name is None:
        raise tokens.refuse(f"{option[:64]!r} is not -s, -d or -i, the iptables matches that are understood")
    field = name if name == _DEVICE else f"{_IP[version]} {name}"
    values = [tokens.take("a value")]
    while tokens.peek() == ",":
        tokens.take("','")
        values.append(tokens.take("a value"))
    return Condition(field, operator, _normal(tokens, field, version, values))


def _nft_field(tokens: _Tokens, word: str, version: int) -> str:
    if word in {"ip", "ip6"}:
        if word != _IP[version]:
            raise tokens.refuse(f"{word!r} can never match in conditionsV{version}")
        direction = tokens.take("'saddr' or 'daddr'")
        if direction in {"saddr", "daddr"}:
            return f"{word} {direction}"
        raise tokens.refuse(f"'{word} {direction[:64]}' is not {word} saddr or {word} daddr")
    if word == "meta":
        word = tokens.take("'iifname' or 'mark'")
    if word in {"iifname", "iif"}:
        return _DEVICE
    if word == "mark":
        return _MARK
    raise tokens.refuse(
        f"{word[:64]!r} is none of the matches that are understood: "
        f"{_IP[version]} saddr, {_IP[version]} daddr, iifname, meta mark"
    )


def _nft_values(tokens: _Tokens) -> list[str]:
    word = tokens.take("a value")
    if word != "{":
        return [word]
    values = []
    while True:
        values.append(tokens.take("a value"))
        separator = tokens.take("',' or '}'")
        if separator == "," and tokens.peek() == "}":
            separator = tokens.take("'}'")
        if separator == "}":
            return values
        if separator != ",":
            raise tokens.refuse(f"{separator[:64]!r} stands where ',' or '}}' is expected")


def _normal(tokens: _Tokens, field: str, version: int, values: Sequence[str]) -> tuple[str, ...]:
    if field == _DEVICE:
        return tuple(sorted({_link(tokens, value) for value in values}))
    if field == _MARK:
        return tuple(f"{number:#010x}" for number in sorted({_number(tokens, value) for value in values}))
    merged = _merged(tokens, values, version)
    if len(merged) > MAX_VALUES:
        raise tokens.refuse(f"more than {MAX_VALUES} prefixes")
    return merged


def _merged(tokens: _Tokens, values: Iterable[str], version: int) -> tuple[str, ...]:
    # nft 1.0.6 refuses overlapping prefixes in one set, so they are merged here.
    networks4: list[IPv4Network] = []
    networks6: list[IPv6Network] = []
    for value in values:
        for network in _networks(tokens, value):
            if network.version != version:
                raise tokens.refuse(f"{value[:64]!r} is not of IPv{version}")
            if isinstance(network, IPv4Network):
                networks4.append(network)
            else:
                networks6.append(network)
    merged: list[IPv4Network | IPv6Network] = [*collapse_addresses(networks4), *collapse_addresses(networks6)]
    return tuple(_prefix(network) for network in merged)


def _networks(tokens: _Tokens, value: str) -> Iterable[IPv4Network | IPv6Network]:
    if "%" in value:
        raise tokens.refuse(f"{value[:64]!r} names a zone, which nft cannot match")
    try:
        first, dash, last = value.partition("-")
        if dash:
            return tuple(summarize_address_range(ip_address(first), ip_address(last)))
        return (ip_network(value, strict=False),)
    except (ValueError, TypeError):  # TypeError: a range from one family to the other
        raise tokens.refuse(f"{value[:64]!r} is not an address, a prefix or a range of addresses") from None


def _prefix(network: IPv4Network | IPv6Network) -> str:
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


def _link(tokens: _Tokens, value: str) -> str:
    match = _LINK.fullmatch(value)
    if match is None:
        raise tokens.refuse(f"{value[:64]!r} is not the name of a link: 1 to 15 letters, digits, '_', '.' and '-'")
    return f'"{match[1] or match[2]}"'


def _number(tokens: _Tokens, value: str) -> int:
    number = int(value, 0 if value[:2].lower() == "0x" else 10) if _NUMBER.fullmatch(value) else -1
    if not 0 <= number < 1 << 32:
        raise tokens.refuse(f"{value[:64]!r} is not a number of 32 bits")
    return number
