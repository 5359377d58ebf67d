r"""
9. Attach the calculator: relax, NEB, phonons, MD
=================================================

`FineTunedCalculator` is an ordinary ASE calculator. Everything below is plain ASE, so any script of
yours works once one line is changed. The model is the bundled *seed*, so that the page runs without
a training; for results, put the folder of a checkpoint in its place, such as
``runs/mo/checkpoints/refined``. The page computes while it is built, for about a minute.
"""

# %%
# Relax a cell and its positions
# ------------------------------
# A filter of ASE turns the stress into forces on the cell. Always look whether the optimizer
# converged: `run` returns False if it only ran out of steps.

import tempfile
import time
from pathlib import Path

import gallery
import numpy as np
from ase import units
from ase.build import bulk, make_supercell
from ase.filters import FrechetCellFilter
from ase.md.bussi import Bussi
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS
from ase.phonons import Phonons
from ase.utils.forcecurve import fit_images

from ase_finetune import FineTunedCalculator
from systems import get_system

page = gallery.Page("ase")
MODEL = "seed"  # or "runs/mo/checkpoints/refined"
calc = FineTunedCalculator(MODEL)


def took(label, start):
    """Print how long a section took."""
    print(f"{label}: {time.perf_counter() - start:.0f} s")


start = time.perf_counter()
atoms = bulk("Mo", cubic=True)
atoms.rattle(0.02, seed=1)
atoms.calc = calc
converged = BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=200)
assert converged
a0 = float(atoms.cell.lengths().mean())
print(f"a0 = {a0:.4f} Å, pressure {-atoms.get_stress()[:3].mean() / units.GPa:.1e} GPa")
took("relaxation", start)

# %%
# Nudged elastic band: a vacancy hops
# -----------------------------------
# A neighbor jumps into a vacancy. One calculator may serve all images, as they are evaluated one
# after another; ``allow_shared_calculator`` says so to ASE. The cell of 26 atoms is small, to be
# quick.

start = time.perf_counter()
perfect = make_supercell(bulk("Mo", a=a0), 3 * np.eye(3, dtype=int))
distances = perfect.get_distances(0, range(len(perfect)), mic=True)
neighbor = int(np.argsort(distances)[1])  # of atom 0, which will be missing
first, last = perfect.copy(), perfect.copy()
last.positions[neighbor] += perfect.get_distance(neighbor, 0, mic=True, vector=True)
del first[0], last[0]

images = [first, *(first.copy() for _ in range(3)), last]
for image in images:
    image.calc = calc
for end in (first, last):
    assert BFGS(end, logfile=None).run(fmax=0.02, steps=100)
band = NEB(images, climb=True, method="improvedtangent", allow_shared_calculator=True)
band.interpolate(mic=True)
assert BFGS(band, logfile=None).run(fmax=0.05, steps=200)
fit = fit_images(images)  # a curve through energies and forces, from ASE
barrier = fit.fit_energies.max()
print(f"barrier {barrier:.2f} eV, ends differ by {1000 * abs(fit.energies[-1]):.1f} meV")
took("NEB", start)

figure, axes = gallery.subplots(width=4.4, height=2.9)
one = axes[0, 0]
one.plot(fit.fit_path, fit.fit_energies, color=gallery.BLUE)
one.plot(fit.path, fit.energies, "o", color=gallery.BLUE)
one.set(xlabel="Path length (Å)", ylabel="Energy (eV)", title="Vacancy in Mo, climbing image")
gallery.show(figure, "ase_neb")

# %%
# By symmetry both ends have the same energy and the middle image is the highest: two checks that
# cost nothing. A barrier is only as good as the frames that trained the model.
#
# Phonons
# -------
# `ase.phonons` displaces one atom of a supercell in six directions. It keeps forces in files, so
# give it a folder of its own. A crystal is dynamically stable if no frequency is imaginary, which
# ASE writes as negative.

