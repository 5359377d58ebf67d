"""A straight 1/2<111> screw dislocation in a bcc crystal, and what its core looks like."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties.bcc_neighbors import bcc_mask
from properties.errors import NotConvergedError, StructureError
from properties.quantity import Curve, Quantity
from properties.relaxation import relax

NUDGE = 1 / 12  # b, of the core atoms along the line at the start
VACUUM = 10.0  # A, added to the cell across the line, for calculators that need the room
MIN_MOBILE_RADIUS = 8.0  # A


@dataclass(frozen=True, eq=False)
class ScrewResult:
    """A relaxed screw dislocation in a cylinder whose outer shell is held.

    The line is along z, the Burgers vector is b = sqrt(3)/2 a0, and the cylinder is one b long.
    Columns are the rows of atoms along z, one atom each.

    Attributes
    ----------
    a0, burgers : float
        A.
    atoms, bulk : Atoms
        The relaxed dislocation and the perfect cylinder, in the same order, without calculator.
        The held shell is a `FixAtoms` constraint of `atoms`.
    mobile : ndarray, shape (n_mobile,)
        Indices of the atoms that relaxed.
    pairs : ndarray, shape (n_pairs, 2)
        Indices of neighbouring columns, first ones of the projected lattice.
    differential : ndarray, shape (n_pairs,)
        Displacement along z of the second atom of a pair against the first, relative to the
        crystal, in units of b and taken to [-1/2, 1/2]: the arrows of a Vitek map.
    core_columns : tuple of 3 int
        Triangle of columns around which the differential displacements add up to b.
    core_center : ndarray, shape (2,)
        A, centroid of that triangle in the perfect cylinder.
    glide : float
        A, distance of that centroid from where the dislocation was put in.
    kind : {"easy", "hard", "split"}
        Heights of the three core atoms: as far apart as in the crystal but in the opposite order
        (easy, the stable one of bcc metals), all alike (hard), or between the two.
    polarity : float
        Mean displacement of the core atoms along z beyond linear elasticity, in units of b: 0 for
        a core of full symmetry (non-degenerate, what DFT finds in bcc metals), up to 1/6 for one
        that spreads on three {110} planes one way or the other (degenerate).
    core_atoms : ndarray, shape (n_core,)
        Indices of mobile atoms without bcc surroundings (adaptive common-neighbour analysis).
    """

    a0: float
    burgers: float
    atoms: Atoms
    bulk: Atoms
    mobile: NDArray[np.int64]
    pairs: NDArray[np.int64]
    differential: NDArray[np.float64]
    core_columns: tuple[int, int, int]
    core_center: NDArray[np.float64]
    glide: float
    kind: Literal["easy", "hard", "split"]
    polarity: float
    core_atoms: NDArray[np.int64]

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return screw_polarity (1), screw_glide (A) and screw_core_atoms (per b).

        Parameters
        ----------
        source : str
            Origin to note in each, for example the name of the calculator.
        """
        return {
            "screw_polarity": Quantity(abs(self.polarity), "1", source),
            "screw_glide": Quantity(self.glide, "A", source),
            "screw_core_atoms": Quantity(float(len(self.core_atoms)), "1/b", source),
        }


