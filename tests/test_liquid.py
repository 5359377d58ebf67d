"""Analysis of trajectories: ideal gases, random walkers and molecules with known answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.constraints import FixCom
from ase.io.trajectory import Trajectory

from properties import (
    StructureError,
    density_profile,
    diffusion,
    radial_distribution,
    temperature_statistics,
    water_molecules,
    water_observables,
)
from properties.msd import mean_square_displacement

SKEWED = np.array([[9.0, 0.0, 0.0], [-3.5, 8.0, 0.0], [0.0, 0.0, 14.0]])
TILTED = np.array([[9.0, 0.0, 0.0], [-3.5, 8.0, 0.0], [2.0, 1.0, 10.0]])


def frames_of(positions, cell, symbol="Ar", pbc=True):
    for frame in positions:
        yield Atoms(f"{symbol}{len(frame)}", frame, cell=cell, pbc=pbc)


def ideal_gas(cell, n_frames=600, n_atoms=20, seed=0, heights=None):
    rng = np.random.default_rng(seed)
    fractions = rng.uniform(-1, 2, size=(n_frames, n_atoms, 3))
    if heights is not None:
        fractions[..., 2] = heights(rng, (n_frames, n_atoms))
    return fractions @ cell


def test_ideal_gas_has_the_limit_of_finitely_many_atoms():
    """Half the cell is 4 A; all images are counted beyond it."""
    gas = ideal_gas(TILTED)
    found = radial_distribution(frames_of(gas, TILTED), "Ar", rmax=9.0, width=0.25, label="ArAr")
    far = found.r > 2.0
    assert found.g[far].mean() == pytest.approx(19 / 20, abs=0.005)
    assert found.g[far] == pytest.approx(19 / 20, abs=0.06)
    density = 19 / abs(np.linalg.det(TILTED))
    assert found.coordination[-1] == pytest.approx(density * 4 / 3 * np.pi * 9.0**3, rel=0.005)
    assert {"g_ArAr", "g_ArAr_coordination_number"} < set(found.quantities("test"))


def thin(rng, size):
    return 0.2 + 0.35 * rng.uniform(size=size)


def layered(rng, size):
    return np.where(rng.uniform(size=size) < 0.6, 0.3, 0.5) + 0.02 * rng.standard_normal(size)


@pytest.mark.parametrize("heights", [thin, layered])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False)])
def test_ideal_gas_in_a_slab_tends_to_one(heights, pbc):
    """Divided by the density of the cell it would be more than half as much again."""
    gas = ideal_gas(SKEWED, heights=heights, n_frames=1500)
    frames = list(frames_of(gas, SKEWED, pbc=pbc))
    found = radial_distribution(frames, "Ar", normal=2, rmax=6.0, width=0.25)
    far = found.r > 1.0
    assert found.slab
    assert found.g[far].mean() == pytest.approx(19 / 20, abs=0.01)
    assert found.g[far] == pytest.approx(19 / 20, abs=0.06)
    if all(pbc):
        naive = radial_distribution(frames, "Ar", rmax=3.0, width=0.25)
        assert naive.g[-4:].min() > 1.4


def test_slab_through_the_boundary_and_across_images_of_the_cell():
    """Pairs through the vacuum count once the radius exceeds it."""
    gas = ideal_gas(SKEWED, heights=lambda rng, size: 0.8 + thin(rng, size), n_frames=1500)
    found = radial_distribution(frames_of(gas, SKEWED), "Ar", normal=2, rmax=16.0, width=0.5)
    assert found.g[4:] == pytest.approx(19 / 20, abs=0.03)


def test_uniform_density_gives_the_same_with_and_without_normal():
    gas = list(frames_of(ideal_gas(SKEWED), SKEWED))
    plain = radial_distribution(gas, "Ar", rmax=5.0)
    slab = radial_distribution(gas, "Ar", normal=2, rmax=5.0)
    far = plain.r > 1.0
    assert slab.g[far] == pytest.approx(plain.g[far], rel=0.02)


def test_first_shell_of_a_crystal():
    crystal = bulk("Ar", a=5.0, cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(0)
    hot = [crystal.positions + 0.1 * rng.standard_normal((32, 3)) for _ in range(100)]
    found = radial_distribution(frames_of(hot, crystal.cell), "Ar", rmax=6.0)
    assert found.peak_position == pytest.approx(5.0 / np.sqrt(2), abs=0.02)
    assert 3.9 < found.minimum_position < 4.7
    assert found.coordination_number == pytest.approx(12.0, abs=0.01)
    assert 0.0 < found.peak_position_error < 0.01
    with pytest.raises(StructureError, match="no density"):
        radial_distribution(frames_of(hot, crystal.cell, pbc=False), "Ar")


def test_position_of_the_peak_is_between_the_bins():
    """Distances with density N(2.81, 0.1) in a large cell; g is that over r^2."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((20000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    far = (2.81 + 0.1 * rng.standard_normal(20000))[:, None] * direction
    pairs = np.stack([np.zeros_like(far), far], axis=1)
    found = radial_distribution(frames_of(pairs, 30 * np.eye(3)), "Ar", rmax=4.0)
    # d/dr [-(r - m)^2 / 2 s^2 - 2 ln r] = 0
    expected = (2.81 + np.sqrt(2.81**2 - 8 * 0.1**2)) / 2
    assert found.peak_position == pytest.approx(expected, abs=0.006)


