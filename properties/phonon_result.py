"""What phonons of a cell are made of: bands along a path, modes at Gamma, sums over a mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from properties.errors import StructureError
from properties.force_constants import AcousticModes, acoustic_at_gamma
from properties.phonon_mesh import DensityOfStates, ThermalProperties, default_mesh, run_mesh
from properties.phonon_path import PATH_UNIT, BandPath, Dimension, band_path
from properties.quantity import Curve, Quantity

if TYPE_CHECKING:
    from properties.band_errors import BandErrors

# 5 1/cm: the flexural branch of a layer is this uncertain near Gamma.
IMAGINARY_TOLERANCE = 0.15


@dataclass(frozen=True, eq=False)
class PhononResult:
    """Phonons of a primitive cell.

    Attributes
    ----------
    path : BandPath
        q-points of the bands.
    frequencies : ndarray, shape (n, branches)
        THz, ascending at each q-point of `path`, imaginary as negative.
    eigenvectors : ndarray, shape (n, 3 n_atoms, branches)
        Columns, of the mass-weighted dynamical matrix, in phonopy's phase convention.
    gamma_modes : mapping of str to float
        THz of the optical modes at Gamma by their irreducible representation in Mulliken's
        symbols (degenerate modes once, ``"E'"``); a second mode of the same kind is ``"E'_2"``.
    acoustic : AcousticModes
        Acoustic frequencies at Gamma before and after corrections.
    lowest_frequency : float
        THz, on path and mesh.
    n_imaginary : int
        Modes below -0.15 THz (-5 1/cm) on path and irreducible mesh.
    states : DensityOfStates
    thermal : ThermalProperties
    dimension : {2, 3}
    n_displacements : int
        Displaced supercells.
    residual_force : float or None
        eV/A, largest norm of a force in the undisplaced supercell; None if that is not known.
    atoms : Atoms
        The primitive cell, relaxed if it was asked for, without calculator.
    phonon : Phonopy
        The object of phonopy with force constants and forces, for anything else that it offers.
    errors : BandErrors, optional
        Of the bands, where they were compared with a reference; see `against`.
    """

    path: BandPath
    frequencies: NDArray[np.float64]
    eigenvectors: NDArray[np.complex128]
    gamma_modes: Mapping[str, float]
    acoustic: AcousticModes
    lowest_frequency: float
    n_imaginary: int
    states: DensityOfStates
    thermal: ThermalProperties
    dimension: Dimension
    n_displacements: int
    residual_force: float | None
    atoms: Atoms
    phonon: Any
    errors: BandErrors | None = None

    def against(self, reference: PhononResult) -> PhononResult:
        """Return the same result with its errors against a reference on the same path."""
        from properties.band_errors import band_errors

        return replace(self, errors=band_errors(self, reference))

    def at(self, label: str) -> NDArray[np.float64]:
        """Return the frequencies in THz at a labelled point of the path, shape (branches,)."""
        found: NDArray[np.float64] = self.frequencies[self.path.index(label)].copy()
        return found

    def curve(self, source: str) -> Curve:
        """Return the bands in THz over the path, as described in `properties.phonons`."""
        return Curve(self.path.x, self.frequencies, PATH_UNIT, "THz", source)

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return the curve ``phonon_bands`` and numbers, all in THz but the last.

        The numbers: ``frequency_Gamma_IRREP`` for each of `gamma_modes`, ``lowest_frequency``,
        the acoustic frequency at Gamma that is farthest from zero as ``acoustic_raw``,
        ``acoustic_subtracted`` and ``acoustic_corrected``, those of `errors` if
        there are any, ``zero_point_energy`` (meV/atom).

        Parameters
        ----------
        source : str
            Origin to note in each, for example the name of the calculator.
        """
        found: dict[str, Quantity | Curve] = {"phonon_bands": self.curve(source)}
        for label, frequency in self.gamma_modes.items():
            found[f"frequency_Gamma_{label}"] = Quantity(frequency, "THz", source)
        found["lowest_frequency"] = Quantity(self.lowest_frequency, "THz", source)
        for name in ("raw", "subtracted", "corrected"):
            three: NDArray[np.float64] | None = getattr(self.acoustic, name)
            if three is not None:
                farthest = float(three[np.abs(three).argmax()])
                found[f"acoustic_{name}"] = Quantity(farthest, "THz", source)
        if self.errors is not None:
            found.update(self.errors.quantities(source))
        energy = 1e3 * self.thermal.zero_point_energy / len(self.atoms)
        found["zero_point_energy"] = Quantity(energy, "meV/atom", source)
        return found


def analyze(
    phonon: Any,
    acoustic: AcousticModes,
    *,
    dimension: Dimension,
    residual_force: float | None,
    path: str | None,
    special_points: Mapping[str, Sequence[float]] | None,
    points: int,
    mesh: Sequence[int] | None,
    sigma: float,
    temperatures: ArrayLike,
) -> PhononResult:
    """Solve a `phonopy.Phonopy` with force constants along the path and on the mesh.

    Parameters and errors as for :func:`phonon_bands`.
    """
    primitive = phonon.primitive
    atoms = Atoms(
        primitive.symbols,
        cell=primitive.cell,
        scaled_positions=primitive.scaled_positions,
        masses=primitive.masses,
        pbc=(True, True, dimension == 3),
    )
    line = band_path(
        atoms.cell, dimension=dimension, path=path, special_points=special_points, points=points
    )
    # Without eigenvectors, which would make band.yaml a hundred times as long.
    phonon.run_band_structure(
        line.arrays, path_connections=line.connected, labels=line.phonopy_labels
    )
    bands = phonon.run_qpoints(line.q, with_eigenvectors=True)
    frequencies = np.array(bands.frequencies, dtype=np.float64)
    eigenvectors = np.array(bands.eigenvectors, dtype=np.complex128)
    divisions = default_mesh(atoms.cell, dimension) if mesh is None else mesh
    if dimension == 2 and tuple(divisions[2:]) != (1,):
        raise StructureError("The mesh of a layer has one division along z.")
    on_mesh, states, thermal = run_mesh(
        phonon, divisions, sigma=sigma, temperatures=np.asarray(temperatures, dtype=np.float64)
    )
    both = np.concatenate([frequencies, on_mesh])
    return PhononResult(
        path=line,
        frequencies=frequencies,
        eigenvectors=eigenvectors,
        gamma_modes=gamma_modes(phonon),
        acoustic=acoustic,
        lowest_frequency=float(both.min()),
        n_imaginary=int((both < -IMAGINARY_TOLERANCE).sum()),
        states=states,
        thermal=thermal,
        dimension=dimension,
        n_displacements=len(phonon.supercells_with_displacements or ()),
        residual_force=residual_force,
        atoms=atoms,
        phonon=phonon,
    )


def gamma_modes(phonon: Any) -> dict[str, float]:
    """Return the optical frequencies at Gamma (THz) by irreducible representation, ascending."""
    try:
        irreps = phonon.run_irreps([0.0, 0.0, 0.0], symmetry_adapted=True)
    except RuntimeError:  # phonopy has no character table for this point group
        return {}
    acoustic = set(acoustic_at_gamma(phonon)[1])
    found: dict[str, float] = {}
    # phonopy prints and writes these labels, but has no public name for them.
    for label, branches in zip(irreps._ir_labels, irreps.band_indices, strict=True):
        if label is None or acoustic & set(branches):
            continue
        name, copy = label, 1
        while name in found:
            copy += 1
            name = f"{label}_{copy}"
        found[name] = float(np.mean(irreps.frequencies[branches]))
    return found
