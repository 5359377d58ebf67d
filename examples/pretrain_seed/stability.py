"""Molecular dynamics of a model: does it stay in one piece, and does it conserve energy?

Runs in the project's environment; finished runs are not repeated::

    python stability.py seed --out stability.json

NVT: 10 H2O on 32 C, 300 K for 20 ps and 500 K for 10 ps, 0.5 fs, Bussi thermostat, center of mass
fixed. NVE after the same thermostat: drift of the total energy, in double precision.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import families_molecular as molecular
import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule, mx2
from ase.constraints import FixCom
from ase.md.bussi import Bussi
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE
from explore import rectangle

from ase_finetune import FineTunedCalculator

OXYGEN_HYDROGEN = 1.3  # A, longest O-H distance that counts as bonded
CONTACT = 0.6  # A, no two atoms are ever closer


@dataclass(frozen=True)
class Plan:
    """One run: NVT for ``nvt_ps``, then NVE for ``nve_ps``."""

    name: str
    temperature_K: float
    timestep_fs: float
    nvt_ps: float
    nve_ps: float
    dtype: str


PLANS = (
    Plan("mo", 300.0, 2.0, 2.0, 4.0, "float64"),
    Plan("mos2", 300.0, 1.0, 1.0, 3.0, "float64"),
    Plan("water_graphene", 300.0, 0.5, 1.0, 2.0, "float64"),
    Plan("water_graphene", 300.0, 0.5, 20.0, 0.0, "float32"),
    Plan("water_graphene", 500.0, 0.5, 10.0, 0.0, "float32"),
)


def start(name: str, rng: np.random.Generator) -> Atoms:
    """Return the structure that a run begins with."""
    if name == "mo":
        return bulk("Mo", a=3.165, cubic=True) * (2, 2, 2)
    if name == "mos2":
        layer = mx2("MoS2", a=3.19, thickness=3.13, size=(3, 3, 1))
        layer.cell[2] = [0, 0, 15.0]
        layer.center(axis=2)
        layer.pbc = True
        return layer
    water = [molecule("H2O")] * 10
    sheet = rectangle(4, 2, 16.0)
    return molecular.pack(sheet, water, rng, closest=2.0, low=0.2, high=0.5)


def broken(atoms: Atoms, temperature_K: float) -> str | None:
    """Say what went wrong, or nothing."""
    if not np.isfinite(atoms.positions).all():
        return "positions are not finite"
    distances = atoms.get_all_distances(mic=True)
    np.fill_diagonal(distances, np.inf)
    if distances.min() < CONTACT:
        return f"two atoms {distances.min():.2f} A apart"
    if atoms.get_temperature() > 3.0 * temperature_K:
        return f"temperature {atoms.get_temperature():.0f} K"
    return None


def reacted(atoms: Atoms) -> int:
    """Count oxygen atoms that are not in an intact water molecule."""
    oxygen, hydrogen = (np.flatnonzero(atoms.numbers == z) for z in (8, 1))
    if len(oxygen) == 0:
        return 0
    near = atoms.get_all_distances(mic=True)[np.ix_(oxygen, hydrogen)] < OXYGEN_HYDROGEN
    return int((near.sum(axis=1) != 2).sum())


def run(plan: Plan, model: str | Path) -> dict[str, object]:
    """Run one plan and return what is reported."""
    rng = np.random.default_rng(5)
    atoms = start(plan.name, rng)
    atoms.calc = FineTunedCalculator(model, dtype=plan.dtype)
    FIRE(atoms, logfile=None, maxstep=0.1).run(fmax=0.05, steps=200)
    atoms.set_constraint(FixCom())
    thermalize_momenta(atoms, plan.temperature_K, rng=rng)
    begun, dt = time.perf_counter(), plan.timestep_fs * units.fs
    dynamics = Bussi(atoms, dt, plan.temperature_K, 100.0 * units.fs, rng=rng)
    every = max(1, round(20.0 / plan.timestep_fs))
    temperatures, reactions, problem, done = [], 0, None, 0
    steps = round(1000.0 * plan.nvt_ps / plan.timestep_fs)
    while done < steps and problem is None:
        dynamics.run(every)
        done += every
        problem = broken(atoms, plan.temperature_K)
        temperatures.append(atoms.get_temperature())
        reactions += reacted(atoms) > 0
        if done % (50 * every) == 0:
            wall = time.perf_counter() - begun
            print(
                f"{plan.name} {plan.temperature_K:.0f} K {done * plan.timestep_fs / 1e3:.1f} ps "
                f"{np.mean(temperatures):.0f} K {1e3 * wall / done:.1f} ms/step",
                flush=True,
            )
    settled = temperatures[len(temperatures) // 5 :]
    result: dict[str, object] = {
        **asdict(plan),
        "atoms": len(atoms),
        "reached_ps": done * plan.timestep_fs / 1e3,
        "problem": problem,
        "temperature_mean_K": float(np.mean(settled)),
        "temperature_std_K": float(np.std(settled)),
        "frames_with_reacted_water": reactions,
        "frames": len(temperatures),
        "ms_per_step": 1e3 * (time.perf_counter() - begun) / done,
    }
    if plan.nve_ps and problem is None:
        result.update(conservation(atoms, plan))
    return result


def conservation(atoms: Atoms, plan: Plan) -> dict[str, float]:
    """Drift (meV/atom/ps) by a straight line, and fluctuation about it (meV/atom)."""
    dynamics = VelocityVerlet(atoms, plan.timestep_fs * units.fs)
    energies = []
    for _ in range(round(1000.0 * plan.nve_ps / plan.timestep_fs) // 5):
        dynamics.run(5)
        energies.append(1e3 * atoms.get_total_energy() / len(atoms))
    ps = 5e-3 * plan.timestep_fs * np.arange(len(energies))
    line = np.polynomial.Polynomial.fit(ps, energies, 1)
    return {
        "drift_meV_per_atom_per_ps": float(line.deriv()(0.0)),
        "fluctuation_meV_per_atom": float(np.std(np.array(energies) - line(ps))),
    }


def main() -> None:
    """Run what the output file does not hold yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a checkpoint folder, or 'seed' for the bundled one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", type=int, help="numbers of the plans")
    args = parser.parse_args()
    if args.model == "seed":
        from ase_finetune.foundations import SEED

        args.model = SEED
    document = json.loads((Path(args.model) / "checkpoint.json").read_text())
    weights = document["tensors_sha256"]
    results = json.loads(args.out.read_text()) if args.out.exists() else []
    if any(r["weights"] != weights for r in results):
        raise SystemExit(f"{args.out} holds runs of other weights; choose another file.")
    for index in range(len(PLANS)) if args.only is None else args.only:
        plan = PLANS[index]
        if any(all(r[k] == v for k, v in asdict(plan).items()) for r in results):
            continue
        results.append({"weights": weights, **run(plan, args.model)})
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    for r in results:
        drift = r.get("drift_meV_per_atom_per_ps")
        print(
            f"{r['name']:15s} {r['temperature_K']:.0f} K, {r['reached_ps']:.1f} of "
            f"{r['nvt_ps']:.1f} ps: {r['temperature_mean_K']:.0f} +- "
            f"{r['temperature_std_K']:.0f} K, {r['problem'] or 'in one piece'}, "
            f"{r['frames_with_reacted_water']} of {r['frames']} frames with reacted water"
            + ("" if drift is None else f", NVE drift {drift:+.3f} meV/atom/ps")
        )


if __name__ == "__main__":
    main()
