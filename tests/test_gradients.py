"""The gradient of the loss, and the form of it that a GPU records, here without the recording."""

from __future__ import annotations

import pytest
import torch
from mace_kinds import KINDS, NUMBERS, assert_same_gradients, gradients_of, labelled_graphs

from ase_finetune import cuda_graphs
from ase_finetune.cuda_graphs import Recorder, Replayed, replayed
from ase_finetune.fast_edges import STEADY_WIDTH, sort_edges
from ase_finetune.graphs import collate, predict

ONE_HEAD = [kind for kind in KINDS if kind != "multi-head"]


@pytest.fixture
def never_recorded(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "RECORD_AT", 0)


@pytest.mark.usefixtures("never_recorded")
@pytest.mark.parametrize("kind", ONE_HEAD)
def test_the_recorded_form_has_the_same_loss_and_gradients(kind):
    exact, theirs = gradients_of(kind, accelerate=False)
    module, ours = gradients_of(kind)
    for seed in range(2):  # gradients add up
        graphs, loss = labelled_graphs(float(exact.r_max), seed)
        batch = collate(graphs, len(NUMBERS))
        edges = sort_edges(batch.inputs, module.far, steady=True)
        value = ours._recorded(batch, edges, loss, 0.5)
        assert value == pytest.approx(theirs.add(graphs, loss, 0.5), rel=1e-12)
    assert_same_gradients(module, exact, 1e-10)


@pytest.mark.usefixtures("never_recorded")
@pytest.mark.parametrize("kind", ONE_HEAD)
def test_the_replayed_module_gives_the_numbers_of_the_module(kind):
    module, _ = gradients_of(kind)
    graphs, _ = labelled_graphs(float(module.r_max), 1)
    batch = collate(graphs, len(NUMBERS))
    found, expected = (predict(m, batch, stress=True) for m in (Replayed(module), module))
    for key in ("energy", "node_energy", "forces", "stress"):
        torch.testing.assert_close(getattr(found, key), getattr(expected, key), rtol=0, atol=1e-12)
    assert not found.forces.requires_grad


def test_only_an_accelerated_module_on_a_gpu_is_replayed():
    module, _ = gradients_of("MP-0")
    assert replayed(module, "cpu") == (module, "cpu")
    plain, _ = gradients_of("MP-0", accelerate=False)
    assert replayed(plain, "cuda") == (plain, "cuda")


def test_steady_shapes_hold_whole_elements_and_every_edge():
    module, _ = gradients_of("MP-0")
    inputs = collate(labelled_graphs(float(module.r_max), 1)[0], len(NUMBERS)).inputs
    edges = sort_edges(inputs, module.far, steady=True)
    assert tuple(block.size for block in edges.blocks) == edges.counts
    degree = torch.bincount(inputs["edge_index"][1], minlength=len(edges.order))
    for block, found in zip(edges.blocks, edges.by_species(degree[edges.order]), strict=True):
        assert block.width % STEADY_WIDTH == 0
        assert 0 <= block.width - max(int(found.max()), 1) < STEADY_WIDTH
    real = edges.vectors.norm(dim=1) < module.far / 2
    assert int(real.sum()) == inputs["edge_index"].shape[1]


def test_what_cannot_be_recorded_is_said_and_evaluated(monkeypatch):
    recorder = Recorder(torch.device("cpu"))

    def fail(*_):
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr(cuda_graphs, "_Recording", fail)
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    module, _ = gradients_of("MP-0")
    inputs = collate(labelled_graphs(float(module.r_max), 1)[0], len(NUMBERS)).inputs
    edges = sort_edges(inputs, module.far, steady=True)
    calls = []

    def function(data, edges):
        calls.append(1)
        return dict(data)

    with pytest.warns(UserWarning, match="without a CUDA graph: operation not permitted"):
        for _ in range(cuda_graphs.RECORD_AT + 2):
            recorder(function, "name", {"batch": inputs["batch"]}, edges)
    assert len(calls) == cuda_graphs.RECORD_AT + 2
    assert recorder.n_recorded == 0
