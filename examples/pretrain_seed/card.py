"""Write the model card of a seed from what was measured.

    python card.py runs/seed/checkpoint --results results --command "python train.py ..." \
        --out CARD.md

``results`` holds ``teachers.json`` and ``seed.json`` (check.py), ``stability.json`` (stability.py),
``compare.json`` (compare.py) and ``dft.json`` (``ase-finetune evaluate seed --system ... --json``,
one document per system, by name).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from compare import paired
from teachers import teacher_name
from train import load

from ase_finetune.checkpoint import Checkpoint

TEMPLATE = Path(__file__).with_name("card_template.md")
NAMES = {
    "a0_Mo": ("a0 of bcc Mo, A", 4),
    "C11": ("C11 of Mo, GPa", 0),
    "C12": ("C12", 0),
    "C44": ("C44", 0),
    "gamma_110_half": ("gamma {110} rigid at b/2, J/m^2", 2),
    "a0_graphene": ("a0 of graphene, A", 4),
    "a0_MoS2": ("a0 of MoS2, A", 4),
    "S_S_MoS2": ("S-S height of MoS2, A", 3),
    "MoS2_lowest_THz": ("lowest band of MoS2, Gamma-M-K-Gamma, THz", 2),
    "MoS2_E''_THz": ("E'' at Gamma, THz", 2),
    "MoS2_E'_THz": ("E'", 2),
    "MoS2_A1'_THz": ("A1'", 2),
    "MoS2_A2''_THz": ("A2''", 2),
    "d_OH": ("O-H of water, A", 3),
    "angle_HOH": ("H-O-H, degrees", 1),
    "dimer_binding_meV": ("water dimer binding, meV", 0),
    "dimer_OO": ("dimer O-O, A", 2),
}


def families(checkpoint: Checkpoint, labels: Path) -> tuple[str, str]:
    """Table of the held-out errors, and a sentence on what lies above 20 %."""
    splits = load(labels, 20.0, None)
    trained: dict[str, int] = {}
    for atoms in splits.train:
        if len(atoms) == 1:
            continue  # isolated atoms only set the E0s
        kind = atoms.info["config_type"]
        trained[kind] = trained.get(kind, 0) + 1
    errors: Mapping[str, Mapping[str, float]] = checkpoint.metrics["held_out"]
    rows, high = [], []
    for family, e in errors.items():
        percent = e["force_percent_of_rms"]
        if percent > 20.0:
            high.append(f"{family} ({percent:.0f} %)")
        teacher = "SNAP" if teacher_name(family) == "snap" else "SevenNet"
        rows.append(
            f"| {family} | {teacher} | {trained.get(family, 0)} | {e['frames']:.0f} | "
            f"{e['energy_rmse_meV_per_atom']:.1f} | {e['force_rmse_meV_per_A']:.0f} | "
            f"{percent:.0f} | {e['stress_rmse_meV_per_A3']:.1f} |"
        )
    only = [f"{k} ({n})" for k, n in sorted(trained.items()) if k not in errors]
    said = f"Trained on only: {', '.join(only)}. Above 20 % of the RMS force: "
    return "\n".join(rows), said + (", ".join(high) or "none") + "."


def physics(seed: Mapping[str, float], teacher: Mapping[str, float]) -> str:
    """Rows of the table of simple physics."""
    rows = []
    for key, (name, digits) in NAMES.items():
        ours, theirs = seed[key], teacher[key]
        off = "" if key == "MoS2_lowest_THz" else f"{100 * (ours / theirs - 1):+.1f} %"
        rows.append(f"| {name} | {ours:.{digits}f} | {theirs:.{digits}f} | {off} |")
    return "\n".join(rows)


def dynamics(runs: list[Mapping[str, Any]]) -> str:
    """Rows of the table of molecular dynamics."""
    rows = []
    for r in runs:
        drift = r.get("drift_meV_per_atom_per_ps")
        rows.append(
            f"| {r['name']} ({r['atoms']} atoms) | {r['temperature_K']:.0f} | "
            f"{r['reached_ps']:.0f} of {r['nvt_ps']:.0f} | {r['temperature_mean_K']:.0f} +- "
            f"{r['temperature_std_K']:.0f} | {r['problem'] or 'none'} | "
            f"{r['frames_with_reacted_water']} of {r['frames']} | "
            + ("" if drift is None else f"{drift:+.3f}")
            + f" | {r['dtype']} |"
        )
    return "\n".join(rows)


def comparison(results: list[Mapping[str, Any]]) -> str:
    """Rows of seed against scratch: mean force error and mean paired ratio."""
    rows = []
    for name, split, errors, ratios in paired(results):
        shown = [", ".join(f"{v:.1f}" for v in values) for values in errors.values()]
        mean = float(np.exp(np.mean(np.log(ratios))))
        rows.append(f"| {name} | {split} | {shown[0]} | {shown[1]} | {mean:.2f} |")
    return "\n".join(rows)


def zero_shot(documents: Mapping[str, Any]) -> str:
    """Rows of the zero-shot errors on the bundled DFT data."""
    rows = []
    for name, document in documents.items():
        for split, e in document["errors"]["zero_shot"].items():
            rows.append(f"| {name} | {split} | {e['n_frames']} | {e['force_rmse_meV_per_A']:.0f} |")
    return "\n".join(rows)


def main() -> None:
    """Fill the template."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--labels", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--command", required=True, help="that trained the checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    checkpoint = Checkpoint.load(args.checkpoint)
    found = {p.stem: json.loads(p.read_text()) for p in args.results.glob("*.json")}
    own = json.loads((args.checkpoint / "checkpoint.json").read_text())["tensors_sha256"]
    for r in (*found["stability"], *found["compare"]):
        if r["weights"] not in ("random", own):
            raise SystemExit("The results belong to other weights than the checkpoint.")
    rows, sentence = families(checkpoint, args.labels)
    size = (args.checkpoint / "model.safetensors").stat().st_size / 1e6
    a = checkpoint.architecture
    text = TEMPLATE.read_text(encoding="utf-8")
    for key, value in {
        "FRAMES": str(sum(1 for x in load(args.labels, 20.0, None).train if len(x) > 1)),
        "ARCHITECTURE": (
            f"{a['hidden_irreps']} hidden, {a['num_interactions']} layers, l <= {a['max_ell']}, "
            f"correlation {a['correlation']}, cutoff {a['r_max']:.1f} A, {size:.2f} MB in float32"
        ),
        "FAMILIES": rows,
        "FAMILY_NOTE": sentence,
        "PHYSICS": physics(found["seed"], found["teachers"]),
        "DYNAMICS": dynamics(found["stability"]),
        "COMPARISON": comparison(found["compare"]),
        "ZERO_SHOT": zero_shot(found["dft"]),
        "COMMAND": args.command,
    }.items():
        text = text.replace("{{" + key + "}}", value)
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
