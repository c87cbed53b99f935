"""containerd in a sandbox, driven by its own client ctr, with CNI as ctr knows it: fixed paths, no port mappings.

    containerd = Containerd(sandbox, tmp_path)      # /etc and /opt can be written to from now on: inside only
    sandbox.run(DPCTL, "install")                   # so this is /opt/cni/bin and /etc/cni/net.d
    containerd.start()
    containerd.run_web("web")                       # attached to the first conflist of /etc/cni/net.d
    containerd.kill("web")
    containerd.stop()

What ctr does about CNI: ADD between creating and starting the task, as interface eth0 of container ``default-web``.
DEL, with CNI_NETNS empty, after the task has ended, where ``ctr run`` stayed in the foreground (as ``run_web`` does).
Where it did not, ctr 1.7 sends the DEL with ``task kill``, before the signal; ctr 1.6 (Debian 12) never does.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from support import images, needs
from support.cgroups import Cgroup
from support.netns import CommandFailedError, Namespace, Sandbox, wait_until

_SOCKET = "/run/containerd/containerd.sock"

# The images and snapshots are in /run, too: the sandbox's tmpfs, of which nothing is left. CRI is not used here, and
# would look for a CNI configuration of its own.
_CONFIG = f"""
version = 2
root = "/run/containerd/root"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]

[grpc]
  address = "{_SOCKET}"
"""


class Containerd:
    """One containerd in one sandbox. Calling it runs a ctr command; what it printed is returned."""

    def __init__(self, sandbox: Sandbox, root: Path) -> None:
        for program in ("containerd", "ctr"):
            needs.command(program, package="containerd")
        needs.command("runc", package="runc")
        self._sandbox, self._root = sandbox, root
        self._cgroup = Cgroup("containerd")
        self._ctr = ("ctr", "--address", _SOCKET)
        self._running: dict[str, subprocess.Popen[str]] = {}
        # ctr takes its plugins from /opt/cni/bin and its networks from /etc/cni/net.d, and nothing can tell it others.
        for directory in ("/etc", "/opt"):
            _make_writable(sandbox, directory)
        sandbox.run("mkdir", "-p", "/etc/cni/net.d", "/opt/cni/bin")
        sandbox.run("find", "/etc/cni/net.d", "-mindepth", "1", "-delete")

    def __call__(self, *words: object) -> str:
        return self.attempt(*words, check=True).stdout

    def attempt(self, *words: object, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a ctr command that may fail."""
        return self._sandbox.run(*self._ctr, *words, check=check)

    def start(self) -> None:
        """Start the daemon and import the image."""
        config, log = self._root / "containerd.toml", self._root / "containerd.log"
        config.write_text(_CONFIG)
        with log.open("w") as stream:
            self._sandbox.spawn("containerd", "--config", config, stdout=stream, stderr=subprocess.STDOUT)

        def answers() -> bool:
            return self.attempt("version").returncode == 0

        wait_until(answers, timeout=20.0, what=f"containerd answers (its log: {log})")
        archive = images.write_image(self._root / "image.tar")
        # From 2.0 on the daemon unpacks, and its configuration file would have to name this snapshotter.
        major = re.search(r" v?(\d+)\.", self._sandbox.run("ctr", "--version").stdout)
        local = ["--local"] if major and int(major.group(1)) >= 2 else []
        self("images", "import", *local, "--snapshotter", "native", archive)

    def run_web(self, name: str) -> None:
        """Start a container that serves ``images.GREETING`` on port 80. Raises ``CommandFailedError``."""
        process = self._sandbox.spawn(*self._ctr, "run", "--rm", *self._run_words(name), stderr=subprocess.PIPE)
        wait_until(
            lambda: process.poll() is not None or self._state(name) == "RUNNING", timeout=20.0, what=f"{name} runs"
        )
        if process.poll() is not None:
            assert process.stderr is not None
            raise CommandFailedError(f"ctr run {name}: exit status {process.returncode}\n{process.stderr.read()}")
        self._running[name] = process

    def run_web_detached(self, name: str) -> None:
        """As ``run_web``, and ctr does not stay; ``kill`` ends such a container, too."""
        self("run", "--detach", *self._run_words(name))

    def inside(self, name: str) -> Namespace:
        """The container's network namespace: traffic from there is the container's."""
        return self._sandbox.existing(f"/proc/{self._tasks()[name][0]}/ns/net")

    def kill(self, name: str) -> None:
        """End a container and wait until ctr has done what it does then, and the container is removed."""
        self("tasks", "kill", "--signal", "SIGKILL", name)
        if process := self._running.pop(name, None):
            process.wait(timeout=20.0)
        else:
            wait_until(lambda: self._state(name) == "STOPPED", what=f"the task {name} has stopped")
            self("tasks", "delete", name)
            self("containers", "delete", name)

    def stop(self) -> None:
        """Remove every container that is left, and the cgroups that they leave."""
        try:
            for name in self("containers", "list", "--quiet").split():
                self.attempt("tasks", "delete", "--force", name)
        finally:
            self._cgroup.remove()

    def _run_words(self, name: str) -> tuple[str, ...]:
        return (
            "--cni", "--null-io", "--snapshotter", "native", "--cgroup", f"/{self._cgroup.name}/{name}",
            images.IMAGE, name, *images.SERVE,
        )  # fmt: skip

    def _tasks(self) -> dict[str, tuple[str, str]]:
        lines = [line.split() for line in self("tasks", "list").splitlines()[1:]]
        return {name: (pid, state) for name, pid, state in lines}

    def _state(self, name: str) -> str:
        return self._tasks().get(name, ("", ""))[1]


def _make_writable(sandbox: Sandbox, directory: str) -> None:
    layers = f"/run/.{directory.strip('/')}"
    sandbox.run("mkdir", "-p", f"{layers}/upper", f"{layers}/work")
    options = f"lowerdir={directory},upperdir={layers}/upper,workdir={layers}/work"
    sandbox.run("mount", "-t", "overlay", "-o", options, "overlay", directory)