def walkers(n_frames, n_atoms, sigma, seed=0):
    rng = np.random.default_rng(seed)
    return np.cumsum(np.array(sigma) * rng.standard_normal((n_frames, n_atoms, 3)), axis=0)


def wrapped(positions, cell):
    return (positions @ np.linalg.inv(cell) % 1.0) @ cell


def test_mean_square_displacement_equals_the_sum_over_origins():
    paths = walkers(50, 70, 1.0) + 1e3
    direct = [0.0]
    for lag in range(1, 50):
        direct.append(((paths[lag:] - paths[:-lag]) ** 2).sum(axis=2).mean())
    assert mean_square_displacement(paths) == pytest.approx(np.array(direct), rel=1e-9, abs=1e-9)


def test_brownian_walkers_give_back_D():
    """D = sigma^2 / 2 dt = 0.5 A^2/ps; a common drift is taken out, and with it 1/N of D."""
    paths = walkers(4000, 200, 0.1)
    dt, expected = 0.01, 0.5e-4
    still = frames_of(wrapped(paths, TILTED), TILTED)
    found = diffusion(still, "Ar", remove_drift=False, interval_ps=dt)
    assert found.n_dimensions == 3 and found.window_ps[1] == pytest.approx(7.5)
    assert pytest.approx(expected, rel=0.04) == found.D
    assert abs(found.D - expected) < 4 * found.D_error < 0.2 * expected
    blown = paths + np.arange(4000)[:, None, None] * [0.05, 0.0, 0.01]
    drifting = list(frames_of(wrapped(blown, TILTED), TILTED))
    found = diffusion(drifting, "Ar", interval_ps=dt)
    assert pytest.approx(expected * 199 / 200, rel=0.04) == found.D
    assert found.quantities("test")["D"].unit == "cm^2/s"
    assert diffusion(drifting, "Ar", remove_drift=False, interval_ps=dt).D != found.D


def test_brownian_walkers_in_a_slab_give_back_D_in_its_plane():
    cell = SKEWED[[0, 2, 1]]
    paths = walkers(4000, 200, [0.1, 0.1, 0.01], seed=1)
    found = diffusion(
        frames_of(wrapped(paths, cell), cell), "Ar", normal=1, remove_drift=False, interval_ps=0.01
    )
    assert found.n_dimensions == 2
    assert pytest.approx(0.5e-4, rel=0.04) == found.D
    assert np.array_equal(found.cell, cell)
    assert set(found.quantities("x")) == {"D_parallel", "D_parallel_error", "msd_parallel"}


def test_motion_that_is_not_diffusive_has_no_D():
    rng = np.random.default_rng(0)
    free = np.arange(400)[:, None, None] * rng.standard_normal((10, 3))
    caged = rng.standard_normal((400, 10, 3))
    for paths in (free, caged):
        found = diffusion(frames_of(paths, 1e4 * np.eye(3)), "Ar", interval_ps=0.01)
        assert found.D is None and found.window_ps is None
        assert set(found.quantities("x")) == {"msd"}
    assert diffusion(frames_of(free, 1e4 * np.eye(3)), "Ar", interval_ps=0.01).slope == (
        pytest.approx(2.0, abs=1e-6)
    )


