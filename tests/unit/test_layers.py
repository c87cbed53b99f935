"""Rules of the source text that no run would show: what reaches nft, who starts shells, who imports bcc."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points, requires
from importlib.resources import files
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("dataplane", "control", "plugin", "bench")
SOURCES = sorted(path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py"))
COMPILER = CHECKOUT / "dataplane" / "programs" / "compile.py"


def name(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


@pytest.fixture(params=SOURCES, ids=name)
def source(request: pytest.FixtureRequest) -> Path:
    path = request.param
    assert isinstance(path, Path)
    return path


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(), path.name))


def imports(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]


def is_built_text(node: ast.AST) -> bool:
    """Whether an expression is a string put together on the spot: f-string, ``%``, ``+`` or ``format``."""
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(value, ast.FormattedValue) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        return any(isinstance(side, ast.Constant | ast.JoinedStr) for side in (node.left, node.right))
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"format", "join"}


def may_be_shell(keyword: ast.keyword) -> bool:
    never = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    return keyword.arg == "shell" and not never


def violations(tree: ast.AST) -> list[str]:
    """Calls that hand built text to nft, or anything to a shell."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if called in {"cmd", "json_cmd"} and any(is_built_text(part) for part in arguments):
            found.append(f"line {node.lineno}: {called}() is given text that is built on the spot")
        if called in {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}:
            found.append(f"line {node.lineno}: {called}() starts a shell")
        found += [f"line {node.lineno}: shell= may be true" for keyword in node.keywords if may_be_shell(keyword)]
    return found


def test_nothing_reaches_nft_or_a_shell_unchecked(source: Path) -> None:
    """No call hands nft text that is put together beside it, and none starts a shell."""
    assert violations(ast.parse(source.read_text())) == []


@pytest.mark.parametrize(
    "code",
    [
        'nft.cmd(f"delete table inet {name}")',
        'self._nft.cmd("delete table inet " + name)',
        'nft.cmd("delete table inet %s" % name)',
        'nft.cmd("delete table inet {}".format(name))',
        'nft.json_cmd("".join(words))',
        'subprocess.run("nft list ruleset", shell=True)',
        "subprocess.run(words, shell=flag)",
        'os.system("nft flush ruleset")',
    ],
)
def test_the_rule_sees_what_it_is_there_for(code: str) -> None:
    """Each forbidden form is found."""
    assert len(violations(ast.parse(code))) == 1


@pytest.mark.parametrize("code", ["nft.cmd(str(transaction))", "nft.cmd(text)", "run([*words])", "run(x, shell=False)"])
def test_the_rule_lets_the_right_form_pass(code: str) -> None:
    """A transaction that prints itself and an argument list are no violations."""
    assert violations(ast.parse(code)) == []


def test_only_the_compiler_imports_bcc(source: Path) -> None:
    """bcc, slow and large, is imported in one module alone, which only runs in a child process."""
    assert "bcc" not in imports(source) or source == COMPILER


def test_the_compiler_is_where_the_rules_look_for_it() -> None:
    """The one module that may import bcc does so; else the rule above would guard nothing."""
    assert "bcc" in imports(COMPILER)


def test_what_no_index_has_is_not_required_of_it() -> None:
    """bcc and nftables come from the distribution: what has these names on the index is something else."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert {word.partition(">")[0] for word in project["dependencies"]} == {"pyroute2", "click", "jeepney"}
    assert not any(word.startswith(("bcc", "nftables")) for word in requires("dataplane") or [])


def test_the_wheel_carries_the_programs() -> None:
    """Every source below bpf/ is installed beside the packages, headers and all."""
    installed = Path(str(files("dataplane"))).parent / "bpf"
    wanted = {str(path.relative_to(CHECKOUT / "bpf")) for path in (CHECKOUT / "bpf").rglob("*") if path.is_file()}
    assert wanted
    assert wanted == {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}


@pytest.mark.parametrize("group", ["dpctl.commands", "dataplane.frontends"])
def test_entry_points_lead_somewhere(group: str) -> None:
    """Everything that the package promises under a name can be imported by it."""
    found = entry_points(group=group)
    assert found
    for entry in found:
        assert callable(entry.load()), entry
