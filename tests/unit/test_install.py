"""Install and uninstall: files appear whole, the conflist last; what is not ours is neither overwritten nor removed.

All of it for both executables: the program in C, and the script where no compiler was there to make it.
What a conflist says is its owner's: one that was edited never keeps the executable from being upgraded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from plugin import config
from plugin import install as installer
from plugin.cli import install as install_command
from plugin.install import (
    CONFLIST,
    DROP_INS,
    EXECUTABLE,
    EXECUTABLES,
    InstallError,
    Outcome,
    install,
    other_configurations,
    remove_conflist,
    remove_executables,
)
from plugin.native import installed
from plugin.runtime.driver import ConfList
from plugin.versions import SUPPORTED_VERSIONS
from support import needs

PROGRAM = Path(installed.__file__).with_name("shim")


class Target:
    """Two directories that do not exist yet."""

    def __init__(self, directory: Path) -> None:
        self.bin, self.conf = directory / "cni" / "bin", directory / "net.d"
        self.drop_in = directory / "cni" / "drop-in"
        self.executable, self.conflist = self.bin / EXECUTABLE, self.conf / CONFLIST

    def install(self, *, force: bool = False, dry_run: bool = False) -> list[Outcome]:
        """What became of the first executable, and of the conflist."""
        made = {one.path: one.outcome for one in install(self.bin, self.conf, force=force, dry_run=dry_run)}
        return [made[self.executable], made[self.conflist]]

    def uninstall(self) -> list[Outcome]:
        """What became of the conflist, and of the first executable."""
        conflist, (executable, *_) = remove_conflist(self.conf), remove_executables(self.bin, self.drop_in)
        return [conflist.outcome, executable.outcome]

    def files(self) -> set[str]:
        return {path.name for directory in (self.bin, self.conf) if directory.exists() for path in directory.iterdir()}


@pytest.fixture(params=["program", "script"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which executable there is to install."""
    if request.param == "script":
        monkeypatch.setattr(installed, "_PROGRAM", PROGRAM.with_name("there-is-none"))
    else:
        needs.that(PROGRAM.exists(), "the executable in C (apt-get install gcc libc6-dev, and install dataplane again)")
    return str(request.param)


@pytest.fixture
def target(tmp_path: Path, kind: str) -> Target:
    """Where to install."""
    return Target(tmp_path)


def age(executable: Path) -> None:
    """Make it one of an older version of ours: before there was a program, it was a script."""
    executable.write_text(installed.script() + "# an older version\n")


def test_both_files_appear(target: Target) -> None:
    """Directories are made, both files have the mode that runtimes need, and nothing else is left behind."""
    assert target.install() == [Outcome.INSTALLED, Outcome.INSTALLED]
    assert target.executable.stat().st_mode & 0o7777 == 0o755
    assert target.conflist.stat().st_mode & 0o7777 == 0o644
    assert target.files() == {*EXECUTABLES, CONFLIST}


def test_the_executable_runs(target: Target) -> None:
    """What is installed is the plugin: started by a path, with an environment of nothing but CNI's."""
    target.install()
    done = subprocess.run(
        [target.executable],
        env={"CNI_COMMAND": "VERSION"},
        input=b"",
        capture_output=True,
        cwd="/",
        timeout=20,
        check=True,
    )
    assert json.loads(done.stdout)["supportedVersions"] == list(SUPPORTED_VERSIONS)