def test_density_profile_integrates_to_the_number_of_atoms():
    """Layers 3.0 and 5.8 A above a sheet that wanders across the boundary of the cell."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(200):
        level = rng.uniform(-1.0, 1.0)
        heights = np.concatenate([0.05 * rng.standard_normal(8), [3.0] * 6, [5.8] * 4])
        heights[8:] += 0.1 * rng.standard_normal(10)
        fractions = np.column_stack([rng.uniform(size=(18, 2)), (level + heights) / 14.0])
        frames.append(Atoms("C8O10", fractions % 1.0 @ SKEWED, cell=SKEWED, pbc=True))
    found = density_profile(frames, "O", normal=2, surface="C")
    assert found.density.sum() * found.width * found.area == pytest.approx(10.0, abs=1e-9)
    assert found.first_layer == pytest.approx(3.0, abs=0.1)
    first = (found.height > 2.5) & (found.height < 3.5)
    assert found.density[first].sum() * found.width * found.area == pytest.approx(6.0, abs=0.05)
    assert found.area == pytest.approx(72.0)
    with pytest.raises(StructureError, match="perpendicular"):
        density_profile(frames_of(ideal_gas(TILTED, 2), TILTED), "Ar", normal=2)


def water_box(cell, n=4):
    """Water molecules on a row, some across the boundary."""
    atoms = Atoms(cell=cell, pbc=True)
    for k in range(n):
        one = molecule("H2O")
        one.rotate(40.0 * k, "x")
        one.positions += [0.1, 0.1, 3.2 * k]
        atoms += one
    return atoms


def test_molecules_are_counted_and_measured():
    cell = np.diag([9.0, 9.0, 3.2 * 4])
    whole = water_box(cell)
    ions = whole.copy()
    # One hydrogen of the first water moves to the second: OH and H3O.
    ions.positions[1] = ions.positions[3] + [0.98, 0.0, 0.0]
    torn = whole.copy()
    torn.positions[2] = [4.5, 4.5, 0.0]
    expected = whole.get_angle(1, 0, 2)
    frames = [whole, ions, ions, whole, torn, whole, ions, whole]
    for frame in frames:
        frame.wrap()
    found = water_molecules(frames)
    assert found.counts.tolist() == [
        {id(whole): [0, 0, 4, 0, 0], id(ions): [0, 1, 2, 1, 0], id(torn): [0, 1, 3, 0, 0]}[id(f)]
        for f in frames
    ]
    assert found.unbound.tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert found.reacted.tolist() == [0, 2, 2, 0, 1, 0, 2, 0]
    assert found.n_events == 3
    assert found.mean == pytest.approx(expected, abs=1e-6)
    assert found.sigma == pytest.approx(0.0, abs=1e-4)
    assert found.density[int(expected)] == pytest.approx(1.0)
    quantities = found.quantities("test")
    assert quantities["reactive_events"].value == 3
    assert quantities["HOH_angle_mean"].unit == "deg"


def test_a_shared_hydrogen_belongs_to_the_nearest_oxygen():
    atoms = molecule("H2O")
    atoms.positions += 9.0
    atoms += Atoms(
        "OHHOHH",
        [[0, 0, 0], [1.15, 0, 0], [-0.3, 0.9, 0], [2.4, 0, 0], [2.7, 0.9, 0], [2.7, -0.9, 0]],
    )
    found = water_molecules([atoms] * 4)
    assert found.counts[0].tolist() == [0, 0, 3, 0, 0]
    atoms.positions[4, 0] = 1.25
    assert water_molecules([atoms] * 4).counts[0].tolist() == [0, 1, 1, 1, 0]


def thermal_frames(n_frames, constraint):
    rng = np.random.default_rng(0)
    for _ in range(n_frames):
        atoms = bulk("Ar", a=5.0, cubic=True)
        masses = atoms.get_masses()[:, None]
        momenta = rng.standard_normal((4, 3)) * np.sqrt(masses * units.kB * 90.0)
        atoms.set_momenta(momenta - masses * momenta.sum(axis=0) / masses.sum())
        atoms.set_constraint(constraint)
        yield atoms


@pytest.mark.parametrize("constraint", [None, FixCom()])
def test_temperature_of_atoms_whose_center_of_mass_rests(constraint):
    frames = thermal_frames(4000, constraint)
    found = temperature_statistics(frames, target_K=90.0, interval_ps=0.1)
    assert found.n_dof == 9
    assert abs(found.mean - 90.0) < 4 * found.mean_error < 5.0
    assert found.sigma == pytest.approx(found.sigma_canonical, rel=0.05)
    assert found.sigma_canonical == pytest.approx(found.mean * np.sqrt(2 / 9))
    given = temperature_statistics(thermal_frames(50, constraint), n_dof=12, interval_ps=0.1)
    natural = temperature_statistics(thermal_frames(50, constraint), interval_ps=0.1)
    assert given.temperature == pytest.approx(natural.temperature * 9 / 12)


def moving_water(n_frames):
    rng = np.random.default_rng(0)
    atoms = water_box(np.diag([9.0, 9.0, 3.2 * 4]))
    for index in range(n_frames):
        atoms.positions += np.repeat(0.1 * rng.standard_normal((4, 3)), 3, axis=0)
        atoms.set_momenta(rng.standard_normal((12, 3)))
        frame = atoms.copy()
        frame.info["time_ps"] = 0.01 * index
        yield frame


def test_one_pass_over_a_file_equals_the_single_analyses(tmp_path):
    file = tmp_path / "water.traj"
    with Trajectory(file, "w") as writer:
        for frame in moving_water(80):
            writer.write(frame)
    together = water_observables(file, normal=2)
    found = together.quantities("test")
    parts = {
        **temperature_statistics(moving_water(80)).quantities("test"),
        **radial_distribution(moving_water(80), "O", normal=2).quantities("test"),
        **diffusion(moving_water(80), "O", normal=2, liquid=range(12)).quantities("test"),
        **water_molecules(moving_water(80)).quantities("test"),
        **density_profile(moving_water(80), "O", normal=2).quantities("test"),
    }
    assert list(found) == list(parts)
    for name, value in parts.items():
        one, other = (getattr(v, "value", getattr(v, "y", None)) for v in (found[name], value))
        assert np.array_equal(one, other), name


def test_unusable_trajectories_are_refused():
    gas = ideal_gas(SKEWED, 100)
    frames = list(frames_of(gas, SKEWED))
    with pytest.raises(StructureError, match="give interval_ps"):
        diffusion(frames, "Ar")
    with pytest.raises(StructureError, match="no momenta"):
        temperature_statistics(frames, interval_ps=1.0)
    with pytest.raises(StructureError, match="no atoms 'O'"):
        radial_distribution(frames, "O")
    with pytest.raises(StructureError, match="no frames"):
        density_profile([], "O")
    with pytest.raises(StructureError, match="too few"):
        diffusion(frames[:40], "Ar", interval_ps=1.0)
    frames[50].set_cell(SKEWED * 1.01)
    with pytest.raises(StructureError, match="cell changes"):
        radial_distribution(frames, "Ar")


# The peak is read from the kernel's record of this program; getrusage counts its parent's too.
MEASURE = """
import re, sys, time
sys.path.insert(0, {root!r})
from properties import water_observables
begun = time.monotonic()
found = water_observables({file!r}, normal=2, surface="C")
assert found.radial.n_frames == {n_frames}
seconds = time.monotonic() - begun
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
print(seconds, peak / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_ten_thousand_frames_of_150_atoms_take_less_than_a_minute(tmp_path):
    rng = np.random.default_rng(0)
    cell = np.diag([12.3, 12.8, 25.0])
    sheet = Atoms("C60", rng.uniform(size=(60, 3)) @ np.diag([12.3, 12.8, 0.2]))
    water = Atoms()
    for k in range(30):
        one = molecule("H2O")
        one.positions += [3.0 * (k % 4), 3.0 * (k // 4 % 4), 4.0 + 3.0 * (k // 16)]
        water += one
    start = sheet + water
    start.set_cell(cell)
    start.pbc = True
    file = tmp_path / "long.traj"
    moved = np.zeros((150, 3))
    with Trajectory(file, "w") as writer:
        for index in range(10_000):
            moved[60:] += np.repeat(0.03 * rng.standard_normal((30, 3)), 3, axis=0)
            frame = start.copy()
            frame.positions += moved
            frame.set_momenta(rng.standard_normal((150, 3)))
            frame.info["time_ps"] = 0.01 * index
            writer.write(frame)
    code = MEASURE.format(root=str(Path(__file__).parents[1]), file=str(file), n_frames=10_000)
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    seconds, megabytes = map(float, said)
    print(f"{seconds:.1f} s, peak {megabytes:.0f} MB, file {file.stat().st_size / 1e6:.0f} MB")
    assert seconds < 60.0
    assert megabytes < 300.0
