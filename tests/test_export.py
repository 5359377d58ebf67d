"""What other codes make of an exported checkpoint: the same energies and forces."""

from __future__ import annotations

import os
import pickletools
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write
from ase.neighborlist import neighbor_list
from mace.calculators import MACECalculator
from mace_kinds import E0S, KINDS, NUMBERS, evaluation_frames, from_file, random_mace

from ase_finetune import FineTunedCalculator
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.export import export
from ase_finetune.fast_mace import accelerate

TOLERANCE = 1e-6  # eV and eV/A, the promise
SLOW = pytest.mark.slow
FLAG = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
FEW = ["MP-0", "OMAT-0", "multi-head"]


def assert_same(calculator, other, tolerance: float = TOLERANCE) -> None:
    for atoms in evaluation_frames():
        ours, peer = atoms.copy(), atoms.copy()
        ours.calc, peer.calc = calculator, other
        assert peer.get_potential_energy() == pytest.approx(
            ours.get_potential_energy(), rel=0, abs=tolerance
        )
        np.testing.assert_allclose(peer.get_forces(), ours.get_forces(), rtol=0, atol=tolerance)
        if atoms.pbc.all():
            np.testing.assert_allclose(peer.get_stress(), ours.get_stress(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_mace_calculator_and_the_way_back(kind, checkpoint_of, tmp_path):
    checkpoint = checkpoint_of(kind)
    done = export(checkpoint, tmp_path / "exported.model")
    assert done.size_bytes == done.path.stat().st_size
    assert (done.dtype, done.E0_rounding_eV) == ("float64", 0.0)
    ours = FineTunedCalculator(checkpoint)
    assert_same(ours, MACECalculator(model_paths=str(done.path), default_dtype="float64"))
    back = from_file(done.path)
    assert back.E0s == E0S
    assert_same(ours, FineTunedCalculator(back))


def mentioned(path) -> set[str]:
    """Top-level modules that a pickled file imports."""
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        names = [
            argument
            for opcode, argument, _ in pickletools.genops(archive.read(name))
            if opcode.name == "GLOBAL"
        ]
    return {n.split(".")[0].split(" ")[0] for n in names}


def test_an_accelerated_module_is_exported_as_that_of_mace_torch(tmp_path):
    module = accelerate(random_mace("MPA-0", NUMBERS))
    checkpoint = Checkpoint.from_module(module, E0S, stage="finetuned", foundation={})
    path = export(checkpoint, tmp_path / "exported.model").path
    assert mentioned(path) >= {"mace", "torch"}
    assert "ase_finetune" not in mentioned(path), "loads only where ase-finetune is installed"
    assert_same(
        FineTunedCalculator(checkpoint, accelerate=False),
        MACECalculator(model_paths=str(path), default_dtype="float64"),
    )


def test_single_precision_says_what_it_costs(checkpoint_of, tmp_path):
    checkpoint = checkpoint_of("MP-0", "float32")
    done = export(checkpoint, tmp_path / "single.model")
    assert done.dtype == "float32"
    assert done.E0_rounding_eV == pytest.approx(
        max(abs(e - float(np.float32(e))) for e in E0S.values())
    )
    assert done.E0_rounding_eV > 1e-4
    # In double precision nothing is lost, although its constants keep their single precision.
    double = export(checkpoint, tmp_path / "double.model", dtype="float64")
    assert (double.dtype, double.E0_rounding_eV) == ("float64", 0.0)
    ours = FineTunedCalculator(checkpoint)
    assert_same(ours, MACECalculator(model_paths=str(double.path), default_dtype="float64"))
    assert_same(ours, FineTunedCalculator(from_file(double.path)))
    small = checkpoint.replace(E0s=dict.fromkeys(NUMBERS, -1.5))
    path = export(small, tmp_path / "single.model", overwrite=True).path
    assert_same(
        FineTunedCalculator(small, dtype="float32"),
        MACECalculator(model_paths=str(path), default_dtype="float32"),
        tolerance=2e-4,
    )
    assert_same(FineTunedCalculator(small), FineTunedCalculator(from_file(path, dtype="float32")))


def test_the_seed_in_both_precisions(tmp_path):
    atoms = bulk("Mo", cubic=True) * (3, 3, 3)
    atoms.rattle(0.08, seed=1)
    peer = atoms.copy()
    atoms.calc = FineTunedCalculator("seed")
    for dtype in ("float32", "float64"):
        path = export("seed", tmp_path / f"{dtype}.model", dtype=dtype).path
        for calculator in (
            MACECalculator(model_paths=str(path), default_dtype="float64"),
            FineTunedCalculator(from_file(path, dtype=dtype)),
        ):
            peer.calc = calculator
            # 54 atoms whose E0 single precision rounds by 8e-8 eV.
            assert peer.get_potential_energy() == pytest.approx(
                atoms.get_potential_energy(), abs={"float32": 1e-5, "float64": 1e-6}[dtype], rel=0
            )
            np.testing.assert_allclose(peer.get_forces(), atoms.get_forces(), atol=TOLERANCE)


class Ghosts:
    """Atoms of a periodic cell and their images within reach, as LAMMPS has them.

    Local atoms come first. ``owner`` is the local atom that a ghost is the image of. The list of
    pairs is full: sender ``j``, receiver ``i``, ``r_j - r_i`` in ``rij``. With ``layers=2``
    ghosts have neighbors as well, as ``pair_style mace`` wants them; with 1 they have none.
    """

    def __init__(self, atoms: Atoms, r_max: float, layers: int) -> None:
        reach = layers * r_max
        i, S = neighbor_list("jS", atoms, reach)  # j: which atom has an image within reach
        images = sorted({(int(a), *map(int, s)) for a, s in zip(i, S, strict=True)})
        images = [image for image in images if image[1:] != (0, 0, 0)]
        self.nlocal, self.ntotal = len(atoms), len(atoms) + len(images)
        self.owner = np.array([*range(len(atoms)), *(image[0] for image in images)])
        shifts = np.array([image[1:] for image in images]).reshape(-1, 3)
        moved = atoms.positions[self.owner[self.nlocal :]] + shifts @ atoms.cell.array
        self.positions = np.concatenate([atoms.positions, moved])
        every = Atoms(numbers=atoms.numbers[self.owner], positions=self.positions)
        self.pair_i, self.pair_j, self.rij = neighbor_list("ijD", every, r_max)
        if layers == 1:
            kept = self.pair_i < self.nlocal
            self.pair_i, self.pair_j = self.pair_i[kept], self.pair_j[kept]
            self.rij = self.rij[kept]
        self.elems = np.searchsorted(NUMBERS, every.numbers)

    def on_owners(self, forces: np.ndarray) -> np.ndarray:
        """Add the forces on images to those on the atoms."""
        total = np.zeros((self.nlocal, 3))
        np.add.at(total, self.owner, forces)
        return total


def periodic() -> Atoms:
    atoms = bulk("Mo", a=3.2, cubic=True)
    atoms.numbers[1] = 8
    atoms += Atoms("H", positions=[[1.6, 0.1, 1.7]])
    atoms.rattle(0.05, seed=5)
    return atoms


def in_lammps(module, ghosts: Ghosts, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Call a compiled module as ``pair_style mace`` does."""
    n, pairs = ghosts.ntotal, len(ghosts.pair_i)
    data = {
        "batch": torch.zeros(n, dtype=torch.int64),
        "cell": torch.zeros(3, 3, dtype=dtype),
        "edge_index": torch.tensor(np.stack([ghosts.pair_j, ghosts.pair_i])),
        "energy": torch.zeros(1, dtype=dtype),
        "forces": torch.zeros(n, 3, dtype=dtype),
        "node_attrs": torch.nn.functional.one_hot(torch.tensor(ghosts.elems), 3).to(dtype),
        "positions": torch.tensor(ghosts.positions, dtype=dtype),
        "ptr": torch.tensor([0, n]),
        "shifts": torch.zeros(pairs, 3, dtype=dtype),
        "unit_shifts": torch.zeros(pairs, 3, dtype=dtype),
        "weight": torch.ones(1, dtype=dtype),
    }
    local = torch.arange(n) < ghosts.nlocal
    return module(data, local, True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", [k if k in FEW else pytest.param(k, marks=SLOW) for k in KINDS])
def test_lammps_file_gives_the_same_numbers(kind, checkpoint_of, tmp_path):
    flag = os.environ.pop(FLAG, None)
    checkpoint = checkpoint_of(kind)
    done = export(checkpoint, tmp_path / "exported-lammps.pt", format="lammps")
    assert FLAG not in os.environ, "torch's safe loading was turned off"
    if flag is not None:
        os.environ[FLAG] = flag
    module = torch.jit.load(done.path)
    atoms = periodic()
    atoms.calc = FineTunedCalculator(checkpoint)
    ghosts = Ghosts(atoms, checkpoint.r_max, layers=2)
    assert ghosts.ntotal > 10 * ghosts.nlocal
    out = in_lammps(module, ghosts, torch.float64)
    assert float(out["total_energy_local"].detach()) == pytest.approx(
        atoms.get_potential_energy(), rel=0, abs=TOLERANCE
    )
    np.testing.assert_allclose(
        ghosts.on_owners(out["forces"].numpy()), atoms.get_forces(), rtol=0, atol=TOLERANCE
    )
    # What pair_style mace reads from the file beside.
    assert module.atomic_numbers.tolist() == NUMBERS
    assert float(module.r_max) == checkpoint.r_max


@SLOW
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_lammps_file_in_single_precision(checkpoint_of, tmp_path):
    checkpoint = checkpoint_of("MP-0", "float32").replace(E0s=dict.fromkeys(NUMBERS, -1.5))
    path = export(checkpoint, tmp_path / "exported-lammps.pt", format="lammps").path
    atoms = periodic()
    atoms.calc = FineTunedCalculator(checkpoint)
    ghosts = Ghosts(atoms, checkpoint.r_max, layers=2)
    out = in_lammps(torch.jit.load(path), ghosts, torch.float32)
    assert out["forces"].dtype == torch.float32
    assert float(out["total_energy_local"].detach()) == pytest.approx(
        atoms.get_potential_energy(), rel=0, abs=1e-4
    )


def converted(path, *options: str) -> None:
    """Run mace-torch's converter; its result lies beside the model."""
    done = subprocess.run(
        [sys.executable, "-m", "mace.cli.create_lammps_model", str(path), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@SLOW
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_the_converter_of_mace_torch_takes_the_model(checkpoint_of, tmp_path):
    checkpoint = checkpoint_of("multi-head")
    path = export(checkpoint, tmp_path / "exported.model").path
    converted(path)
    theirs = torch.jit.load(f"{path}-lammps.pt")
    ours = torch.jit.load(export(checkpoint, tmp_path / "ours.pt", format="lammps").path)
    ghosts = Ghosts(periodic(), checkpoint.r_max, layers=2)
    found, wanted = (in_lammps(m, ghosts, torch.float64) for m in (ours, theirs))
    for key in ("total_energy_local", "forces", "virials"):
        assert torch.equal(found[key], wanted[key]), key


class FakeMLIAP(Ghosts):
    """What LAMMPS hands to an ML-IAP model, on one processor."""

    def __init__(self, atoms: Atoms, r_max: float) -> None:
        super().__init__(atoms, r_max, layers=1)
        self.npairs = len(self.pair_i)
        self.eatoms = np.zeros(self.nlocal)
        self.energy = 0.0
        self.forces = np.zeros((self.ntotal, 3))

    def forward_exchange(self, source, target, length) -> None:
        target.copy_(source[torch.as_tensor(self.owner)])

    def reverse_exchange(self, source, target, length) -> None:
        target.zero_()
        target.index_add_(0, torch.as_tensor(self.owner), source)

    def update_pair_forces_gpu(self, pairs) -> None:
        np.add.at(self.forces, self.pair_i, pairs.numpy())
        np.add.at(self.forces, self.pair_j, -pairs.numpy())


def assert_same_in_ml_iap(model, checkpoint: Checkpoint) -> None:
    atoms = periodic()
    data = FakeMLIAP(atoms, checkpoint.r_max)
    model.compute_forces(data)
    atoms.calc = FineTunedCalculator(checkpoint)
    assert model.element_types == ["H", "O", "Mo"]
    assert data.energy == pytest.approx(atoms.get_potential_energy(), rel=0, abs=TOLERANCE)
    np.testing.assert_allclose(
        data.on_owners(data.forces), atoms.get_forces(), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("kind", FEW)
def test_ml_iap_takes_the_model(kind, checkpoint_of, tmp_path):
    """What the converter wraps, but for cuequivariance."""
    from mace.calculators.lammps_mliap_mace import LAMMPS_MLIAP_MACE

    checkpoint = checkpoint_of(kind)
    path = export(checkpoint, tmp_path / "exported.model").path
    module = torch.load(path, weights_only=False)
    module.lammps_mliap = True
    assert_same_in_ml_iap(LAMMPS_MLIAP_MACE(module, head=module.heads[0]), checkpoint)


@SLOW
@pytest.mark.parametrize("kind", FEW)
def test_the_ml_iap_converter_takes_the_model(kind, checkpoint_of, tmp_path):
    pytest.importorskip("cuequivariance_torch", reason="the converter needs cuequivariance")
    checkpoint = checkpoint_of(kind)
    path = export(checkpoint, tmp_path / "exported.model").path
    converted(path, "--format=mliap")
    model = torch.load(f"{path}-mliap_lammps.pt", weights_only=False)
    assert_same_in_ml_iap(model, checkpoint)


def labelled(count: int) -> list[Atoms]:
    found = []
    for seed in range(count):
        atoms = bulk("Mo", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.info["REF_energy"] = 2 * E0S[42] - 14.0 + 0.1 * seed
        atoms.arrays["REF_forces"] = np.random.default_rng(seed).normal(size=(2, 3))
        found.append(atoms)
    return found


@SLOW
def test_mace_run_train_starts_from_it_and_we_from_its_result(checkpoint_of, tmp_path):
    path = export(checkpoint_of("multi-head"), tmp_path / "exported.model").path
    write(tmp_path / "train.xyz", labelled(4))
    write(tmp_path / "valid.xyz", labelled(2))
    trained = subprocess.run(
        [
            sys.executable, "-m", "mace.cli.run_train", "--name=tuned", "--train_file=train.xyz",
            "--valid_file=valid.xyz", f"--foundation_model={path}", "--E0s=foundation",
            "--multiheads_finetuning=False", "--max_num_epochs=1", "--batch_size=2",
            "--lr=1e-4", "--plot=False", "--device=cpu",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr[-2000:]
    log = trained.stdout + trained.stderr
    assert f"Using foundation model {path}" in log
    assert "Epoch 0: head: Default" in log
    tuned = from_file(tmp_path / "tuned.model")
    assert tuned.E0s == {42: E0S[42]}
    assert_close_but_changed(checkpoint_of("multi-head"), tuned)


def assert_close_but_changed(before: Checkpoint, after: Checkpoint) -> None:
    atoms = labelled(1)[0]
    energies = []
    for checkpoint in (before, after):
        atoms.calc = FineTunedCalculator(checkpoint)
        energies.append(atoms.get_potential_energy())
    assert 1e-6 < abs(energies[1] - energies[0]) < 1.0
