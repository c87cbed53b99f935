"""What a run tells of the machine that it was made on."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import pytest

from bench.figures.results import VERSION
from bench.machine import Meter, describe, steal_of, steal_share
from bench.report import machines
from bench.report.summary import Summary, Told

FLAWS = Path("/sys/devices/system/cpu/vulnerabilities")


def test_a_machine_is_told_as_the_kernel_tells_it() -> None:
    """What cannot be told is empty text and no error; all of it can be written as JSON."""
    facts = describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["version"] == VERSION
    assert facts["kernel"] == platform.release()
    assert facts["mitigations"] == {path.name: path.read_text().strip() for path in sorted(FLAWS.glob("*"))}
    assert isinstance(facts["memory_mib"], int)
    assert facts["memory_mib"] > 0
    assert re.fullmatch(r"[0-9a-f]{12}|", str(facts["kernel_config"]))
    assert facts["turbo"] in {"on", "off", ""}
    assert facts["smt"] in {"on", "off", ""}


def test_two_runs_have_other_names() -> None:
    """And are the same machine otherwise."""
    one, other = describe(), describe()
    assert one["run"] != other["run"]
    assert not machines.other_machine(one, other)
    assert not machines.other_run(one, other)


def test_every_fact_that_there_is_stands_in_the_report() -> None:
    """None is measured and then not shown."""
    facts = describe()
    shown = {
        value for row in machines.facts(Summary((Told("storm", "?", facts),))).rows for value in row[1].split("\n")
    }
    hidden = {"version", "packages", "mitigations"}
    assert {str(value) for name, value in facts.items() if name not in hidden and value} <= shown


def _stat(*spent: tuple[int, int]) -> str:
    """/proc/stat of processors that were idle, and stolen, for so many ticks."""
    rows = {"cpu": tuple(map(sum, zip(*spent, strict=True))), **{f"cpu{n}": one for n, one in enumerate(spent)}}
    return "".join(f"{name} 0 0 0 {idle} 0 0 0 {steal} 0 0\n" for name, (idle, steal) in rows.items()) + "intr 1 2\n"


def test_steal_is_that_of_the_processor_that_is_measured_on() -> None:
    """A processor that loses a tenth disturbs what runs there, though it is a fortieth of all four's time; without one
    that is measured on, it may be any."""
    before, after = _stat(*[(100, 5)] * 4), _stat((190, 15), *[(200, 5)] * 3)
    assert steal_share(before, after, 0) == pytest.approx(0.1)
    assert steal_share(before, after, None) == pytest.approx(0.1)
    assert steal_share(before, after, 1) == pytest.approx(0.025)
    assert steal_share(before, before, None) == 0


def test_whose_steal_is_told_stands_with_it() -> None:
    """As the run kept it; where it did not, it was that of all processors."""
    told = Told("storm", "?", {"steal_of": steal_of(3)}, steal=(0.0, 0.01))
    (row,) = (row for row in machines.facts(Summary((told,))).rows if row[0] == "steal")
    assert row[1].endswith("1.0% in the worst of 2, of processor 3, or of all where that is more")


def test_steal_is_a_share() -> None:
    """Of a processor's time since the meter was made."""
    steal, load = Meter().read()
    assert 0 <= steal <= 1
    assert load >= 0
