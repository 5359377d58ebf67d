"""What is measured on a liquid, in bulk or on a surface, from one run at constant temperature."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from properties.batch import Progress
from properties.density import DensityProfile, Heights
from properties.frames import Selection, Trajectory, iterate
from properties.msd import Diffusion, Paths
from properties.nvt import NVTResult, Preset, nvt_trajectory
from properties.quantity import Curve, Quantity
from properties.radial import Pairs, RadialDistribution
from properties.temperature import Temperatures, TemperatureStatistics
from properties.water import Molecules, WaterMolecules

N_BLOCKS = 4
RMAX = 6.0  # A
WIDTH = 0.05  # A
PROFILE_WIDTH = 0.1  # A


@dataclass(frozen=True, eq=False)
class WaterResult:
    """Structure and dynamics of water in one trajectory.

    Attributes
    ----------
    temperature : TemperatureStatistics
        Of all atoms.
    radial : RadialDistribution
        Of oxygen, ``g_OO``.
    diffusion : Diffusion
        Of oxygen relative to the center of mass of the water.
    molecules : WaterMolecules
        H-O-H angles, and molecules that are not water.
    profile : DensityProfile or None
        Of oxygen, for slabs.
    run : NVTResult or None
        The run, if it was made here.
    """

    temperature: TemperatureStatistics
    radial: RadialDistribution
    diffusion: Diffusion
    molecules: WaterMolecules
    profile: DensityProfile | None
    run: NVTResult | None = None

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return the values of all parts by name; see there.

        Parameters
        ----------
        source : str
            Origin to note in each, for example the name of the calculator.
        """
        found: dict[str, Quantity | Curve] = {}
        for part in (
            self.run,
            self.temperature,
            self.radial,
            self.diffusion,
            self.molecules,
            self.profile,
        ):
            if part is not None:
                found |= part.quantities(source)
        return found


def water_observables(
    trajectory: Trajectory,
    *,
    normal: int | None = None,
    surface: Selection | None = None,
    target_K: float | None = None,
    n_dof: int | None = None,
    interval_ps: float | None = None,
) -> WaterResult:
    """Measure water in a trajectory, reading it once.

    Parameters
    ----------
    trajectory : path, or iterable of Atoms
        At constant cell, with momenta, frames equally spaced in time. All of its oxygen and
        hydrogen is the water.
    normal : int, optional
        For slabs, the number of the cell vector normal to them: g_OO is then relative to the
        density profile, and D is that in the plane.
    surface : str or sequence of int, optional
        Atoms above whose mean plane heights are counted.
    target_K, n_dof, interval_ps
        See `temperature_statistics`.

    Returns
    -------
    WaterResult

    Raises
    ------
    StructureError
        For trajectories that cannot be used, or too few frames (44 are needed).
    """
    temperatures = Temperatures(target_K, n_dof, interval_ps)
    pairs = Pairs("O", normal, RMAX, WIDTH)
    molecules = Molecules("O", "H")
    heights = None if normal is None else Heights("O", normal, surface)
    paths: Paths | None = None
    for frame in iterate(trajectory):
        if paths is None:
            water = [i for i, symbol in enumerate(frame.symbols) if symbol in ("O", "H")]
            paths = Paths("O", normal, water, True, interval_ps)
        paths.add(frame)
        temperatures.add(frame)
        pairs.add(frame)
        molecules.add(frame)
        if heights is not None:
            heights.add(frame)
    assert paths is not None
    return WaterResult(
        temperature=temperatures.result(),
        radial=pairs.result(N_BLOCKS),
        diffusion=paths.result(N_BLOCKS),
        molecules=molecules.result(N_BLOCKS),
        profile=None if heights is None else heights.profile(PROFILE_WIDTH),
    )


def water_dynamics(
    atoms: Atoms,
    calc: Any,
    *,
    normal: int | None = None,
    surface: Selection | None = None,
    temperature_K: float = 300.0,
    preset: Preset = "short",
    folder: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> WaterResult:
    """Run water at constant temperature and measure it.

    Parameters
    ----------
    atoms : Atoms
        Start, left unchanged. All of its oxygen and hydrogen is the water.
    calc : ASE calculator
        Energies and forces.
    normal, surface
        See `water_observables`.
    temperature_K, preset, seed, progress, **settings
        See `nvt_trajectory`.
    folder : str or Path, optional
        Where ``water.traj`` is written and a run that was killed goes on; by default nothing is
        kept, and `run` of the result names a file that is gone.

    Returns
    -------
    WaterResult

    Raises
    ------
    BlowUpError
        If the run blew up: nothing is measured then. The trajectory up to there is in `folder`.
    StructureError, CalculatorError, PropertyError
        See `nvt_trajectory` and `water_observables`.

    Examples
    --------
    As a property of a system, a layer of water above a sheet of carbon in the xy plane::

        def water(calc, progress):
            return water_dynamics(start(), calc, normal=2, surface="C", progress=progress)
    """
    with tempfile.TemporaryDirectory() as scratch:
        run = nvt_trajectory(
            atoms,
            calc,
            file=Path(scratch if folder is None else folder) / "water.traj",
            temperature_K=temperature_K,
            preset=preset,
            seed=seed,
            progress=progress,
            **settings,
        ).require_intact()
        found = water_observables(
            run.file, normal=normal, surface=surface, target_K=temperature_K, n_dof=run.n_dof
        )
    return WaterResult(
        found.temperature, found.radial, found.diffusion, found.molecules, found.profile, run
    )
