"""The figure of water: what it shows, that it fits, and that it refuses what it must."""

from __future__ import annotations

import functools
import io
import itertools
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from matplotlib.colors import to_hex

from properties import Curve, PropertyError, water_observables
from properties.plot import BLACK, COLORS
from properties.plot_liquid import PANELS, water_figure

REFERENCE = Curve(np.array([2.0, 2.8, 6.0]), np.array([0.0, 2.57, 1.0]), "A", "1", "experiment")


@functools.cache
def measured(normal=2, seed=0):
    """Water molecules that walk at random in a slab."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(cell=[9.0, 9.0, 20.0], pbc=True)
    for k in range(6):
        one = molecule("H2O")
        one.positions += [3.0 * (k % 3), 3.0 * (k // 3), 8.0 + 0.3 * k]
        atoms += one
    frames = []
    for index in range(400):
        step = np.repeat(0.1 * rng.standard_normal((6, 3)) * [1, 1, 0.01], 3, axis=0)
        atoms.positions += step + 0.03 * rng.standard_normal((18, 3))
        atoms.positions -= 0.03 * (atoms.positions - atoms.positions.mean(axis=0)) * [0, 0, 1]
        atoms.set_momenta(0.2 * rng.standard_normal((18, 3)))
        frame = atoms.copy()
        frame.info["time_ps"] = 0.01 * index
        frames.append(frame)
        atoms.positions -= atoms.positions.mean(axis=0) - frames[0].positions.mean(axis=0)
        atoms.positions[1::3] = atoms.positions[0::3] + np.array([0.0, 0.76, -0.6])
        atoms.positions[2::3] = atoms.positions[0::3] + np.array([0.0, -0.76, -0.6])
    return water_observables(frames, normal=normal, target_K=300.0)


def full():
    models = {"zero_shot": measured(), "finetuned": measured(seed=1)}
    return water_figure(models, references={"experiment": REFERENCE})


def test_all_panels_of_a_slab_are_drawn_with_one_legend():
    figure = full()
    assert len(figure.axes) == len(PANELS) == 5
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["zero-shot", "fine-tuned", "experiment"]
    colors = [to_hex(line.get_color()).upper() for line in figure.axes[1].lines]
    assert colors[:2] == list(COLORS[:2]) and colors[-1] == BLACK
    assert figure.axes[4].get_xlabel() == "Height (Å)"


def test_curves_are_the_measured_ones():
    temperature, radial, displacement, angle, density = full().axes
    one = measured()
    assert np.array_equal(radial.lines[0].get_ydata(), one.radial.g)
    assert np.array_equal(angle.lines[0].get_ydata(), 100 * one.molecules.density)
    assert np.array_equal(density.lines[0].get_ydata(), 1e3 * one.profile.density)
    assert np.array_equal(temperature.lines[0].get_ydata(), one.temperature.temperature)
    band = temperature.patches[0].get_extents().transformed(temperature.transData.inverted())
    sigma = one.temperature.sigma_canonical
    assert (band.y0, band.y1) == pytest.approx((300.0 - sigma, 300.0 + sigma))
    fit = one.diffusion
    x, y = displacement.lines[1].get_data()
    assert tuple(x) == fit.window_ps
    # D in cm^2/s is 1e-4 of that in A^2/ps, and the motion is in two dimensions.
    assert (y[1] - y[0]) / (x[1] - x[0]) / 4 * 1e-4 == pytest.approx(fit.D)


def test_bulk_has_no_density_and_stored_values_draw_too():
    stored = measured(None).quantities("stored")
    figure = water_figure({"stored": stored})
    assert len(figure.axes) == 4
    assert figure.axes[2].get_ylabel().startswith("MSD")
    assert len(figure.axes[2].lines) == 1
    two = water_figure({"a": measured(), "b": stored}, panels=["radial", "angle"])
    assert [axes.get_xlabel() for axes in two.axes] == ["O-O distance (Å)", "H-O-H angle (°)"]


def test_nothing_leaves_the_figure():
    figure = full()
    figure.savefig(io.BytesIO(), format="png")
    frame = figure.bbox
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1
        assert frame.y0 - 1 <= box.y0 and box.y1 <= frame.y1 + 1
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    legend = figure.legends[0].get_window_extent()
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in [*boxes[:i], legend])


@pytest.mark.parametrize(("lags", "most"), [(8, 4), (30, 5), (7500, 5)])
def test_times_of_short_and_long_runs_can_be_read(lags, most):
    time = 0.01 * np.arange(1, lags + 1)
    stored = {"msd_parallel": Curve(time, 3.0 * time, "ps", "A^2", "stored")}
    figure = water_figure({"a": {**measured().quantities("a"), **stored}}, panels=["displacement"])
    figure.savefig(io.BytesIO(), format="png")
    axis = figure.axes[0].xaxis
    inside = [
        label
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if time[0] * 0.999 <= tick.get_loc() <= time[-1] * 1.001
        for label in [tick.label1]
        if label.get_text()
    ]
    assert 2 <= len(inside) <= most
    boxes = sorted((label.get_window_extent() for label in inside), key=lambda box: box.x0)
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: ({},), "no model"),
        (lambda: ({"a": measured()}, ["energy"]), "Choose panels"),
        (lambda: ({"a": measured(), "b": measured(None)},), "b lacks density"),
        (lambda: ({"a": {}},), "Choose panels"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    models, *panels = arguments()
    with pytest.raises(PropertyError, match=message):
        water_figure(models, panels=panels[0] if panels else None)


def test_references_in_other_units_are_refused():
    wrong = Curve(REFERENCE.x, REFERENCE.y, "nm", "1", "experiment")
    with pytest.raises(PropertyError, match="nm"):
        water_figure({"a": measured()}, references={"experiment": wrong})


def test_no_global_figures_are_made():
    code = (
        "import sys, properties.plot_liquid;"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
