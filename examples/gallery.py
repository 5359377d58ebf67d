"""What all pages of the gallery share: command line, stored results, and one style of figures.

A page is ``examples/plot_N_NAME.py``. It runs as a script and under sphinx-gallery alike::

    import gallery

    page = gallery.Page("elastic")  # belongs to plot_2_elastic.py
    if page.computing:
        page.save("constants", {"C11_GPa": measure(size=page.pick(compute=3, full=6))})
    stored = page.load("constants")
    figure, axes = gallery.subplots(1, 2)
    ...
    gallery.show(figure, "constants")

Without flags nothing is computed: the page draws what ``examples/results/gallery/NAME`` holds.
``--compute`` makes these results again at the sizes that are stored, ``--full`` at the paper's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

EXAMPLES = Path(__file__).resolve().parent
RESULTS = EXAMPLES / "results"
FIGURES = EXAMPLES / "figures"  # where a plain script leaves its pictures; not tracked by git

WIDTH = 7.2  # inches; the pages show it at 720 pixels, where 9 points are still read with ease
PANEL = 2.9

# Colors of M. Okabe and K. Ito (2008), told apart by people with color-blindness. They are those
# of `properties.plot`, whose figures stand on the same pages. Yellow, too faint on white, is wine.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GRAY, WINE = "#E69F00", "#56B4E9", "#000000", "#888888", "#882255"

OPTIMIZERS = {
    "adam": BLACK,
    "adamw": BLUE,
    "radam": SKY,
    "schedulefree": GREEN,
    "ranger": ORANGE,
    "lamb": PURPLE,
    "sgd": GRAY,
    "muon": VERMILION,
    "soap": WINE,
}
REFINEMENTS = {"lbfgs": "#44AA99", "lm": "#999933"}
LABELS = {
    "adam": "Adam",
    "adamw": "AdamW",
    "radam": "RAdam",
    "schedulefree": "ScheduleFree",
    "ranger": "Ranger",
    "lamb": "LAMB",
    "sgd": "SGD",
    "muon": "Muon",
    "soap": "SOAP",
    "lbfgs": "L-BFGS",
    "lm": "Levenberg-Marquardt",
}
MARKERS = dict(zip(OPTIMIZERS, "osDv^<>Ph", strict=True))
STAGES = {"zero_shot": BLUE, "finetuned": VERMILION, "refined": GREEN}
STAGE_LABELS = {"zero_shot": "zero-shot", "finetuned": "fine-tuned", "refined": "refined"}
REFERENCE = BLACK  # DFT

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.size": 9.5,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "savefig.dpi": 200,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}

T = TypeVar("T")


class AbsentResultsError(Exception):
    """Stored results are absent: a page that fails, where sphinx-gallery builds it."""


def _absent(message: str) -> BaseException:
    """Return what to raise: a script ends with one sentence, a build goes on to the next page."""
    return AbsentResultsError(message) if building() else SystemExit(message)


def building() -> bool:
    """Return whether sphinx-gallery runs the page."""
    return "sphinx_gallery" in sys.modules


class Page:
    """One page of the gallery: its mode, and its stored results.

    Parameters
    ----------
    name : str
        NAME of ``plot_N_NAME.py``, and of the folder ``examples/results/gallery/NAME``.
    folder : Path, optional
        Where the results are instead (tests use it).

    Attributes
    ----------
    mode : str
        ``"draw"``, ``"compute"`` (sizes of the stored results) or ``"full"`` (the paper's).
    folder : Path
        Of the stored results. It is made by `save` and `path`.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        scripts = sorted(EXAMPLES.glob(f"plot_*_{name}.py"))
        if len(scripts) != 1:
            raise ValueError(f"There must be one examples/plot_N_{name}.py; found {len(scripts)}.")
        self.name = name
        self.script = scripts[0]
        self.folder = RESULTS / "gallery" / name if folder is None else folder
        self.mode = self._parse(sys.argv[1:])
        matplotlib.rcParams.update(STYLE)

    def _parse(self, arguments: list[str]) -> str:
        parser = argparse.ArgumentParser(
            prog=f"python examples/{self.script.name}",
            description="Draws from stored results, unless told to compute them.",
        )
        group = parser.add_mutually_exclusive_group()
        group.add_argument("--compute", action="store_true", help="compute as stored, then draw")
        group.add_argument("--full", action="store_true", help="compute at the paper's sizes")
        chosen = parser.parse_args(arguments)
        return "full" if chosen.full else "compute" if chosen.compute else "draw"

    @property
    def computing(self) -> bool:
        """Whether results are to be computed before they are drawn."""
        return self.mode != "draw"

    def pick(self, compute: T, full: T) -> T:
        """Return the size for the mode; drawing counts as the stored size."""
        return full if self.mode == "full" else compute

    def command(self, mode: str | None = None) -> str:
        """Return the command that makes the results, as typed in the root of the repository."""
        flag = self.mode if mode is None else mode
        return f"python examples/{self.script.name}" + ("" if flag == "draw" else f" --{flag}")

    def path(self, filename: str) -> Path:
        """Return a path in the folder, which is made; for HDF5 files, trajectories and so on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / filename

    def has(self, name: str) -> bool:
        """Return whether ``NAME.json`` is stored."""
        return (self.folder / f"{name}.json").exists()

    def save(self, name: str, data: Mapping[str, Any]) -> Path:
        """Store numbers, arrays and texts with the command that made them.

        Parameters
        ----------
        name : str
            Of the file, without ``.json``.
        data : mapping of str
            NumPy arrays and numbers become lists and numbers. NaN and infinity are refused.
        """
        record = {
            "command": self.command(),
            "version": version("ase-finetune"),
            "mode": self.mode,
            "data": dict(data),
        }
        text = json.dumps(record, default=_plain, allow_nan=False, indent=1)
        path = self.path(f"{name}.json")
        part = path.with_suffix(".json.part")
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, path)
        return path

    def load(self, name: str) -> dict[str, Any]:
        """Return what `save` stored under a name, and print the command that made it.

        Raises
        ------
        SystemExit
            If it is not there (`AbsentResultsError` in a build of the gallery); the message names
            the command that makes it.
        """
        path = self.folder / f"{name}.json"
        if not path.exists():
            raise _absent(f"{shown(path)} is absent; `{self.command('compute')}` computes it.")
        record = json.loads(path.read_text(encoding="utf-8"))
        print(f"{path.name}: {record['command']} (ase-finetune {record['version']})")
        data: dict[str, Any] = record["data"]
        return data


def read_json(path: Path, made_by: str) -> Any:
    """Return a stored JSON file that another command than a page made.

    Parameters
    ----------
    path : Path
        Of the file, mostly below `RESULTS`.
    made_by : str
        The command that makes it, for the message.

    Raises
    ------
    SystemExit
        If it is not there (`AbsentResultsError` in a build of the gallery).
    """
    if not path.exists():
        raise _absent(f"{shown(path)} is absent; `{made_by}` makes it.")
    return json.loads(path.read_text(encoding="utf-8"))


def shown(path: Path) -> str:
    """Return a path as seen from the root of the repository, where that is possible."""
    root = EXAMPLES.parent
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def subplots(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = WIDTH,
    height: float | None = None,
    **options: Any,
) -> tuple[Figure, np.ndarray]:
    """Return a figure of page width and its axes, always as an array of ``rows`` x ``columns``."""
    size = (width, rows * PANEL if height is None else height)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    return figure, axes


def legend_above(figure: Figure, axes: Any, columns: int = 5) -> None:
    """Put one legend above all panels, where it hides no data; each label once."""
    handles: dict[str, Any] = {}
    for one in np.ravel(axes):
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = min(columns, len(handles))
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=columns)


def show(figure: Figure, name: str) -> None:
    """Hand a figure to sphinx-gallery, or save it where the page runs as a script.

    Figures of `properties.plot` and of the reports are made without pyplot, in whose list
    sphinx-gallery looks for what to show; they are entered there.
    """
    if not building():
        FIGURES.mkdir(exist_ok=True)
        path = FIGURES / f"{name}.png"
        figure.savefig(path)
        print(f"drew {shown(path)}")
        return
    if figure.canvas.manager is None:
        manager = plt.figure().canvas.manager
        assert manager is not None
        manager.canvas.figure = figure
        figure.set_canvas(manager.canvas)


def _plain(value: Any) -> Any:
    converters: tuple[tuple[type, Callable[[Any], Any]], ...] = (
        (np.ndarray, np.ndarray.tolist),
        (np.generic, lambda number: number.item()),
        (Path, shown),
    )
    for kind, convert in converters:
        if isinstance(value, kind):
            return convert(value)
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON.")
