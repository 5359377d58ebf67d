"""The fast evaluation gives mace-torch's numbers, in every derivative, for every layer type."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from mace_kinds import KINDS, NUMBERS, derivatives, random_mace
from mace_kinds import evaluation_batch as batch
from mace_kinds import evaluation_frames as frames

from ase_finetune import FineTunedCalculator, Splits, finetune
from ase_finetune._mace import o3
from ase_finetune.architecture import describe, single_head, stored_tensors
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.cli.options import resolve
from ase_finetune.config import RefineConfig, TrainConfig
from ase_finetune.errors import ConfigError, FoundationError
from ase_finetune.fast_edges import PADDED_EDGES, PADDED_SHARE, sort_edges
from ase_finetune.fast_harmonics import Harmonics
from ase_finetune.fast_mace import FastMACE, accelerate, accelerated, plain
from ase_finetune.foundations import SEED
from ase_finetune.graphs import predict
from ase_finetune.refinement import _Refiner
from ase_finetune.start import prepare
from ase_finetune.trainer import _Trainer

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_same_numbers_as_mace_torch(kind, dtype):
    module = random_mace(kind, NUMBERS, dtype)
    heads = [0, 1, 1, 0] if kind == "multi-head" else None
    joined = batch(module, frames(), dtype, heads)
    expected = derivatives(module, joined)
    found = derivatives(accelerate(module), joined)
    exact = expected
    if dtype == "float32":
        exact = derivatives(module.to(torch.float64), batch(module, frames(), "float64", heads))
    for key, value in expected.items():
        scale = float(value.abs().max())
        assert scale > 0, key
        error = float((found[key] - value).abs().max()) / scale
        # Third derivatives in single precision: mace-torch's own rounding can be larger.
        own = float((exact[key] - value).abs().max()) / scale
        assert error < max(TOLERANCE[dtype], 3.0 * own), (key, error, own)


@pytest.mark.parametrize(
    "changes",
    [
        {"correlation": 1},
        {"correlation": 2},
        {"max_ell": 3},
        {"use_agnostic_product": True},
        {"apply_cutoff": False},
    ],
)
def test_other_orders_and_switches(changes, monkeypatch):
    monkeypatch.setitem(KINDS, "changed", {"hidden": "4x0e+4x1o", **changes})
    module = random_mace("changed", NUMBERS)
    joined = batch(module, frames())
    expected, found = derivatives(module, joined), derivatives(accelerate(module), joined)
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=0, atol=1e-10 * float(value.abs().max())), key


def test_forces_and_stress_are_slopes_of_the_energy():
    module = accelerate(single_head(random_mace("OMAT-0", NUMBERS), None))
    atoms = frames()[0]
    h = 1e-5

    def energy(a):
        return float(predict(module, batch(module, [a]), stress=False).energy)

    result = predict(module, batch(module, [atoms]), stress=True)
    for i, axis in ((0, 0), (3, 2)):
        up, down = atoms.copy(), atoms.copy()
        up.positions[i, axis] += h
        down.positions[i, axis] -= h
        assert float(result.forces[i, axis]) == pytest.approx(
            -(energy(up) - energy(down)) / (2 * h), rel=1e-6, abs=1e-8
        )
    strain = np.zeros((3, 3))
    strain[1, 2] = strain[2, 1] = h
    values = []
    for sign in (1, -1):
        a = atoms.copy()
        a.set_cell(a.cell.array @ (np.eye(3) + sign * strain), scale_atoms=True)
        values.append(energy(a))
    slope = (values[0] - values[1]) / (2 * h) / atoms.cell.volume / 2
    assert float(result.stress[0, 3]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_nothing_jumps_at_the_cutoff_or_between_block_widths():
    module = accelerate(random_mace("MP-0", NUMBERS))
    r = float(module.r_max)
    values = []
    for distance in np.linspace(r - 2e-3, r + 2e-3, 9):
        atoms = Atoms("MoOO", [[0, 0, 0], [1.5, 0, 0], [distance, 0, 0]])
        out = predict(module, batch(module, [atoms]), stress=False)
        values.append([float(out.energy), float(out.forces[0, 0])])
    steps = np.abs(np.diff(values, axis=0)).max(axis=0)
    assert steps[0] < 1e-5 * abs(values[0][0]) + 1e-5 and steps[1] < 1e-3


def test_results_do_not_depend_on_the_order_or_the_company_of_a_frame():
    module = accelerate(random_mace("MPA-0", NUMBERS))
    one = frames()
    together = predict(module, batch(module, one), stress=True)
    first = 0
    for i, atoms in enumerate(one):
        alone = predict(module, batch(module, [atoms]), stress=True)
        last = first + len(atoms)
        assert float(alone.energy) == pytest.approx(float(together.energy[i]), abs=1e-11)
        assert torch.allclose(alone.forces, together.forces[first:last], atol=1e-11)
        assert torch.allclose(alone.stress[0], together.stress[i], atol=1e-12)
        first = last
    atoms = one[0]
    shuffled = np.random.default_rng(1).permutation(len(atoms))
    moved = predict(module, batch(module, [atoms[shuffled]]), stress=False)
    still = predict(module, batch(module, [atoms]), stress=False)
    assert torch.allclose(moved.forces, still.forces[torch.as_tensor(shuffled)], atol=1e-11)


def test_sorted_edges_hold_every_edge_once_and_little_padding():
    module = random_mace("MP-0", NUMBERS)
    many = [f * (2, 2, 2) if f.pbc.all() and len(f) > 1 else f for f in frames()]
    joined = batch(module, many)
    edges = sort_edges(joined.inputs, far=50.0)
    assert sum(b.size for b in edges.blocks) == len(edges.order)
    assert sum(b.size * b.width for b in edges.blocks) == len(edges.sender)
    assert (edges.order[edges.inverse] == torch.arange(len(edges.order))).all()
    real = edges.vectors.norm(dim=1) < float(module.r_max)
    sender, receiver = joined.inputs["edge_index"]
    positions, shifts = joined.inputs["positions"], joined.inputs["shifts"]
    wanted = positions[receiver] - positions[sender] + shifts

    def rows(s, r, v):
        table = np.column_stack([s.numpy(), r.numpy(), np.round(v.numpy(), 6)])
        return table[np.lexsort(table.T)]

    found = rows(edges.order[edges.sender[real]], edges.order[edges.receiver[real]],
                 edges.vectors[real])  # fmt: skip
    assert np.allclose(found, rows(sender, receiver, wanted))
    waste = len(edges.sender) - int(real.sum())
    assert waste <= PADDED_SHARE * len(sender) + PADDED_EDGES["cpu"] * len(edges.blocks)


def test_parameters_stay_those_of_the_module():
    module = random_mace("MPA-0", NUMBERS)
    fast = accelerate(module)
    assert accelerate(fast) is fast
    names = [name for name, _ in module.named_parameters()]
    assert [name for name, _ in fast.named_parameters()] == names
    assert fast.state_dict().keys() == module.state_dict().keys()
    assert all(a is b for a, b in zip(fast.parameters(), module.parameters(), strict=True))
    assert plain(fast) is module and plain(module) is module
    assert describe(fast) == describe(module)
    assert stored_tensors(fast).keys() == stored_tensors(module).keys()


def test_copies_and_casts_stay_consistent():
    module = random_mace("MP-0", NUMBERS)
    fast = accelerate(module)
    other = copy.deepcopy(fast)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    joined = batch(module, frames())
    before = predict(fast, joined, stress=False).energy
    assert torch.equal(before, predict(accelerate(module), joined, stress=False).energy)
    changed = predict(other, joined, stress=False).energy
    assert not torch.allclose(before, changed)
    assert torch.allclose(changed, predict(plain(other), joined, stress=False).energy, atol=1e-9)
    low = other.to(torch.float32)
    assert plain(low).r_max.dtype == torch.float32
    single = batch(low, frames(), "float32")
    for module_of in (low, plain(low)):
        energy = predict(module_of, single, stress=False).energy
        assert energy.dtype == torch.float32
        assert torch.allclose(energy.double(), changed, rtol=1e-4)


def test_what_it_cannot_convert_is_refused_by_name():
    module = random_mace("MP-0", NUMBERS)

    class StrangeReadout(torch.nn.Module):
        pass

    module.readouts[0] = StrangeReadout()
    with pytest.raises(FoundationError, match="readout StrangeReadout"):
        accelerate(module)
    with pytest.warns(UserWarning, match="StrangeReadout"):
        assert accelerated(module) is module
    with pytest.raises(FoundationError, match="a Linear"):
        accelerate(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("irreps", "normalize", "normalization"),
    [
        ("0e+1o", True, "integral"),
        ("0e+2e", True, "component"),
        ("0e+1o", False, "component"),
    ],
)
def test_other_spherical_harmonics_are_left_to_mace_torch(irreps, normalize, normalization):
    module = random_mace("MP-0", NUMBERS)
    module.spherical_harmonics = o3.SphericalHarmonics(o3.Irreps(irreps), normalize, normalization)
    with pytest.raises(FoundationError, match="spherical harmonics"):
        accelerate(module)


@pytest.mark.parametrize("l_max", [0, 1, 2, 3, 4, 6])
def test_harmonics_are_those_of_e3nn(l_max):
    theirs = o3.SphericalHarmonics(o3.Irreps.spherical_harmonics(l_max), True, "component")
    ours = Harmonics(theirs)
    vectors = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vectors[0], vectors[1] = 0.0, torch.tensor([0.0, -2.0, 0.0])
    np.testing.assert_allclose(ours(vectors), theirs(vectors), rtol=0, atol=1e-13)
    totals = torch.stack([part.square().sum(1) for part in ours(vectors[1:]).split(
        [2 * degree + 1 for degree in range(l_max + 1)], dim=1)])  # fmt: skip
    wanted = torch.arange(l_max + 1, dtype=torch.float64) * 2 + 1
    np.testing.assert_allclose(totals, wanted[:, None].expand_as(totals), rtol=1e-13)


def test_edge_irreps_without_a_source_are_left_to_mace_torch(monkeypatch):
    edges = {"edge_irreps": o3.Irreps("4x0e+4x1o+4x2e")}
    monkeypatch.setitem(KINDS, "changed", {"hidden": "4x0e+4x1o", **edges})
    with pytest.raises(FoundationError, match="no path leads to"):
        accelerate(random_mace("changed", NUMBERS))


def test_inference_mode_leaves_training_possible():
    module = accelerate(random_mace("OMAT-0", NUMBERS))
    joined = batch(module, frames())
    with torch.inference_mode():
        alone = module(dict(joined.inputs), compute_force=False)
    trained = predict(module, joined, stress=True, training=True)
    trained.forces.square().sum().backward()
    assert torch.allclose(alone["interaction_energy"], trained.energy.detach(), atol=1e-10)


def test_constants_of_a_module_built_in_float32_agree_to_its_rounding():
    low = random_mace("OMAT-0", NUMBERS, "float32").to(torch.float64)
    joined = batch(low, frames())
    expected, found = derivatives(low, joined), derivatives(accelerate(low), joined)
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=0, atol=1e-7 * float(value.abs().max())), key


@pytest.mark.parametrize("wanted", [True, False])
def test_training_and_refinement_use_what_the_settings_say(wanted):
    atoms = []
    for seed in range(4):
        frame = bulk("Mo", cubic=True)
        frame.rattle(0.05, seed=seed)
        frame.info["REF_energy"] = -20.0
        frame.arrays["REF_forces"] = np.full((2, 3), 0.1)
        atoms.append(frame)
    splits = Splits.from_named({"train": atoms[:2], "valid": atoms[2:]})
    config = TrainConfig(accelerate=wanted)
    start = prepare(splits, config)
    trainer = _Trainer(splits, config, start, None)
    assert isinstance(trainer.module, FastMACE) is wanted
    refiner = _Refiner(start.checkpoint, splits, RefineConfig(accelerate=wanted))
    assert isinstance(refiner.module, FastMACE) is wanted
    for command_line in ({"accelerate": wanted}, {}):
        resolved = resolve(command_line, 5)[1]
        assert resolved is not None
        assert resolved.accelerate is command_line.get("accelerate", True)
    with pytest.raises(ConfigError, match="true or false"):
        TrainConfig(accelerate=1)


def test_a_hundred_steps_of_training_agree(splits, tiny_config):
    steps = len(splits.train) // 2
    config = dataclasses.replace(tiny_config, epochs=-(-100 // steps), batch_size=2)
    start = prepare(splits, config)
    fast, slow = (
        finetune(splits, dataclasses.replace(config, accelerate=wanted), start=start)
        for wanted in (True, False)
    )
    losses = [[row["train_loss"] for row in c.metrics["history"]] for c in (fast, slow)]
    assert len(losses[0]) * steps >= 100 and losses[0][-1] < 0.5 * losses[0][0]
    np.testing.assert_allclose(*losses, rtol=1e-9)
    theirs = dict(slow.module().named_parameters())
    for name, value in fast.module().named_parameters():
        scale = float(theirs[name].detach().abs().max())
        assert torch.allclose(value, theirs[name], rtol=0.0, atol=1e-8 * scale), name


def test_the_calculator_and_the_checkpoint_use_it():
    checkpoint = Checkpoint.load(SEED)
    assert isinstance(checkpoint.module(accelerate=True), FastMACE)
    assert not isinstance(checkpoint.module(), FastMACE)
    atoms = bulk("Mo", cubic=True)
    atoms.rattle(0.05, seed=4)
    results = []
    for wanted in (True, False):
        calc = FineTunedCalculator(checkpoint, accelerate=wanted)
        atoms.calc = calc
        assert calc.parameters["accelerate"] is wanted
        results.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    (e1, f1, s1), (e2, f2, s2) = results
    assert e1 == pytest.approx(e2, abs=1e-10)
    assert np.allclose(f1, f2, atol=1e-10) and np.allclose(s1, s2, atol=1e-11)


def test_what_is_kept_of_untrained_weights_follows_them():
    exact = random_mace("MP-0b", NUMBERS)
    module = accelerate(copy.deepcopy(exact))
    for parameter in (*exact.parameters(), *module.parameters()):
        parameter.requires_grad_(False)
    found_in = frames()
    for factor in (1.0, 1.1, 1.0):
        with torch.no_grad():
            for a, b in zip(exact.parameters(), module.parameters(), strict=True):
                a.mul_(factor)
                b.mul_(factor)
        for part in (found_in, found_in[1:2], found_in):
            joined = batch(exact, part)
            found, expected = (m(dict(joined.inputs)) for m in (module, exact))
            assert torch.allclose(found["forces"], expected["forces"], rtol=0, atol=1e-10)
            assert torch.allclose(found["energy"], expected["energy"], rtol=1e-12)
    kept = [step.powers.kept for step in module._steps]
    assert all(kept)
    assert all(len(k) <= 2 * step.powers.order for k, step in zip(kept, module._steps, strict=True))
