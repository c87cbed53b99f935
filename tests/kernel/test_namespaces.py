"""Two network namespaces that share /run and the bpffs do not get into each other's way."""

from __future__ import annotations

import json

from support.netns import Place, Sandbox
from support.world import DPCTL


def attach(place: Place, device: str) -> list[dict[str, object]]:
    """Hook the checksum program to a device by hand; what is hooked in that namespace then."""
    place.run(DPCTL, "bpf", "attach", device, "--program", "checksum")
    hooked: list[dict[str, object]] = json.loads(place.run(DPCTL, "bpf", "ls", "--json").stdout)["attached"]
    return hooked


def test_state_and_pins_are_kept_apart(sandbox: Sandbox) -> None:
    """A device with the same index in another namespace is another device: each has its own pins and state."""
    beside = sandbox.namespace("beside")
    for place in (sandbox, beside):
        (hooked,) = attach(place, "lo")
        assert (hooked["device"], hooked["ifindex"]) == ("lo", 1)
        place.run(DPCTL, "ps")
    names = sandbox.run("ls", "/sys/fs/bpf", "/run").stdout.split()
    assert names.count("dataplane") == 2
    assert sum(name.startswith("dataplane-netns-") for name in names) == 2
    sandbox.run(DPCTL, "uninstall", "--cni-bin", "/run/none", "--conf", "/run/none", "--drop-in-bin", "/run/none")
    assert len(json.loads(beside.run(DPCTL, "bpf", "ls", "--json").stdout)["attached"]) == 1
