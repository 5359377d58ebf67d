"""Faults of single frames: labels that are missing or impossible, cells that cannot be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ase_finetune.data.checks import constrained, lopsided_forces
from ase_finetune.data.read import ENERGY_KEY, FORCES_KEY, STRESS_KEY, is_isolated_atom
from ase_finetune.doctor.finding import Finding, of_frames
from ase_finetune.doctor.read import FrameSet

_LEAST_VOLUME = 1.0  # A^3/atom; solid hydrogen at 400 GPa still has 1.3
_NET_FORCE = 0.05  # eV/A; grids leave 0.03 on a 4x4 MoS2 cell in CP2K
_NET_SHARE = 0.05  # of the size of the forces
_ZEROED_LOOKED_AT = 50


def check_labels(data: FrameSet) -> list[Finding]:
    """Find missing, infinite and shapeless labels and cells."""
    frames, name = data.frames, data.name
    found = []
    for kind, key in (("energy", ENERGY_KEY), ("forces", FORCES_KEY)):
        without = [i for i, f in enumerate(frames) if key not in f.info and key not in f.arrays]
        if without and len(without) < len(frames):
            found.append(
                Finding(
                    "error",
                    f"{kind}_missing",
                    f"{of_frames(len(without), len(frames))} have no {kind} under "
                    f"{data.keys[kind]!r}, the others do.",
                    f"Label them, drop them, or name the key with --{kind}-key.",
                    name,
                    tuple(without),
                )
            )
    meant = [i for i, f in enumerate(frames) if f.pbc.all() and not is_isolated_atom(f)]
    without = [i for i in meant if STRESS_KEY not in frames[i].info]
    if without and len(without) < len(meant):
        found.append(
            Finding(
                "warning",
                "stress_missing",
                f"{of_frames(len(without), len(meant))} that are periodic have no stress, "
                "the others do.",
                "Compute it, or train without stress (stress weight 0).",
                name,
                tuple(without),
            )
        )
    zero = [
        i for i in meant if STRESS_KEY in frames[i].info and not frames[i].info[STRESS_KEY].any()
    ]
    if zero:
        found.append(
            Finding(
                "error",
                "stress_zeroed",
                f"The stress of {of_frames(len(zero), len(meant))} is exactly zero.",
                "It seems not to have been computed: remove it, or train without stress.",
                name,
                tuple(zero),
            )
        )
    for what, code in (
        ("energy", "energy_not_finite"),
        ("forces", "forces_not_finite"),
        ("stress", "stress_not_finite"),
        ("positions or cell", "positions_not_finite"),
    ):
        bad = [i for i, f in enumerate(frames) if not _finite(f, what)]
        if bad:
            found.append(
                Finding(
                    "error",
                    code,
                    f"The {what} of {of_frames(len(bad), len(frames))} is not finite "
                    "(NaN or infinity).",
                    "Drop these frames or compute them again.",
                    name,
                    tuple(bad),
                )
            )
    found += _cells(frames, name)
    return found


def usable(frames: Sequence[Atoms]) -> list[int]:
    """Return the frames with finite labels and a sound cell, which the later checks look at."""
    return [
        i
        for i, f in enumerate(frames)
        if len(f)
        and ENERGY_KEY in f.info
        and FORCES_KEY in f.arrays
        and all(_finite(f, w) for w in ("energy", "forces", "stress", "positions or cell"))
        and sound_cell(f)
    ]


def sound_cell(frame: Atoms) -> bool:
    """Whether the periodic directions have vectors and the cell a volume for its atoms."""
    if not frame.pbc.any():
        return True
    if not np.isfinite(frame.cell.array).all():
        return False
    if any(frame.pbc[i] and not frame.cell.array[i].any() for i in range(3)):
        return False
    if frame.pbc.all():
        return bool(abs(frame.cell.volume) > _LEAST_VOLUME * len(frame))
    return bool(abs(frame.cell.complete().volume) > 1e-3)


def _finite(frame: Atoms, what: str) -> bool:
    if what == "energy":
        return bool(np.isfinite(frame.info.get(ENERGY_KEY, 0.0)))
    if what == "forces":
        return FORCES_KEY not in frame.arrays or bool(np.isfinite(frame.arrays[FORCES_KEY]).all())
    if what == "stress":
        return bool(np.isfinite(frame.info.get(STRESS_KEY, 0.0)).all())
    return bool(np.isfinite(frame.positions).all() and np.isfinite(frame.cell.array).all())


def _cells(frames: Sequence[Atoms], name: str) -> list[Finding]:
    empty = [i for i, f in enumerate(frames) if len(f) == 0]
    bad = [
        i
        for i, f in enumerate(frames)
        if len(f) and np.isfinite(f.cell.array).all() and not sound_cell(f)
    ]
    found = []
    if empty:
        found.append(
            Finding(
                "error",
                "frame_empty",
                f"{of_frames(len(empty), len(frames))} have no atoms.",
                "Drop them.",
                name,
                tuple(empty),
            )
        )
    if bad:
        found.append(
            Finding(
                "error",
                "cell_missing",
                f"{of_frames(len(bad), len(frames))} are periodic, but their cell is missing, "
                f"flat or smaller than {_LEAST_VOLUME:g} A^3 per atom.",
                "Give them their cell in A, or turn periodicity off.",
                name,
                tuple(bad),
            )
        )
    return found


def check_forces(frames: Sequence[Atoms], rows: Sequence[int], name: str) -> list[Finding]:
    """Find forces zeroed by constraints, and frames that push or twist themselves."""
    found = []
    zeroed = _zeroed(frames, rows)
    if zeroed:
        found.append(
            Finding(
                "error",
                "forces_zeroed",
                f"Forces are exactly zero in {of_frames(len(zeroed), len(frames))} "
                "on atoms whose surroundings are not symmetric, as constraints or a missing "
                "output leave them.",
                "Export forces without constraints (in ASE get_forces(apply_constraint=False)).",
                name,
                tuple(zeroed),
            )
        )
    net, twist = [], []
    for i in rows:
        frame, forces = frames[i], frames[i].arrays[FORCES_KEY]
        if len(frame) < 2 or i in zeroed:
            continue
        size = float(np.sqrt((forces**2).sum()))
        if np.linalg.norm(forces.sum(axis=0)) > max(_NET_FORCE, _NET_SHARE * size):
            net.append(i)
        elif not frame.pbc.any():
            arm = frame.positions - frame.positions.mean(axis=0)
            torque = np.linalg.norm(np.cross(arm, forces).sum(axis=0))
            reach = float(np.sqrt((arm**2).sum(axis=1).max()))
            if torque > max(_NET_FORCE, _NET_SHARE * size) * max(reach, 1.0):
                twist.append(i)
    if net:
        worst = max(np.linalg.norm(frames[i].arrays[FORCES_KEY].sum(axis=0)) for i in net)
        found.append(
            Finding(
                "warning",
                "net_force",
                f"The forces of {of_frames(len(net), len(frames))} do not add up to zero "
                f"(up to {worst:.3g} eV/A), as translation symmetry asks.",
                "Look for missing atoms or forces, constraints, an external field or a coarse "
                "grid; models of this kind cannot fit it.",
                name,
                tuple(net),
            )
        )
    if twist:
        found.append(
            Finding(
                "warning",
                "net_torque",
                f"The forces turn {of_frames(len(twist), len(frames))}, which a molecule in "
                "vacuum cannot do to itself.",
                "Look for forces in another order or orientation than the positions.",
                name,
                tuple(twist),
            )
        )
    return found


def _zeroed(frames: Sequence[Atoms], rows: Sequence[int]) -> list[int]:
    """Frames in which several atoms have exactly no force although no symmetry forbids one."""
    suspects = []
    for i in rows:
        forces = frames[i].arrays[FORCES_KEY]
        zero = ~forces.any(axis=1)
        if len(forces) < 2 or not zero.any():
            continue
        held = zero & constrained(frames[i])
        if not held.any() and zero.sum() < 2:
            continue
        rest = forces[~zero]
        if len(rest) and np.sqrt((rest**2).sum(axis=1).mean()) < 0.02:
            continue  # near a minimum, forces printed with few digits round to zero
        suspects.append((i, zero, 1 if held.any() else 2))
    looked_at = suspects
    if len(suspects) > _ZEROED_LOOKED_AT:
        places = np.linspace(0, len(suspects) - 1, _ZEROED_LOOKED_AT).astype(int)
        looked_at = [suspects[p] for p in places]
    bad = {i for i, zero, least in looked_at if (zero & lopsided_forces(frames[i])).sum() >= least}
    if len(bad) == len(looked_at):
        return [i for i, _, _ in suspects]
    return sorted(bad)


def check_constant(frames: Sequence[Atoms], rows: Sequence[int], name: str) -> list[Finding]:
    """Find energies that repeat although the structures and forces differ."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i in rows:
        if len(frames[i]) > 1:
            groups[np.sort(frames[i].numbers).tobytes()].append(i)
    bad: list[int] = []
    for members in groups.values():
        energies = np.array([frames[i].info[ENERGY_KEY] for i in members])
        values, counts = np.unique(np.round(energies, 8), return_counts=True)
        if counts.max() < 4 or counts.max() <= len(members) / 2:
            continue
        common = values[counts.argmax()]
        same = [i for i, e in zip(members, energies, strict=True) if round(float(e), 8) == common]
        pushes = {round(float((frames[i].arrays[FORCES_KEY] ** 2).sum()), 6) for i in same}
        shapes = {frames[i].positions.round(4).tobytes() for i in same}
        if len(pushes) > 1 or (pushes == {0.0} and len(shapes) > 1):
            bad += same
    if not bad:
        return []
    return [
        Finding(
            "error",
            "energies_constant",
            f"{of_frames(len(bad), len(frames))} have the same energy although their structures "
            "differ.",
            "Read the energy of each frame again; a default or the first value seems to have "
            "been stored.",
            name,
            tuple(sorted(bad)),
        )
    ]