@pytest.mark.parametrize("directory", ["with a space", "long" * 40])
def test_interpreters_that_no_shebang_can_name(
    target: Target, kind: str, tmp_path: Path, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long path, or one with a space, in the script goes through /bin/sh, and Python is started all the same."""
    interpreter = tmp_path / directory / "it's python"
    interpreter.parent.mkdir()
    interpreter.symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setattr(sys, "executable", str(interpreter))
    target.install()
    assert target.executable.read_bytes().startswith(b"#!/bin/sh\n" if kind == "script" else b"\x7fELF")
    done = subprocess.run([target.executable], env={}, input=b"", capture_output=True, timeout=20, check=True)
    assert done.stderr.startswith(b"CNI dataplane plugin v")
    assert target.install() == [Outcome.UNCHANGED, Outcome.UNCHANGED]
    assert target.uninstall() == [Outcome.REMOVED, Outcome.REMOVED]


def test_the_conflist_is_one(target: Target) -> None:
    """The example is a conflist that podman 4 can read, of one entry whose configuration is valid."""
    target.install()
    conflist = ConfList.load(target.conflist)
    assert conflist.cni_version == "1.0.0"
    assert [plugin["type"] for plugin in conflist.plugins] == ["dataplane-bridge"]
    conf = config.parse({**conflist.plugins[-1], "name": conflist.name, "cniVersion": conflist.cni_version})
    assert conf.options.ip_masq
    assert conflist.plugins[-1]["capabilities"] == {"portMappings": True, "ips": True, "mac": True}


def test_again_changes_nothing(target: Target) -> None:
    """A second install leaves both files as they are, down to the inode."""
    target.install()
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (target.executable, target.conflist)]
    assert target.install() == [Outcome.UNCHANGED, Outcome.UNCHANGED]
    after = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (target.executable, target.conflist)]
    assert after == before


def test_an_upgrade_replaces_our_own_executable(target: Target) -> None:
    """An executable of another version of ours is replaced, and no copy of it is kept."""
    target.install()
    age(target.executable)
    assert target.install() == [Outcome.UPGRADED, Outcome.UNCHANGED]
    assert target.executable.read_bytes() == installed.executable()
    assert target.files() == {*EXECUTABLES, CONFLIST}


def test_a_program_of_another_installation_is_upgraded(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was installed from elsewhere, by another interpreter, is ours, too."""
    monkeypatch.setattr(sys, "executable", "/opt/gone/bin/python3")
    target.install()
    assert b"/opt/gone/bin/python3" in target.executable.read_bytes()
    monkeypatch.undo()
    assert target.install() == [Outcome.UPGRADED, Outcome.UNCHANGED]
    assert b"/opt/gone" not in target.executable.read_bytes()


def test_programs_of_others_are_not_ours() -> None:
    """The marker counts at the beginning of a script or at the end of a program, and nowhere else."""
    marker = b"\n# The CNI plugin dataplane, installed by dpctl.\n"
    assert installed.is_ours(b"\x7fELF" + b"x" * 100_000 + marker + b"/python\n/package\n")
    assert not installed.is_ours(b"\x7fELF" + marker + b"x" * 100_000)
    assert not installed.is_ours(b"#!/bin/sh\n" + b"x" * 100_000 + marker)


def test_what_status_says_about_it(target: Target, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing where the program is installed; of a script why it is one, or that an install puts the program there."""
    monkeypatch.setattr(installed, "CNI_BIN", target.bin)
    monkeypatch.setattr(installed, "DROP_IN_BIN", target.drop_in)
    monkeypatch.setattr(installed, "_REASON", tmp_path / "reason")
    (tmp_path / "reason").write_text("no C compiler (cc: No such file or directory)\n")
    assert installed.notes() == []
    target.install()
    if kind == "program":
        assert installed.notes() == []
        age(target.executable)
        assert installed.notes() == [
            f"plugins start through Python ({target.executable}): dpctl install puts the executable in C there"
        ]
    else:
        (note,) = installed.notes()
        assert note.startswith(f"plugins start through Python ({target.executable} and others): no C compiler (cc: ")


def test_a_lost_mode_is_put_back(target: Target) -> None:
    """An executable that cannot be executed is none."""
    target.install()
    target.executable.chmod(0o644)
    assert target.install() == [Outcome.UPGRADED, Outcome.UNCHANGED]
    assert os.access(target.executable, os.X_OK)


@pytest.mark.parametrize("conflist", [None, "somebody else's"])
def test_an_executable_of_others_is_in_the_way(target: Target, conflist: str | None) -> None:
    """Somebody else's executable is named, and nothing at all is installed, whatever conflist is there."""
    target.bin.mkdir(parents=True)
    target.executable.write_text("somebody else's")
    if conflist:
        target.conf.mkdir()
        target.conflist.write_text(conflist)
    with pytest.raises(InstallError, match=f"could not install {target.executable}: another file is there"):
        target.install()
    assert target.executable.read_text() == "somebody else's"
    assert target.files() == {EXECUTABLE, *([CONFLIST] if conflist else [])}


@pytest.mark.parametrize("edit", ["edited", "another's", "link"])
def test_a_conflist_of_the_users_is_kept(target: Target, tmp_path: Path, edit: str) -> None:
    """Edited, or never ours: a conflist stays as it is, and the executable is upgraded all the same."""
    target.install()
    age(target.executable)
    theirs = target.conflist.read_text().replace("same-bridge", "isolated") if edit == "edited" else "{}"
    target.conflist.unlink()
    place = tmp_path / "elsewhere" if edit == "link" else target.conflist
    place.write_text(theirs)
    if edit == "link":
        target.conflist.symlink_to(place)
    assert target.install(dry_run=True) == [Outcome.UPGRADED, Outcome.KEPT]
    assert target.executable.read_bytes() != installed.executable()
    assert target.install() == [Outcome.UPGRADED, Outcome.KEPT]
    assert target.executable.read_bytes() == installed.executable()
    assert target.conflist.read_text() == theirs
    assert target.conflist.is_symlink() == (edit == "link")
    assert target.files() == {*EXECUTABLES, CONFLIST}


def test_force_keeps_a_copy(target: Target) -> None:
    """With force the former file lives on under a name that no runtime reads, and an older copy, too."""
    target.conf.mkdir(parents=True)
    for content in ("first", "second"):
        target.conflist.write_text(content)
        assert target.install(force=True)[1] is Outcome.REPLACED
    assert target.conflist.read_text() == installer.conflist_text()
    assert (target.conf / f"{CONFLIST}.bak").read_text() == "first"
    assert (target.conf / f"{CONFLIST}.1.bak").read_text() == "second"
    assert other_configurations(target.conf) == ()


def test_a_symbolic_link_is_not_ours(target: Target, tmp_path: Path) -> None:
    """A link is neither followed nor taken for ours; with force the link is replaced, and not what it leads to."""
    (tmp_path / "elsewhere").write_bytes(installed.executable())
    target.bin.mkdir(parents=True)
    target.executable.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InstallError):
        target.install()
    target.install(force=True)
    assert not target.executable.is_symlink()
    assert (target.bin / f"{EXECUTABLE}.bak").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == installed.executable()


@pytest.mark.parametrize("which", ["executable", "conflist"])
def test_a_directory_in_the_way(target: Target, which: str) -> None:
    """Not even force removes a directory, and an uninstall passes it by."""
    path: Path = getattr(target, which)
    path.mkdir(parents=True)
    with pytest.raises(InstallError, match=f"could not install {path}: a directory is there"):
        target.install(force=True)
    assert target.files() == {path.name}
    assert sorted(target.uninstall()) == [Outcome.ABSENT, Outcome.KEPT]


def test_dry_run(target: Target) -> None:
    """A dry run tells the same and makes nothing, no directory either."""
    assert target.install(dry_run=True) == [Outcome.INSTALLED, Outcome.INSTALLED]
    assert not target.bin.exists()
    assert not target.conf.exists()


def test_the_conflist_comes_last(target: Target) -> None:
    """Where the executable cannot be written there is no conflist that a runtime could act on."""
    target.bin.parent.mkdir()
    target.bin.write_text("no directory")
    with pytest.raises(OSError, match="bin"):
        target.install()
    assert not target.conf.exists()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A disk that fails as the content is to be made durable."""

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_no_half_file(target: Target) -> None:
    """A file that cannot be written whole does not appear, and neither does its temporary one."""
    with pytest.raises(OSError, match="No space left"):
        target.install()
    assert target.files() == set()


def test_uninstall(target: Target) -> None:
    """What was installed is removed; what is gone already is fine."""
    target.install()
    assert target.uninstall() == [Outcome.REMOVED, Outcome.REMOVED]
    assert target.files() == set()
    assert target.uninstall() == [Outcome.ABSENT, Outcome.ABSENT]


def test_uninstall_keeps_what_was_changed(target: Target) -> None:
    """A conflist that an operator changed, and an executable that is not ours, stay."""
    target.install()
    target.conflist.write_text(target.conflist.read_text().replace("same-bridge", "isolated"))
    target.executable.write_text("#!/bin/sh\n")
    assert target.uninstall() == [Outcome.KEPT, Outcome.KEPT]
    assert target.files() == {EXECUTABLE, CONFLIST}


def test_the_command_says_what_was_kept(target: Target) -> None:
    """A kept conflist is an exit status of 0, and the output says how to get ours; --force gets it."""
    target.install()
    target.conflist.write_text("{}")
    options = ["--cni-bin", str(target.bin), "--conf", str(target.conf)]
    for dry_run in (["--dry-run"], []):
        done = CliRunner().invoke(install_command, [*options, *dry_run])
        assert done.exit_code == 0
        line = next(line for line in done.stdout.splitlines() if line.startswith(str(target.conflist)))
        assert line.split()[1] == "kept"
        assert "dpctl install --force puts that there, and keeps a copy" in line
    assert CliRunner().invoke(install_command, [*options, "--force"]).exit_code == 0
    assert target.conflist.read_text() == installer.conflist_text()
    assert (target.conf / f"{CONFLIST}.bak").read_text() == "{}"


def test_the_command(target: Target) -> None:
    """dpctl install says what became of each file, in a table and as versioned JSON, and names its neighbours."""
    target.conf.mkdir()
    (target.conf / "87-podman.conflist").write_text("{}")
    options = ["--cni-bin", str(target.bin), "--conf", str(target.conf)]
    printed = CliRunner().invoke(install_command, [*options, "--dry-run"])
    assert f"{target.executable}" in printed.output
    assert "would be installed" in printed.output
    assert "87-podman.conflist" in printed.output
    document = json.loads(CliRunner().invoke(install_command, [*options, "--json"]).stdout)
    assert document == {
        "version": 1,
        "dry_run": False,
        "files": [
            *({"path": str(target.bin / name), "outcome": "installed", "note": ""} for name in EXECUTABLES),
            {"path": str(target.conflist), "outcome": "installed", "note": ""},
        ],
        "other_configurations": ["87-podman.conflist"],
        "systemd": [],
    }


def test_drop_ins(target: Target) -> None:
    """Drop-ins stand in a directory of their own, with links to all other plugins that runtimes may need; each says
    which plugin it is, theirs stay as they are, and an uninstall takes ours and the links away, and nothing else."""
    target.bin.mkdir(parents=True)
    for name in ("portmap", "loopback"):
        (target.bin / name).write_text("#!/bin/sh\necho theirs\n")
        (target.bin / name).chmod(0o755)
    install(target.bin, target.conf, drop_in=target.drop_in)
    assert (target.bin / "portmap").read_text() == "#!/bin/sh\necho theirs\n"
    assert (target.drop_in / "loopback").readlink() == target.bin / "loopback"
    assert (target.drop_in / "dataplane-bridge").readlink() == target.bin / "dataplane-bridge"
    for name in (*DROP_INS, "loopback"):
        said = subprocess.run([target.drop_in / name], env={}, capture_output=True, text=True, timeout=20, check=True)
        assert said.stderr.startswith(f"CNI {name} plugin v1.9.0+dataplane.0.1.0") or name in {
            "loopback", "isolation", "cni-nftables-firewall", "cni-nftables-portmap",
        }  # fmt: skip
        assert f"CNI {name} plugin v" in said.stderr or said.stdout == "theirs\n"
    (target.drop_in / "theirs").write_text("kept")
    assert {one.outcome for one in remove_executables(target.bin, target.drop_in)} == {Outcome.REMOVED}
    assert [path.name for path in target.drop_in.iterdir()] == ["theirs"]
    assert (target.bin / "portmap").exists()


def test_links_of_drop_ins_are_ours_alone(target: Target, tmp_path: Path) -> None:
    """A link that leads nowhere any more is made anew; one that somebody else made stays, also at an uninstall."""
    target.drop_in.mkdir(parents=True)
    (target.drop_in / "dataplane").symlink_to(tmp_path / "gone" / "dataplane")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "theirs").touch()
    (target.drop_in / "theirs").symlink_to(tmp_path / "elsewhere" / "theirs")
    install(target.bin, target.conf, drop_in=target.drop_in)
    assert (target.drop_in / "dataplane").readlink() == target.bin / "dataplane"
    remove_executables(target.bin, target.drop_in)
    assert [path.name for path in target.drop_in.iterdir()] == ["theirs"]
    (tmp_path / "alias").symlink_to(target.bin)
    with pytest.raises(InstallError, match="drop-ins need a directory of their own"):
        install(target.bin, target.conf, drop_in=tmp_path / "alias")


def test_drop_ins_are_never_put_over_others(target: Target) -> None:
    """The directory of the runtime's own plugins, or one where somebody else has a portmap, is refused, untouched."""
    with pytest.raises(InstallError, match="drop-ins need a directory of their own"):
        install(target.bin, target.conf, drop_in=target.bin)
    target.drop_in.mkdir(parents=True)
    (target.drop_in / "portmap").write_text("theirs")
    with pytest.raises(InstallError, match="portmap: another file is there"):
        install(target.bin, target.conf, drop_in=target.drop_in)
    assert target.files() == set()
    assert (target.drop_in / "portmap").read_text() == "theirs"


def test_a_drop_in_knows_its_name_by_whatever_interpreter(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop-in that is started through /bin/sh still knows which plugin it is to be."""
    interpreter = tmp_path / "with a space" / "python"
    interpreter.parent.mkdir()
    interpreter.symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setattr(sys, "executable", str(interpreter))
    install(target.bin, target.conf, drop_in=target.drop_in)
    said = subprocess.run([target.drop_in / "firewall"], env={}, capture_output=True, text=True, timeout=20, check=True)
    assert said.stderr.startswith("CNI firewall plugin v1.9.0+dataplane.")
