"""podman in a sandbox: its own storage, configuration and CNI networks, and one image made of busybox.

    podman = Podman(sandbox, tmp_path, plugins=tmp_path / "bin", networks=tmp_path / "net.d")
    podman.make_image()
    podman.run_web("web", "front", "18080:80")      # httpd, answers GREETING
    podman("rm", "-f", "web")

Be aware: cgroups have no namespace that would take them along, so containers get a cgroup parent of their own, and
``stop()`` removes it.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

from support import needs
from support.netns import Namespace, Sandbox, wait_until

IMAGE = "localhost/web"
GREETING = "served by busybox in a container\n"

# The limits of the machine that runs the tests may be lower than podman's defaults, which runc then cannot set.
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")

# What a podman that is built without CNI answers to every command.
_NO_CNI = "cni support is not enabled"

_CONTAINERS_CONF = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"

[network]
network_backend = "cni"
cni_plugin_dirs = ["{plugins}"]
network_config_dir = "{networks}"

[containers]
log_driver = "k8s-file"
"""

_STORAGE_CONF = """
[storage]
driver = "vfs"
runroot = "{root}/runroot"
graphroot = "{root}/graph"
"""


class Podman:
    """One podman installation in one sandbox. Calling it runs a podman command; what it printed is returned."""

    def __init__(self, sandbox: Sandbox, root: Path, plugins: Path, networks: Path) -> None:
        needs.command("podman", package="podman")
        needs.command("runc", package="runc")
        needs.command("conmon", package="conmon")
        self._sandbox, self._root = sandbox, root
        self._cgroup = f"dataplane-test-{os.getpid()}"
        files = {
            "containers.conf": _CONTAINERS_CONF.format(plugins=plugins, networks=networks),
            "storage.conf": _STORAGE_CONF.format(root=root),
        }
        for name, text in files.items():
            (root / name).write_text(text)
        self._env = {
            "CONTAINERS_CONF": str(root / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(root / "storage.conf"),
        }
        info = self.attempt("info", "--format", "{{.Host.NetworkBackend}}")
        needs.that(_NO_CNI not in info.stderr, "a podman that knows CNI (from podman 5 on, most are built without)")
        assert info.stdout.strip() == "cni", info.stderr

    def __call__(self, *words: object) -> str:
        return self.attempt(*words, check=True).stdout

    def attempt(self, *words: object, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a podman command that may fail."""
        return self._sandbox.run("podman", *words, env=self._env, check=check)

    def make_image(self) -> None:
        """Import an image that holds busybox as httpd, and one web page."""
        archive = self._root / "image.tar"
        busybox = needs.file("/bin/busybox", package="busybox-static")
        with tarfile.open(archive, "w") as tar:
            tar.add(busybox, "bin/busybox")
            link = tarfile.TarInfo("bin/httpd")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
            page = tarfile.TarInfo("www/index.html")
            page.size = len(GREETING)
            tar.addfile(page, io.BytesIO(GREETING.encode()))
        self("import", archive, IMAGE)

    def run_web(self, name: str, network: str, *publish: str) -> str:
        """Start a container that serves the page on port 80; its ID."""
        started = self.try_web(name, network, *publish)
        assert started.returncode == 0, started.stderr
        return started.stdout.strip()

    def try_web(self, name: str, network: str, *publish: str) -> subprocess.CompletedProcess[str]:
        """As ``run_web``, where it may be refused."""
        ports = [word for mapping in publish for word in ("-p", mapping)]
        return self.attempt(
            "run", "-d", "--name", name, "--network", network, "--cgroup-parent", f"/{self._cgroup}", *_LIMITS, *ports,
            IMAGE, "/bin/httpd", "-f", "-p", "80", "-h", "/www",
        )  # fmt: skip

    def address(self, name: str) -> str:
        """The container's IPv4 address on the network it was started with."""
        return self("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name).strip()

    def inside(self, name: str) -> Namespace:
        """The container's network namespace: traffic from there is the container's."""
        return self._sandbox.existing(self("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name).strip())

    def stop(self) -> None:
        """Remove every container and the cgroups that they leave."""
        try:
            self("rm", "-f", "-t", "0", "--all")
        finally:
            wait_until(self._remove_cgroups, what=f"the cgroups below {self._cgroup} are empty")

    def _remove_cgroups(self) -> bool:
        left = [path for top in Path("/sys/fs/cgroup").glob(f"*/{self._cgroup}") for path in (*top.rglob("*/"), top)]
        left += [Path("/sys/fs/cgroup") / self._cgroup]
        for path in sorted((path for path in left if path.is_dir()), reverse=True):
            try:
                path.rmdir()
            except OSError as _a_process_is_still_in_it:
                return False
        return True
