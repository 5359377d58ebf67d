"""Why an optimizer wins: curvature of the loss, preconditioners, spectra and filters."""

from ase_finetune.curvature.analysis import Property, View
from ase_finetune.curvature.gather import Statistics
from ase_finetune.curvature.outcome import BEFORE, CurvatureResult
from ase_finetune.curvature.run import Curvature, CurvatureSettings
from ase_finetune.curvature.saved import SavedRun

__all__ = [
    "BEFORE",
    "Curvature",
    "CurvatureResult",
    "CurvatureSettings",
    "Property",
    "SavedRun",
    "Statistics",
    "View",
]
