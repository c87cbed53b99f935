"""Calls that nobody could serve, kept on disk until somebody can: DELs, which a runtime must not have to repeat.

    queue = Queue()
    queue.put(call)                          # on disk when this returns
    if queue:                                # cheap: one readdir
        with queue.held():
            for entry in queue.entries(): ...    queue.drop(entry), or queue.set_aside(entry)

A file each, named by time: the body of the call's frame (``wire``), which ``plugin/native/queue.c`` writes where not
even Python can be started. A file appears whole or not at all (temporary file, fsync, rename, fsync of the
directory).

Be aware: who writes takes no lock, so that nobody waits for a replay. Who replays, drops or sets aside holds it: an
ADD that finds a file of its attachment waits for the lock, and so no DEL is carried out after an ADD that it should
have come before. What was read without the lock may be gone by the time one has it: ask ``waits``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from control.errors import EngineError
from control.lock import TIMEOUT, locked
from control.protocol.wire import HEADER_LENGTH, VERSION, CniCall, WireError, decode_call, encode_call
from dataplane.crashpoints import Point, reached
from dataplane.netns import scoped

QUEUE_DIRECTORY = Path(scoped("/var/lib/dataplane")) / "queue"
MAX_FILES = 1000
MAX_BYTES = 256 << 10
"""Of one. A call is larger only where its configuration is hundreds of times what they are."""

_SUFFIX = ".json"
_ASIDE = ".refused"
_MAX_ASIDE = 100
_LOCK = ".lock"
_ABANDONED = 3600.0
"""Seconds after which a temporary file is no writer's any more."""


class QueueError(EngineError):
    """A call that cannot be kept, and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the queue."""

    path: Path
    call: CniCall | None
    """None: it cannot be read."""
    cause: str = ""
    """Why not."""


class Queue:
    """See the module. All that touches files raises ``OSError``, and ``put`` besides ``QueueError``."""

    def __init__(self, directory: Path = QUEUE_DIRECTORY) -> None:
        self._directory = directory

    def __len__(self) -> int:
        return len(self._names())

    def put(self, call: CniCall) -> None:
        """Keep a call."""
        try:
            body = encode_call(call)[HEADER_LENGTH:]
        except WireError as error:
            raise QueueError(f"could not keep the call: {error}") from None
        if len(body) > MAX_BYTES:
            raise QueueError(f"could not keep the call: its {len(body)} bytes are more than {MAX_BYTES}")
        self._directory.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        if len(self) >= MAX_FILES:
            raise QueueError(f"could not keep the call in {self._directory}: it is full")
        name = f"{time.time_ns():021d}-{os.getpid()}{_SUFFIX}"
        self._write(name, body)

    @contextmanager
    def held(self, timeout: float = TIMEOUT) -> Iterator[None]:
        """Be the only one who replays. Raises ``BusyError`` where another does for ``timeout`` seconds."""
        with locked(self._directory / _LOCK, timeout):
            yield

    def entries(self) -> list[Entry]:
        """What waits, the oldest first."""
        self._sweep()
        found = (self._entry(self._directory / name) for name in sorted(self._names()))
        return [entry for entry in found if entry is not None]

    def waits(self, entry: Entry) -> bool:
        """Whether it still does; true until the lock is given back."""
        return entry.path.exists()

    def drop(self, entry: Entry) -> None:
        """Done: it waits no more. One that is gone already is fine. Hold the lock."""
        entry.path.unlink(missing_ok=True)
        reached(Point.CALL_REPLAYED)

    def set_aside(self, entry: Entry) -> Path | None:
        """Nobody will ever be able to serve it: keep it for people to look at, under a name that is not replayed.

        That name, or None where it is gone already. Hold the lock.
        """
        aside = entry.path.with_suffix(_ASIDE)
        try:
            entry.path.rename(aside)
        except FileNotFoundError:
            return None
        kept = sorted(path for path in self._directory.iterdir() if path.suffix == _ASIDE)
        for old in kept[:-_MAX_ASIDE]:
            old.unlink(missing_ok=True)
        return aside

    def _names(self) -> list[str]:
        try:
            names = os.listdir(self._directory)  # noqa: PTH208 - on the way of every ADD and DEL: no Path for each
        except FileNotFoundError:
            return []
        return [name for name in names if name.endswith(_SUFFIX) and name[0] != "."]

    def _entry(self, path: Path) -> Entry | None:
        try:
            body = path.read_bytes()
        except FileNotFoundError:
            return None  # dropped meanwhile
        try:
            call = decode_call(_of_this_version(body))
        except WireError as error:
            return Entry(path, None, str(error))
        return Entry(path, call) if isinstance(call, CniCall) else Entry(path, None, "it is no CNI call")

    def _write(self, name: str, body: bytes) -> None:
        temporary = self._directory / f".{name}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            reached(Point.CALL_WRITTEN)
            temporary.rename(self._directory / name)
            reached(Point.CALL_QUEUED)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _sweep(self) -> None:
        for path in self._directory.glob(f".*{_SUFFIX}"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()


def _of_this_version(body: bytes) -> bytes:
    """The body as this version of the protocol has it: an upgrade must not lose what waits. Its fields are checked by
    those who decode it."""
    with suppress(ValueError, RecursionError):
        message: object = json.loads(body.decode("utf-8", "surrogateescape"))
        if isinstance(message, dict):
            return json.dumps({**message, "v": VERSION}, ensure_ascii=False).encode("utf-8", "surrogateescape")
    return body
