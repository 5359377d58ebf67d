"""Figures: what they show, that they fit, and that they leave no global state behind."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from properties import Curve, PropertyError, Quantity, compare
from properties.plot import COLORS, elastic_errors, equation_of_state, gsfe_curves

REFERENCE = {"C11": 460.0, "C12": 160.0, "C44": 100.0}
ERRORS = {
    "zero_shot": {"C11": 0.2, "C12": -0.1, "C44": -0.3},
    "finetuned": {"C11": 0.02, "C12": -0.01, "C44": 0.03},
}


def comparisons():
    reference = {name: Quantity(value, "GPa", "DFT") for name, value in REFERENCE.items()}
    return {
        stage: compare(
            {name: Quantity(REFERENCE[name] * (1 + e), "GPa", stage) for name, e in errors.items()},
            reference,
        )
        for stage, errors in ERRORS.items()
    }


def gamma(n=12, height=1.5):
    x = np.linspace(0, 1, n)
    return Curve(x, height * np.sin(np.pi * x) ** 2, "b", "J/m^2", "model", periodic=True)


def energies(shift=0.0):
    volume = np.linspace(15.0, 16.5, 11)
    energy = -10 + 0.05 * (volume - 15.8 - shift) ** 2
    return Curve(volume, energy, "A^3/atom", "eV/atom", "model")


def figures():
    gsfe = {title: {"zero_shot": gamma(height=1.0), "refined": gamma()} for title in "abc"}
    return {
        "elastic": elastic_errors(comparisons(), target=0.03),
        "gsfe": gsfe_curves(gsfe, {"a": {"DFT": gamma(9)}}),
        "eos": equation_of_state({"zero_shot": energies(0.2), "DFT": energies()}),
    }


def test_bars_have_the_height_of_the_errors():
    axes = elastic_errors(comparisons()).axes[0]
    heights = [[bar.get_height() for bar in group] for group in axes.containers]
    assert heights[0] == pytest.approx([20.0, -10.0, -30.0])
    assert heights[1] == pytest.approx([2.0, -1.0, 3.0])
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "$C_{11}$",
        "$C_{12}$",
        "$C_{44}$",
    ]
    for group, color in zip(axes.containers, COLORS, strict=False):
        assert {to_hex(bar.get_facecolor()).upper() for bar in group} == {color}


def test_chosen_names_keep_their_order():
    axes = elastic_errors(comparisons(), names=["C44", "C11"]).axes[0]
    assert [bar.get_height() for bar in axes.containers[0]] == pytest.approx([-30.0, 20.0])


def test_gsfe_panels_show_curves_and_reference_points():
    figure = gsfe_curves({"{110} rigid": {"refined": gamma()}}, {"{110} rigid": {"DFT": gamma(9)}})
    axes = figure.axes[0]
    by_label = {line.get_label(): line for line in axes.lines}
    assert axes.get_title() == "{110} rigid"
    x, y = by_label["refined"].get_data()
    assert y == pytest.approx(1.5 * np.sin(np.pi * np.asarray(x)) ** 2, abs=0.01)
    assert len(by_label["DFT"].get_xdata()) == 9
    assert by_label["DFT"].get_linestyle() == "None"


def test_a_reference_keeps_its_marker_in_panels_that_lack_another():
    targets = {"a": {"ours": gamma(9), "theirs": gamma(7)}, "b": {"theirs": gamma(7)}}
    figure = gsfe_curves({panel: {"refined": gamma()} for panel in "ab"}, targets)
    markers = [
        {line.get_label(): line.get_marker() for line in axes.lines if len(line.get_xdata()) < 12}
        for axes in figure.axes
    ]
    assert markers[0]["ours"] != markers[0]["theirs"]
    assert markers[1]["theirs"] == markers[0]["theirs"]


def test_equation_of_state_is_drawn_from_each_minimum():
    axes = equation_of_state({"refined": energies(0.03), "DFT": energies()}).axes[0]
    for line in axes.lines:
        assert -1e-6 <= np.min(line.get_ydata()) < 0.6
    assert "meV" in axes.get_ylabel()


@pytest.mark.parametrize("name", ["elastic", "gsfe", "eos"])
def test_figures_fit_and_are_saved(name):
    figure = figures()[name]
    assert isinstance(figure, Figure)
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind)
        assert buffer.tell() > 5000
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 > -0.02
    assert box.y0 > -0.02
    assert box.x1 < width + 0.02
    assert box.y1 < height + 0.02
    for axes in figure.axes:
        assert axes.get_xlabel() or name == "elastic"


def test_no_pyplot_is_imported():
    code = "import sys, properties.plot; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(PropertyError, match="no stage"):
        elastic_errors({})
    with pytest.raises(PropertyError, match="lacks C99"):
        elastic_errors(comparisons(), names=["C99"])
    zero = compare({"a": Quantity(1.0, "1", "x")}, {"a": Quantity(0.0, "1", "DFT")})
    with pytest.raises(PropertyError, match="no relative error"):
        elastic_errors({"refined": zero})
    with pytest.raises(PropertyError, match="no GSFE"):
        gsfe_curves({}, {})
    with pytest.raises(PropertyError, match="can be drawn"):
        gsfe_curves({"a": {"refined": energies()}}, {})
    with pytest.raises(PropertyError, match="no equation"):
        equation_of_state({})
