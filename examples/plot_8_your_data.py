"""
8. Bring your own data
======================

From an output file of your DFT code to a fine-tuned potential and a report, in about two minutes.
The file is one of Quantum ESPRESSO; what differs with VASP, GPAW and CP2K is said below. You need
nothing but the file: the pretrained model is the small *seed* that comes with the package. With a
network at hand, write ``--foundation small`` or the name of another MACE foundation model.
"""

# %%
# Read the output
# ---------------
# `examples/data/graphene_md.pwo` is a molecular dynamics of eight carbon atoms, with ``tprnfor``
# and ``tstress`` set, so that every step has forces and a stress. ASE reads all steps at once.

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gallery
import numpy as np
from ase.io import read, write
from ase.units import GPa

from ase_finetune import FineTunedCalculator

page = gallery.Page("your_data")
data = gallery.EXAMPLES / "data"
frames = read(data / "graphene_md.pwo", ":")
print(len(frames), "frames;", sorted(frames[0].calc.results))

# %%
# Which energy belongs to the forces?
# -----------------------------------
# Forces are derivatives of **one** energy. With smearing it is the free energy F = E - TS, and not
# the energy extrapolated to zero smearing, which is what ``atoms.get_potential_energy()`` returns
# for some codes. A model is trained on energies *and* their derivatives, so they must match; the
# difference is no constant. In ASE this energy is ``calc.results["free_energy"]``, where the reader
# of the code knows it.
#
# `pw.x` prints F after the exclamation mark, and E = F + TS below it. ASE takes the former:

text = (data / "graphene_md.pwo").read_text()
start = text.index("!    total energy")
print(text[start : text.index("\n", text.index("internal energy", start))])
print(f"ASE's free_energy: {frames[0].calc.results['free_energy'] / 13.605691930:.8f} Ry")

# %%
# Energies, stress and their units
# --------------------------------
# ASE converts to eV, eV/Å and eV/Å\ :sup:`3`. Its stress is **positive under tension**, in the
# order xx, yy, zz, yz, xz, xy; most codes print a pressure, of the opposite sign. If a file was
# read by ASE, change nothing. If you parse it yourself, check the sign on a cell that is stretched:
# here the second file, 3 % wider in the plane, pulls back with a positive xx and yy.

stretched = read(data / "graphene_strained_md.pwo", ":")
for name, first in (("as it is", frames[0]), ("3 % wider", stretched[0])):
    print(f"{name:10s}", np.round(first.get_stress() / GPa, 1), "GPa")

# %%
# What each code does, by the source of ASE 3.29:
#
# **Quantum ESPRESSO**, ``.pwo``
#    ``energy`` and ``free_energy`` are both F. Stress, printed only with ``tstress``, is converted
#    in unit and sign. An SCF that did not converge has None for an energy.
#
# **VASP**, ``OUTCAR`` or ``vasprun.xml``
#    ``free_energy`` is F (TOTEN); ``energy``, which ``get_potential_energy()`` returns, is
#    extrapolated to zero smearing. Stress is converted from kB, its sign changed, and its order
#    xx yy zz xy yz zx rearranged. Two traps: atoms that a ``CONTCAR`` or ``POSCAR`` beside an
#    ``OUTCAR`` fixes get zero from ``get_forces()``; and SCF convergence is not checked, so look
#    for "aborting loop because EDIFF is reached" at every step.
#
# **GPAW**, ``.txt``
#    ``energy`` is the extrapolated one and ``free_energy`` is absent; F stands in
#    ``atoms.calc.energy_contributions["free energy"]``. The ``.traj`` of a run through ASE has
#    both. Stress is read as printed, in ASE's unit and sign, as a matrix. Energies are relative to
#    reference atoms.
#
# **CP2K**
#    ASE has no reader of its output. ``ENERGY| Total FORCE_EVAL ( QS ) energy`` is F with smearing,
#    in Hartree; forces are in Hartree/bohr. ``STRESS|`` is in the unit in brackets, GPa or in newer
#    versions bar, and positive under **pressure**: change the sign. ``systems.dft.cp2k.parse`` of
#    this package does all this for the output of an ``ENERGY_FORCE`` run of version 2023.1, and
#    stops on unconverged ones and on versions that print otherwise.
#
# In one function, for anything that ASE reads. It takes forces from ``calc.results``, since
# ``get_forces()`` would zero those of fixed atoms, and writes keys that start with ``REF_``,
# because ASE's extended XYZ claims plain ``energy``, ``forces`` and ``stress`` for itself.


def labelled(atoms, **info):
    """Return a copy with labels under the keys that MACE and ase-finetune read."""
    found = atoms.calc.results
    energy = found.get("free_energy")
    if energy is None or found.get("forces") is None:
        raise ValueError("A frame has no force-consistent energy or no forces.")
    frame = atoms.copy()
    frame.set_constraint()
    frame.info = {"REF_energy": float(energy), **info}
    frame.arrays["REF_forces"] = np.array(found["forces"])
    if "stress" in found:
        frame.info["REF_stress"] = atoms.get_stress(apply_constraint=False)
    return frame


