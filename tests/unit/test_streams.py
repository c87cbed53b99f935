"""Standard streams that were closed by whoever started a program."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from dataplane.streams import open_standard_streams
open_standard_streams()
opened = os.open("/dev/null", os.O_RDONLY)
assert opened > 2, opened
print("words", file=sys.stderr)
try:
    print(len(sys.stdin.read()), flush=True)
except OSError:
    os._exit(9)
"""


@pytest.mark.parametrize(
    ("redirection", "status"), [("", 0), ("2>&-", 0), ("<&-", 9), (">&-", 9), ("<&- >&- 2>&-", 9)], ids=repr
)
def test_nothing_that_is_opened_takes_their_place(redirection: str, status: int) -> None:
    """Words are lost where nobody wants them; an input that nobody gave, or a result that nobody gets, is an error."""
    command = f"exec {sys.executable} -c '{PROGRAM}' {redirection}"
    made = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert made.returncode == status
    assert made.stdout == ("0\n" if status == 0 else "")
