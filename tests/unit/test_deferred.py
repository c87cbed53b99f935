"""DELs that could not be carried out: kept on disk, and tried again, but never after an ADD of the same attachment."""

from __future__ import annotations

import fcntl
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from control.errors import AbandonedError, BusyError, EngineError
from control.model import AttachmentKey
from control.protocol.queue import MAX_BYTES, MAX_FILES, Queue, QueueError
from control.protocol.wire import Answer, CniCall
from dataplane.errors import KernelError
from plugin import deferred as module
from plugin.deferred import Deferred
from plugin.errors import CniError, Code
from plugin.frontend import replay
from plugin.skel import dispatch
from support.cni import RecordingEngine, environment

OURS = [
    KernelError("change", "table inet dataplane", "Device or resource busy"),
    BusyError("could not get the lock"),
    OSError(28, "No space left on device"),
    EngineError("could not"),
    ZeroDivisionError("a bug"),
    ExceptionGroup("all", [CniError(Code.FAILED, "dhcp says no"), OSError(30, "Read-only file system")]),
]
THEIRS = [
    CniError(Code.INVALID_CONFIG, "invalid network configuration"),
    CniError(Code.DECODE, "could not decode"),
    CniError(Code.TRY_AGAIN, "the plugin did not end"),
    CniError(130, 'IPAM plugin "dhcp" failed to DEL'),
    ExceptionGroup("all", [CniError(130, 'IPAM plugin "dhcp" failed to DEL')]),
    AbandonedError("the caller hung up"),
]


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    """A queue whose directory does not exist yet."""
    return Queue(tmp_path / "lib" / "queue")


@pytest.fixture
def deferred(queue: Queue) -> Deferred:
    """What is to be tested, on that queue."""
    return Deferred(queue)


def call(verb: str = "DEL", container: str = "web", network: str = "front", plugin: str = "dataplane") -> CniCall:
    """A call about an attachment."""
    conf = {"cniVersion": "1.0.0", "name": network, "type": plugin}
    return CniCall(environment(verb, CNI_CONTAINERID=container), json.dumps(conf), plugin=plugin)


def key(container: str = "web") -> tuple[str, AttachmentKey]:
    """What an engine records of a DEL."""
    return ("delete", AttachmentKey("front", container, "eth0", "dataplane"))


def files(tmp_path: Path) -> list[str]:
    """What is in the queue's directory, by suffix; its lock apart."""
    return sorted(path.suffix for path in (tmp_path / "lib" / "queue").iterdir() if path.name != ".lock")


def ignore(_line: str) -> None:
    """A listener."""


@pytest.mark.parametrize("failure", OURS, ids=repr)
def test_a_failure_of_ours_is_put_off(deferred: Deferred, queue: Queue, failure: Exception) -> None:
    """The runtime is told of success, people are told why it is none yet, and the next replay does the work."""
    answer = dispatch(call(), None, RecordingEngine(failure).open, put_off=deferred.put_off)
    assert (answer.stdout, answer.exit_code) == ("", 0)
    assert answer.stderr.startswith("dataplane: the DEL is kept for later: ")
    engine = RecordingEngine()
    assert deferred.replay(engine.open, ignore) == 0
    assert engine.calls == [key()]


@pytest.mark.parametrize("failure", THEIRS, ids=repr)
def test_a_failure_of_others_is_told(deferred: Deferred, queue: Queue, failure: Exception) -> None:
    """What the caller wrote, what a delegated plugin said, and what nobody waits for, is kept for nobody."""
    assert dispatch(call(), None, RecordingEngine(failure).open, put_off=deferred.put_off).exit_code == 1
    assert len(queue) == 0


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "GC", "STATUS"])
def test_only_deletes_are_put_off(deferred: Deferred, queue: Queue, verb: str) -> None:
    """Any other verb's failure is its answer."""
    assert deferred.put_off(call(verb), OURS[0]) == ""
    assert len(queue) == 0


def test_a_queue_that_cannot_be_written(tmp_path: Path) -> None:
    """Then the failure is told, and that it could not be kept."""
    (tmp_path / "lib").write_text("in the way")
    blocked = Deferred(Queue(tmp_path / "lib" / "queue"))
    for failure in (KernelError("change", "it", "busy"), ExceptionGroup("all", [KernelError("change", "it", "busy")])):
        answer = dispatch(call(), None, RecordingEngine(failure).open, put_off=blocked.put_off)
        assert answer.exit_code == 1
        assert "the DEL cannot be kept for later either" in json.loads(answer.stdout)["details"]


def test_what_is_kept(queue: Queue, tmp_path: Path) -> None:
    """A file each, for root alone, whole, in the order in which they came; bytes that are no UTF-8 as well."""
    first = call()._replace(stdin='{"raw": "\udcff"}')
    for one in (first, call(container="late")):
        queue.put(one)
    directory = tmp_path / "lib" / "queue"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    entries = queue.entries()
    assert [entry.call and entry.call.environment["CNI_CONTAINERID"] for entry in entries] == ["web", "late"]
    assert entries[0].call == first


