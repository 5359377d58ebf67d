"""
4. Mo: the core of a screw dislocation
======================================

Bcc metals deform by screw dislocations with the Burgers vector 1/2<111>, and how hard it is to move
one depends on its core. In DFT the core of molybdenum is compact and symmetric; many empirical
potentials spread it over three {110} planes instead, and get the mechanics of the metal wrong. No
training frame contains a dislocation, so this is a question to what the potential has learned, not
to what it has seen.
"""

# %%
# The recipe
# ----------
# `properties.screw_dislocation` puts the displacements of anisotropic elasticity into a cylinder
# one Burgers vector long, with the potential's own lattice and elastic constants. The outer shell
# stays where elasticity puts it; the inner part relaxes. Since elasticity gives a symmetric core,
# which a relaxation would keep even where it is unstable, the three core atoms start displaced
# along the line: they come back, or go on to the spread core.
#
# .. code-block:: python
#
#     core = screw_dislocation("Mo", a0, (C11, C12, C44), calculator, radius=24.0)
#     print(core.kind, core.polarity, core.glide)
#
# The potentials are those of page 3.

import gallery
import numpy as np
import potentials
from ase import Atoms
from scipy.spatial import KDTree

from properties import NotConvergedError, ScrewResult, elastic_tensor, screw_dislocation
from properties.plot_dislocation import screw_core

ARRAYS = ("mobile", "pairs", "differential", "core_center", "core_atoms")
page = gallery.Page("mo_screw")


def measure(checkpoint, radius):
    """Return the relaxed core of a potential, or why there is none."""
    from ase.build import bulk

    calculator = potentials.FineTunedCalculator(checkpoint)
    elastic = elastic_tensor(bulk("Mo", "bcc", a=3.16), calculator, symmetry="cubic")
    a0 = float((2.0 * elastic.atoms.get_volume()) ** (1 / 3))
    constants = (elastic.C[0, 0], elastic.C[0, 1], elastic.C[3, 3])
    made = {**potentials.summary("mo", checkpoint), "radius_A": radius}
    try:
        core = screw_dislocation("Mo", a0, constants, calculator, radius=radius)
    except NotConvergedError as error:
        return {**made, "failure": str(error)}
    return {
        **made,
        "a0_A": core.a0,
        "burgers_A": core.burgers,
        "cell_A": core.atoms.cell.array,
        "positions_A": np.round(core.atoms.positions, 5),
        "bulk_positions_A": np.round(core.bulk.positions, 5),
        "core_columns": core.core_columns,
        "glide_A": core.glide,
        "kind": core.kind,
        "polarity": core.polarity,
        "arrays": {name: np.round(getattr(core, name), 6) for name in ARRAYS},
    }


if page.computing:
    epochs, evaluations = page.pick(compute=(40, 100), full=(400, 400))
    radius = page.pick(compute=24.0, full=40.0)
    tuned = potentials.fine_tuned("mo", "adam", epochs)
    checkpoints = {
        "zero-shot": "seed",
        "adam": tuned,
        "adam + LM": potentials.refined("mo", tuned, "lm", evaluations),
    }
    for name, checkpoint in checkpoints.items():
        page.save(name.replace(" ", ""), measure(checkpoint, radius))

# %%
# The stored cores
# ----------------
# What is known of the core is in four numbers: its kind by the heights of the three core atoms
# (*easy* is the stable one of bcc metals, *hard* the saddle), its polarity (0 for the symmetric
# core, up to 1/6 for the spread one), how far it glided from where it was put, and how many atoms
# near it have lost their bcc surroundings.


def rebuilt(stored):
    """Return the result as `screw_dislocation` gave it."""
    arrays = {name: np.array(stored["arrays"][name]) for name in ARRAYS}
    crystal, relaxed = (
        Atoms(f"Mo{len(positions)}", positions, cell=stored["cell_A"], pbc=(False, False, True))
        for positions in (stored["bulk_positions_A"], stored["positions_A"])
    )
    return ScrewResult(
        a0=stored["a0_A"],
        burgers=stored["burgers_A"],
        atoms=relaxed,
        bulk=crystal,
        core_columns=tuple(stored["core_columns"]),
        glide=stored["glide_A"],
        kind=stored["kind"],
        polarity=stored["polarity"],
        **arrays,
    )


cores = {}
for name in ("zero-shot", "adam", "adam + LM"):
    stored = page.load(name.replace(" ", ""))
    if "failure" in stored:
        print(f"{name}: no core: {stored['failure']}")
        continue
    cores[name] = rebuilt(stored)
print()
for name, core in cores.items():
    print(
        f"{name:12} {core.kind}, polarity {abs(core.polarity):.3f}, glide {core.glide:.2f} A, "
        f"{len(core.core_atoms)} atoms without bcc surroundings, a0 {core.a0:.4f} A"
    )

# %%
# Differential displacements
# --------------------------
# Vitek's map, seen along the line: circles are columns of atoms, filled by their height in the
# perfect crystal. An arrow between two columns is as long as they are apart if one has moved by b/3
# against the other along the line. Around the core three arrows close a triangle: together they are
# one Burgers vector. A compact core has its long arrows on the triangles next to it in equal
# measure; a spread one has them along three arms.

for name, core in cores.items():
    figure = screw_core(core)
    figure.axes[0].set_title(f"{name}: {core.kind} core, polarity {abs(core.polarity):.3f}")
    figure.axes[0].set(xticks=range(-10, 11, 5), yticks=range(-10, 11, 5))
    figure.axes[0].grid(False)
    gallery.show(figure, f"mo_screw_{name.replace(' ', '').replace('+', '_')}")

# %%
# The differences between the potentials are too small to see there. The displacement of the columns
# along the line, relative to the zero-shot core, shows what fine-tuning moved: in thousandths of b,
# over the distance from the core. Columns are paired by their places in the lattice, whose
# constants differ. The held shell, at the right, shows the difference of elastic anisotropy alone.


def raised(core):
    """Return places of columns over a0, and their displacements along the line over b."""
    moved = (core.atoms.positions - core.bulk.positions)[:, 2] / core.burgers
    return (core.bulk.positions[:, :2] - core.core_center) / core.a0, moved


figure, axes = gallery.subplots(1, 1, height=2.8)
places, start = raised(cores["zero-shot"])
others = [(name, core) for name, core in cores.items() if name != "zero-shot"]
for (name, core), color in zip(others, (gallery.VERMILION, gallery.GREEN), strict=True):
    own, moved = raised(core)
    away, partner = KDTree(places).query(own)
    common = away < 1e-2
    change = moved[common] - start[partner[common]]
    change -= np.round(change)
    distance = core.a0 * np.linalg.norm(own[common], axis=1)
    axes[0, 0].plot(distance, 1e3 * change, "o", ms=3, color=color, alpha=0.7, label=name)
axes[0, 0].set_xlabel("distance from the core (Å)")
axes[0, 0].set_ylabel("displacement against\nzero-shot ($10^{-3}$ b)")
axes[0, 0].axhline(0.0, color=gallery.GRAY, lw=0.8, zorder=0)
gallery.legend_above(figure, axes)
gallery.show(figure, "mo_screw_displacements")

# %%
# The cylinder is small, its shell is held, and one atom thick along the line there can be no kinks:
# this tells the shape of the core at rest. The force to move it would be another computation.
