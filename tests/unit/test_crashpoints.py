"""The registry of crash points: complete, spelt right, and without effect unless one is armed."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane import crashpoints
from dataplane.crashpoints import VARIABLE, Point, reached
from dataplane.steps import Step

CHECKOUT = Path(__file__).parents[2]
SOURCES = [path for package in ("dataplane", "control", "plugin") for path in (CHECKOUT / package).rglob("*.py")]
OF_STEPS = {f"step.{kind.__name__}" for kind in Step.__args__}


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    """What a test arms, the next one must not meet."""
    yield
    crashpoints.arm("")


def passed() -> Iterator[str]:
    """What the calls of ``reached`` in the sources are given, as it is written there."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(), path.name)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reached":
                (argument,) = node.args
                yield ast.unparse(argument)


def test_every_step_has_a_point() -> None:
    """A new kind of step needs a crash point by its name, and there are none of steps that are gone."""
    assert {point.value for point in Point if point.value.startswith("step.")} == OF_STEPS | {Point.STEP_UNDONE.value}


def test_every_point_is_passed_somewhere() -> None:
    """Each member of the registry stands in the code, and nothing else is passed."""
    written = set(passed())
    others = {f"Point.{point.name}" for point in Point if point.value not in OF_STEPS}
    assert written == others | {"_AFTER[type(step)]"}


def test_only_the_armed_point_crashes_and_only_at_its_time() -> None:
    """``NAME:N`` is the Nth time that NAME is reached, and no time after it."""
    crashes: list[str] = []
    crashpoints.arm(f"{Point.VETH_MADE}:2", lambda: crashes.append("crash"))
    for point in (Point.VETH_MADE, Point.VETH_NAMED, Point.VETH_MADE, Point.VETH_MADE):
        reached(point)
        if point is Point.VETH_NAMED:
            assert crashes == []
    assert crashes == ["crash"]


@pytest.mark.parametrize(
    "text", ["", "1", "veth", "veth.made:", "veth.made:x", "veth.made:-1", "veth.made:0", "VETH_MADE"]
)
def test_a_stray_variable_arms_nothing(text: str) -> None:
    """What names no point and time is somebody else's variable."""
    crashpoints.arm(text, lambda: pytest.fail("crashed"))
    for point in Point:
        reached(point)


def test_the_environment_of_the_process_arms() -> None:
    """DP_CRASH_AT in the environment that a process is started with kills it at that point, by SIGKILL."""
    code = (
        "from dataplane.crashpoints import Point, reached; reached(Point.RUN_NFT); reached(Point.PUT_ENTRY); print(1)"
    )
    for value, status in ((Point.PUT_ENTRY.value, -signal.SIGKILL), ("", 0)):
        done = subprocess.run([sys.executable, "-c", code], env={VARIABLE: value}, capture_output=True, check=False)
        assert done.returncode == status
