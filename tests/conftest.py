"""Labelled frames and small models that the tests share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from ase_finetune.checkpoint import Checkpoint
from ase_finetune.config import TrainConfig
from ase_finetune.data.splits import Splits

# As the command line does; subprocesses of tests inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

TINY = {
    "r_max": 4.0,
    "hidden_irreps": "8x0e",
    "max_ell": 1,
    "correlation": 2,
    "radial_MLP": [8],
    "MLP_irreps": "4x0e",
    "num_bessel": 4,
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real DFT frames that are not part of the product."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ASEFT_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real DFT test data at {folder} (set ASEFT_TEST_DATA)")
    return folder


def label(atoms: Atoms) -> Atoms:
    """Label a frame with EMT under MACE's keys."""
    frame = atoms.copy()
    frame.calc = EMT()
    energy, forces = frame.get_potential_energy(), frame.get_forces()
    stress = frame.get_stress() if frame.pbc.all() else None
    frame.calc = None
    frame.info["REF_energy"], frame.arrays["REF_forces"] = energy, forces
    if stress is not None:
        frame.info["REF_stress"] = stress
    return frame


def cu_frames(n: int, seed: int) -> list[Atoms]:
    """Strained and rattled 4-atom cells of Cu, labelled with EMT."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", a=3.6, cubic=True)
        strain = np.eye(3) + 0.02 * rng.standard_normal((3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += 0.06 * rng.standard_normal((4, 3))
        frames.append(label(atoms))
    return frames


@pytest.fixture(scope="session")
def splits() -> Splits:
    """Train, valid and one test set of Cu frames with EMT labels."""
    return Splits(cu_frames(10, 1), cu_frames(4, 2), {"test_id": cu_frames(4, 3)})


@pytest.fixture(scope="session")
def tiny_config() -> TrainConfig:
    """A tiny model from scratch, trained in seconds."""
    return TrainConfig(
        foundation="scratch",
        architecture=TINY,
        epochs=6,
        lr=1e-2,
        batch_size=3,
        stress_weight=10.0,
        ema_decay=0.9,
    )


@pytest.fixture(autouse=True)
def _keep_dtype() -> object:
    """No test may change torch's default dtype for the next."""
    before = torch.get_default_dtype()
    yield
    assert torch.get_default_dtype() == before


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory):
    """One checkpoint of every layer type, read from a file of mace-torch, with E0s of its own."""
    from mace_kinds import E0S, NUMBERS, from_file, random_mace

    made = {}

    def of(kind: str, dtype: str = "float64") -> Checkpoint:
        if (kind, dtype) not in made:
            path = tmp_path_factory.mktemp("kinds") / "foundation.model"
            torch.save(random_mace(kind, NUMBERS, dtype), path)
            head = "special" if kind == "multi-head" else None
            made[kind, dtype] = from_file(path, head, dtype)
        return made[kind, dtype].replace(E0s=E0S)

    return of
