"""podman's containers stop, start, die, and come back after a power cut: ports and addresses are theirs again, once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial

import pytest

from support import plan
from support.images import GREETING
from support.netns import wait_until
from support.podmanhost import DPCTL, PodmanHost, Setup
from support.traffic import fetch

setups = pytest.mark.parametrize("podman_host", [Setup.SINGLE, Setup.STOCK], indirect=True, scope="module")
single = pytest.mark.parametrize("podman_host", [Setup.SINGLE], indirect=True, scope="module")
stock = pytest.mark.parametrize("podman_host", [Setup.STOCK], indirect=True, scope="module")

PORT = 18080


@pytest.fixture(autouse=True)
def nothing_left(podman_host: PodmanHost) -> Iterator[None]:
    """Whatever a test did: once its containers are removed, there is nothing of them."""
    yield
    podman_host.podman.remove_all()
    assert podman_host.left() == {}


def answers(host: PodmanHost, port: int = PORT) -> None:
    """The container is reached from outside, by both families, as soon as its server listens."""
    for address in (plan.HOST4, plan.HOST6):
        wait_until(partial(_fetched, host, address, port), what=f"{address} port {port} answers")


def _fetched(host: PodmanHost, address: object, port: int) -> bool:
    return fetch(host.client, address, port) == GREETING


def run(host: PodmanHost, name: str, port: int = PORT) -> None:
    host.podman.run_web(name, "--network", host.front, "-p", f"{port}:80")
    answers(host, port)


def container_id(host: PodmanHost, name: str) -> str:
    return host.podman("inspect", "--format", "{{.Id}}", name).strip()


@setups
def test_restarted(podman_host: PodmanHost) -> None:
    """After ``podman restart`` the port answers again; it is published once, and the addresses are leased once."""
    run(podman_host, "web")
    before = podman_host.ports()
    podman_host.podman("restart", "-t", "0", "web")
    answers(podman_host)
    assert len(podman_host.ports()) == len(before)
    assert podman_host.leases(podman_host.front) == [*podman_host.podman.addresses("web", podman_host.front)]


@setups
def test_stopped_and_started(podman_host: PodmanHost) -> None:
    """A stopped container leaves the same nothing as a removed one; another may have its port, and is named."""
    run(podman_host, "web")
    podman_host.podman("stop", "-t", "0", "web")
    assert podman_host.left() == {}
    run(podman_host, "other")
    refused = podman_host.podman.attempt("start", "web")
    assert refused.returncode != 0
    holder = container_id(podman_host, "other")
    assert f'could not publish {PORT}/tcp: already published by container "{holder}"' in refused.stderr
    podman_host.podman("rm", "-f", "-t", "0", "other")
    podman_host.podman("start", "web")
    answers(podman_host)
    assert podman_host.leases(podman_host.front) == [*podman_host.podman.addresses("web", podman_host.front)]


@stock
def test_reloaded(podman_host: PodmanHost) -> None:
    """After ``nft flush ruleset``, ``podman network reload`` puts back what it took, at the same addresses."""
    podman, front = podman_host.podman, podman_host.front
    run(podman_host, "web")
    before = podman.settings("web", front)
    podman_host.host.run("nft", "flush", "ruleset")
    assert fetch(podman_host.client, plan.HOST4, PORT, timeout=0.3) is None
    podman("network", "reload", "web")
    answers(podman_host)
    assert podman.settings("web", front) == before
    assert podman_host.leases(front) == [*podman.addresses("web", front)]


@single
def test_killed(podman_host: PodmanHost) -> None:
    """A container whose process dies is taken away by podman in the background: nothing is left before ``rm``."""
    run(podman_host, "web")
    podman_host.podman("kill", "--signal", signal.SIGKILL.name, "web")
    wait_until(lambda: podman_host.left() == {}, timeout=15.0, what="what was the container's is gone")


@setups
def test_power_cut(podman_host: PodmanHost) -> None:
    """After a boot, leases and all, a container starts with the addresses that it had; a new one gets others."""
    podman, front = podman_host.podman, podman_host.front
    run(podman_host, "web")
    held = podman.addresses("web", front)

    podman_host.power_cut(leases_kept=True)
    run(podman_host, "new", PORT + 1)
    podman("start", "web")
    answers(podman_host)
    assert podman.addresses("web", front) == held
    assert podman_host.leases(front) == sorted(held + podman.addresses("new", front))


@single
def test_power_cut_with_leases_lost(podman_host: PodmanHost) -> None:
    """After a boot that empties the leases, as distributions' podman has it, no address is given out twice either."""
    podman, front = podman_host.podman, podman_host.front
    run(podman_host, "web")

    podman_host.power_cut(leases_kept=False)
    run(podman_host, "new", PORT + 1)
    podman("start", "web")
    answers(podman_host)
    assert podman_host.leases(front) == sorted(podman.addresses("web", front) + podman.addresses("new", front))


@stock
def test_with_an_agent(podman_host: PodmanHost) -> None:
    """An agent serves podman's calls; what was made by it, and what before, is taken away whether it runs or not."""
    podman, host = podman_host.podman, podman_host.host
    run(podman_host, "before")
    agent = host.spawn(DPCTL, "agent")
    wait_until(lambda: host.exists("/run/dataplane/agent.sock"), timeout=20.0, what="the agent listens")
    # What podman starts fails by itself from here on: it is the agent that works.
    podman.environment["DATAPLANE_CONFIG"] = podman_host.broken_settings()
    run(podman_host, "served", PORT + 1)
    podman("restart", "-t", "0", "served")
    answers(podman_host, PORT + 1)
    podman("rm", "-f", "-t", "0", "served")
    assert {port["container"] for port in podman_host.ports()} == {container_id(podman_host, "before")}
    del podman.environment["DATAPLANE_CONFIG"]

    run(podman_host, "after", PORT + 2)
    host.signal(agent, signal.SIGKILL)
    agent.wait(timeout=10.0)
    answers(podman_host)
    answers(podman_host, PORT + 2)