work = Path(tempfile.mkdtemp(prefix="your_data_"))
level = {"functional": "PBE", "dispersion": "none"}
write(work / "md.xyz", [labelled(a, config_type="md", **level) for a in frames])
write(work / "stretched.xyz", [labelled(a, config_type="stretched", **level) for a in stretched])

# %%
# Two things about frames decide more than any optimizer. Write down the level of theory, as here:
# energies of two functionals do not mix. And test on what you care about: a second trajectory, a
# strain, a temperature, never on every tenth frame of the one trajectory that you train on.
#
# Look before you train
# ---------------------
# `doctor` costs seconds. It judges the sign and unit of forces by the energy between nearby frames
# (1.00 of the work is right), finds repeated frames, outliers and leaks between sets, and with
# ``--foundation`` says how far off the pretrained model is.


def run(command):
    """Run a command of ase-finetune in the working folder and show what it prints."""
    print(f"$ {command}")
    program, *arguments = command.split()
    assert program == "ase-finetune"
    done = subprocess.run(
        [sys.executable, "-m", "ase_finetune.cli", *arguments],
        cwd=work,
        env={**os.environ, "COLUMNS": "92"},
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    if done.returncode:
        raise RuntimeError(done.stderr)


run("ase-finetune doctor md.xyz --test stretched.xyz --foundation seed")

# %%
# Train
# -----
# Validation frames are held out in one block at the end of the trajectory, since neighboring frames
# are nearly equal. A stress weight of 100 makes 1 GPa (0.006 eV/Å\ :sup:`3`) count; without a
# weight the stress labels are not used. After 30 passes over 32 frames, L-BFGS follows for the cost
# of 10 more, and is kept only if the validation error agrees.

run(
    "ase-finetune train --data md.xyz --test stretched.xyz --foundation seed"
    " --energy-weight 10 --stress-weight 100 --valid-fraction 0.2"
    " --epochs 30 --schedule cosine --refine 10 --default-dtype float32 --out graphene"
)

# %%
# The rows *replay* say what was forgotten of what the seed knew before. The folder ``graphene``
# holds the checkpoints, the settings, the log of every epoch, and ``report.html``, one page to send
# to a colleague: `ase-finetune report graphene other_run --out compare.html` compares two.
#
# Use and check it
# ----------------
# One line attaches it. Here are the errors of the forces in the stretched sheet, which it has never
# seen:

true = np.concatenate([f.calc.results["forces"] for f in stretched])
models = {"zero_shot": "seed", "refined": work / "graphene/checkpoints/refined"}
figure, axes = gallery.subplots(1, 2, height=3.0, sharex=True, sharey=True)
for one, (stage, source) in zip(axes[0], models.items(), strict=True):
    calc = FineTunedCalculator(source)
    errors = 1000 * (np.concatenate([calc.get_forces(frame) for frame in stretched]) - true)
    rmse = np.sqrt(np.mean(errors**2))
    one.plot(true, errors, "o", ms=3, color=gallery.STAGES[stage], alpha=0.5, mew=0)
    one.axhline(0.0, color="0.4", lw=0.8, zorder=0)
    one.set(xlabel="DFT force component (eV/Å)")
    one.set_title(f"{gallery.STAGE_LABELS[stage]}: RMSE {rmse:.0f} meV/Å")
axes[0, 0].set_ylabel("Model minus DFT (meV/Å)")
gallery.show(figure, "your_data_forces")

# %%
# `evaluate` prints errors on any further file, per configuration type:

run("ase-finetune evaluate graphene/checkpoints/refined --data stretched.xyz")

# %%
# Read the table soberly. The frames that validate come from the same short trajectory as those that
# train, so their errors are much too good; those of the stretched sheet are what counts, and there
# the refinement need not help, although validation accepted it. 32 frames are few and the seed is
# small, but the way is the same with a foundation model and some hundred frames. How to attach the
# checkpoint in relaxations, NEB, phonons and dynamics is shown on page 9.
#
# Exact commands for other codes
# ------------------------------
# .. code-block:: python
#
#    frames = read("OUTCAR", ":")                # VASP
#    frames = read("vasprun.xml", ":")           # VASP
#    frames = read("relax.traj", ":")            # any ASE run, GPAW among them
#    frames = read("graphene.pwo", ":")          # Quantum ESPRESSO
#
# and for CP2K, with one ``ENERGY_FORCE`` output per structure:
#
# .. code-block:: python
#
#    from systems.dft.cp2k import parse
#
#    atoms = read("structure.xyz")
#    label = parse(open("label.out").read(), len(atoms))
#    atoms.info.update(REF_energy=label.energy, REF_stress=label.stress)
#    atoms.arrays["REF_forces"] = label.forces
#
# Then `ase-finetune doctor`, always.
