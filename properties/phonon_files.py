"""Files of phonopy: results written for its tools, and force sets or force constants read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

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
    file: str | Path,
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
    """Read a file of phonopy, as from DFT, into the result that models are compared with.

    Force constants in the file are used as they are. Without any, or with forces to subtract,
    they are fitted to the force sets as :func:`properties.phonons.phonon_bands` does it.

    Parameters
    ----------
    file : str or Path
        ``phonopy_params.yaml`` or the like, with displacements and forces, or force constants.
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
        If the file has neither forces nor force constants, or a setting makes no sense.
    """
    import phonopy

    # Charges for a non-analytic correction, which phonopy would apply, are not read.
    phonon = phonopy.load(file, produce_fc=False, is_nac=False, log_level=0)
    cell = phonon.primitive
    atoms = Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
    dimension = find_dimension(atoms, dimension)
    residual = None
    if phonon.force_constants is not None and undisplaced is None:
        acoustic = AcousticModes(None, None, acoustic_at_gamma(phonon)[0])
    else:
        forces = None if phonon.dataset is None else phonon.forces
        if forces is None or len(forces) == 0:
            raise StructureError(f"{file} holds no forces; it needs them or force constants.")
        if undisplaced is not None:
            if undisplaced.shape != np.shape(forces)[1:]:
                raise StructureError(
                    f"The undisplaced forces have shape {undisplaced.shape}, those of the "
                    f"supercell in {file} {np.shape(forces)[1:]}."
                )
            residual = float(np.linalg.norm(undisplaced, axis=1).max())
        acoustic = fit_force_constants(phonon, np.array(forces), undisplaced)
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
