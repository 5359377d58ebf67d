"""The figure of phonon bands: what it shows, that it fits, and that it refuses what it must."""

from __future__ import annotations

import functools
import io
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from harmonic_crystals import Springs
from matplotlib.colors import to_hex

from properties import Curve, PropertyError, Quantity
from properties import phonon_bands as compute
from properties.figures import figures
from properties.plot import BLACK, COLORS
from properties.plot_phonons import phonon_bands


@functools.cache
def grid(scale=1.0):
    return compute(
        Atoms("Cu", cell=[2.5] * 3, pbc=True),
        Springs(2.0 * scale, 0.7 * scale, 2.5),
        supercell=(3, 3, 3),
        relax_cell=False,
        points=6,
        mesh=(6, 6, 6),
    )


def full():
    return phonon_bands({"zero_shot": grid(0.64), "finetuned": grid(0.98)}, grid())


def texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_bands_errors_and_states_are_drawn():
    figure = full()
    bands, below, side = figure.axes
    assert [to_hex(bands.lines[i].get_color()).upper() for i in (0, 3, 6)] == [
        BLACK,
        COLORS[0],
        COLORS[1],
    ]
    x, y = bands.lines[2].get_data()
    kept = np.isfinite(x)
    assert np.asarray(y)[kept] == pytest.approx(grid().frequencies[:, 2])
    error = np.asarray(below.lines[0].get_ydata())
    expected = 0.2 * grid().frequencies.mean(1)
    assert error[np.isfinite(error)] == pytest.approx(expected, abs=1e-5)
    assert len(side.lines) == 3
    assert side.lines[0].get_xdata() == pytest.approx(grid().states.states)


def test_legend_gives_the_error_of_each_model():
    assert texts(full())[0] == "DFT"
    assert texts(full())[1].startswith("zero-shot (MAE ")
    assert texts(full())[2].startswith("fine-tuned (MAE 0.0")
    other = phonon_bands({"seed": grid(0.64)}, grid(), reference_label="PBE", pointwise=False)
    assert texts(other) == ["PBE", "seed"]
    assert len(other.axes) == 2


def test_jumps_are_not_bridged():
    x = phonon_bands({"one": grid()}, states=False).axes[0].lines[0].get_xdata()
    breaks = np.flatnonzero(np.isnan(x))
    assert len(breaks) == 1
    assert x[breaks[0] - 1] == x[breaks[0] + 1]


def test_ticks_stand_at_points_of_high_symmetry():
    axes = phonon_bands({"one": grid()}).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        r"$\Gamma$", "X", "M", r"$\Gamma$", "R", "X|M", "R",
    ]  # fmt: skip
    assert list(axes.get_xticks()) == pytest.approx([place for place, _ in grid().path.ticks])


def test_wavenumbers_stand_beside_frequencies():
    figure = phonon_bands({"one": grid()}, states=False)
    figure.savefig(io.BytesIO())
    low, high = figure.axes[0].get_ylim()
    (twin,) = figure.axes[0].child_axes
    assert twin.get_ylim() == pytest.approx((33.35641 * low, 33.35641 * high), rel=1e-6)


def test_curves_are_drawn_with_given_ticks():
    figure = phonon_bands({"one": grid(0.64).curve("a")}, grid().curve("b"), ticks=[(0.3, "G")])
    assert len(figure.axes) == 2
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == [r"$\Gamma$"]


def test_results_are_drawn_beside_the_bands_of_a_system():
    references = {"phonon_bands": grid().curve("stored"), "a0": Quantity(3.0, "A", "stored")}
    assert texts(figures(grid(0.64), "seed", references)["phonons"])[0] == "DFT"
    assert texts(figures(grid(0.64), "seed", {})["phonons"]) == ["seed"]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_figure_fits_and_is_saved(kind):
    figure, buffer = full(), io.BytesIO()
    figure.savefig(buffer, format=kind)
    assert buffer.tell() > 10000
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 > -0.02
    assert box.y0 > -0.02
    assert box.x1 < width + 0.02
    assert box.y1 < height + 0.02


def test_legend_of_long_names_is_not_cut():
    names = ("zero-shot", "adam + L-BFGS", "schedulefree + LM")
    figure = phonon_bands({name: grid(0.98) for name in names}, grid())
    figure.savefig(io.BytesIO())
    box = figure.legends[0].get_window_extent()
    assert box.x0 > 0
    assert box.x1 < figure.bbox.x1


def test_no_pyplot_is_imported():
    code = "import sys, properties.plot_phonons; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(PropertyError, match="no bands"):
        phonon_bands({})
    with pytest.raises(PropertyError, match="two of the same name"):
        phonon_bands({"DFT": grid()}, grid())
    with pytest.raises(PropertyError, match="not in THz"):
        phonon_bands({"one": Curve([0, 1], [[1.0], [2.0]], "1/A", "THz", "a")})
