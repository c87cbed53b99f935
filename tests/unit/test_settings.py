"""The host's settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.settings import Loopback, Settings, SettingsError, read_settings
from dataplane.types import AttachMode


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    """A host needs no settings."""
    assert read_settings(tmp_path / "none.toml") == Settings()


def test_every_key_is_read(tmp_path: Path) -> None:
    """What is written is what holds."""
    path = tmp_path / "dataplane.toml"
    path.write_text('agent = "required"\nmetrics = "off"\nownership = "on"\ncollect_after = 0\n')
    assert read_settings(path) == Settings(agent_required=True, metrics="off", owned=True, collect_after=0)


@pytest.mark.parametrize("place", ["127.0.0.1:9477", "127.8.9.10:1", "[::1]:65535"])
def test_metrics_may_have_a_loopback_port(tmp_path: Path, place: str) -> None:
    """Of either family; it prints as it was written."""
    path = tmp_path / "dataplane.toml"
    path.write_text(f'metrics = "{place}"')
    read = read_settings(path).metrics
    assert isinstance(read, Loopback)
    assert str(read) == place


def test_both_keys_are_read(tmp_path: Path) -> None:
    """The mark bit and the way of attaching can be chosen."""
    path = tmp_path / "dataplane.toml"
    path.write_text('mark_bit = 3\nattach = "clsact"\n')
    assert read_settings(path) == Settings(mark=8, attach=AttachMode.CLSACT)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mark_bit = 32", "0 to 31"),
        ("mark_bit = true", "0 to 31"),
        ('attach = "xdp"', "tcx"),
        ("atach = 1", "unknown key 'atach'"),
        ("mark_bit", "could not read"),
        ("metrics = 1", "metrics must be"),
        ('metrics = "9477"', "metrics must be"),
        ('metrics = "localhost:9477"', "metrics must be"),
        ('metrics = "127.0.0.999:9477"', "metrics must be"),
        ('metrics = "0.0.0.0:9477"', "0.0.0.0 is reached from elsewhere"),
        ('metrics = "[::]:9477"', ":: is reached from elsewhere"),
        ('metrics = "192.0.2.1:9477"', "is reached from elsewhere"),
        ('metrics = "127.0.0.1:0"', "0 is not a port"),
        ('metrics = "127.0.0.1:65536"', "65536 is not a port"),
        ("ownership = true", 'ownership must be "off" or "on"'),
        ("collect_after = -1", "collect_after must be"),
        ("collect_after = 1.5", "collect_after must be"),
        ("collect_after = true", "collect_after must be"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, reason: str) -> None:
    """An error names the file and the key, and nothing falls back to a default."""
    path = tmp_path / "dataplane.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=reason):
        read_settings(path)
