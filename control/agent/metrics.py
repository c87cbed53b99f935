"""The agent's metrics: families with fixed names and labels, what is counted of them, and Prometheus' text of it all.

    metrics = Metrics()
    metrics.served("ADD", 0, 0.0021)
    metrics.text([Sample(ATTACHMENTS, ("front",), 12)])      -> "# HELP dp_cni_requests_total ...

What only the kernel knows is not counted here: it is sampled when somebody asks (``samples``) and printed with the
rest. No label says whose container it was, and each family has at most ``MAX_SERIES`` of them: what comes
later is counted as "other".

Be aware: called by many threads.

Source: https://prometheus.io/docs/instrumenting/exposition_formats (text, 0.0.4).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Lock

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MAX_SERIES = 64
"""Combinations of labels that one family may have before its open label becomes "other"."""

OTHER = "other"
"""In place of labels that are one too many, or that are none of the known."""

_VERBS = frozenset({"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"})
_MAX_WRITER = 15  # TASK_COMM_LEN - 1


class Kind(StrEnum):
    """A family's TYPE."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """What one name stands for."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, in seconds, without infinity."""
    open_label: int = -1
    """The label whose values others choose: "other" where there are too many."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a family that is asked for and not counted; labels in the family's order."""

    family: Family
    labels: tuple[str, ...]
    value: float


_CNI_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
_RECONCILE_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

CNI_REQUESTS = Family(
    "dp_cni_requests_total", Kind.COUNTER, "CNI calls served, by verb and CNI error code (0: none).", ("cmd", "code")
)
CNI_SECONDS = Family(
    "dp_cni_seconds", Kind.HISTOGRAM, "Time from a CNI call's arrival to its answer.", ("cmd",), _CNI_BUCKETS
)
RECONCILE_SECONDS = Family("dp_reconcile_seconds", Kind.HISTOGRAM, "Time that one sync took.", (), _RECONCILE_BUCKETS)
RULES_LOST = Family(
    "dp_rules_lost_total", Kind.COUNTER, "Objects of ours that others removed or altered, by process name.", ("by",)
)
NETLINK_OVERRUNS = Family(
    "dp_netlink_overruns_total", Kind.COUNTER, "Times that the kernel's notifications came faster than they were read."
)
ATTACHMENTS = Family("dp_attachments", Kind.GAUGE, "Attached interfaces, by network.", ("network",))
MAP_ENTRIES = Family("dp_map_entries", Kind.GAUGE, "Entries of a BPF map.", ("map",))
MAP_MAX = Family("dp_map_max", Kind.GAUGE, "Entries that a BPF map can hold.", ("map",))
RINGBUF_LOST = Family(
    "dp_ringbuf_lost_total", Kind.COUNTER, "Findings of the BPF programs that found the ring buffer full."
)
DROPS = Family(
    "dp_drops_total", Kind.COUNTER, "Packets that the BPF programs dropped; where: from network to network.",
    ("reason", "where"),
)  # fmt: skip
GUARD_DROPS = Family(
    "dp_guard_drops_total", Kind.COUNTER, "Packets that containers must not send and guard dropped, by network.",
    ("network", "reason"), open_label=0,
)  # fmt: skip
CSUM_FILLED = Family(
    "dp_csum_filled_total", Kind.COUNTER, "Packets whose partial checksum was completed, by network.", ("network",)
)
CSUM_FIXUPS = Family(
    "dp_csum_fixups_total", Kind.COUNTER,
    "Packets whose checksum NAT left stale, by device; kind: repaired, or observed where that is all we may do.",
    ("if", "kind"), open_label=0,
)  # fmt: skip
CSUM_BAD_SEEN = Family(
    "dp_csum_bad_seen_total", Kind.COUNTER, "Packets with a wrong checksum, whether NAT explains it or not."
)
QUEUE_LENGTH = Family("dp_queue_length", Kind.GAUGE, "DELs that nobody could serve yet.")
BUILD_INFO = Family("dp_build_info", Kind.GAUGE, "Always 1; the version of the agent.", ("version",))

FAMILIES = (
    BUILD_INFO, CNI_REQUESTS, CNI_SECONDS, RECONCILE_SECONDS, RULES_LOST, NETLINK_OVERRUNS, QUEUE_LENGTH, ATTACHMENTS,
    MAP_ENTRIES, MAP_MAX, RINGBUF_LOST, DROPS, GUARD_DROPS, CSUM_FIXUPS, CSUM_FILLED, CSUM_BAD_SEEN,
)  # fmt: skip
"""All of them, in the order in which they are printed."""


@dataclass(slots=True)
class _Histogram:
    counts: list[int]
    """Observations by bucket, the last one without an upper bound."""
    total: float = 0.0


