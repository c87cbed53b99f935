"""JSON from a stranger: bytes to one object, with limits; and a reader of objects that names the field it refuses.

    section = Section(parse_object(stdin))
    snat = section.boolean("snat", default=True)      # ConfigError: snat: "yes" is a string, not true or false

Be aware: ``null`` is the same as leaving a field out, and of equal keys the last one counts. Both are what Go's decoder
does, so that the runtime and this plugin read the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import NoReturn, TypeAlias

from plugin.errors import CniError, Code, ConfigError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = "dict[str, Json]"

MAX_BYTES = 1 << 20
"""Of standard input. 10,000 port mappings are 700 KiB."""
MAX_DEPTH = 64
"""Of nested objects and lists. A real configuration has less than ten levels."""

# A string (its end may be missing: the decoder will say so), or what changes the depth.
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def parse_object(raw: bytes) -> JsonObject:
    """Decode the JSON object on standard input. Raises ``CniError`` (code 6) for anything else."""
    if len(raw) > MAX_BYTES:
        _refuse(f"it is longer than {MAX_BYTES} bytes")
    if not raw.strip():
        _refuse("it is empty")
    # What opens no more than so many is no deeper, wherever they are; few need a closer look.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _depth(raw) > MAX_DEPTH:
        _refuse(f"it is nested deeper than {MAX_DEPTH} levels")
    try:
        value: Json = json.loads(raw.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except ValueError as error:  # JSON, UTF-8, a number of thousands of digits
        _refuse(str(error))
    if not isinstance(value, dict):
        _refuse(f"it is {kind_of(value)}, not an object")
    _refuse_half_characters(raw, value)
    return value


def kind_of(value: Json) -> str:
    """What a JSON value is, for people."""
    return "null" if value is None else _KINDS[type(value)]


def shown(value: Json) -> str:
    """A JSON value for an error: as it was written, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 64 else text[:61] + "..."


class Section:
    """One JSON object being read; ``path`` is where it lies in the configuration.

    With ``fold`` keys are found in any letter case: containerd and nerdctl write ``HostPort`` where the convention says
    ``hostPort``, and Go's decoders, which those runtimes were tested with, do not mind.
    """

    def __init__(self, value: Json, path: str = "", *, fold: bool = False) -> None:
        if not isinstance(value, dict):
            raise ConfigError(path, f"{shown(value)} is {kind_of(value)}, not an object")
        self._path, self._fold = path, fold
        self._values: JsonObject = {}
        for name, item in value.items():
            key = name.lower() if fold else name
            if key in self._values:
                raise ConfigError(self.at(name), "is given twice, in different letter case")
            self._values[key] = item

    def at(self, name: str) -> str:
        """The path of a field, as errors name it."""
        return f"{self._path}.{name[:64]}" if self._path else name[:64]

    def names(self) -> Iterator[str]:
        """Names of what is there; lower case where letter case does not count."""
        return iter(self._values)

    def raw(self, name: str) -> Json:
        """A field as it is; None where it is missing."""
        return self._values.get(name.lower() if self._fold else name)

    def text(self, name: str, default: str = "") -> str:
        value = self.raw(name)
        if value is None:
            return default
        return value if isinstance(value, str) else self._refuse(name, value, "a string")

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self.raw(name)
        if value is None:
            return default
        return value if isinstance(value, bool) else self._refuse(name, value, "true or false")

    def integer(self, name: str) -> int | None:
        """An integer, or None where it is missing. 80.0 is a number, "80" a string, and true neither."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            self._refuse(name, value, "an integer")
        return value

    def items(self, name: str) -> Iterator[tuple[str, Json]]:
        """The items of a list, each with its path; none where it is missing."""
        value = self.raw(name)
        if not isinstance(value, list | None):
            self._refuse(name, value, "a list")
        return ((f"{self.at(name)}[{index}]", item) for index, item in enumerate(value or ()))

    def texts(self, name: str) -> list[str]:
        """A list of strings."""
        found = []
        for path, item in self.items(name):
            if not isinstance(item, str):
                raise ConfigError(path, f"{shown(item)} is {kind_of(item)}, not a string")
            found.append(item)
        return found

    def section(self, name: str, *, fold: bool = False) -> Section:
        """An object; empty where it is missing."""
        value = self.raw(name)
        return Section({} if value is None else value, self.at(name), fold=fold)

    def _refuse(self, name: str, value: Json, expected: str) -> NoReturn:
        raise ConfigError(self.at(name), f"{shown(value)} is {kind_of(value)}, not {expected}")


def _depth(raw: bytes) -> int:
    # The decoder recurses: deep nesting would end the process (in 3.11) or its call (since 3.12) without a clear word.
    depth = deepest = 0
    for token in _STRUCTURE.finditer(raw):
        first = raw[token.start()]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:32]} is no number that JSON can carry on")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse_half_characters(raw: bytes, value: Json) -> None:
    # "\ud800" alone decodes to a string that no file, log or socket takes.
    if b"\\u" not in raw:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        _refuse("it holds one half of a surrogate pair")


def _refuse(reason: str) -> NoReturn:
    raise CniError(Code.DECODE, "could not decode the network configuration on stdin", reason)
