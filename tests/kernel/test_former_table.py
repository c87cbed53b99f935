"""A host whose table an earlier version wrote: the next request replaces it, and who is served stays so."""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path

import pytest

from control.desired.ruleset import SETS, SHORTCUTS
from dataplane.nft.client import LibNftables
from dataplane.nft.elements import unpack
from dataplane.nft.transaction import Transaction, add
from support import plan
from support.netns import Sandbox
from support.traffic import ask
from support.world import World, publish

FORMER = Path(__file__).parents[1] / "golden" / "nft" / "former" / "before_shortcuts.nft"
STATE = "/run/dataplane/state.db"


def as_before() -> None:
    """Have the earlier version's table hold what is attached, and the state say that it was found right."""
    nft = LibNftables()
    known = [declared for declared in SETS if declared not in SHORTCUTS]
    held = [unpack(declared, one) for declared in known for one in nft.held(declared)]
    text = FORMER.read_text() + Transaction(tuple(map(add, held))).text()
    subprocess.run(["nft", "-f", "-"], input=text, check=True, text=True)
    with sqlite3.connect(STATE) as state:
        state.execute("INSERT OR REPLACE INTO facts (name, value) VALUES ('generation', ?)", (str(nft.generation()),))
        state.execute("DELETE FROM facts WHERE name = 'fingerprint'")
    state.close()


@pytest.mark.parametrize("following", ["ADD", "DEL", "reconcile"])
def test_the_table_of_an_earlier_version_is_replaced(sandbox: Sandbox, tmp_path: Path, following: str) -> None:
    """Ports on all addresses and on one answer before and after, by whatever the new version is asked first."""
    world = World(sandbox, tmp_path)
    world.network(plan.FRONT)
    web = world.attach("web", plan.FRONT, publish("8080:80"), publish("8081:80", host=str(plan.HOST4)))
    world.attach("gone", plan.FRONT, publish("8082:80"))
    world.serve(web)
    sandbox.call(as_before)

    def answers() -> list[bool]:
        return [ask(world.client, plan.HOST4, number, "tcp") is not None for number in (8080, 8081)]

    assert answers() == [True, True]
    assert "source_container" not in sandbox.run("nft", "list", "table", "inet", "dataplane").stdout
    match following:
        case "ADD":
            world.attach("late", plan.FRONT, publish("8083:80"))
        case "DEL":
            world.detach("gone")
        case _:
            assert "another version's" in world.dpctl("status", check=False)
            world.dpctl("reconcile")
    assert answers() == [True, True]
    assert "source_container" in sandbox.run("nft", "list", "table", "inet", "dataplane").stdout
    assert "PROBLEM" not in world.dpctl("status")