start = time.perf_counter()
primitive = bulk("Mo", a=a0)
with tempfile.TemporaryDirectory() as folder:
    phonons = Phonons(
        primitive, calc, supercell=(5, 5, 5), delta=0.03, name=str(Path(folder) / "phonons")
    )
    phonons.run()
    phonons.read(acoustic=True)
route = primitive.cell.bandpath("GHNGPH", npoints=150)
bands = phonons.get_band_structure(route, verbose=False)
terahertz = bands.energies[0] / (units._hplanck * 1e12 / units._e)
print(f"highest frequency {terahertz.max():.2f} THz, lowest {terahertz.min():.2f} THz")
took("phonons", start)

distance, ticks, names = route.get_linear_kpoint_axis()
figure, axes = gallery.subplots(height=3.0)
one = axes[0, 0]
one.plot(distance, terahertz, color=gallery.BLUE, lw=1.2)
one.set_xticks(ticks, [name.replace("G", "Γ") for name in names])
one.set(xlim=(0, distance[-1]), ylabel="Frequency (THz)", title="bcc Mo")
for tick in ticks:
    one.axvline(tick, color="0.8", lw=0.6, zorder=0)
gallery.show(figure, "ase_phonons")

# %%
# `properties.phonon_bands` does more: it uses the symmetry, subtracts the forces of the undisplaced
# cell, and compares with stored DFT, see page 5. Both phonopy and ASE take the same calculator.
#
# Molecular dynamics
# ------------------
# A fifth of a picosecond of acetylacetone with a thermostat, then without. In the second part total
# energy must be constant: if it drifts, the time step is too long, or forces and energies do not
# belong together. The hydrogen asks for 0.5 fs.

start = time.perf_counter()
molecule = get_system("acetylacetone").frames()["test_id"][0].copy()
molecule.calc = calc
rng = np.random.default_rng(1)
thermalize_momenta(molecule, temperature_K=300, rng=rng)
Stationary(molecule)
ZeroRotation(molecule)
record = []


def watch():
    """Keep temperature and total energy."""
    record.append((molecule.get_temperature(), molecule.get_total_energy()))


step = 0.5 * units.fs
for dynamics in (
    Bussi(molecule, step, temperature_K=300, taut=50 * units.fs, rng=rng),
    VelocityVerlet(molecule, step),
):
    dynamics.attach(watch)
    dynamics.run(400)
took("dynamics", start)

temperature, total = np.array(record).T
switch = len(record) // 2
change = 1000 * (total - total[switch]) / len(molecule)
largest = np.abs(change[switch:]).max()
print(f"NVE: the total energy changes by at most {largest:.2f} meV/atom in 0.2 ps")

figure, axes = gallery.subplots(1, 2, height=2.9)
clock = 0.5e-3 * np.arange(len(record))
axes[0, 0].plot(clock, temperature, color=gallery.BLUE, lw=1.0)
axes[0, 0].axhline(300, color="0.5", lw=0.8)
axes[0, 0].set(ylabel="Temperature (K)", title="Thermostat, then none")
axes[0, 1].plot(
    clock, 1000 * (total - total[switch]) / len(molecule), color=gallery.VERMILION, lw=1.0
)
axes[0, 1].set(ylabel="Total energy (meV/atom)", title="Constant without thermostat")
for one in axes[0]:
    one.set_xlabel("Time (ps)")
    one.axvline(clock[switch], color="0.5", lw=0.8, ls="--")
gallery.show(figure, "ase_md")

# %%
# More that the calculator does
# -----------------------------
# - A list of checkpoints makes a committee: `FineTunedCalculator(["a/refined", "b/refined"])` gives
#   the mean, and its spread among the results.
# - `calc.evaluate_batch([atoms, ...])` evaluates many structures at once; `properties` uses it.
# - It pickles by path, so worker processes can have it.
# - Labels with D3 in them must not get D3 on top; labels without may: see ``with_dispersion``.
# - What has no answer is refused with a sentence: an element that the model lacks, atoms at one
#   place, NaN positions. For example:

try:
    calc.get_potential_energy(bulk("Cu"))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
