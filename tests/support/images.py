"""One container image for every runtime: busybox, as httpd and as whatever else it is told to be, and one web page.

    image = write_image(tmp_path / "image.tar")
    podman("load", "--input", image)      ctr("images", "import", image)      # both know it as IMAGE from then on

The file is what ``docker save`` writes, because podman and containerd both take the image's name from there.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

from support import needs

IMAGE = "localhost/web:latest"
GREETING = "served by busybox in a container\n"
SERVE = ("/bin/httpd", "-f", "-p", "80", "-h", "/www")
"""The command that serves ``GREETING`` on port 80."""

_PROGRAMS = ("httpd", "sh", "sleep", "wget")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""uname's words, and those of the image specification."""


def write_image(path: Path) -> Path:
    """Write the image as an archive; its path."""
    layer = _layer(needs.file("/bin/busybox", package="busybox-static"))
    digest = hashlib.sha256(layer).hexdigest()
    machine = platform.machine()
    config = {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {"Cmd": list(SERVE), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add_file(archive, "layer.tar", layer)
        _add_file(archive, "config.json", json.dumps(config).encode())
        _add_file(archive, "manifest.json", json.dumps(manifest).encode())
    return path


def _layer(busybox: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as layer:
        for directory in ("bin", "www", "proc", "sys", "dev", "tmp", "etc"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(entry)
        _add_file(layer, "bin/busybox", busybox.read_bytes(), mode=0o755)
        for program in _PROGRAMS:
            link = tarfile.TarInfo(f"bin/{program}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(link)
        _add_file(layer, "www/index.html", GREETING.encode())
    return packed.getvalue()


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
