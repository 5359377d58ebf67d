"""Weights of frames in the loss, and frames that the foundation labelled for the training."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from ase.io import write
from conftest import cu_frames

from ase_finetune import RefineConfig, Splits, TrainConfig, finetune, refine
from ase_finetune.data.checks import check_frames
from ase_finetune.errors import ConfigError, DataError
from ase_finetune.evaluate import force_rmse, predict_frames
from ase_finetune.graphs import collate, predict
from ase_finetune.loss import Loss
from ase_finetune.replay import Replay, replay_frames, replay_of, share_replay, with_replay
from ase_finetune.run import run_job
from ase_finetune.start import make_graphs, prepare

WEIGHTS = (2.0, 3.0, 5.0)


def weighted(frames, weights):
    found = [a.copy() for a in frames]
    for atoms, weight in zip(found, weights, strict=True):
        atoms.info["config_weight"] = weight
    return found


@pytest.fixture(scope="module")
def foundation(splits, tiny_config, tmp_path_factory):
    """A tiny model that knows other frames of Cu."""
    known = Splits(cu_frames(12, 11), cu_frames(4, 12))
    folder = tmp_path_factory.mktemp("replay") / "foundation"
    finetune(known, dataclasses.replace(tiny_config, epochs=20)).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def config(tiny_config, foundation):
    return dataclasses.replace(
        tiny_config, foundation=foundation, architecture={}, epochs=8, replay_weight=1.0
    )


@pytest.fixture(scope="module")
def start(splits, config):
    return prepare(splits, config)


@pytest.fixture(scope="module")
def seen_again():
    """Large strains, which are not among the training frames."""
    frames = cu_frames(8, 13)
    for i, atoms in enumerate(frames):
        atoms.set_cell(atoms.cell.array * (0.9 + 0.03 * i), scale_atoms=True)
        atoms.info, atoms.arrays = {}, {k: atoms.arrays[k] for k in ("numbers", "positions")}
    return frames


class TestWeights:
    @pytest.mark.parametrize("delta", [math.inf, 0.01])
    def test_a_frame_of_weight_two_is_two_frames(self, splits, start, delta):
        def loss(frames):
            graphs = make_graphs(frames, start.checkpoint, "float64", stress=True)
            of = Loss.for_graphs(list(graphs), *WEIGHTS, huber_delta=delta)
            assert of == Loss.for_graphs(graphs, *WEIGHTS, huber_delta=delta)
            batch = collate(list(graphs), 1)
            return float(of(predict(start.checkpoint.module(), batch, stress=True), batch))

        few = splits.train[:3]
        assert loss(weighted(few, (1, 2, 1))) == pytest.approx(loss([*few, few[1]]), rel=1e-12)
        assert loss(weighted(few, (1, 0, 1))) == pytest.approx(loss(few[::2]), rel=1e-12)
        small = loss(weighted(few, (0.01, 0.02, 0.01)))  # their sum is below one
        assert small == pytest.approx(loss([*few, few[1]]), rel=1e-12)

    def test_equal_weights_change_no_bit(self, splits, config, start):
        plain = dataclasses.replace(config, replay_weight=0.0, epochs=2)
        same = dataclasses.replace(splits, train=weighted(splits.train, [1] * len(splits.train)))
        a, b = (finetune(s, plain, start=start).tensors for s in (splits, same))
        assert all(torch.equal(a[name], b[name]) for name in a)

    @pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, "2", True, None])
    def test_what_is_no_weight(self, splits, weight):
        frames = weighted(splits.train[:3], (1.0, weight, 1.0))
        with pytest.raises(DataError, match=r"config_weight\) of frame 1 of the data set is"):
            check_frames(frames, stress=False)

    def test_a_set_that_does_not_count(self, splits):
        with pytest.raises(DataError, match="All frames of the data set have weight 0"):
            check_frames(weighted(splits.train, [0] * len(splits.train)), stress=False)

    def test_a_run_of_other_weights_is_another_run(self, splits):
        hashes = {
            dataclasses.replace(splits, train=weighted(splits.train, [w] * 10)).data_hash()
            for w in (1.0, 2.0)
        }
        assert len(hashes | {splits.data_hash()}) == 3


class TestReplay:
    def test_labels_are_what_the_training_starts_from(self, splits, start, seen_again):
        found = with_replay(splits, seen_again, start.checkpoint, 0.5)
        assert found.train is splits.train and len(found.fitted) == len(splits.train) + 8
        assert found.data_hash() != splits.data_hash()
        graphs = make_graphs(found.replay, start.checkpoint, "float64", stress=True)
        batch = collate(list(graphs), 1)
        loss = Loss.for_graphs(graphs, *WEIGHTS)
        assert (loss.n_frames, loss.n_forces, loss.n_stresses) == (4.0, 0.5 * 8 * 12, 0.5 * 8 * 6)
        value = loss(predict(start.checkpoint.module(), batch, stress=True), batch)
        assert float(value) == pytest.approx(0.0, abs=1e-16)

    def test_rounding_of_the_labels_is_no_other_run(self, splits, start, seen_again):
        found = with_replay(splits, seen_again, start.checkpoint, 0.5)
        known = found.data_hash()
        found.replay[0].arrays["REF_forces"] *= 1.0 + 1e-15
        found.replay[0].info["REF_energy"] *= 1.0 + 1e-15
        assert found.data_hash() == known
        other = with_replay(splits, seen_again, start.checkpoint, 0.4)
        assert len({known, other.data_hash(), splits.data_hash()}) == 3

    def test_labels_do_not_move_the_E0s(self, splits, config, start, seen_again):
        found = with_replay(splits, seen_again, start.checkpoint, 0.5)
        assert prepare(found, config).checkpoint.E0s == start.checkpoint.E0s

    def test_less_is_forgotten(self, splits, config, start, seen_again):
        """In both stages, on frames that were not trained on."""
        without = dataclasses.replace(config, replay_weight=0.0)
        replayed, measured = share_replay(splits, Replay(seen_again), start.checkpoint, 1.0)
        before = predict_frames(start.checkpoint, measured.frames).forces

        def forgotten(checkpoint):
            return float(
                np.sqrt(np.mean((predict_frames(checkpoint, measured.frames).forces - before) ** 2))
            )

        plain = finetune(splits, without, start=start)
        kept = finetune(replayed, config, start=start)
        assert forgotten(kept) < 0.7 * forgotten(plain)
        for method in ("lbfgs", "lm"):
            settings = RefineConfig(method=method, evaluations=40)
            a, b = refine(plain, splits, settings), refine(kept, replayed, settings)
            assert forgotten(b) < 0.7 * forgotten(a), method

    def test_a_run_shares_the_frames(self, splits, config, seen_again, tmp_path):
        write(tmp_path / "replay.xyz", seen_again)
        notes = []

        class Reporter:
            note = staticmethod(notes.append)
            record = staticmethod(lambda _: None)
            steps = staticmethod(lambda _: lambda done, total: None)

        def run(**more):
            return run_job(
                splits,
                dataclasses.replace(config, epochs=2),
                None,
                tmp_path / "run",
                Reporter(),
                replay=tmp_path / "replay.xyz",
                **more,
            )

        results = run()
        assert results["errors"]["finetuned"]["replay"]["n_frames"] == 4
        assert results["errors"]["finetuned"]["train"]["n_frames"] == len(splits.train)
        text = "4 of these frames are trained on, labelled by the foundation, with weight 1;"
        assert any(text in note for note in notes)
        assert text in " ".join(results["provenance"]["notes"])
        again = run(resume=True)  # what is labelled anew has the same bits
        assert again["errors"] == results["errors"]

    def test_a_refinement_sees_the_frames_of_the_training(
        self, splits, config, start, seen_again, tmp_path
    ):
        write(tmp_path / "replay.xyz", seen_again)
        every = replay_frames(tmp_path / "replay.xyz", start.checkpoint)
        replayed, _ = share_replay(splits, every, start.checkpoint, 1.0)
        kept = finetune(replayed, dataclasses.replace(config, epochs=2), start=start)
        with pytest.raises(ConfigError, match="was trained with replay frames"):
            refine(kept, splits, RefineConfig(evaluations=4))
        again, replay = replay_of(kept, splits, tmp_path / "replay.xyz")
        assert len(replay.frames) == 4
        assert again.data_hash() == replayed.data_hash()
        assert replay_of(kept, splits, weight=0.0) == (splits, Replay())
        with pytest.raises(DataError, match="no replay frames"):
            replay_of(kept, splits)  # the foundation is not the seed and brings none

    def test_what_cannot_be(self, splits, config, start):
        with pytest.raises(ConfigError, match="there are no replay frames"):
            finetune(splits, config, start=start)
        overlapping = splits.valid[0].copy()
        overlapping.positions[1] = overlapping.positions[0] + 0.1
        with pytest.raises(DataError, match="of the replay set"):
            with_replay(splits, [overlapping], start.checkpoint, 1.0)
        with pytest.raises(DataError, match="no replay frames to train on: give some"):
            share_replay(splits, Replay(), start.checkpoint, 1.0)
        with pytest.raises(ConfigError, match="needs a foundation"):
            TrainConfig(foundation="scratch", replay_weight=0.1)
        with pytest.raises(ConfigError, match="replay_weight"):
            TrainConfig(replay_weight=-0.1)


def test_errors_of_frames_do_not_depend_on_their_weights(splits, start):
    """The validation error is that of the frames; weights are for the loss."""
    module = start.checkpoint.module()
    frames = weighted(splits.valid, (1.0, 5.0, 0.0, 2.0))
    plain, other = (
        force_rmse(module, make_graphs(f, start.checkpoint, "float64", stress=False), 1, "cpu")
        for f in (splits.valid, frames)
    )
    assert plain == other
