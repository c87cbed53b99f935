"""A call that was found valid, and what it can end with.

Call      which plugin, which verb on what, with which configuration, and the engine for it
Outcome   what a verb that succeeded prints
every     takes every step, and gathers what went wrong
collected GC, as far as all plugins have it in common
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from control.errors import AbandonedError
from control.model import AttachmentKey, Request
from dataplane.errors import DataplaneError
from plugin.config import VALID_ATTACHMENTS, parse_valid_attachments
from plugin.environment import Invocation
from plugin.errors import CniError, Code
from plugin.jsontext import JsonObject


class Engine(Protocol):
    """What the plugin needs of ``control.engine.Engine``."""

    def heed(self) -> None:
        """Raises ``DataplaneError`` where nobody waits for the answer any more."""

    def add(self, request: Request) -> None:
        """Attach, or bring up to date. Raises ``DataplaneError``; then nothing is changed."""

    def delete(self, key: AttachmentKey) -> None:
        """Detach; an unknown key is fine."""

    def check(self, request: Request) -> None:
        """Raises ``DifferenceError`` where the kernel is not as the request wants it."""

    def collect(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        """Detach all but these (container ID, ifname). Raises an ``ExceptionGroup`` after having tried all."""

    def status(self, network: str) -> None:
        """Raises ``NotReadyError`` where an ADD would fail."""


OpenEngine = Callable[[], AbstractContextManager[Engine]]
"""Makes an engine available for the time of a ``with``; called only once everything was found valid."""


@dataclass(frozen=True, slots=True)
class Netns:
    """CNI_NETNS as the shim found it."""

    descriptor: int | None
    error: str = ""
    """Why there is no descriptor, though there is a path."""

    def opened(self, path: str) -> int:
        """The descriptor. Raises ``CniError`` (code 8) where there is none."""
        if self.descriptor is None:
            cause = self.error or "no descriptor came with the call"
            details = f"CNI_NETNS: could not open {path[:256]!r}: {cause}"
            raise CniError(Code.INVALID_NETNS, "invalid network namespace", details)
        return self.descriptor


@dataclass(frozen=True, slots=True)
class Call:
    """A call whose environment was found valid, and whose standard input is a JSON object."""

    plugin: str
    """Which plugin the executable was started as."""
    invocation: Invocation
    conf: JsonObject
    netns: Netns
    engine: OpenEngine
    environment: Mapping[str, str]
    """As far as it concerns CNI, unless it is ``whole``."""
    whole: bool = True
    say: Callable[[str], object] = sys.stderr.write
    """Takes what is to be written to standard error as it is."""

    def key(self, network: str) -> AttachmentKey:
        """The part that this plugin has in an attachment."""
        return AttachmentKey(network, self.invocation.container, self.invocation.ifname, self.plugin)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verb that succeeded prints."""

    stdout: str = ""
    notes: tuple[str, ...] = ()
    """For standard error, a line each."""


def every(what: str, *steps: Callable[[], None]) -> None:
    """Take every step, whatever the others do, as long as somebody waits for it. Raises all that went wrong in an
    ``ExceptionGroup``."""
    errors: list[Exception] = []
    for step in steps:
        try:
            step()
        except ExceptionGroup as group:
            errors += group.exceptions
        except AbandonedError:
            raise
        except (CniError, DataplaneError, OSError) as error:
            errors.append(error)
    if errors:
        raise ExceptionGroup(what, errors)


def collected(conf: JsonObject, collect: Callable[[frozenset[tuple[str, str]]], None]) -> Outcome:
    """GC: have everything collected but what the configuration says is valid; nothing where it does not say so."""
    valid = parse_valid_attachments(conf)
    if valid is None:
        # cnitool sends none where it means all: to take that for "nothing is valid" would cut off running containers.
        return Outcome(notes=(f"GC did nothing: {VALID_ATTACHMENTS} is missing",))
    collect(valid)
    return Outcome()
