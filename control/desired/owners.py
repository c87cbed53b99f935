"""Whose an element is: attachment keys as nft comments, and back. Pure.

    comment_of(AttachmentKey("front", "web", "eth0"))             front/web/eth0
    comment_of(AttachmentKey("front", "web", "eth0", "portmap"))  front/web/eth0/portmap
    key_of("front/web/eth0")                                      AttachmentKey("front", "web", "eth0")

A comment has 128 bytes, of which 25 are kept for the plugin, and names may be longer than that. One that is cut ends
with ``+`` and a digest of the whole, so that it still is nobody else's; ``known_as`` says by which key such an
attachment is known when the comment is all that is left of it.
"""

from __future__ import annotations

import re

from control.model import DEFAULT_PLUGIN, AttachmentKey, InvalidValueError
from dataplane.nft.objects import MAX_COMMENT, Comment, fitting

MAIN_PLUGINS = frozenset({"bridge", "dataplane-bridge"})
"""Those of ours that make interfaces."""
UNTOLD_MAIN = "some-main-plugin"
"""The plugin of an interface of which only the alias is left: either of them."""

_PLUGIN = 24  # characters of a comment for the plugin; the longest of ours has 21
_WHOLE, _WITH_PLUGIN = 3, 4  # parts of a comment
_CUT_MARK = ".cut."
_STAND_IN = re.compile(r"(?P<kept>.*)\.cut\.(?P<digest>[0-9a-f]{12})")
_CUT = re.compile(r"(?P<kept>[^+]*)\+(?P<digest>[0-9a-f]{12})")


def comment_of(key: AttachmentKey) -> Comment:
    """The comment of what an attachment puts into the kernel."""
    *interface, plugin = (key.network, key.container, key.ifname, key.plugin)
    if is_cut(key):
        *interface, plugin = (_STAND_IN.sub(r"\g<kept>+\g<digest>", part) for part in (*interface, plugin))
    # Whatever the plugin is called, the parts of one interface have its names in common.
    shared = fitting(interface, MAX_COMMENT - _PLUGIN - 1)
    return Comment("/".join(shared if plugin == DEFAULT_PLUGIN else (*shared, *fitting((plugin,), _PLUGIN))))


def key_of(text: str) -> AttachmentKey | None:
    """The key that a comment tells, names that were cut in the form of ``known_as``; None where it tells none."""
    parts = text.split("/")
    if len(parts) not in {_WHOLE, _WITH_PLUGIN}:
        return None
    try:
        return AttachmentKey(*map(_uncut, parts))
    except InvalidValueError:
        return None


def known_as(key: AttachmentKey) -> AttachmentKey:
    """The key that the comment of this one tells: itself, unless its names are too long for a comment."""
    fits = len(f"{key.network}/{key.container}/{key.ifname}") < MAX_COMMENT - _PLUGIN and len(key.plugin) <= _PLUGIN
    return key if fits else key_of(comment_of(key).text) or key


def is_cut(key: AttachmentKey) -> bool:
    """Whether a key may stand for a longer one."""
    return any(_CUT_MARK in name and _STAND_IN.fullmatch(name) for name in (key.network, key.container, key.plugin))


def _uncut(part: str) -> str:
    # No name has a "+"; in one that stands for a longer name there can be none either.
    cut = _CUT.fullmatch(part)
    return cut["kept"] + _CUT_MARK + cut["digest"] if cut else part