def test_it_is_bounded(queue: Queue, tmp_path: Path) -> None:
    """Neither many nor large calls can fill a disk."""
    with pytest.raises(QueueError, match="are more than"):
        queue.put(call()._replace(stdin="x" * MAX_BYTES))
    queue.put(call())
    for number in range(MAX_FILES - 1):
        (tmp_path / "lib" / "queue" / f"{number}.json").touch()
    with pytest.raises(QueueError, match="it is full"):
        queue.put(call())


def test_a_full_disk(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that cannot be made durable leaves no half file."""

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        queue.put(call())
    assert files(tmp_path) == []


def test_what_fails_again_waits_on(deferred: Deferred, queue: Queue) -> None:
    """A replay tries all, whatever becomes of the others, and says how many are left."""
    for container in ("web", "late"):
        queue.put(call(container=container))
    engine = RecordingEngine(OURS[0])
    assert deferred.replay(engine.open, ignore) == 2
    assert engine.calls == [key(), key("late")]
    assert deferred.replay(RecordingEngine().open, ignore) == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[" * 100_000, b'{"v": 3, "call": "ping"}', b'{"v": 3, "call": "cni"}'],
    ids=lambda body: repr(body[:20]),
)
def test_what_cannot_be_read_is_set_aside(deferred: Deferred, queue: Queue, tmp_path: Path, body: bytes) -> None:
    """It is named, kept for people to look at, and keeps nothing else from being done."""
    queue.put(call())
    (tmp_path / "lib" / "queue" / "0.json").write_bytes(body)
    said: list[str] = []
    engine = RecordingEngine()
    assert deferred.replay(engine.open, said.append) == 0
    assert engine.calls == [key()]
    assert files(tmp_path) == [".refused"]
    assert len(said) == 1
    assert str(tmp_path / "lib" / "queue" / "0.refused") in said[0]


@pytest.mark.parametrize("kept", [call("ADD"), call()._replace(stdin="{"), call(container="../x")], ids=repr)
def test_what_nobody_can_serve_is_set_aside(deferred: Deferred, queue: Queue, tmp_path: Path, kept: CniCall) -> None:
    """The program in C keeps a DEL without having looked at it; what is wrong with it shows when it is replayed."""
    queue.put(kept)
    engine = RecordingEngine()
    assert deferred.replay(engine.open, ignore) == 0
    assert engine.calls == []
    assert files(tmp_path) == [".refused"]


def test_an_upgrade_loses_nothing(deferred: Deferred, queue: Queue, tmp_path: Path) -> None:
    """What an older version kept is carried out, as long as it can be read."""
    queue.put(call())
    (path,) = (tmp_path / "lib" / "queue").iterdir()
    message: dict[str, Any] = json.loads(path.read_bytes())
    path.write_text(json.dumps(message | {"v": 1}))
    engine = RecordingEngine()
    assert deferred.replay(engine.open, ignore) == 0
    assert engine.calls == [key()]


def test_the_namespace_is_not_trusted(deferred: Deferred, queue: Queue) -> None:
    """The path of a namespace may lead to another container's by now: a replay has none."""
    queue.put(call()._replace(netns_error="No such file or directory"))
    seen: list[tuple[CniCall, int | None]] = []

    def spy(one: CniCall, netns: int | None, *_rest: object, **_options: object) -> Answer:
        seen.append((one, netns))
        return Answer("")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "dispatch", spy)
        deferred.replay(RecordingEngine().open, ignore)
    ((replayed, netns),) = seen
    assert netns is None
    assert "CNI_NETNS" not in replayed.environment
    assert replayed.netns_error == ""


def test_an_add_comes_after_what_waits_for_it(deferred: Deferred, queue: Queue) -> None:
    """The DEL of an attachment is tried before its next ADD, and never after it, whatever came of it."""
    for failure in (None, OURS[0]):
        queue.put(call())
        engine = RecordingEngine(failure)
        assert deferred.catch_up(call("ADD"), engine.open, ignore) == []
        assert engine.calls == [key()]
        assert len(queue) == 0


@pytest.mark.parametrize("other", [call(container="late"), call(network="back"), call(plugin="portmap")], ids=repr)
def test_other_attachments_are_others(deferred: Deferred, queue: Queue, other: CniCall) -> None:
    """What waits for another one is tried, and where it fails it waits on."""
    queue.put(other)
    deferred.catch_up(call("ADD"), RecordingEngine(OURS[0]).open, ignore)
    assert len(queue) == 1
    deferred.catch_up(call("ADD"), RecordingEngine().open, ignore)
    assert len(queue) == 0


