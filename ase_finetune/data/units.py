"""Signs and units of labels, judged by the energies between nearby frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ase_finetune.data.physics import Consistency, Slope, label_consistency, pressure_slope
from ase_finetune.errors import DataError

FORCE_SLOPES = (0.6, 1.6)
STRESS_SLOPES = (0.5, 2.0)
PRESSURE_OFFSET = 0.5  # GPa
STIFFEST = 3000.0  # GPa; diamond has 443

# Slope of energy change against work -> what the labels look like.
FORCE_FACTORS = {
    -1.0: "the forces look like gradients (opposite sign)",
    51.422: "the forces look like hartree/bohr",
    27.2114: "the forces look like hartree/A",
    25.711: "the forces look like Ry/bohr",
    1 / 27.2114: "the energies look like hartree",
    1 / 13.6057: "the energies look like Ry",
    1.8897: "energies and forces look like atomic units (hartree or Ry, and the same per bohr)",
    23.0605: "the energies look like kcal/mol",
    1 / 23.0605: "the forces look like kcal/mol/A",
    96.485: "the energies look like kJ/mol",
    1 / 96.485: "the forces look like kJ/mol/A",
}
STRESS_FACTORS = {
    -1.0: "the opposite sign (VASP's): multiply by -1",
    1 / 160.2177: "been given in GPa: divide by 160.2177",
    -1 / 160.2177: "been given in GPa with compression positive: divide by -160.2177",
    1 / 1602.177: "been given in kbar: divide by 1602.177",
    -1 / 1602.177: "been given in kbar with compression positive (VASP's): divide by -1602.177",
    183.63: "been given in hartree/bohr^3: multiply by 183.63",
    -183.63: "been given in hartree/bohr^3 with compression positive: multiply by -183.63",
}


def check_physics(frames: Sequence[Atoms], *, stress: bool, name: str) -> None:
    """Stop on forces or stress whose sign or unit contradicts the energies.

    It decides only on clear evidence: energy changes between nearby frames that correlate with
    the work (0.9, and significant at t = 6) with a slope below 0.6 or above 1.6 (forces), below
    0.5 or above 2 (stress). Without strained pairs, pressures that rise with the volume
    (correlation 0.9), or that imply a bulk modulus above 3000 GPa, count as evidence too.

    Parameters
    ----------
    frames
        Labelled frames.
    stress
        Whether the stress is trained on; it is not judged otherwise.
    name
        What the frames are called in messages.

    Raises
    ------
    DataError
        Saying what the labels look like.
    """
    found = label_consistency(frames)
    if contradicts_work(found.forces, FORCE_SLOPES):
        raise DataError(_force_sentence(found.forces, frames, name))
    if not stress:
        return
    fault = _stress_fault(found, frames, name)
    if fault is not None:
        raise DataError(fault)


def _stress_fault(found: Consistency, frames: Sequence[Atoms], name: str) -> str | None:
    """What is wrong with sign or unit of the stress, in a sentence; None if nothing is."""
    if contradicts_work(found.stress, STRESS_SLOPES):
        return _stress_sentence(found.stress, found.virial, name)
    if found.stress is not None and found.stress.clear:
        return None
    bulk = pressure_slope(frames)
    if bulk is None:
        return None
    modulus, correlation = bulk
    if correlation > 0.9:
        return (
            f"The {name} stress has an implausible sign, for the pressure rises with the volume: "
            "give it with tension positive (VASP's sign is the opposite: multiply by -1)."
        )
    if modulus > STIFFEST and correlation < -0.9:
        return (
            f"The {name} stress has an implausible unit, for it implies a bulk modulus of "
            f"{modulus:.0f} GPa: give it in eV/A^3 (divide GPa by 160.2177, kbar by 1602.177)."
        )
    return None


def label_notes(frames: Sequence[Atoms]) -> list[str]:
    """Sentences on labels that look doubtful without being reason enough to stop.

    Parameters
    ----------
    frames
        Labelled frames.

    Returns
    -------
    list of str
        On a stress of another sign or unit, which is no reason to stop where it is not trained on;
        else on the order of the shear stresses, and on a pressure that differs from the slope of
        energy against volume by more than 0.5 GPa. Empty where all is well or nothing is known.
    """
    found = label_consistency(frames)
    fault = _stress_fault(found, frames, "train")
    if fault is not None:
        return [f"{fault} Errors of stress mean nothing before that."]
    notes = []
    if found.shear_order is not None:
        notes.append(
            "The energies of sheared frames say that the last three stress components are "
            f"{' '.join(found.shear_order)}, not yz xz xy: reorder them before training on stress."
        )
    offset, clear = found.pressure_offset_gpa, found.stress is not None and found.stress.clear
    if offset is not None and clear and abs(offset) > PRESSURE_OFFSET:
        notes.append(
            f"The label pressure differs from the slope of energy against volume by {offset:+.2f} "
            "GPa: raise the cutoff, label with the free energy, or train without stress."
        )
    return notes


def follow_forces(frames: Sequence[Atoms]) -> bool:
    """Tell whether energies clearly change between nearby frames by the work of the forces."""
    work = label_consistency(frames).forces
    return work is not None and work.clear and FORCE_SLOPES[0] < work.value < FORCE_SLOPES[1]


def contradicts_work(slope: Slope | None, allowed: tuple[float, float]) -> bool:
    return slope is not None and slope.clear and not allowed[0] < slope.value < allowed[1]


def _force_sentence(slope: Slope | None, frames: Sequence[Atoms], name: str) -> str:
    assert slope is not None
    factors = dict(FORCE_FACTORS)
    size = float(np.median([len(frame) for frame in frames if len(frame) > 1]))
    factors[1 / size] = "the energies look like energies per atom"
    guesses = nearest_factors(slope.value, factors)
    looks = " or ".join(guesses) if guesses else "their units or signs differ"
    return (
        f"Energies and forces of the {name} set disagree: between {slope.pairs} pairs of nearby "
        f"frames the energy changes by {slope.value:.3g} times the work of the forces, so {looks}; "
        "give eV and eV/A, forces being minus the gradient."
    )


def _stress_sentence(slope: Slope | None, virial: Slope | None, name: str) -> str:
    assert slope is not None
    start = f"The {name} stress contradicts the slope of energy against strain "
    guesses = nearest_factors(slope.value, STRESS_FACTORS)
    if virial is not None and virial.clear and 0.7 < abs(virial.value) < 1.4:
        sign = "" if virial.value > 0 else "minus "
        guesses.append(f"been given as a virial in eV: divide by {sign}the cell volume")
    if guesses:
        return start + "and seems to have " + ", or to have ".join(guesses) + "."
    return (
        f"{start}({slope.value:.3g} times what it says): give it in eV/A^3 with tension positive, "
        "order xx yy zz yz xz xy, and energies in eV."
    )


def nearest_factors(value: float, factors: dict[float, str], within: float = 1.2) -> list[str]:
    """Readings whose factor is the slope up to a ratio, best first."""
    ratios = {text: value / factor for factor, text in factors.items()}
    close = {
        text: abs(np.log(r)) for text, r in ratios.items() if r > 0 and 1 / within < r < within
    }
    return sorted(close, key=lambda text: close[text])