@dataclass(slots=True)
class _Counted:
    numbers: dict[tuple[str, ...], float] = field(default_factory=dict)
    histograms: dict[tuple[str, ...], _Histogram] = field(default_factory=dict)


class Metrics:
    """What the agent counted since it was started."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counted = {family: _Counted() for family in FAMILIES}
        # Printed before anything was counted: a rate needs the 0 to start from.
        self._counted[NETLINK_OVERRUNS].numbers[()] = 0.0

    def served(self, verb: str, code: int, seconds: float) -> None:
        """A CNI call was answered; ``code`` is that of the CNI error, 0 where there was none."""
        cmd = verb if verb in _VERBS else OTHER
        self.count(CNI_REQUESTS, (cmd, str(code)))
        self.observe(CNI_SECONDS, (cmd,), seconds)

    def reconciled(self, seconds: float) -> None:
        """A sync ended."""
        self.observe(RECONCILE_SECONDS, (), seconds)

    def rules_lost(self, by: str, number: int = 1) -> None:
        """Objects of ours were gone or altered; ``by`` is the name of the process that did it, empty for nobody knows
        who."""
        self.count(RULES_LOST, (by[:_MAX_WRITER] or "unknown",), number)

    def netlink_overrun(self) -> None:
        """The kernel dropped notifications, because we did not read them in time."""
        self.count(NETLINK_OVERRUNS, ())

    def count(self, family: Family, labels: tuple[str, ...], by: float = 1.0) -> None:
        """Add to a counter."""
        with self._lock:
            numbers = self._counted[family].numbers
            chosen = _bounded(family, labels, numbers)
            numbers[chosen] = numbers.get(chosen, 0.0) + by

    def observe(self, family: Family, labels: tuple[str, ...], seconds: float) -> None:
        """Add an observation to a histogram."""
        with self._lock:
            histograms = self._counted[family].histograms
            chosen = _bounded(family, labels, histograms)
            histogram = histograms.setdefault(chosen, _Histogram([0] * (len(family.buckets) + 1)))
            histogram.counts[bisect_left(family.buckets, seconds)] += 1
            histogram.total += seconds

    def text(self, samples: Iterable[Sample] = (), remarks: Sequence[str] = ()) -> str:
        """Everything, in Prometheus' text format; ``remarks`` become comments in front of it."""
        sampled: dict[Family, dict[tuple[str, ...], float]] = {}
        for sample in samples:
            numbers = sampled.setdefault(sample.family, {})
            chosen = _bounded(sample.family, sample.labels, numbers)
            numbers[chosen] = numbers.get(chosen, 0.0) + sample.value
        with self._lock:
            lines = [line for family in FAMILIES for line in self._family(family, sampled.get(family, {}))]
        return "".join(f"{line}\n" for line in (*(f"# {_one_line(remark)}" for remark in remarks), *lines))

    def _family(self, family: Family, sampled: dict[tuple[str, ...], float]) -> Iterator[str]:
        counted = self._counted[family]
        numbers = {**counted.numbers, **sampled}
        if not (numbers or counted.histograms):
            return
        yield f"# HELP {family.name} {_escaped(family.help)}"
        yield f"# TYPE {family.name} {family.kind}"
        for labels, value in sorted(numbers.items()):
            yield f"{family.name}{_labels(family.labels, labels)} {_number(value)}"
        for labels, histogram in sorted(counted.histograms.items()):
            yield from _series(family, labels, histogram)


def _bounded(family: Family, labels: tuple[str, ...], present: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    """The labels, or those of "other" where the family has enough of them."""
    if not labels or labels in present or len(present) < MAX_SERIES:
        return labels
    chosen = list(labels)
    chosen[family.open_label] = OTHER
    return tuple(chosen)


def _series(family: Family, labels: tuple[str, ...], histogram: _Histogram) -> Iterator[str]:
    names, below = (*family.labels, "le"), 0
    for bound, count in zip((*map(_number, family.buckets), "+Inf"), histogram.counts, strict=True):
        below += count
        yield f"{family.name}_bucket{_labels(names, (*labels, bound))} {below}"
    yield f"{family.name}_sum{_labels(family.labels, labels)} {_number(histogram.total)}"
    yield f"{family.name}_count{_labels(family.labels, labels)} {below}"


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    pairs = (f'{name}="{_escaped(value, quoted=True)}"' for name, value in zip(names, values, strict=True))
    return f"{{{','.join(pairs)}}}" if names else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(text: str, *, quoted: bool = False) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quoted else escaped


def _one_line(text: str) -> str:
    # A comment that began with HELP or TYPE would be one of these.
    return f"note: {' '.join(text.split())}"
