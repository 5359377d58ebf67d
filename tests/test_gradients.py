"""The gradient of the loss, and the form of it that a GPU records, here without the recording."""

from __future__ import annotations

import contextlib
import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mace_kinds import KINDS, NUMBERS, assert_same_gradients, gradients_of, labelled_graphs

from ase_finetune import cuda_graphs
from ase_finetune.cuda_graphs import KEPT, RECORD_AT, Recorder, Replayed, replayed
from ase_finetune.fast_edges import STEADY_WIDTH, sort_edges
from ase_finetune.graphs import collate, predict

ONE_HEAD = [kind for kind in KINDS if kind != "multi-head"]


@pytest.fixture
def never_recorded(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "RECORD_AT", 10**9)


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


class Emulated(cuda_graphs._Recording):
    """A recording without a GPU: the function is called again with the refilled buffers."""

    made = 0

    def __init__(self, function, data, edges, stream, pool):
        type(self).made += 1
        self.function, self.data, self.edges, self.last_used = function, data, edges, 0
        self.results = {key: value.detach().clone() for key, value in self.replay().items()}

    def replay(self):
        return self.function(self.data, self.edges)


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr(Emulated, "made", 0)
    monkeypatch.setattr(cuda_graphs, "_Recording", Emulated)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    return Emulated


def batch_of(module, seed, count=None):
    graphs, loss = labelled_graphs(float(module.r_max), seed)
    return collate(graphs[:count], len(NUMBERS)), loss


@pytest.mark.usefixtures("emulated")
def test_buffers_are_refilled_and_weights_are_read_where_they_are():
    exact, theirs = gradients_of("MPA-0", accelerate=False)
    module, ours = gradients_of("MPA-0")
    for step in range(RECORD_AT + 3):
        graphs, loss = labelled_graphs(float(exact.r_max), step)
        batch = collate(graphs, len(NUMBERS))
        edges = sort_edges(batch.inputs, module.far, steady=True)
        with torch.no_grad():
            for a, b in zip(exact.parameters(), module.parameters(), strict=True):
                a.mul_(1.01)
                b.copy_(a)
                a.grad = b.grad = None
        for _ in range(2):
            value = ours._recorded(batch, edges, loss, 0.5)
            assert value == pytest.approx(theirs.add(graphs, loss, 0.5), rel=1e-12)
        assert_same_gradients(module, exact, 1e-10)
    assert ours.recorder.n_recorded == 1
    # Weights that lie elsewhere are another recording.
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()
    for _ in range(RECORD_AT):
        ours._recorded(batch, edges, loss, 0.5)
    assert ours.recorder.n_recorded == 2


def test_frozen_parameters_micro_batches_and_another_loss(emulated):
    exact, theirs = gradients_of("MP-0", accelerate=False)
    module, ours = gradients_of("MP-0")
    for one, gradients in ((exact, theirs), (module, ours)):
        for name, parameter in one.named_parameters():
            parameter.requires_grad_("node_embedding" not in name)
        gradients.parameters = [p for p in one.parameters() if p.requires_grad]
    graphs, loss = labelled_graphs(float(exact.r_max), 0)
    heavy = dataclasses.replace(loss, energy_weight=100.0, stress_weight=0.0)
    for chosen in (loss, heavy):
        for _ in range(RECORD_AT + 1):
            for part in (graphs[:2], graphs[2:]):  # shapes that are recorded apart, added up
                batch = collate(part, len(NUMBERS))
                edges = sort_edges(batch.inputs, module.far, steady=True)
                value = ours._recorded(batch, edges, chosen, 0.5)
                assert value == pytest.approx(theirs.add(part, chosen, 0.5), rel=1e-12)
        assert_same_gradients(module, exact, 1e-10)
    assert emulated.made == 4
    assert module.node_embedding.linear.weight.grad is None


def test_many_shapes_are_not_recorded_over_and_over(emulated, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "STALE", 100)
    recorder = Recorder(torch.device("cpu"), [])
    edges = sort_edges(batch_of(*gradients_of("MP-0")[:1], 1)[0].inputs, 50.0, steady=True)

    def call(size):
        data = {"x": torch.full((size,), float(size))}
        out = recorder(lambda data, _: {"sum": data["x"].sum()}, "name", data, edges, to="cpu")
        assert float(out["sum"]) == size**2

    for _ in range(5):
        for size in range(1, KEPT + 5):
            call(size)
    assert emulated.made == recorder.n_recorded == KEPT
    for _ in range(200):
        call(KEPT + 4)
    assert emulated.made == KEPT + 1
    assert recorder.n_recorded == KEPT


def test_memory_is_given_back_before_an_evaluation_fails(emulated):
    recorder = Recorder(torch.device("cpu"), [])
    edges = sort_edges(batch_of(*gradients_of("MP-0")[:1], 1)[0].inputs, 50.0, steady=True)

    def function(data, _):
        if len(data["x"]) > 5 and recorder.n_recorded:
            raise torch.OutOfMemoryError
        return {"x": 2.0 * data["x"]}

    for _ in range(RECORD_AT):
        recorder(function, "name", {"x": torch.ones(2)}, edges, to="cpu")
    assert recorder.n_recorded == 1
    with pytest.warns(UserWarning, match="their memory is needed"):
        out = recorder(function, "name", {"x": torch.ones(9)}, edges, to="cpu")
    assert float(out["x"].sum()) == 18.0
    for _ in range(2 * RECORD_AT):
        recorder(function, "name", {"x": torch.ones(2)}, edges, to="cpu")
    assert emulated.made == 1


def test_what_cannot_be_recorded_is_said_once_and_evaluated(emulated, monkeypatch):
    def fail(*_):
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr(cuda_graphs, "_Recording", fail)
    module, _ = gradients_of("MP-0")
    twin = Replayed(module)
    batch, _ = batch_of(module, 1)
    expected = predict(module, batch, stress=True)
    with pytest.warns(UserWarning, match="without CUDA graphs: operation not permitted") as said:
        for _ in range(3 * RECORD_AT):
            found = predict(twin, batch, stress=True)
            torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-12)
    assert len([w for w in said if "CUDA graphs" in str(w.message)]) == 1


def test_threads_do_not_get_each_others_results(emulated):
    module, _ = gradients_of("MP-0")
    twin = Replayed(module)
    batches = [batch_of(module, seed)[0] for seed in range(2)]
    expected = [predict(module, batch, stress=True).forces for batch in batches]

    def work(k):
        return [predict(twin, batches[k], stress=True).forces for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        for k, found in enumerate(pool.map(work, range(2))):
            for forces in found:
                torch.testing.assert_close(forces, expected[k], rtol=0, atol=1e-12)
    assert emulated.made == 1


def test_large_batches_are_not_recorded(emulated, monkeypatch):
    module, _ = gradients_of("MP-0")
    batch, _ = batch_of(module, 1)
    expected = predict(module, batch, stress=True)
    twin = Replayed(module)
    for most in (0, batch.inputs["edge_index"].shape[1]):  # by their edges, by their padding
        monkeypatch.setattr(cuda_graphs, "MOST_EDGES", most)
        for _ in range(RECORD_AT):
            found = predict(twin, batch, stress=True)
        assert torch.equal(found.forces, expected.forces)
        assert not found.forces.requires_grad
    assert emulated.made == 0


def test_a_replayed_module_is_not_trained():
    module, _ = gradients_of("MP-0")
    with pytest.raises(ValueError, match="cannot be trained"):
        predict(Replayed(module), batch_of(module, 1)[0], stress=False, training=True)
