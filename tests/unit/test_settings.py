"""The host's settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.settings import Settings, SettingsError, read_settings
from dataplane.types import AttachMode


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    """A host needs no settings."""
    assert read_settings(tmp_path / "none.toml") == Settings()


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
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, reason: str) -> None:
    """An error names the file and the key, and nothing falls back to a default."""
    path = tmp_path / "dataplane.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=reason):
        read_settings(path)
