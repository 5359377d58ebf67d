"""The shape of the project: who may import whom, types, style, and that names resolve here."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("ase_finetune", "properties", "systems")
# Modules and packages that may import all three; `terminal` draws what the commands do.
OUTER = {"ase_format", "cli", "nvt_gate", "report", "results", "run", "stages", "study", "terminal"}


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, ours only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found & set(OURS)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", files("properties"), ids=lambda p: p.name)
def test_properties_import_nothing_of_ours(path):
    assert imported(path) <= {"properties"}


@pytest.mark.parametrize("path", files("systems"), ids=lambda p: p.name)
def test_systems_do_not_import_models(path):
    assert "ase_finetune" not in imported(path)


@pytest.mark.parametrize("path", files("ase_finetune"), ids=lambda p: p.name)
def test_inner_modules_import_neither_properties_nor_systems(path):
    if path.relative_to(ROOT / "ase_finetune").parts[0].removesuffix(".py") in OUTER:
        pytest.skip("outer ring: imports all three by design")
    assert imported(path) == set() or imported(path) == {"ase_finetune"}


def test_no_system_is_named_in_the_property_suite():
    for path in files("properties"):
        tree = ast.parse(path.read_text())
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        assert not strings & {"Mo", "MoS2", "mo", "mos2"}, path


def test_importing_warns_of_nothing():
    code = "import ase_finetune, properties, systems"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def test_properties_leave_torch_unloaded():
    code = "import sys, properties, systems; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_importing_the_package_leaves_torch_unloaded():
    code = (
        "import sys, ase_finetune, ase_finetune.cli, ase_finetune.config;"
        "assert 'torch' not in sys.modules and 'ase' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_generic_names_resolve_inside_this_checkout(tmp_path):
    code = (
        "import ase_finetune, properties, systems;"
        "print(ase_finetune.__file__, properties.__file__, systems.__file__, sep='\\n')"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True
    ).stdout.split("\n")[:3]
    assert all(Path(f).parents[1] == ROOT for f in found), found


def test_public_names_exist():
    import ase_finetune

    for name in ase_finetune.__all__:
        assert getattr(ase_finetune, name).__name__ == name


def run_tool(*command: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_ruff():
    run_tool("ruff", "check", ".")


def test_ruff_format():
    run_tool("ruff", "format", "--check", ".")


def test_mypy_strict():
    run_tool("mypy")
