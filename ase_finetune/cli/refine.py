"""The ``refine`` command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_finetune.cli.arguments import (
    MACE_KEYS,
    SPLIT_BY,
    VALID_FRACTION,
    Accelerate,
    Checkpoint,
    Device,
    EnergyKey,
    ForcesKey,
    Json,
    Replay,
    SplitBy,
    StressKey,
    SystemName,
    TrainFile,
    ValidFile,
    ValidFraction,
    Weight,
)
from ase_finetune.cli.data import load_checkpoint, splits_of
from ase_finetune.cli.guard import guarded
from ase_finetune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ase_finetune.data.splits import Splits

_LOOKED_AT = 16  # frames
_LARGE_OFFSET = 0.1  # eV/atom; energies of fine-tuned weights are off by a hundredth of it


@guarded
def refine(
    checkpoint: Checkpoint,
    data: TrainFile = None,
    valid: ValidFile = None,
    system: SystemName = None,
    method: Annotated[str, typer.Option(help="lbfgs or lm (Levenberg-Marquardt).")] = "lbfgs",
    evaluations: Annotated[int, typer.Option(help="Budget of full-batch gradients.")] = 80,
    history: Annotated[
        int | None, typer.Option(help="Pairs that L-BFGS keeps  (default: 20).")
    ] = None,
    proximal: Annotated[
        float, typer.Option(help="Weight of the squared distance to the start.")
    ] = 0.0,
    nvt_gate_ps: Annotated[
        float, typer.Option(help="Length of a dynamics that the weights must survive (0: none).")
    ] = 0.0,
    nvt_gate_K: Annotated[
        float | None,
        typer.Option("--nvt-gate-K", help="Temperature of that dynamics, K  (default: 300)."),
    ] = None,
    energy_weight: Weight = None,
    forces_weight: Weight = None,
    stress_weight: Weight = None,
    replay: Replay = None,
    replay_weight: Annotated[
        float | None,
        typer.Option(help="Weight of replay frames  (default: that of the training)"),
    ] = None,
    valid_fraction: ValidFraction = VALID_FRACTION,
    split_by: SplitBy = SPLIT_BY,
    energy_key: EnergyKey = MACE_KEYS[0],
    forces_key: ForcesKey = MACE_KEYS[1],
    stress_key: StressKey = MACE_KEYS[2],
    out: Annotated[Path, typer.Option(help="Folder of the refined checkpoint.")] = Path("refined"),
    overwrite: Annotated[bool, typer.Option(help="Replace the checkpoint in --out.")] = False,
    device: Device = "cpu",
    accelerate: Accelerate = True,
    as_json: Json = False,
) -> None:
    """Refine a checkpoint by L-BFGS or Levenberg-Marquardt, kept only if validation improves."""
    from ase_finetune.config import RefineConfig
    from ase_finetune.nvt_gate import gate_for
    from ase_finetune.refinement import loss_weights
    from ase_finetune.refinement import refine as refine_checkpoint
    from ase_finetune.replay import replay_of
    from ase_finetune.terminal import TerminalReporter

    if history is not None and method == "lm":
        raise ConfigError("--history is of L-BFGS; leave it out with --method lm.")
    if nvt_gate_K is not None and nvt_gate_ps == 0.0:
        raise ConfigError("--nvt-gate-K needs a dynamics; give its length by --nvt-gate-ps.")
    optional: dict[str, Any] = {"history": history, "nvt_gate_K": nvt_gate_K}
    config = RefineConfig(
        method=method,
        evaluations=evaluations,
        proximal=proximal,
        energy_weight=energy_weight,
        forces_weight=forces_weight,
        stress_weight=stress_weight,
        nvt_gate_ps=nvt_gate_ps,
        device=device,
        accelerate=accelerate,
        **{name: value for name, value in optional.items() if value is not None},
    )
    if out.exists() and not ((out / "checkpoint.json").is_file() and overwrite):
        raise ConfigError(f"{out} exists; choose another --out, or --overwrite a checkpoint there.")
    loaded = load_checkpoint(checkpoint)
    weights = loss_weights(loaded.config, config)
    stress = weights["stress_weight"] > 0
    splits, _ = splits_of(
        data,
        valid,
        [],
        system,
        valid_fraction,
        split_by,
        (energy_key, forces_key, stress_key),
        stress,
    )
    splits.check(stress=stress, elements=loaded.numbers)
    others = _of_other_frames(loaded, splits, weights["energy_weight"] > 0)
    splits, seen_again = replay_of(loaded, splits, replay, replay_weight)
    if replay_weight is not None:
        changed = {**loaded.config, "replay_weight": replay_weight}
        loaded = dataclasses.replace(loaded, config=changed)
    with TerminalReporter() as reporter:
        for note in (*splits.notes, *others, *seen_again.notes):
            reporter.note(note)
        gate = gate_for(splits, config, out.with_name(f"{out.name}_refused"))
        result = refine_checkpoint(loaded, splits, config, progress=reporter.record, gate=gate)
        if "note" in result.metrics:
            reporter.note(result.metrics["note"])
    result.save(out)
    summary = {k: v for k, v in result.metrics.items() if k not in ("history", "before")}
    if as_json:
        typer.echo(json.dumps({"checkpoint": str(out), **summary}, indent=1))
        return
    before, after = (
        result.metrics[k]
        for k in ("valid_force_rmse_before_meV_per_A", "valid_force_rmse_meV_per_A")
    )
    verdict = "accepted" if result.metrics["accepted"] else "not accepted: weights unchanged"
    typer.echo(
        f"Validation force RMSE {before:.2f} -> {after:.2f} meV/A ({verdict})\nCheckpoint: {out}"
    )


def _of_other_frames(loaded: Any, splits: Splits, energy: bool) -> list[str]:
    """Say so if the frames are not those of the training, split as there.

    Raises
    ------
    DataError
        If the energies of others are of another level of theory, or with other E0s: a refinement
        fits none. Those of the training may be far off, after a short one.
    """
    from ase_finetune.evaluate import predict_frames
    from ase_finetune.start import training_frames

    known = loaded.metrics.get("fit_hash")
    if known == splits.fit_hashes()["fit_hash"]:
        return []
    frames = training_frames(splits.train)
    some = frames[:: max(1, len(frames) // _LOOKED_AT)]
    offset, spread = predict_frames(loaded, some).energy_offset()
    if energy and abs(offset) > max(_LARGE_OFFSET, 3.0 * spread):
        raise DataError(
            f"The checkpoint's energies lie {offset:+.3g} eV/atom from those of the training "
            f"frames, with a spread of {spread:.2g}: another level of theory, or other E0s. "
            "Fine-tune it on them instead (`ase-finetune train --foundation CKPT`), which fits E0s."
        )
    if known is None:
        return []
    return [
        "These training and validation frames are not those of the training, or split otherwise: "
        "where frames that were trained on are among the validation frames, these accept too much."
    ]
