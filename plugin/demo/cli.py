"""``dpctl demo``: the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from dataplane.errors import DataplaneError
from dataplane.types import AttachMode

_INSIDE = "DATAPLANE_DEMO_INSIDE"
_DIRECTORY = Path("/run/demo")
_SHOWN = (("The ruleset", ("nft", "show")), ("The programs", ("bpf", "ls")), ("What they saw", ("bpf", "stats")))
_PROBLEM = 3
_AGENT_WITHIN, _PAUSE = 20.0, 0.05  # seconds
_DPCTL = (sys.executable, "-I", "-c", "from control.cli.root import main; main()")

# What makes the demo's host: a network and a mount namespace with an empty /run and a bpffs of its own. All of it ends
# with the last process inside.
_ENTER = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")


@click.command()
@click.option(
    "--attach",
    type=click.Choice([mode.value for mode in AttachMode]),
    default=AttachMode.AUTO.value,
    show_default=True,
    help="How programs are hooked.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON (stable, versioned).")
def demo(attach: str, as_json: bool) -> int:
    """Show the main job on this machine, and remove it again.

    In namespaces of its own, through the real plugin and real conflists (one entry that does everything, and the stock
    chain on drop-ins): two networks with two containers each, an outside client, another host. Prints what was tried
    and seen. Exit status 3 when any row is wrong. Needs root.
    """
    if os.geteuid() != 0:
        raise click.ClickException("the demo makes network namespaces: run it as root")
    if os.environ.get(_INSIDE):
        return _run(attach, as_json)
    again = [*_DPCTL, "demo", "--attach", attach]
    done = subprocess.run(
        [*_ENTER, "--", *again, *(["--json"] if as_json else [])], env={**os.environ, _INSIDE: "1"}, check=False
    )
    return done.returncode


def _run(attach: str, as_json: bool) -> int:
    from control.engine import open_engine, running_kernel  # noqa: PLC0415 - dpctl --help stays quick
    from plugin.demo import rows as tried  # noqa: PLC0415
    from plugin.demo.traffic import Servers  # noqa: PLC0415
    from plugin.demo.world import NETNS, World  # noqa: PLC0415

    say: Callable[[str], None] = (lambda _: None) if as_json else click.echo
    started = time.monotonic()
    _mount()
    (_DIRECTORY / "dataplane.toml").write_text(f'attach = "{attach}"\n', encoding="utf-8")
    os.environ["DATAPLANE_CONFIG"] = str(_DIRECTORY / "dataplane.toml")
    say("Installing the plugin, attaching four containers to two networks ...")
    plugins, drop_ins = _DIRECTORY / "bin", _DIRECTORY / "drop-ins"
    conf = str(_DIRECTORY / "net.d")
    _dpctl("install", "--cni-bin", str(plugins), "--conf", conf, "--drop-in", "--drop-in-bin", str(drop_ins))
    world = World(_DIRECTORY, drop_ins, plugins)
    world.build()
    servers = Servers()
    kernel = running_kernel(AttachMode(attach))
    rows: list[tried.Row] = []
    for name, port in (("web", 80), ("elsewhere", 8080), ("db", 5432)):
        servers.start(NETNS / name, name, port)

    def show(more: Iterable[tried.Row]) -> None:
        for row in more:
            rows.append(row)
            say(f"  {'ok   ' if row.right else 'WRONG'}  {row.what:<64} {row.seen}")
            if not row.right:
                say(f"         expected: {row.expected}")

    try:
        say("\nTried, and seen:")
        show(tried.traffic_rows(world))
        show(tried.checksum_rows(kernel))
        show(tried.guard_rows(world, kernel))
        show(tried.state_rows(world))
        with _agent():
            show(tried.repair_rows(lambda: _dpctl("events", "--kind", "repaired", "-n", "1")))
        for title, command in _SHOWN:
            say(f"\n{title} (dpctl {' '.join(command)}):\n")
            say(_dpctl(*command))
    finally:
        servers.close()
    devices = {name: link.index for name in ("br-front", "br-back") if (link := kernel.links.find(name))}
    world.remove()
    show(tried.residue_rows(world, kernel, devices))
    with open_engine() as engine:
        engine.teardown()
    show(tried.teardown_rows())
    wrong = sum(not row.right for row in rows)
    seconds = time.monotonic() - started
    if as_json:
        table = [{"what": row.what, "expected": row.expected, "seen": row.seen, "ok": row.right} for row in rows]
        click.echo(json.dumps({"version": 1, "attach": attach, "rows": table, "wrong": wrong}, indent=2))
    say(f"\n{len(rows) - wrong} of {len(rows)} as they should be, in {seconds:.1f} s (attached by: {attach}).")
    return _PROBLEM if wrong else 0


def _mount() -> None:
    for words in (
        ["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"],
        ["-t", "bpf", "-o", "mode=700", "bpf", "/sys/fs/bpf"],
    ):
        subprocess.run(["mount", *words], check=True)
    for name in ("", "bin", "net.d", "cache"):
        (_DIRECTORY / name).mkdir()


@contextmanager
def _agent() -> Iterator[None]:
    """An agent, for as long as it is needed; it has looked at everything when this begins."""
    agent = subprocess.Popen([*_DPCTL, "agent"], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + _AGENT_WITHIN
        while subprocess.run([*_DPCTL, "status", "--agent"], capture_output=True, check=False).returncode:
            if time.monotonic() > end:
                raise DataplaneError(f"could not start the agent: it did not answer within {_AGENT_WITHIN:g} s")
            time.sleep(_PAUSE)
        yield
    finally:
        agent.terminate()
        agent.wait()


def _dpctl(*words: str) -> str:
    done = subprocess.run([*_DPCTL, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataplaneError(f"dpctl {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
