"""docs/checksums.md tells what the commands print: its console blocks are run again, and compared.

With DATAPLANE_WRITE_DOCS set the document is written anew instead.
"""

from __future__ import annotations

import os
import shlex
import threading
from pathlib import Path

import pytest

from support import needs
from support.frames import flipped, seed_stale_syn
from support.netns import Sandbox, wait_until
from support.seedhost import SeedHost
from support.transcript import comparable, rerun
from support.world import DPCTL

DOCUMENT = Path(__file__).parents[2] / "docs" / "checksums.md"
SEED = Path(__file__).parents[1] / "data" / "seed_stale_syn.hex"
_SPEAK = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as own:
    own.bind(("10.0.2.15", 40000))
    own.sendto(b"hello", ("10.0.2.2", 9))
"""
WINDOW = 8 * (14 + 20 + 14)  # the first bit of the TCP window


class Story:
    """The places of the story, and what happens there."""

    def __init__(self, bare: Sandbox, full: Sandbox, directory: Path) -> None:
        self._bare = self._place = bare
        self._full, self._directory = full, directory
        self._host: SeedHost | None = None
        self._meanwhile: threading.Thread | None = None

    def act(self, what: str) -> None:
        """One action of the document."""
        match what:
            case "nothing":
                self._place = self._bare
            case "host":
                self._host = self._host or SeedHost(self._full, self._directory, "observe")
                self._place = self._full
            case "knock":
                assert not self._seed.knock()
            case "answered":
                assert self._seed.knock()
            case "flipped":
                assert not self._seed.knock(flipped(seed_stale_syn(), WINDOW))
            case "soon speak":
                self._meanwhile = threading.Thread(target=self._speak)
            case _:
                assert what == "wait", what

    def run(self, command: str) -> str:
        """What a command prints."""
        words = [str(SEED) if word == SEED.name else word for word in shlex.split(command)]
        assert words[0] == "dpctl"
        if self._meanwhile is not None:
            self._meanwhile.start()
        done = self._place.run(DPCTL, *words[1:], check=False)
        if self._meanwhile is not None:
            self._meanwhile.join()
            self._meanwhile = None
        assert not done.stderr, done.stderr
        return done.stdout

    @property
    def _seed(self) -> SeedHost:
        assert self._host is not None
        return self._host

    def _speak(self) -> None:
        """One packet of the host's own, once somebody captures."""
        wait_until(lambda: len(self._full.run("cat", "/proc/net/packet").stdout.splitlines()) > 1, 20, "a capture")
        self._full.python(_SPEAK)


def test_the_document_tells_what_is_printed(sandbox: Sandbox, tmp_path: Path) -> None:
    """Each command of docs/checksums.md prints what the document says that it prints."""
    needs.file(DOCUMENT, package="the repository's docs")
    text = DOCUMENT.read_text()
    with Sandbox("bare") as bare:
        story = Story(bare, sandbox, tmp_path)
        again = rerun(text, story.act, story.run)
    if os.environ.get("DATAPLANE_WRITE_DOCS"):
        DOCUMENT.write_text(again)
        pytest.skip("missing: a comparison, since docs/checksums.md was written anew")
    assert comparable(again) == comparable(text)
