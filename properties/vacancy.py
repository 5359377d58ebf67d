"""Formation energy of a vacancy in an elemental crystal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties.batch import Progress, evaluate
from properties.errors import StructureError
from properties.quantity import Curve, Quantity
from properties.relaxation import relax, require_cell

MIN_IMAGE_DISTANCE = 6.0  # A, between a vacancy and its images


@dataclass(frozen=True, eq=False)
class VacancyResult:
    """A vacancy at constant volume.

    Attributes
    ----------
    formation_energy : float
        eV, ions relaxed in the fixed cell of the perfect crystal.
    formation_energy_unrelaxed : float
        eV, ions at their sites.
    stress_change : ndarray, shape (6,)
        eV/A^3, Voigt, of the relaxed cell with the vacancy less that of the perfect one. Times
        the volume it is minus the elastic dipole of the vacancy.
    n_sites : int
        Sites of the supercell.
    image_distance : float
        A, between the vacancy and its nearest image.
    atoms : Atoms
        Relaxed supercell with the vacancy, without calculator.
    """

    formation_energy: float
    formation_energy_unrelaxed: float
    stress_change: NDArray[np.float64]
    n_sites: int
    image_distance: float
    atoms: Atoms

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return vacancy_formation_energy and vacancy_formation_energy_unrelaxed in eV.

        Parameters
        ----------
        source : str
            Origin to note in each, for example the name of the calculator.
        """
        return {
            "vacancy_formation_energy": Quantity(self.formation_energy, "eV", source),
            "vacancy_formation_energy_unrelaxed": Quantity(
                self.formation_energy_unrelaxed, "eV", source
            ),
        }


def vacancy_formation(
    crystal: Atoms,
    calc: Any,
    *,
    repeat: Sequence[int],
    fmax: float = 1e-3,
    max_steps: int = 200,
    progress: Progress | None = None,
) -> VacancyResult:
    """Remove one atom from a supercell and relax the others.

    ``E_f = E(N - 1) - (N - 1)/N E(N)``, with the cell of the perfect crystal kept. Ions that
    relax under constant volume leave an elastic interaction with the images, which falls with the
    inverse volume of the supercell: compare two sizes.

    Parameters
    ----------
    crystal : Atoms
        Crystal of one element whose sites are all equivalent, at the calculator's own lattice
        constant; left unchanged.
    calc : ASE calculator
        Energies, forces and stress.
    repeat : sequence of 3 int
        Repetitions of `crystal`.
    fmax : float
        Convergence of the relaxation, eV/A.
    max_steps : int
        Optimizer steps allowed.
    progress : callable, optional
        Called with (done, total) steps.

    Returns
    -------
    VacancyResult

    Raises
    ------
    StructureError
        If the crystal holds several elements or the images are closer than 6 A.
    NotConvergedError, CalculatorError
        See `properties.relax`.
    """
    require_cell(crystal)
    if len(set(crystal.numbers)) != 1:
        raise StructureError(
            "A vacancy needs a crystal of one element; of compounds the energy depends on "
            "chemical potentials."
        )
    perfect = crystal.repeat(tuple(repeat))
    perfect.calc = None
    n_sites = len(perfect)
    distance = _shortest_vector(perfect)
    if distance < MIN_IMAGE_DISTANCE or n_sites < 2:
        raise StructureError(
            f"The vacancy would be {distance:.1f} A from its image; repeat the crystal until that "
            f"is {MIN_IMAGE_DISTANCE:g} A or more."
        )
    with_vacancy = perfect.copy()
    del with_vacancy[0]
    before, unrelaxed = evaluate([perfect, with_vacancy], calc, stress=True)
    if progress is not None:
        progress(2, 4)
    relaxed = relax(with_vacancy, calc, fmax=fmax, max_steps=max_steps).atoms
    if progress is not None:
        progress(3, 4)
    after = evaluate([relaxed], calc, stress=True)[0]
    if progress is not None:
        progress(4, 4)
    if after.stress is None or before.stress is None:
        raise AssertionError("evaluate(stress=True) returned no stress")
    share = (n_sites - 1) / n_sites * before.energy
    return VacancyResult(
        formation_energy=after.energy - share,
        formation_energy_unrelaxed=unrelaxed.energy - share,
        stress_change=after.stress - before.stress,
        n_sites=n_sites,
        image_distance=distance,
        atoms=relaxed,
    )


def _shortest_vector(atoms: Atoms) -> float:
    """Length of the shortest lattice vector, A."""
    from ase.geometry import minkowski_reduce

    reduced, _ = minkowski_reduce(atoms.cell.array)
    return float(np.linalg.norm(reduced, axis=1).min())
