"""Signs, units and order of forces and stress, with a code for each way to get them wrong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
from ase import Atoms

from ase_finetune.data.pairs import Pairs
from ase_finetune.data.physics import Consistency, Slope, pressure_slope
from ase_finetune.data.read import STRESS_KEY
from ase_finetune.data.units import (
    FORCE_FACTORS,
    FORCE_SLOPES,
    PRESSURE_OFFSET,
    STIFFEST,
    STRESS_FACTORS,
    STRESS_SLOPES,
    contradicts_work,
    nearest_factors,
)
from ase_finetune.doctor.finding import Finding
from ase_finetune.doctor.read import FrameSet

_FREE_ENERGY = 1e-3  # eV/atom
_PRESSURES_LOOKED_AT = 1000  # frames

_FACTORS = {
    **FORCE_FACTORS,
    1 / 51.422: "the forces look converted from hartree/bohr twice",
}


def check_forces_unit(
    found: Consistency, sizes: Sequence[int], factor: float, sure: bool, name: str
) -> list[Finding]:
    """Judge the work of the forces against the energies.

    Parameters
    ----------
    found
        Of `label_consistency`.
    sizes
        Atoms per frame.
    factor
        Of the work, from the units of positions and energies as far as others have told them.
    sure
        Whether the energies are known to be in eV, from the stress or their size.
    name
        Of the set.
    """
    slope = found.forces
    if slope is None or not contradicts_work(
        Slope(slope.value / factor, slope.cosine, slope.pairs, slope.freedom), FORCE_SLOPES
    ):
        return []
    value = slope.value / factor
    factors = dict(_FACTORS)
    several = [n for n in sizes if n > 1]
    factors[1 / float(np.median(several))] = "the energies look like energies per atom"
    if sure:
        factors = {f: text for f, text in factors.items() if "energies" not in text}
    guesses = nearest_factors(value, factors)
    looks = " or ".join(guesses) if guesses else "their units or signs differ"
    return [
        Finding(
            "error",
            _force_code(guesses),
            f"Between {slope.pairs} pairs of nearby frames the energy changes by {value:.3g} times "
            f"the work of the forces, so {looks}.",
            "Give energies in eV and forces in eV/A, forces being minus the gradient.",
            name,
        )
    ]


def _force_code(guesses: Sequence[str]) -> str:
    if not guesses:
        return "force_energy_mismatch"
    first = guesses[0]
    if "opposite sign" in first:
        return "force_sign"
    if first.startswith("energies and forces"):
        return "label_units"
    return "energy_unit" if first.startswith("the energies") else "force_unit"


def check_stress(
    found: Consistency, pairs: Pairs, frames: Sequence[Atoms], name: str
) -> list[Finding]:
    """Judge sign, unit, order and constant offset of the stress.

    Parameters
    ----------
    found, pairs
        Of `label_consistency` and `work_pairs`.
    frames, name
        The frames and what their set is called.
    """
    if not any(STRESS_KEY in frame.info for frame in frames):
        return []
    if contradicts_work(found.stress, STRESS_SLOPES):
        assert found.stress is not None
        return [_stress_fault(found.stress, found.virial, name)]
    findings = []
    places = found.shear_order or shear_order(pairs)
    if places is not None:
        order = " ".join(places)
        findings.append(
            Finding(
                "error",
                "stress_order",
                "The energies of sheared frames say that the last three stress components are "
                f"{order}, not yz xz xy.",
                "Reorder them (ASE: xx yy zz yz xz xy; VASP: xx yy zz xy yz zx), or train "
                "without stress.",
                name,
            )
        )
    clear = found.stress is not None and found.stress.clear
    offset = found.pressure_offset_gpa
    if clear and offset is not None and abs(offset) > PRESSURE_OFFSET:
        findings.append(
            Finding(
                "warning",
                "pressure_offset",
                f"The label pressure differs from the slope of energy against volume by "
                f"{offset:+.2f} GPa, as with energies extrapolated to zero smearing or a basis "
                "that is too small.",
                "Label with the free energy, raise the cutoff, or train without stress.",
                name,
            )
        )
    return findings if clear else findings + _bulk(frames, name)


def shear_order(pairs: Pairs) -> tuple[str, str, str] | None:
    """Which shears the last three stress components hold, None if yz xz xy or unknown.

    Judged by the typical pair, where `label_consistency` needs all of them to agree: small strains
    with small displacements, which random deformations of a crystal give.
    """
    known = np.isfinite(pairs.stress_work).all(axis=(1, 2))
    small = (pairs.displacement < 0.05) & (pairs.strain < 0.05) & (pairs.shear > 3e-3)
    pairs = pairs[np.asarray(known & small)]
    if len(np.unique(pairs.frames)) < 8:
        return None
    normal = np.trace(pairs.stress_work[:, :3, :3], axis1=1, axis2=2)
    change = pairs.energy - pairs.force_work - normal
    misfits = {}
    for order in permutations(range(3)):
        work = np.sum([pairs.stress_work[:, 3 + i, 3 + j] for i, j in enumerate(order)], axis=0)
        rest = np.abs(change - work)
        misfits[order] = (float((rest**2).sum()), float(np.median(rest)))
    given = misfits[0, 1, 2]
    best = min(misfits, key=lambda order: misfits[order][0])
    if misfits[best][0] > 0.6 * given[0] or misfits[best][1] > 0.3 * given[1]:
        return None
    names = ("yz", "xz", "xy")
    return names[best[0]], names[best[1]], names[best[2]]


def _stress_fault(slope: Slope, virial: Slope | None, name: str) -> Finding:
    guesses = nearest_factors(slope.value, STRESS_FACTORS)
    code = "stress_unit"
    if virial is not None and virial.clear and 0.7 < abs(virial.value) < 1.4:
        sign = "" if virial.value > 0 else "minus "
        guesses.append(f"been given as a virial in eV: divide by {sign}the cell volume")
        code = "stress_virial" if len(guesses) == 1 else code
    elif guesses and "opposite sign" in guesses[0]:
        code = "stress_sign"
    elif not guesses:
        code = "stress_energy_mismatch"
    seems = f"; it seems to have {', or to have '.join(guesses)}" if guesses else ""
    return Finding(
        "error",
        code,
        f"Between {slope.pairs} pairs of strained frames the energy changes by {slope.value:.3g} "
        f"times the work of the stress{seems}.",
        "Give it in eV/A^3 with tension positive, order xx yy zz yz xz xy.",
        name,
    )


def _bulk(frames: Sequence[Atoms], name: str) -> list[Finding]:
    stride = max(1, len(frames) // _PRESSURES_LOOKED_AT)
    bulk = pressure_slope(frames[::stride])
    if bulk is None:
        return []
    modulus, correlation = bulk
    if correlation > 0.9:
        return [
            Finding(
                "error",
                "stress_sign",
                "The pressure rises with the volume, so the stress has the opposite sign.",
                "Give it with tension positive (VASP's sign is the opposite: multiply by -1).",
                name,
            )
        ]
    if modulus > STIFFEST and correlation < -0.9:
        return [
            Finding(
                "error",
                "stress_unit",
                f"The stress implies a bulk modulus of {modulus:.0f} GPa.",
                "Give it in eV/A^3 (divide GPa by 160.2177, kbar by 1602.177).",
                name,
            )
        ]
    return []


def check_free_energy(data: FrameSet, rows: Sequence[int]) -> list[Finding]:
    """Compare the energy label with a free energy that the file holds beside it."""
    used = data.keys["energy"] or ""
    if "free" in used.lower():
        return []
    findings = []
    for key, values in data.totals.items():
        if "free" not in key.lower():
            continue
        energy = np.array([data.frames[i].info["REF_energy"] for i in rows])
        size = np.array([len(data.frames[i]) for i in rows])
        apart = np.abs(energy - values[list(rows)]) / size
        different = np.flatnonzero(apart > _FREE_ENERGY)
        if len(different):
            findings.append(
                Finding(
                    "warning",
                    "free_energy_differs",
                    f"{key!r} differs from the energy {used!r} by up to "
                    f"{1000 * float(np.nanmax(apart)):.3g} meV/atom, and forces belong to the "
                    "free energy.",
                    f"Pass --energy-key {key}.",
                    data.name,
                    tuple(rows[int(i)] for i in different),
                )
            )
    return findings