def screw_dislocation(
    symbol: str,
    a0: float,
    elastic_constants: Sequence[float],
    calc: Any,
    *,
    radius: float = 24.0,
    fix_width: float = 12.0,
    fmax: float = 5e-3,
    max_steps: int = 300,
) -> ScrewResult:
    """Put a screw dislocation into a cylinder by anisotropic elasticity and relax it.

    The cylinder and the displacements are made by matscipy. The outer shell stays where
    elasticity puts it, as in a crystal without end; nothing else holds the line, so a potential
    without a stable easy core may let it glide, which the result tells. Elasticity gives a core
    of full symmetry, which a relaxation would keep even where it is unstable, so the three core
    atoms start b/12 further along the line: they come back, or go on to a degenerate core.

    Parameters
    ----------
    symbol : str
        Chemical symbol.
    a0 : float
        A, the calculator's own lattice constant.
    elastic_constants : sequence of 3 float
        C11, C12, C44 in GPa, the calculator's own, cubic axes.
    calc : ASE calculator
        Energies and forces.
    radius : float
        A, of the cylinder.
    fix_width : float
        A, thickness of the held shell, beyond which mobile atoms must not feel the surface. A
        force reaches up to twice the range of an atom's energy, which for a message-passing model
        is its cutoff times its layers; the last part of it hardly counts. Try a larger one.
    fmax : float
        Convergence, eV/A.
    max_steps : int
        Optimizer steps allowed.

    Returns
    -------
    ScrewResult

    Raises
    ------
    StructureError
        If the sizes leave less than 8 A of mobile radius, or a number is senseless.
    NotConvergedError
        If the relaxation does not converge, or ends with no or several cores.
    CalculatorError
        If the calculator lacks forces or returns values that are not finite.

    Notes
    -----
    Differential displacements: V. Vitek, R. C. Perrin and D. K. Bowen, Philos. Mag. 21, 1049
    (1970). Easy and hard cores of bcc metals in DFT: L. Dezerald et al., Phys. Rev. B 89, 024104
    (2014).
    """
    from matscipy.dislocation import BCCScrew111Dislocation

    if not (np.isfinite(a0) and a0 > 0.0) or len(elastic_constants) != 3:
        raise StructureError("A screw dislocation needs a positive a0 and C11, C12, C44.")
    c11, c12, c44 = (float(c) for c in elastic_constants)
    if min(c11 - c12, c44, c11 + 2 * c12) <= 0.0:
        raise StructureError(
            f"The elastic constants {c11:g}, {c12:g}, {c44:g} GPa belong to no stable crystal."
        )
    if radius - fix_width < MIN_MOBILE_RADIUS:
        raise StructureError(
            f"A radius of {radius:g} A with a shell of {fix_width:g} A leaves less than "
            f"{MIN_MOBILE_RADIUS:g} A to relax; enlarge the radius."
        )
    builder = BCCScrew111Dislocation(a0, C11=c11, C12=c12, C44=c44, symbol=symbol)
    with warnings.catch_warnings():
        # It announces which of its two solvers of the same equations it takes.
        warnings.filterwarnings("ignore", "Import of atomman failed")
        bulk, start = builder.build_cylinder(
            radius=radius, fix_width=fix_width, method="adsl", verbose=False
        )
    center = np.array(start.info["core_positions"][0][:2])
    held = np.asarray(start.constraints[0].index)
    bulk, elastic = _isolated(bulk, held), _isolated(start, held)
    start = elastic.copy()
    triad = np.argsort(np.linalg.norm(bulk.positions[:, :2] - center, axis=1), kind="stable")[:3]
    start.positions[triad, 2] += NUDGE * np.sqrt(3) / 2 * a0
    relaxed = relax(start, calc, fmax=fmax, max_steps=max_steps).atoms
    burgers = float(np.sqrt(3) / 2 * a0)
    mobile = np.setdiff1d(np.arange(len(relaxed)), held)
    pairs = _neighbor_columns(bulk, a0)
    along = (relaxed.positions[:, 2] - bulk.positions[:, 2]) / burgers
    differential = _wrapped(along[pairs[:, 1]] - along[pairs[:, 0]])
    core = list(_core_triangle(bulk, pairs, along, mobile))
    centroid = bulk.positions[core, :2].mean(axis=0)
    # Of a dislocation where the core is now; it may have glided.
    here = builder.displacements(
        bulk.positions, np.append(centroid, 0.0), method="adsl", verbose=False
    )
    beyond = along[core] - here[core, 2] / burgers
    disturbed = ~bcc_mask(relaxed)
    return ScrewResult(
        a0=a0,
        burgers=burgers,
        atoms=relaxed,
        bulk=bulk,
        mobile=mobile,
        pairs=pairs,
        differential=differential,
        core_columns=(core[0], core[1], core[2]),
        core_center=centroid,
        glide=float(np.linalg.norm(centroid - center)),
        kind=_kind(relaxed.positions[core, 2] / burgers),
        polarity=float(_wrapped(beyond).mean()),
        core_atoms=mobile[disturbed[mobile]],
    )


def _isolated(atoms: Atoms, held: NDArray[np.int64]) -> Atoms:
    """Return the cylinder periodic along its axis only, with vacuum around it."""
    from ase.constraints import FixAtoms

    copy: Atoms = atoms.copy()
    copy.info = {}
    copy.arrays.pop("fix_mask", None)
    copy.set_constraint(FixAtoms(held))
    # Only the cell grows, so that the positions of crystal and dislocation stay comparable.
    copy.cell[0, 0] += VACUUM
    copy.cell[1, 1] += VACUUM
    copy.pbc = (False, False, True)
    return copy


def _wrapped(fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(fraction - np.round(fraction), dtype=np.float64)


def _neighbor_columns(bulk: Atoms, a0: float) -> NDArray[np.int64]:
    """Return the pairs of columns that are neighbours in the projection along the line."""
    from scipy.spatial import cKDTree

    distance = np.sqrt(6) / 3 * a0
    pairs = cKDTree(bulk.positions[:, :2]).query_pairs(1.2 * distance, output_type="ndarray")
    return np.asarray(pairs[np.lexsort(pairs.T[::-1])], dtype=np.int64)


def _core_triangle(
    bulk: Atoms,
    pairs: NDArray[np.int64],
    along: NDArray[np.float64],
    mobile: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Return the triangle of columns, counterclockwise, that encloses the Burgers vector."""
    neighbors: dict[int, set[int]] = {}
    for i, j in pairs:
        neighbors.setdefault(int(i), set()).add(int(j))
    inside = set(mobile.tolist())
    found = []
    for i, near in neighbors.items():
        for j in near:
            for k in near & neighbors.get(j, set()):
                if not inside & {i, j, k}:
                    continue
                steps = _wrapped(along[[j, k, i]] - along[[i, j, k]])
                if abs(steps.sum()) > 0.5:
                    found.append((i, j, k))
    if len(found) != 1:
        raise NotConvergedError(
            f"After the relaxation {len(found)} places enclose a Burgers vector instead of one; "
            "the potential does not hold a screw dislocation here."
        )
    i, j, k = found[0]
    edges = bulk.positions[[j, k], :2] - bulk.positions[i, :2]
    return (i, j, k) if edges[0, 0] * edges[1, 1] > edges[0, 1] * edges[1, 0] else (i, k, j)


def _kind(heights: NDArray[np.float64]) -> Literal["easy", "hard", "split"]:
    """Name the core by the steps in height around it: b/3 each if easy, none if hard."""
    step = float(np.abs(_wrapped(np.roll(heights, -1) - heights)).mean())
    if step > 0.25:
        return "easy"
    return "hard" if step < 1 / 12 else "split"
