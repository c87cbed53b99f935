"""What a run tells of the machine that it was made on."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

from bench.figures.results import VERSION
from bench.machine import Meter, describe
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


def test_steal_is_a_share() -> None:
    """Of all processors' time since the meter was made."""
    steal, load = Meter().read()
    assert 0 <= steal <= 1
    assert load >= 0
