"""What can go wrong at the kernel's doors: every error names the verb, the object and the kernel's answer.

could not <verb> <object>: <cause>[; <what to do>]
"""

from __future__ import annotations

import os
from typing import Self


class DataplaneError(Exception):
    """A failure that a user may read as it is. Subclasses say at which door it happened."""


class KernelError(DataplaneError):
    """The kernel refused an operation.

    ``errno`` is the kernel's number (``errno.EEXIST`` and friends), or 0 where the door reported only text.
    """

    def __init__(self, verb: str, thing: str, cause: str, errno: int = 0, hint: str = "") -> None:
        self.verb, self.thing, self.cause, self.errno, self.hint = verb, thing, cause, errno, hint
        super().__init__(f"could not {verb} {thing}: {cause}" + (f"; {hint}" if hint else ""))

    @classmethod
    def from_errno(cls, verb: str, thing: str, errno: int, hint: str = "") -> Self:
        """Build the error from an errno number, in the kernel's words."""
        return cls(verb, thing, os.strerror(errno), errno, hint)

    def __reduce__(self) -> tuple[object, ...]:
        # The default would hand the whole text to __init__ as the verb: errors cross process borders, too.
        return type(self), (self.verb, self.thing, self.cause, self.errno, self.hint)


class NftError(KernelError):
    """nftables refused a transaction; nothing of it was applied."""


class ForeignChainError(NftError):
    """A chain of somebody else's table is not there, or refused our rules."""


class LinkError(KernelError):
    """rtnetlink refused, or a link is not there (``errno.ENODEV``)."""


class BpfError(KernelError):
    """bpf(2) refused, or a program did not compile or verify."""


class FirewalldError(DataplaneError):
    """firewalld refused, did not answer, or does not run."""

    def __init__(self, verb: str, thing: str, cause: str, hint: str = "") -> None:
        self.verb, self.thing, self.cause, self.hint = verb, thing, cause, hint
        super().__init__(f"could not {verb} {thing}: {cause}" + (f"; {hint}" if hint else ""))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.verb, self.thing, self.cause, self.hint)


class MissingDependencyError(DataplaneError):
    """A system library, binding or mount that this host lacks; the text says which package or command provides it."""
