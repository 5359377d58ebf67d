"""Material properties from any ASE calculator: frozen results with units and sources.

Needs no machine-learning library. Drawing lives in `properties.plot`, which is not imported here
because it needs matplotlib.
"""

from __future__ import annotations

from properties.band_errors import BandErrors, band_errors
from properties.batch import Evaluation, evaluate
from properties.blow_up import BlowUp
from properties.density import DensityProfile, density_profile
from properties.dislocation import ScrewResult, screw_dislocation
from properties.elastic import ElasticResult, StrainScan, elastic_tensor, strain_scan
from properties.elastic_layer import LayerElasticResult, layer_elastic_tensor
from properties.errors import (
    BlowUpError,
    CalculatorError,
    MissingQuantityError,
    NotConvergedError,
    PropertyError,
    StructureError,
    UnitMismatchError,
)
from properties.gsfe import GSFEResult, PlaneScan, gsfe_curve, plane_scan
from properties.lattice import LatticeResult, lattice_constant
from properties.liquid import WaterResult, water_dynamics, water_observables
from properties.molecule import (
    MinimumResult,
    TorsionResult,
    TransferResult,
    molecular_minimum,
    torsion_profile,
    transfer_barrier,
    vibrational_frequencies,
)
from properties.msd import Diffusion, diffusion
from properties.nvt import NVTResult, nvt_trajectory
from properties.phonon_files import load_phonons, write_phonons
from properties.phonon_result import PhononResult
from properties.phonons import phonon_bands
from properties.quantity import Comparison, Curve, Quantity, compare
from properties.radial import RadialDistribution, radial_distribution
from properties.relaxation import MASK_2D, MASK_3D, Relaxation, relax
from properties.slip import SlipGeometry, gsfe_cell, slip_geometry
from properties.temperature import TemperatureStatistics, temperature_statistics
from properties.vacancy import VacancyResult, vacancy_formation
from properties.water import WaterMolecules, water_molecules

__all__ = [
    "MASK_2D",
    "MASK_3D",
    "BandErrors",
    "BlowUp",
    "BlowUpError",
    "CalculatorError",
    "Comparison",
    "Curve",
    "DensityProfile",
    "Diffusion",
    "ElasticResult",
    "Evaluation",
    "GSFEResult",
    "LatticeResult",
    "LayerElasticResult",
    "MinimumResult",
    "MissingQuantityError",
    "NVTResult",
    "NotConvergedError",
    "PhononResult",
    "PlaneScan",
    "PropertyError",
    "Quantity",
    "RadialDistribution",
    "Relaxation",
    "ScrewResult",
    "SlipGeometry",
    "StrainScan",
    "StructureError",
    "TemperatureStatistics",
    "TorsionResult",
    "TransferResult",
    "UnitMismatchError",
    "VacancyResult",
    "WaterMolecules",
    "WaterResult",
    "band_errors",
    "compare",
    "density_profile",
    "diffusion",
    "elastic_tensor",
    "evaluate",
    "gsfe_cell",
    "gsfe_curve",
    "lattice_constant",
    "layer_elastic_tensor",
    "load_phonons",
    "molecular_minimum",
    "nvt_trajectory",
    "phonon_bands",
    "plane_scan",
    "radial_distribution",
    "relax",
    "screw_dislocation",
    "slip_geometry",
    "strain_scan",
    "temperature_statistics",
    "torsion_profile",
    "transfer_barrier",
    "vacancy_formation",
    "vibrational_frequencies",
    "water_dynamics",
    "water_molecules",
    "water_observables",
    "write_phonons",
]
