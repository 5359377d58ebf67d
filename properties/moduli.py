"""Isotropic averages of an elastic tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moduli:
    """Voigt-Reuss-Hill averages, in the unit of the tensor.

    Attributes
    ----------
    bulk, shear, youngs : float
        Hill averages of bulk and shear modulus, and Young's modulus from both.
    poisson : float
        Poisson ratio from both.
    born_stable : bool
        Whether the tensor is positive definite.
    """

    bulk: float
    shear: float
    youngs: float
    poisson: float
    born_stable: bool


def average_moduli(C: NDArray[np.float64]) -> Moduli:
    """Average an elastic tensor over orientations.

    Parameters
    ----------
    C : ndarray, shape (6, 6)
        Voigt xx yy zz yz xz xy, engineering shear strains.

    Returns
    -------
    Moduli

    Notes
    -----
    R. Hill, Proc. Phys. Soc. A 65, 349 (1952), the mean of the bounds of Voigt and Reuss.
    Stability: M. Born; F. Mouhat and F.-X. Coudert, Phys. Rev. B 90, 224104 (2014).
    """
    C = 0.5 * (C + C.T)
    S = np.linalg.inv(C)
    bulk_voigt = C[:3, :3].sum() / 9
    bulk_reuss = 1 / S[:3, :3].sum()
    off_C = C[0, 1] + C[0, 2] + C[1, 2]
    off_S = S[0, 1] + S[0, 2] + S[1, 2]
    shear_voigt = (np.trace(C[:3, :3]) - off_C + 3 * np.trace(C[3:, 3:])) / 15
    shear_reuss = 15 / (4 * np.trace(S[:3, :3]) - 4 * off_S + 3 * np.trace(S[3:, 3:]))
    bulk = float(bulk_voigt + bulk_reuss) / 2
    shear = float(shear_voigt + shear_reuss) / 2
    return Moduli(
        bulk=bulk,
        shear=shear,
        youngs=9 * bulk * shear / (3 * bulk + shear),
        poisson=(3 * bulk - 2 * shear) / (6 * bulk + 2 * shear),
        born_stable=bool(np.linalg.eigvalsh(C).min() > 0.0),
    )
