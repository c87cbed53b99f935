"""podman in a sandbox: its own storage, configuration and CNI networks, and one image made of busybox.

    podman = Podman(sandbox, tmp_path, plugins=[tmp_path / "bin"], networks=tmp_path / "net.d")
    podman.make_image()
    podman.run_web("web", "--network", "front", "-p", "18080:80")      # httpd, answers images.GREETING
    podman("rm", "-f", "web")
    podman.after_power_cut(sandbox)      # another one: what was running is gone, and podman still knows of it

What podman does about CNI: all its networks are one directory of conflists, and nearly every command asks each plugin
of each of them for its VERSION first. ``-p`` goes to every network of a container; ``--ip`` as the capability ``ips``,
``--mac-address`` in CNI_ARGS. A first DEL comes as the container ends, with the namespace still there.

Be aware: containers get a cgroup parent of their own (``support.cgroups``), and ``stop()`` removes it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support import images, needs
from support.cgroups import Cgroup
from support.netns import CommandFailedError, Namespace, Sandbox, wait_until
from support.traffic import fetch

LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""The machine that runs the tests may have lower ones than podman's defaults, which runc then cannot set."""

# What a podman that is built without CNI answers to every command.
_NO_CNI = "cni support is not enabled"

_CONTAINERS_CONF = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"

[network]
network_backend = "cni"
cni_plugin_dirs = {plugins}
network_config_dir = "{networks}"

[containers]
log_driver = "k8s-file"
"""

# As on any machine, what runs is noted in /run, and what there is on disk.
_STORAGE_CONF = """
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "{root}/graph"
"""

_LOCKS = "/dev/shm"  # noqa: S108 - where podman keeps them; those of the machine outside are none of its business


class Podman:
    """One podman installation in one sandbox. Calling it runs a podman command; what it printed is returned."""

    def __init__(self, sandbox: Sandbox, root: Path, plugins: Sequence[Path], networks: Path) -> None:
        needs.command("podman", package="podman")
        needs.command("runc", package="runc")
        needs.command("conmon", package="conmon")
        self._root = root
        self._cgroup = Cgroup("podman")
        files = {
            "containers.conf": _CONTAINERS_CONF.format(plugins=json.dumps([*map(str, plugins)]), networks=networks),
            "storage.conf": _STORAGE_CONF.format(root=root),
        }
        for name, text in files.items():
            (root / name).write_text(text)
        self.environment = {
            "CONTAINERS_CONF": str(root / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(root / "storage.conf"),
        }
        """What podman is started with, and starts plugins with."""
        self._enter(sandbox)
        info = self.attempt("info", "--format", "{{.Host.NetworkBackend}}")
        needs.that(_NO_CNI not in info.stderr, "a podman that knows CNI (from podman 5 on, most are built without)")
        assert info.stdout.strip() == "cni", info.stderr

    def __call__(self, *words: object) -> str:
        return self.attempt(*words, check=True).stdout

    def attempt(self, *words: object, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a podman command that may fail."""
        return self._sandbox.run("podman", *words, env=self.environment, check=check)

    def make_image(self) -> None:
        """Load the image of ``support.images``."""
        self("load", "--input", images.write_image(self._root / "image.tar"))

    def run_web(self, name: str, *options: object) -> None:
        """Start a container that serves the page on port 80, once this returns. Raises ``CommandFailedError``."""
        started = self.try_web(name, *options)
        if started.returncode:
            raise CommandFailedError(f"podman run {name}: exit status {started.returncode}\n{started.stderr}")
        inside = self.inside(name)
        wait_until(lambda: fetch(inside, "127.0.0.1", 80) == images.GREETING, what=f"the server in {name} listens")

    def try_web(self, name: str, *options: object) -> subprocess.CompletedProcess[str]:
        """As ``run_web``, where it may be refused."""
        return self.attempt(
            "run", "-d", "--name", name, "--cgroup-parent", self.cgroup_parent, *LIMITS, *options,
            images.IMAGE, *images.SERVE,
        )  # fmt: skip

    @property
    def cgroup_parent(self) -> str:
        """For commands that make a cgroup other than by ``run_web``."""
        return f"/{self._cgroup.name}"

    def settings(self, name: str, network: str) -> dict[str, Any]:
        """What podman says of a container on a network: IPAddress, GlobalIPv6Address, MacAddress ..."""
        (told,) = json.loads(self("inspect", name))
        settings = told["NetworkSettings"]["Networks"][network]
        assert isinstance(settings, dict)
        return settings

    def addresses(self, name: str, network: str) -> tuple[str, ...]:
        """A container's addresses on a network, IPv4 first."""
        settings = self.settings(name, network)
        return tuple(filter(None, (settings["IPAddress"], settings["GlobalIPv6Address"])))

    def inside(self, name: str) -> Namespace:
        """The container's network namespace: traffic from there is the container's."""
        return self._sandbox.existing(self("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name).strip())

    def remove_all(self) -> None:
        """Remove every pod and container, running or not."""
        self("pod", "rm", "-f", "-t", "0", "--all")
        self("rm", "-f", "-t", "0", "--all")

    def after_power_cut(self, sandbox: Sandbox) -> None:
        """Go on in another sandbox, on what is on disk: the one so far has been stopped, whatever ran in it."""
        self._cgroup.remove()
        self._enter(sandbox)

    def stop(self) -> None:
        """Remove every container and the cgroups that they leave."""
        try:
            self.remove_all()
        finally:
            self._cgroup.remove()

    def _enter(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        sandbox.run("mount", "-t", "tmpfs", "tmpfs", _LOCKS)
