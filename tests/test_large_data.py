"""Training on more frames than are validated, kept as graphs, or fitted at once."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from ase import Atoms

from ase_finetune import finetune
from ase_finetune.graphs import LabelledGraphs
from ase_finetune.loss import Loss
from ase_finetune.schedule import epoch_order
from ase_finetune.start import make_graphs, prepare, representative


@pytest.fixture(scope="module")
def start(splits, tiny_config):
    return prepare(splits, tiny_config)


def test_short_epochs_walk_through_one_shuffled_pass_after_another():
    n = 10
    passes = [epoch_order(1, epoch, n, n) for epoch in range(5)]
    assert all(sorted(order) == list(range(n)) for order in passes) and passes[3] != passes[4]
    walked = [i for epoch in range(5) for i in epoch_order(1, epoch, n, 4)]
    assert walked == passes[0] + passes[1]  # 5 x 4 = 2 x 10
    assert epoch_order(1, 0, n, 25) == passes[0] + passes[1] + passes[2][:5]
    assert epoch_order(2, 0, n, n) != passes[0]


def test_short_epochs_count_gradients_by_frames_and_resume(splits, tiny_config, start, tmp_path):
    config = dataclasses.replace(tiny_config, epoch_frames=4, epochs=5)
    result = finetune(splits, config, start=start)
    counted = [r["gradient_equivalents"] for r in result.metrics["history"]]
    assert counted == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    finetune(splits, dataclasses.replace(config, epochs=3), start=start, out=tmp_path)
    continued = finetune(splits, config, start=start, out=tmp_path, resume=True)
    for name, tensor in result.tensors.items():
        assert torch.equal(tensor, continued.tensors[name]), name


def test_graphs_that_do_not_fit_are_made_again(splits, start):
    kept = make_graphs(splits.train, start.checkpoint, "float64", stress=True)
    size = kept[0].n_bytes
    few = LabelledGraphs(
        splits.train,
        start.checkpoint.numbers,
        start.checkpoint.r_max,
        dtype=torch.float64,
        E0s=dict(start.checkpoint.E0s),
        stress=False,
        keep_bytes=2.5 * size,
    )
    assert size > kept[0].edge_index.numel() * 8
    assert all(few[i] is few[i] for i in (0, 1)) and few[7] is not few[7]
    assert kept[7] is kept[7]
    for a, b in zip(kept, few, strict=True):
        assert torch.equal(a.edge_index, b.edge_index) and torch.equal(a.forces, b.forces)
        assert a.energy == b.energy and b.stress is None
    assert few[-1].energy == kept[len(kept) - 1].energy
    assert Loss.for_graphs(few, 1.0, 1.0, 1.0) == Loss.for_graphs(list(few), 1.0, 1.0, 1.0)
    assert Loss.for_graphs(kept, 1.0, 1.0, 1.0) == Loss.for_graphs(list(kept), 1.0, 1.0, 1.0)


def test_e0s_of_large_data_come_from_frames_of_every_composition():
    frames = [Atoms("H2", [[0, 0, 0], [0.7, 0, 0.001 * i]]) for i in range(300)]
    frames += [Atoms("HO", [[0, 0, 0], [1, 0, 0]]), Atoms("O")]
    chosen = representative(frames, 30)
    assert len(chosen) < 35 and chosen[-1] is frames[-1] and chosen[-2] is frames[-2]
    assert chosen[0] is frames[0] and frames[299] in chosen
    assert representative(frames, 302) == frames
