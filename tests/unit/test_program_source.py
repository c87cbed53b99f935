"""The translation unit: complete, in order, and named by a digest that changes when it must."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.errors import MissingDependencyError
from dataplane.programs.loading import tail
from dataplane.programs.source import ORDER, read_source, source_directory
from dataplane.types import Program


def test_every_file_of_the_folder_is_part_of_it() -> None:
    """A new file in ``bpf/`` is compiled or the order is wrong."""
    there = {path.name for path in source_directory().iterdir() if path.suffix in {".c", ".h"}}
    assert set(ORDER) == there


def test_a_file_comes_after_those_it_includes() -> None:
    """The order satisfies every include of our own files."""
    for place, name in enumerate(ORDER):
        included = re.findall(r'^#include "(.+)"$', (source_directory() / name).read_text(), re.MULTILINE)
        assert set(included) <= set(ORDER[:place]), name


def test_messages_name_the_file_that_a_person_edits() -> None:
    """Each part starts with its own name and line 1, and keeps its lines."""
    parts = re.split(r'^#line 1 "(.+)"\n', read_source().text, flags=re.MULTILINE)[1:]
    assert tuple(parts[::2]) == ORDER
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        assert text.count("\n") == (source_directory() / name).read_text().count("\n"), name


def test_no_include_of_our_own_is_left() -> None:
    """What is joined is not looked for on disk again."""
    assert not re.search(r'^#include "', read_source().text, re.MULTILINE)


@pytest.mark.parametrize("program", Program)
def test_each_program_is_a_function_in_a_file_of_its_name(program: Program) -> None:
    """``isolation`` is ``dp_isolation`` in ``isolation.c``, and the kernel keeps 15 bytes of a name; those that
    processes run are in ``localhost.c`` together."""
    file, context = ("localhost", "bpf_sock_addr *ctx") if program.hook.of_cgroup else (program.value, "__sk_buff *skb")
    assert f"int {program.function}(struct {context})" in (source_directory() / f"{file}.c").read_text()
    assert len(program.function) <= 15


def test_the_digest_is_stable() -> None:
    """The same source is not compiled twice."""
    assert read_source().digest("bcc 1") == read_source().digest("bcc 1")
    assert re.fullmatch("[0-9a-f]{16}", read_source().digest("bcc 1"))


def test_the_digest_changes_with_code_flags_headers_and_compiler() -> None:
    """What could make other instructions makes another digest."""
    source = read_source()
    digests = {
        source.digest("bcc 1"),
        source.digest("bcc 2"),
        replace(source, text=source.text + " ").digest("bcc 1"),
        replace(source, flags=(*source.flags, "-O3")).digest("bcc 1"),
        replace(source, header_texts=(*source.header_texts, "")).digest("bcc 1"),
    }
    assert len(digests) == 5


def test_a_changed_file_changes_the_digest(tmp_path: Path) -> None:
    """The digest is of what is on disk."""
    copy = tmp_path / "bpf"
    shutil.copytree(source_directory(), copy)
    before = read_source(copy).digest("bcc 1")
    (copy / "abi.h").write_text((copy / "abi.h").read_text() + "\n")
    assert read_source(copy).digest("bcc 1") != before


def test_every_file_carries_its_licence() -> None:
    """SPDX, dual, in the first line of each file, the headers included."""
    files = list(source_directory().rglob("*.[ch]"))
    assert len(files) > len(ORDER)
    for path in files:
        assert path.read_text().startswith("/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */"), path


def test_sources_that_are_gone_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installation without its sources says which file it looked for."""
    import dataplane

    monkeypatch.setattr(dataplane, "__file__", str(tmp_path / "dataplane" / "__init__.py"))
    with pytest.raises(MissingDependencyError, match=re.escape(f"{tmp_path}/bpf/abi.h")):
        source_directory()


def test_of_a_long_verifier_log_the_end_is_kept() -> None:
    """The reason stands last; what is left out is counted."""
    log = "\n".join(f"line {number}" for number in range(100))
    assert tail(log, 3) == "97 lines omitted\nline 97\nline 98\nline 99"
    assert tail("one\n\ntwo\n", 3) == "one\ntwo"
