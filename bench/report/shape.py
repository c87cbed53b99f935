"""Values of frozen dataclasses as plain JSON, and back. Pure.

plain(Interval(0.9, 1.0, 1.1, 12))                {"low": 0.9, "middle": 1.0, "high": 1.1, "count": 12}
shaped(Interval, {"low": 0.9, ...})               the same value; fields that it does not know are left out
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def plain(value: object) -> Any:
    """Of dataclasses, tuples, mappings, enumerations, and what JSON has. What is no number is None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def shaped(kind: type[T], value: object) -> T:
    """A value of that type. Raises ``ValueError`` where it lacks a field, or has something else in it."""
    try:
        made: T = _shaped(kind, value)
    except (TypeError, KeyError) as error:
        raise ValueError(f"this is no {kind.__name__}: {error}") from None
    return made


def _shaped(kind: Any, value: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        if value is None and types.NoneType in inner:
            return None
        (kind,) = (one for one in inner if one is not types.NoneType)
        return _shaped(kind, value)
    if origin is tuple:
        return tuple(_shaped(inner[0], one) for one in value)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        return kind(**{one.name: _shaped(hints[one.name], value[one.name])
                       for one in fields(kind) if one.name in value})  # fmt: skip
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is float and isinstance(value, int):
        return value
    if origin is not None or kind is Any:
        return value
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
