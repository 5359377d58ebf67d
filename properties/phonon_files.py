"""Files of phonopy: results written for its tools, and force sets or force constants read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from properties.errors import StructureError
from properties.force_constants import AcousticModes, acoustic_at_gamma, fit_force_constants
from properties.phonon_path import Dimension
from properties.phonon_result import PhononResult, analyze
from properties.phonons import TEMPERATURES, find_dimension


def write_phonons(result: PhononResult, folder: str | Path) -> tuple[Path, Path]:
    """Write ``phonopy_params.yaml`` and ``band.yaml``, which phonopy and its tools read.

    Parameters
    ----------
    result : PhononResult
    folder : str or Path
        Made if it does not exist; files of these names in it are replaced.

    Returns
    -------
    params, bands : Path
        Cells, force sets (the undisplaced forces subtracted, if they were) and force constants;
        the bands along the path.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    params, bands = target / "phonopy_params.yaml", target / "band.yaml"
    result.phonon.save(params, settings={"force_sets": True, "force_constants": True})
    result.phonon.write_yaml_band_structure(filename=bands)
    return params, bands


def load_phonons(
    source: Any,
    *,
    undisplaced: NDArray[np.float64] | None = None,
    dimension: Dimension | None = None,
    path: str | None = None,
    special_points: Mapping[str, Sequence[float]] | None = None,
    points: int = 51,
    mesh: Sequence[int] | None = None,
    sigma: float = 0.1,
    temperatures: ArrayLike = TEMPERATURES,
) -> PhononResult:
    """Read phonons of phonopy, as from DFT, into the result that models are compared with.

    Force constants are used as they are. Without any, or with forces to subtract, they are fitted
    to the force sets as :func:`properties.phonons.phonon_bands` does it.

    Parameters
    ----------
    source : str, Path or Phonopy
        ``phonopy_params.yaml`` or the like, with displacements and forces, or force constants; or
        the object, which the result then holds, with forces and force constants replaced if these
        are fitted. Charges for a non-analytic correction are refused in an object, and not read
        from a file.
    undisplaced : ndarray, shape (n_atoms, 3), optional
        eV/A, forces of the undisplaced supercell to subtract from the stored ones.
    dimension, path, special_points, points, mesh, sigma, temperatures
        See :func:`properties.phonons.phonon_bands`.

    Returns
    -------
    PhononResult

    Raises
    ------
    StructureError
        If there are neither forces nor force constants, or a setting makes no sense.
    """
    import phonopy

    phonon: Any = source
    if isinstance(source, str | Path):
        phonon = phonopy.load(source, produce_fc=False, is_nac=False, log_level=0)
    if phonon.nac_params is not None:
        raise StructureError("The non-analytic correction is not wanted; set nac_params to None.")
    cell = phonon.primitive
    atoms = Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
    dimension = find_dimension(atoms, dimension)
    residual = None
    if phonon.force_constants is not None and undisplaced is None:
        acoustic = AcousticModes(None, None, acoustic_at_gamma(phonon)[0])
    else:
        try:
            forces = np.array(phonon.forces, dtype=np.float64)
        except RuntimeError as error:  # no displacements, or none with forces
            raise StructureError(
                "There are neither forces of displacements nor force constants."
            ) from error
        if undisplaced is not None:
            if undisplaced.shape != forces.shape[1:]:
                raise StructureError(
                    f"The undisplaced forces have shape {undisplaced.shape}, those of the "
                    f"displaced supercells {forces.shape[1:]}."
                )
            residual = float(np.linalg.norm(undisplaced, axis=1).max())
        acoustic = fit_force_constants(phonon, forces, undisplaced)
    return analyze(
        phonon,
        acoustic,
        dimension=dimension,
        residual_force=residual,
        path=path,
        special_points=special_points,
        points=points,
        mesh=mesh,
        sigma=sigma,
        temperatures=temperatures,
    )
