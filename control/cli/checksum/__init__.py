"""``dpctl checksum``: whose fault wrong checksums are, and what is done about them.

scan.py        is anything wrong, network by network: a verdict, its evidence, what to do
watch.py       what the programs find, as they find it
explain.py     one frame, a capture file, or what passes a link now: whose fault
mode.py        what is done about the checksums of a network

The words for one frame are in ``control.cli.findings``.
"""

from __future__ import annotations

import click

from control.cli.checksum.explain import explain_command
from control.cli.checksum.mode import mode
from control.cli.checksum.scan import scan
from control.cli.checksum.watch import watch


@click.group()
def checksum() -> None:
    """Find, explain, watch and repair wrong checksums.

    First of all: tcpdump calls a sum "incorrect" that the sender's device is yet to compute. On the machine that sent
    it that is no error; "explain" tells.
    """


for _command in (scan, watch, explain_command, mode):
    checksum.add_command(_command)
