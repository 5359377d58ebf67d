"""The figures of one result, whatever property it is of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

from matplotlib.figure import Figure

from properties import plot
from properties.dislocation import ScrewResult
from properties.elastic import ElasticResult
from properties.gsfe import GSFEResult
from properties.lattice import LatticeResult
from properties.liquid import WaterResult
from properties.phonon_result import PhononResult
from properties.plot_dislocation import screw_core
from properties.plot_liquid import water_figure
from properties.plot_phonons import phonon_bands
from properties.quantity import Curve, Quantity, compare

References = Mapping[str, "Quantity | Curve"]


@singledispatch
def figures(result: Any, label: str, references: References) -> dict[str, Figure]:
    """Draw a result beside its references.

    Parameters
    ----------
    result
        What a property function returned.
    label : str
        Name of the calculator in the legend.
    references : mapping of str to Quantity or Curve
        By the names of the result's `quantities`; what the result does not have is ignored.

    Returns
    -------
    dict of str to Figure
        By a name fit for a file; empty for results without a figure of their own.
    """
    return {}


@figures.register
def _(result: LatticeResult, label: str, references: References) -> dict[str, Figure]:
    curves = {label: result.quantities(label)["eos"], **_reference("eos", references)}
    return {"eos": plot.equation_of_state(_curves(curves))}


@figures.register
def _(result: ElasticResult, label: str, references: References) -> dict[str, Figure]:
    found = result.quantities(label)
    shared = {name: value for name, value in references.items() if name in found}
    if not shared:
        return {}
    return {"elastic": plot.elastic_errors({label: compare(found, shared)})}


@figures.register
def _(result: GSFEResult, label: str, references: References) -> dict[str, Figure]:
    name = f"gsfe_{result.label}"
    title = "{" + result.label.replace("_", "} ")
    points = _curves(_reference(name, references))
    return {
        name: plot.gsfe_curves(
            {title: {label: result.curve(label)}}, {title: points} if points else {}
        )
    }


@figures.register
def _(result: PhononResult, label: str, references: References) -> dict[str, Figure]:
    reference = _curves(_reference("phonon_bands", references)).get("DFT")
    return {"phonons": phonon_bands({label: result}, reference)}


@figures.register
def _(result: WaterResult, label: str, references: References) -> dict[str, Figure]:
    known = _curves(_reference("g_OO", references))
    return {"water": water_figure({label: result}, references=known)}


@figures.register
def _(result: ScrewResult, label: str, references: References) -> dict[str, Figure]:
    return {"screw": screw_core(result)}


def _reference(name: str, references: References) -> dict[str, Quantity | Curve]:
    return {"DFT": references[name]} if name in references else {}


def _curves(found: Mapping[str, Quantity | Curve]) -> dict[str, Curve]:
    return {label: curve for label, curve in found.items() if isinstance(curve, Curve)}
