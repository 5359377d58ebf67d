"""Weights of frames in the loss, and frames that the foundation labelled for the training."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import write
from conftest import cu_frames
from typer.testing import CliRunner

from ase_finetune import Checkpoint, RefineConfig, Splits, TrainConfig, finetune, refine
from ase_finetune.cli.app import app
from ase_finetune.cli.study import _base
from ase_finetune.data.checks import check_frames
from ase_finetune.data.read import read_frames
from ase_finetune.errors import ConfigError, DataError
from ase_finetune.evaluate import force_rmse, predict_frames
from ase_finetune.graphs import build_graph, collate, predict
from ase_finetune.loss import Loss
from ase_finetune.replay import (
    Replay,
    halves,
    replay_frames,
    replay_of,
    share_replay,
    with_replay,
)
from ase_finetune.run import run_job
from ase_finetune.stages import data_notes
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

    def test_training_frames_that_do_not_count(self, splits):
        none = weighted(splits.train, [0] * len(splits.train))
        free = none[0][:1]
        free.info["config_type"], free.info["config_weight"] = "IsolatedAtom", 1.0
        for train in (none, [*none, free]):
            with pytest.raises(DataError, match="All frames to train on have weight 0"):
                dataclasses.replace(splits, train=train).check(stress=False)
        valid = weighted(splits.valid, [0] * len(splits.valid))  # where weights do not count
        dataclasses.replace(splits, valid=valid).check(stress=False)

    def test_a_training_starts_from_frames_that_count(self, splits, config, tiny_config):
        few = dataclasses.replace(splits, train=splits.train[:8])
        frames = weighted(splits.train, [1] * 8 + [0] * 2)
        for atoms in frames[8:]:
            atoms.set_cell(atoms.cell.array * 1.1, scale_atoms=True)
            atoms.info["REF_energy"] += 50.0
            atoms.arrays["REF_forces"] = 3.0 * atoms.arrays["REF_forces"]
        more = dataclasses.replace(splits, train=frames)
        for settings in (dataclasses.replace(config, replay_weight=0.0), tiny_config):
            alone, beside = (prepare(s, settings).checkpoint for s in (few, more))
            assert beside.fingerprint() == alone.fingerprint()

    def test_a_frame_without_labels_has_no_weight(self, splits, start):
        (frame,) = weighted(splits.train[:1], ["heavy"])
        graph = build_graph(frame, start.checkpoint.numbers, 4.0, dtype=torch.float64)
        assert graph.weight == 1.0

    def test_the_user_is_told_of_them(self, splits, config):
        frames = weighted(splits.train, [2.0] * len(splits.train))
        frames[0].info["config_energy_weight"] = 0.0
        said = " ".join(data_notes(dataclasses.replace(splits, train=frames), config))
        assert "10 training frames have a weight of their own (config_weight)." in said
        assert "config_energy_weight of the frames: not used" in said
        assert "weight" not in " ".join(data_notes(splits, config))

    def test_weights_survive_the_file(self, splits, tmp_path):
        frames = weighted(splits.train[:2], (0.25, 3.0))
        write(tmp_path / "a.xyz", frames)
        write(tmp_path / "a.h5", frames, format="ase-finetune-h5")
        for name in ("a.xyz", "a.h5"):
            found = read_frames(tmp_path / name)
            check_frames(found, stress=False)
            assert [a.info["config_weight"] for a in found] == [0.25, 3.0], name

    def test_a_run_of_other_weights_is_another_run(self, splits):
        hashes = {
            dataclasses.replace(splits, train=weighted(splits.train, [w] * 10)).data_hash()
            for w in (1.0, 2.0)
        }
        assert len(hashes | {splits.data_hash()}) == 3


class TestReplay:
    def test_labels_are_what_the_training_starts_from(self, splits, start, seen_again):
        found = with_replay(splits, seen_again, start.checkpoint, 0.5)
        assert found.train is splits.train and len(found.fitted(0.5)) == len(splits.train) + 8
        assert splits.fitted(0.0) == splits.train and splits.replay_hash() is None
        graphs = make_graphs(found.replay, start.checkpoint, "float64", stress=True)
        batch = collate(list(graphs), 1)
        loss = Loss.for_graphs(graphs, *WEIGHTS)
        assert (loss.n_frames, loss.n_forces, loss.n_stresses) == (4.0, 0.5 * 8 * 12, 0.5 * 8 * 6)
        value = loss(predict(start.checkpoint.module(), batch, stress=True), batch)
        assert float(value) == pytest.approx(0.0, abs=1e-16)

    def test_a_run_is_known_by_the_structures(self, splits, start, seen_again):
        """Another processor rounds labels otherwise; and the data of the user are the same."""
        found = with_replay(splits, seen_again, start.checkpoint, 0.5)
        assert found.data_hash() == splits.data_hash()
        known = found.replay_hash()
        found.replay[0].arrays["REF_forces"] *= 1.0 + 1e-15
        assert found.replay_hash() == known
        found.replay[0].positions[0, 0] += 1e-9
        assert found.replay_hash() != known

    def test_measured_frames_are_known_by_structures_and_labels(
        self, splits, config, start, seen_again, tmp_path
    ):
        write(tmp_path / "bare.xyz", seen_again)

        def measured(**changes):
            foundation = dataclasses.replace(start.checkpoint, **changes)
            return replay_frames(tmp_path / "bare.xyz", foundation)

        every = measured()
        known = every.measured_hash()
        assert Replay().measured_hash() is None
        every.frames[0].arrays["REF_forces"] *= 1.0 + 1e-15  # by another number of threads
        assert every.measured_hash() == known
        half = share_replay(splits, every, start.checkpoint, 1.0)[1]
        assert half.measured_hash() != known
        for changes in (
            {"foundation": {"name": "other", "sha256": "0f" * 32}},
            {"config": {**start.checkpoint.config, "head": "omat"}},
        ):
            assert measured(**changes).measured_hash() != known
        write(tmp_path / "labelled.xyz", every.frames)
        own = [replay_frames(tmp_path / "labelled.xyz", start.checkpoint) for _ in range(2)]
        assert own[0].measured_hash() == own[1].measured_hash()
        own[1].frames[0].arrays["REF_forces"][0, 0] += 1e-3
        assert own[0].measured_hash() != own[1].measured_hash()

    def test_halves_are_blocks_of_each_type(self, seen_again):
        frames = [a.copy() for a in seen_again]
        for i, atoms in enumerate(frames):
            atoms.info.update(config_type="ab"[i % 2], place=i)
        fitted, measured = ([a.info["place"] for a in part] for part in halves(frames))
        assert (fitted, measured) == ([0, 1, 2, 3], [4, 5, 6, 7])
        with pytest.raises(DataError, match="1 replay frames are too few"):
            halves(frames[:1])

    def test_labels_do_not_move_the_E0s(self, splits, config, start, seen_again):
        found = with_replay(splits, seen_again, start.checkpoint, 0.5)
        assert prepare(found, config).checkpoint.E0s == start.checkpoint.E0s

    def test_less_is_forgotten(self, splits, config, start, seen_again):
        """In both stages, each by itself, on frames that were not trained on."""
        without = dataclasses.replace(config, replay_weight=0.0)
        replayed, measured = share_replay(splits, Replay(seen_again), start.checkpoint, 1.0)
        before = predict_frames(start.checkpoint, measured.frames).forces

        def forgotten(checkpoint):
            found = predict_frames(checkpoint, measured.frames).forces
            return float(np.sqrt(np.mean((found - before) ** 2)))

        plain = finetune(splits, without, start=start)
        kept = finetune(replayed, config, start=start)
        assert forgotten(kept) < 0.7 * forgotten(plain)
        for method in ("lbfgs", "lm"):
            settings = RefineConfig(method=method, evaluations=40)
            sees = dataclasses.replace(plain, config={**plain.config, "replay_weight": 1.0})
            a, b = refine(plain, splits, settings), refine(sees, replayed, settings)
            assert a.metrics["accepted"] and b.metrics["accepted"]
            # Equal to the last bit if a refinement did not see the frames.
            assert forgotten(b) < 0.95 * forgotten(a), method

    def test_a_run_shares_the_frames(self, splits, config, start, seen_again, tmp_path):
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
        text = "4 of them are trained on, labelled by the foundation, with weight 1; errors are"
        assert any(text in note for note in notes)
        assert text in " ".join(results["provenance"]["notes"])
        measured = share_replay(
            splits, replay_frames(tmp_path / "replay.xyz", start.checkpoint), start.checkpoint, 1.0
        )[1]
        assert results["provenance"]["measured_replay_hash"] == measured.measured_hash()
        again = run(resume=True)  # what is labelled anew has the same bits
        assert again["errors"] == results["errors"]

    def test_the_same_frames_for_a_refinement(
        self, splits, config, start, seen_again, tmp_path, foundation
    ):
        write(tmp_path / "replay.xyz", seen_again)
        every = replay_frames(tmp_path / "replay.xyz", start.checkpoint)
        replayed, _ = share_replay(splits, every, start.checkpoint, 1.0)
        kept = finetune(replayed, dataclasses.replace(config, epochs=2), start=start)
        # Neither the device of the training nor its demands on the data matter.
        kept = dataclasses.replace(kept, config={**kept.config, "device": "cuda"})
        for wrong in (splits, with_replay(splits, seen_again, start.checkpoint, 0.5)):
            with pytest.raises(ConfigError, match="replay_weight is 1, and the splits have"):
                refine(kept, wrong, RefineConfig(evaluations=4))
        again, replay = replay_of(kept, splits, tmp_path / "replay.xyz")
        assert len(replay.frames) == 4
        for a, b in zip(again.replay, replayed.replay, strict=True):
            np.testing.assert_array_equal(a.arrays["REF_forces"], b.arrays["REF_forces"])
            assert a.info["REF_energy"] == b.info["REF_energy"]
        assert "replay_hash" in refine(kept, again, RefineConfig(evaluations=2)).metrics
        assert replay_of(kept, splits, weight=0.0) == (splits, Replay())
        with pytest.raises(DataError, match="no replay frames"):
            replay_of(kept, splits)  # the foundation is not the seed and brings none
        write(tmp_path / "others.xyz", seen_again[2:])
        with pytest.raises(ConfigError, match="not the replay frames of the training"):
            replay_of(kept, splits, tmp_path / "others.xyz")
        assert replay_of(kept, splits, tmp_path / "others.xyz", 0.5)[0].fitted(0.5)
        changed = dataclasses.replace(kept, foundation={"name": "a", "sha256": "b"})
        with pytest.raises(ConfigError, match="has changed since"):
            replay_of(changed, splits, tmp_path / "replay.xyz")
        for bare in (Checkpoint.load(foundation), Checkpoint.load("seed")):
            with pytest.raises(ConfigError, match="was not fine-tuned from a foundation"):
                replay_of(bare, splits, tmp_path / "replay.xyz", 0.1)

    def test_the_refine_command(self, splits, config, start, seen_again, tmp_path):
        write(tmp_path / "replay.xyz", seen_again)
        write(tmp_path / "train.xyz", [*splits.train, *splits.valid])
        every = replay_frames(tmp_path / "replay.xyz", start.checkpoint)
        replayed, _ = share_replay(splits, every, start.checkpoint, 1.0)
        finetune(replayed, dataclasses.replace(config, epochs=2), start=start).save(tmp_path / "t")

        def call(name, *arguments):
            return CliRunner().invoke(app, [
                "refine", str(tmp_path / "t"), "--data", str(tmp_path / "train.xyz"),
                "--evaluations", "3", "--out", str(tmp_path / name), *arguments,
            ])  # fmt: skip

        assert call("none").exit_code == 2
        frames = ("--replay", str(tmp_path / "replay.xyz"))
        for name, arguments, weight in (
            ("same", frames, 1.0),
            ("other", (*frames, "--replay-weight", "0.2"), 0.2),
            ("without", ("--replay-weight", "0"), 0.0),
        ):
            result = call(name, *arguments)
            assert result.exit_code == 0, result.output
            assert Checkpoint.load(tmp_path / name).config["replay_weight"] == weight
        # Frames of the foundation are no stresses of the user's.
        bare = [a.copy() for a in splits.train]
        for atoms in bare:
            del atoms.info["REF_stress"]
        with pytest.raises(ConfigError, match="no training frame has a stress"):
            refine(
                Checkpoint.load(tmp_path / "t"),
                dataclasses.replace(replayed, train=bare),
                RefineConfig(evaluations=2, stress_weight=1.0),
            )

    def test_what_cannot_be(self, splits, config, start):
        with pytest.raises(ConfigError, match="replay_weight is 1, and the splits have no replay"):
            finetune(splits, config, start=start)
        with pytest.raises(ConfigError, match=r"is 0, and the splits have replay frames of weight"):
            finetune(
                with_replay(splits, splits.valid, start.checkpoint, 0.5),
                dataclasses.replace(config, replay_weight=0.0),
                start=start,
            )
        with pytest.raises(ConfigError, match="A study has no replay frames"):
            _base(["mo"], {"replay_weight": 0.1})
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


@pytest.mark.slow
def test_the_benchmark_runs_with_and_without_them():
    folder = Path(__file__).parents[1] / "examples" / "benchmarks"
    options = ["--weights", "0", "0.01", "--seeds", "1", "--epochs", "1"]
    done = subprocess.run(
        [sys.executable, "replay.py", *options], cwd=folder, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    without, replayed = map(json.loads, done.stdout.splitlines())
    assert without["frames"] == {"train": 32, "replay": 0}
    assert replayed["frames"] == {"train": 32, "replay": 23}
    for stage in ("zero_shot", "finetuned", "refined"):
        assert without[stage].keys() == replayed[stage].keys()
    assert without["zero_shot"] == replayed["zero_shot"]  # measured on the same frames
    replay = [one["refined"]["force_rmse_meV_per_A"]["replay"] for one in (without, replayed)]
    assert replay[1] < replay[0]
