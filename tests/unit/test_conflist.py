"""Configuration lists: which files are read how, and which of them a name means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plugin.runtime.conflist import ConfList, ConfListError, find


def text(**changed: Any) -> str:
    """The text of a list; ``key=None`` takes a key away."""
    document = {"cniVersion": "1.1.0", "name": "front", "plugins": [{"type": "bridge"}], **changed}
    return json.dumps({name: value for name, value in document.items() if value is not None})


def types(conflist: ConfList) -> list[object]:
    return [plugin["type"] for plugin in conflist.plugins]


@pytest.mark.parametrize(
    ("changed", "version"),
    [
        ({}, "1.1.0"),
        ({"cniVersion": None}, "0.1.0"),
        ({"cniVersion": "0.4.0", "cniVersions": ["0.3.1", "1.0.0", "0.2.0"]}, "1.0.0"),
        ({"cniVersion": "1.0.0", "cniVersions": ["0.3.1"]}, "1.0.0"),
        ({"cniVersion": None, "cniVersions": ["1.0.0", "1.1.0", "2.0.0"]}, "1.1.0"),
        ({"cniVersion": "9.0.0", "cniVersions": ["1.0.0", "9.0.0"]}, "1.0.0"),
        ({"cniVersion": "1.0.0", "cniVersions": []}, "1.0.0"),
    ],
)
def test_version(changed: dict[str, Any], version: str) -> None:
    """SPEC 1.1: of ``cniVersions`` and ``cniVersion`` the highest that is supported counts."""
    conflist = ConfList.parse(text(**changed))
    assert conflist.cni_version == version
    assert conflist.at_least("0.1.0")
    assert conflist.at_least("1.1.0") == (version == "1.1.0")


@pytest.mark.parametrize(("written", "meant"), [(True, True), ("TRUE", True), ("false", False), (False, False)])
def test_switches(written: object, meant: bool) -> None:
    """Like libcni, switches are taken from strings, too."""
    conflist = ConfList.parse(text(disableCheck=written, disableGC=written))
    assert (conflist.disable_check, conflist.disable_gc) == (meant, meant)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("", "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ("{}", "name: ''"),
        (text(name="a/b"), "name: 'a/b'"),
        (text(name="../up"), "name:"),
        (text(plugins=None), "plugins: holds no plugin"),
        (text(plugins=[]), "plugins: holds no plugin"),
        (text(plugins={}), "plugins: {} is an object, not a list"),
        (text(plugins=[{}]), r"plugins\[0\].type: is missing"),
        (text(plugins=[{"type": 7}]), r"plugins\[0\].type: 7 is an integer"),
        (text(plugins=[{"type": "bridge"}, 7]), r"plugins\[1\]: 7 is an integer"),
        (text(cniVersion="9"), "cniVersion: '9' is not one of 0.1.0, "),
        (text(cniVersion=1), "cniVersion: 1 is an integer"),
        (text(cniVersions="1.0.0"), "cniVersions:"),
        (text(disableGC="maybe"), 'disableGC: "maybe" is a string'),
    ],
)
def test_what_is_no_conflist(bad: str, reason: str) -> None:
    """A text that is no list is refused as a whole, by its field; a name cannot lead to another directory."""
    with pytest.raises(ConfListError, match=reason):
        ConfList.parse(bad)


def test_plugins_in_files_of_their_own(tmp_path: Path) -> None:
    """CNI 1.1: the plugins in <name>/*.conf follow those in the list, in order, and no other files do."""
    (tmp_path / "front").mkdir()
    for name, plugin in {"20-b.conf": "portmap", "10-a.conf": "firewall", "30.json": "no", "40.conf.bak": "no"}.items():
        (tmp_path / "front" / name).write_text(json.dumps({"type": plugin}))
    path = tmp_path / "10-front.conflist"
    path.write_text(text())
    assert types(ConfList.load(path)) == ["bridge", "firewall", "portmap"]
    path.write_text(text(plugins=None))
    assert types(ConfList.load(path)) == ["firewall", "portmap"]
    path.write_text(text(loadOnlyInlinedPlugins=True))
    assert types(ConfList.load(path)) == ["bridge"]
    path.write_text(text(plugins=None, loadOnlyInlinedPlugins=True))
    with pytest.raises(ConfListError, match="plugins: holds no plugin"):
        ConfList.load(path)
    path.write_text(text(name="back", plugins=None))
    with pytest.raises(ConfListError, match=f"plugins: is missing, and {tmp_path}/back holds none either"):
        ConfList.load(path)


@pytest.mark.parametrize("suffix", ["conf", "json"])
def test_one_plugin(tmp_path: Path, suffix: str) -> None:
    """A file of one plugin is a list of it, whatever lies beside it."""
    path = tmp_path / f"front.{suffix}"
    plugin = {"cniVersion": "0.4.0", "name": "front", "type": "bridge", "bridge": "cni0"}
    path.write_text(json.dumps(plugin))
    (tmp_path / "front").mkdir()
    (tmp_path / "front" / "more.conf").write_text('{"type": "portmap"}')
    conflist = ConfList.load(path)
    assert (conflist.name, conflist.cni_version, conflist.plugins) == ("front", "0.4.0", (plugin,))
    assert ConfList.parse(conflist.text) == conflist


def test_found_by_name(tmp_path: Path) -> None:
    """Lists come before single plugins, and by file name; a file that is broken hides no other."""
    (tmp_path / "00-broken.conflist").write_text("{")
    (tmp_path / "20-front.conflist").write_text(text(plugins=[{"type": "second"}]))
    (tmp_path / "10-front.conflist").write_text(text(plugins=[{"type": "first"}]))
    (tmp_path / "00-front.conf").write_text('{"name": "front", "type": "single"}')
    (tmp_path / "00-back.json").write_text('{"name": "back", "type": "single"}')
    assert types(find("front", tmp_path)) == ["first"]
    assert types(find("back", tmp_path)) == ["single"]


def test_not_found(tmp_path: Path) -> None:
    """The error says where it was looked for, what is there, and which file could not be read."""
    with pytest.raises(ConfListError, match=f'no network "front" in {tmp_path}/none: it holds none'):
        find("front", tmp_path / "none")
    (tmp_path / "10.conflist").write_text(text(name="back"))
    (tmp_path / "20.conflist").write_text("{")
    with pytest.raises(ConfListError, match=r"it holds back; could not read .*20\.conflist: it is not JSON"):
        find("front", tmp_path)
