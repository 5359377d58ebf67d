"""The gallery: every page is sound, draws without computing, and says clearly what is absent.

The API pages list every public name.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PAGES = sorted(EXAMPLES.glob("plot_*.py"))
LIVE = {"plot_8_your_data.py", "plot_9_ase.py"}  # compute for minutes, whatever is stored


def names(pages):
    return [page.name for page in pages]


@pytest.fixture
def gallery(monkeypatch, tmp_path):
    """The module that pages share, as a script without flags sees it; pictures go elsewhere."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", ["page"])
    forget_examples()
    import gallery as module

    monkeypatch.setattr(module, "FIGURES", tmp_path / "figures")
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        yield module
    plt.close("all")
    matplotlib.use(backend)
    forget_examples()


def forget_examples():
    """Drop what was imported from the examples, so that no test sees another's."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) and Path(module.__file__).parent == EXAMPLES:
            del sys.modules[name]


def test_numbers_are_unique():
    numbers = [int(re.match(r"plot_(\d+)_", page.name)[1]) for page in PAGES]
    assert sorted(set(numbers)) == sorted(numbers)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_page_is_sound(page):
    """It compiles, begins with a title and a text, and belongs to its own results."""
    tree = ast.parse(page.read_text(encoding="utf-8"))
    title, line, *rest = ast.get_docstring(tree).split("\n")
    number = re.match(r"(\d+)\. ", title)
    assert number is None or number[1] == re.match(r"plot_(\d+)_", page.name)[1]
    assert set(line) == {"="} and len(line) >= len(title)
    assert len(" ".join(rest).split()) >= 20  # a tutorial says what it is about
    name = re.match(r"plot_\d+_(\w+)\.py", page.name)[1]
    opened = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "Page"
    ]
    assert opened == [name]


# What draws from stored results does so in seconds; computing would take minutes to hours.
@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in LIVE], ids=lambda p: p.name)
def test_page_draws_what_is_stored_or_says_what_is_absent(page, gallery, monkeypatch):
    run = subprocess.run

    def guarded(arguments, *rest, **options):
        assert "ase_finetune" not in " ".join(map(str, arguments)), "a command was started"
        return run(arguments, *rest, **options)

    monkeypatch.setattr(subprocess, "run", guarded)
    try:
        runpy.run_path(str(page), run_name="__main__")
    except SystemExit as stop:
        assert re.search(r"is absent; `.+` (computes|makes) it\.$", str(stop.code))
        assert "\n" not in stop.code
    else:
        drawn = list(gallery.FIGURES.glob("*.png"))
        assert drawn
        assert all(path.stat().st_size > 5000 for path in drawn)


def test_mode_follows_the_flags(gallery, monkeypatch):
    for flags, mode, picked in (
        ([], "draw", 1),
        (["--compute"], "compute", 1),
        (["--full"], "full", 2),
    ):
        monkeypatch.setattr(sys, "argv", ["page", *flags])
        page = gallery.Page("spectra")
        assert (page.mode, page.pick(1, 2), page.computing) == (mode, picked, mode != "draw")
    monkeypatch.setattr(sys, "argv", ["page", "--compute", "--full"])
    with pytest.raises(SystemExit):
        gallery.Page("spectra")


def test_results_come_back_with_their_command(gallery, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["page", "--compute"])
    page = gallery.Page("spectra", tmp_path)
    path = page.save("a", {"x": np.arange(3), "y": np.float64(0.1), "z": None})
    record = json.loads(path.read_text())
    assert record["command"] == "python examples/plot_7_spectra.py --compute"
    assert page.has("a") and page.load("a") == {"x": [0, 1, 2], "y": 0.1, "z": None}
    assert record["command"] in capsys.readouterr().out
    with pytest.raises(ValueError, match="JSON"):
        page.save("b", {"x": float("nan")})
    with pytest.raises(TypeError, match="cannot be stored"):
        page.save("b", {"x": object()})
    assert not page.has("b")


def test_absent_results_are_one_sentence(gallery, tmp_path, monkeypatch):
    page = gallery.Page("spectra", tmp_path)
    with pytest.raises(SystemExit, match=r"absent; `python examples/plot_7_spectra.py --compute`"):
        page.load("nothing")
    with pytest.raises(SystemExit, match=r"absent; `make it` makes it\.$"):
        gallery.read_json(tmp_path / "nothing.json", "make it")
    # In a build of the gallery it is an error of that page, and no exit from the build.
    monkeypatch.setitem(sys.modules, "sphinx_gallery", sys)
    with pytest.raises(gallery.AbsentResultsError):
        page.load("nothing")


def test_unknown_page_is_refused(gallery):
    with pytest.raises(ValueError, match="found 0"):
        gallery.Page("nonesuch")


def test_colors_are_distinct(gallery):
    from ase_finetune.optimizers import list_optimizers

    assert set(gallery.OPTIMIZERS) == set(list_optimizers())
    colors = [*gallery.OPTIMIZERS.values(), *gallery.REFINEMENTS.values()]
    assert len(set(colors)) == len(colors)
    assert set(gallery.LABELS) == {*gallery.OPTIMIZERS, *gallery.REFINEMENTS}


def test_figures_without_pyplot_reach_the_gallery(gallery, monkeypatch):
    """sphinx-gallery takes what pyplot lists."""
    monkeypatch.setitem(sys.modules, "sphinx_gallery", sys)
    plt.close("all")
    figure = Figure()
    gallery.show(figure, "any")
    assert [plt.figure(number) for number in plt.get_fignums()] == [figure]
    plt.close("all")


@pytest.mark.parametrize("package", ["ase_finetune", "properties", "systems"])
def test_api_pages_list_every_public_name(package):
    module = __import__(package)
    listed, current = set(), ""
    for line in (ROOT / "docs" / "api.rst").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\.\. currentmodule:: (\S+)", line):
            current = found[1]
        elif found := re.match(r"\.\. auto\w+:: (\S+)", line):
            listed.add(f"{current}.{found[1]}")
    missing = {f"{package}.{name}" for name in module.__all__} - listed
    assert not missing


def test_help_becomes_a_page_and_nothing_of_it_is_lost(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.delitem(sys.modules, "commands", raising=False)
    import commands

    text = commands.help_text("doctor")
    page = commands.page("doctor", text)
    flags = set(re.findall(r"^│ +(--[\w-]+)", text, re.M))
    assert "--foundation" in flags
    assert set(re.findall(r"^\.\. option:: (--[\w-]+)", page, re.M)) == flags
    assert "python -m" not in page and "ase-finetune doctor [OPTIONS]" in page
    with pytest.raises(ValueError, match="unknown form"):
        commands.page("doctor", text.replace("<path>", "path"))
    sys.modules.pop("commands")


@pytest.mark.parametrize("name", ["graphene_md", "graphene_strained_md"])
def test_the_output_of_page_8_is_real(name):
    """Energies and forces belong together, and the energy is the free energy in the file."""
    from ase.io import read

    path = EXAMPLES / "data" / f"{name}.pwo"
    frames = read(path, ":")
    text = path.read_text()
    rydberg = 13.605691930
    printed = [float(x) for x in re.findall(r"^!    total energy +=\s+(\S+) Ry", text, re.M)]
    energies = [frame.calc.results["free_energy"] for frame in frames]
    assert np.allclose(energies, rydberg * np.array(printed), rtol=1e-8)
    # The work of the mean force between neighbors in time is the change of the energy.
    changes = np.diff(energies)
    work = [
        -np.sum((b.get_forces() + a.get_forces()) / 2 * (b.positions - a.positions))
        for a, b in pairwise(frames)
    ]
    slope = np.dot(changes, work) / np.dot(work, work)
    assert slope == pytest.approx(1.0, abs=0.05)
    assert all(frame.calc.results["stress"] is not None for frame in frames)


def test_stretching_pulls_back():
    """Sign of the stress as ASE has it: positive under tension."""
    from ase.io import read

    first, wide = (
        read(EXAMPLES / "data" / f"{name}.pwo", 0).get_stress()[:2].mean()
        for name in ("graphene_md", "graphene_strained_md")
    )
    assert wide > first + 0.03