def test_a_call_spends_little_on_others(deferred: Deferred, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops at the first that fails, and when its time is up."""
    for number in range(3):
        queue.put(call(container=f"c{number}"))
    failing = RecordingEngine(OURS[0])
    deferred.catch_up(call("ADD"), failing.open, ignore)
    assert len(failing.calls) == 1
    monkeypatch.setattr(module, "BUDGET", 0.0)
    quick = RecordingEngine()
    deferred.catch_up(call("ADD"), quick.open, ignore)
    assert len(quick.calls) == 1


def test_a_delete_does_the_work_of_those_before_it(deferred: Deferred, queue: Queue) -> None:
    """It need not be done twice: what waited is dropped once it has succeeded."""
    queue.put(call())
    engine = RecordingEngine()
    waiting = deferred.catch_up(call(), engine.open, ignore)
    assert engine.calls == []
    assert len(queue) == 1
    deferred.forget(waiting)
    assert len(queue) == 0


@pytest.mark.parametrize(("waits_for", "busy"), [("web", True), ("late", False)])
def test_others_that_replay(
    deferred: Deferred, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits_for: str, busy: bool
) -> None:
    """While another process replays, an ADD waits for what waits for it, and for nothing else."""
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    queue.put(call(container=waits_for))
    lock = os.open(tmp_path / "lib" / "queue" / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    engine = RecordingEngine()
    assert deferred.replay(engine.open, ignore) == 1
    attempt: Callable[[], object] = lambda: deferred.catch_up(call("ADD"), engine.open, ignore)  # noqa: E731
    if busy:
        with pytest.raises(BusyError):
            attempt()
    else:
        attempt()
    os.close(lock)
    assert engine.calls == []
    assert len(queue) == 1


def test_an_add_is_never_overtaken_by_a_replay(
    deferred: Deferred, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others replay, a repeated DEL leaves its entry where it is, so that the ADD after it waits for them."""
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    done: list[str] = []

    class Overtaken(RecordingEngine):
        """One that is called for the same attachment by the runtime, while it is busy with another one."""

        def delete(self, key: AttachmentKey) -> None:
            done.append(f"DEL {key.container}, replayed")
            if key.container == "first":
                deferred.forget(deferred.catch_up(call(), RecordingEngine().open, ignore))
                done.append("DEL web")
                with pytest.raises(BusyError):
                    deferred.catch_up(call("ADD"), RecordingEngine().open, ignore)

    for container in ("first", "web"):
        queue.put(call(container=container))
    assert deferred.replay(Overtaken().open, ignore) == 0
    assert done == ["DEL first, replayed", "DEL web", "DEL web, replayed"]


class Outrun(Queue):
    """A queue whose lock another process gets first, which then does all that waits."""

    @contextmanager
    def held(self, timeout: float = 0.0) -> Iterator[None]:
        with super().held(timeout):
            for entry in self.entries():
                self.drop(entry)
            yield


@pytest.mark.parametrize("kept", [call(), call()._replace(stdin="{")], ids=repr)
def test_what_another_has_done_is_not_done_again(tmp_path: Path, kept: CniCall) -> None:
    """Two ADDs wait for the lock: the second one must not carry out the DEL that it saw, after the first one's ADD."""
    outrun = Outrun(tmp_path / "lib" / "queue")
    outrun.put(kept)
    engine = RecordingEngine()
    Deferred(outrun).catch_up(kept._replace(environment=call("ADD").environment), engine.open, ignore)
    assert engine.calls == []
    assert files(tmp_path) == []


def test_an_entry_that_is_gone(queue: Queue, tmp_path: Path) -> None:
    """Whoever empties the directory by hand breaks nothing: what is gone waits for nobody."""
    queue.put(call())
    (entry,) = queue.entries()
    assert queue.waits(entry)
    entry.path.unlink()
    assert not queue.waits(entry)
    queue.drop(entry)
    assert queue.set_aside(entry) is None
    assert files(tmp_path) == []


class Broken(io.StringIO):
    """A standard error that takes nothing."""

    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


def _closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stderr", [Broken(), _closed(), None], ids=["full", "closed", "none"])
def test_nobody_needs_to_hear_a_replay(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO | None
) -> None:
    """Where standard error takes nothing, what cannot be carried out is set aside all the same, and the rest done."""
    monkeypatch.setattr("plugin.frontend._DEFERRED", Deferred(queue))
    monkeypatch.setattr("sys.stderr", stderr)
    for kept in (call("ADD"), call()):
        queue.put(kept)
    engine = RecordingEngine()
    assert replay(engine) == 0
    assert engine.calls == [key()]
    assert files(tmp_path) == [".refused"]


def test_an_empty_queue_is_not_touched(deferred: Deferred, tmp_path: Path) -> None:
    """Where nothing waits, as nearly always, no file is made or opened."""
    for verb in ("ADD", "DEL", "CHECK"):
        assert deferred.catch_up(call(verb), RecordingEngine().open, ignore) == []
    assert deferred.replay(RecordingEngine().open, ignore) == 0
    assert not (tmp_path / "lib").exists()


def test_half_files_of_the_dead_are_removed(queue: Queue, tmp_path: Path) -> None:
    """What a writer left that was killed is swept after an hour; a younger one may still be written."""
    queue.put(call())
    old, young = (tmp_path / "lib" / "queue" / name for name in (".1.json", ".2.json"))
    for path in (old, young):
        path.touch()
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    assert len(queue.entries()) == 1
    assert (old.exists(), young.exists()) == (False, True)
