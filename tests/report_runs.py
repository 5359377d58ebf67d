"""A synthetic folder of a run, with the numbers of a plausible one, and readers of pages."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np

STAGES = ("zero_shot", "finetuned", "refined")
SPLITS = {"train": 28, "valid": 5, "test_id": 10, "test_ood": 8}
FORCE = {
    "zero_shot": {"train": 412.3, "valid": 398.1, "test_id": 405.712, "test_ood": 688.4},
    "finetuned": {"train": 38.2, "valid": 49.9, "test_id": 52.44, "test_ood": 121.7},
    "refined": {"train": 30.9, "valid": 46.2, "test_id": 47.318, "test_ood": 117.2},
}
PROPERTIES = {
    "a0": ("A", 3.1615, (3.2104, 3.1622, 3.1617)),
    "bulk_modulus_eos": ("GPa", 254.2, (221.0, 256.9, 255.4)),
    "C11": ("GPa", 461.8, (360.2, 470.9, 465.6)),
    "C12": ("GPa", 157.3, (190.4, 153.1, 156.0)),
    "C44": ("GPa", 102.4, (60.7, 108.8, 104.1)),
    "bulk_modulus_vrh": ("GPa", 258.8, (247.0, 259.0, 259.2)),
    "poisson_ratio_vrh": ("1", 0.297, (0.371, 0.289, 0.295)),
    "poisson_ratio_100": ("1", 0.254, (0.346, 0.245, 0.251)),
    "gamma_usf_110_rigid": ("J/m^2", 1.4905, (0.842, 1.441, 1.467)),
}
OURS = "GPAW PBE, level of the labels; Birch-Murnaghan fit <within> +-3.5 %"
TUTORIAL = "DFT of a tutorial, https://arxiv.org/abs/2506.21935"
GSFE = {
    "110": (0.0, 0.18294, 0.60311, 1.02833, 1.32198, 1.47288, 1.47405, 1.32382, 1.02988, 0.60331,
            0.18370, 0.00264),
    "121": (0.0, 0.22114, 0.73539, 1.20993, 1.46582, 1.50960, 1.41186, 1.25574, 1.02979, 0.66239,
            0.21274, -0.00425),
}  # fmt: skip


class Links(HTMLParser):
    """Everything that a browser would load or follow."""

    def __init__(self, page):
        super().__init__()
        self.targets, self.ids, self.alts = [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                self.targets.append(value)
            if name == "id":
                self.ids.add(value)
            if name == "alt":
                self.alts.append(value)


def _errors(stage, split):
    force = FORCE[stage][split]
    return {
        "energy_rmse_meV_per_atom": force / 9.0,
        "force_rmse_meV_per_A": force,
        "stress_rmse_meV_per_A3": force / 40.0,
        "n_frames": SPLITS[split],
    }


def _row(unit, reference, value):
    return {"value": value, "unit": unit, "reference": reference, "reference_source": OURS,
            "relative_error": (value - reference) / reference}  # fmt: skip


def _curve(x, y, x_unit="b", y_unit="J/m^2", source="synthetic"):
    return {"x": list(x), "y": list(y), "x_unit": x_unit, "y_unit": y_unit, "source": source}


def _log(rng):
    rows = []
    for stage, n, start, end in (("finetuned", 100, 300.0, 50.0), ("refined", 60, 49.0, 46.2)):
        for i in range(1, n + 1):
            force = end + (start - end) * np.exp(-8.0 * i / n) * (1 + 0.1 * rng.standard_normal())
            rows.append({
                "stage": stage, "epoch": i, "train_loss": (force / 50.0) ** 2 * 0.01,
                "valid_force_rmse_meV_per_A": force, "valid_energy_rmse_meV_per_atom": force / 9,
                "wall_s": 2.0 * i, "gradient_equivalents": float(i),
                **({"epochs": n} if stage == "finetuned" else {"evaluations": i, "budget": n}),
            })  # fmt: skip
    return rows


def _predictions(rng):
    arrays = {}
    for split, n in SPLITS.items():
        n_atoms = rng.choice([2, 8, 15, 16], n)
        energy = n_atoms * (-10.9 + 0.15 * rng.standard_normal(n))
        forces = 1.5 * rng.standard_normal((n_atoms.sum(), 3))
        for stage in STAGES:
            error = FORCE[stage][split] * 1e-3
            slope = 0.75 if stage == "zero_shot" else 0.99
            arrays |= {
                f"{stage}/{split}/energy_ref": energy,
                f"{stage}/{split}/energy_pred": energy + n_atoms * error / 9 * rng.normal(size=n),
                f"{stage}/{split}/n_atoms": n_atoms,
                f"{stage}/{split}/forces_ref": forces,
                f"{stage}/{split}/forces_pred": (
                    slope * forces + error * rng.normal(size=forces.shape)
                ),
            }  # fmt: skip
    return arrays


def read_page(path):
    return path.read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")


def write_run(folder):
    """Write what a finished run of `mo` leaves."""
    rng = np.random.default_rng(3)
    (folder / "checkpoints" / "finetuned").mkdir(parents=True)
    (folder / "checkpoints" / "refined").mkdir()
    properties = {
        stage: {n: _row(u, ref, values[k]) for n, (u, ref, values) in PROPERTIES.items()}
        for k, stage in enumerate(STAGES)
    }
    x = np.linspace(0.0, 1.0, 12)
    curves = {"reference": {}}
    for k, stage in enumerate(STAGES):
        properties[stage]["energy_per_atom"] = {
            "value": -10.91234, "unit": "eV/atom", "reference": None, "reference_source": None,
            "relative_error": None,
        }  # fmt: skip
        curves[stage] = {}
        for plane, y in GSFE.items():
            scale = (0.57, 0.96, 0.985)[k]
            curves[stage][f"gsfe_{plane}_rigid"] = _curve(x, scale * np.array(y))
            curves[stage][f"gsfe_{plane}_relaxed"] = _curve(x, 0.93 * scale * np.array(y))
            curves["reference"][f"gsfe_{plane}_rigid"] = _curve(x, y, source=TUTORIAL)
            properties[stage][f"gsfe_{plane}_rigid_rmse"] = {
                "value": (0.412, 0.0391, 0.0147)[k], "unit": "J/m^2", "reference": 0.0,
                "reference_source": TUTORIAL, "relative_error": None,
            }  # fmt: skip
        volume = np.linspace(14.9, 16.7, 11)
        eos = -10.9 + 0.05 * (volume - 15.8 - 0.1 * (2 - k)) ** 2
        curves[stage]["eos"] = _curve(volume, eos, "A^3/atom", "eV/atom")
    types = {"eos": 3, "rattled": 4, "slip_110": 3}
    by_type = {
        stage: {
            split: {
                name: {**_errors(stage, split), "force_rmse_meV_per_A": f * FORCE[stage][split],
                       "n_frames": count}
                for (name, count), f in zip(types.items(), (0.2, 1.2, 0.7), strict=True)
            }
            for split in SPLITS
        }
        for stage in STAGES
    }  # fmt: skip
    results = {
        "errors": {stage: {split: _errors(stage, split) for split in SPLITS} for stage in STAGES},
        "errors_by_type": by_type,
        "properties": properties,
        "budget": {"gradient_equivalents": 160.0, "wall_s": 412.7},
        "provenance": {
            "command": "ase-finetune run mo --out runs/mo",
            "date": "2026-11-23T15:40:00+0000",
            "system": "mo",
            "level_of_theory": "GPAW 22.8 PBE, plane waves 550 eV, smearing 0.2 eV, free energy",
            "foundation": {"name": "seed", "sha256": "0f" * 32},
            "data_hash": "ab" * 32,
            "n_frames": SPLITS,
            "E0s": "E0s: the foundation's, shifted by least squares, rank 1 of 1",
            "versions": {"ase": "3.29.0", "torch": "2.13.0"},
            "notes": ["A note with <script>alert(1)</script> in it."],
        },
    }
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "curves.json").write_text(json.dumps(curves))
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in _log(rng)))
    np.savez_compressed(folder / "predictions.npz", **_predictions(rng))
    (folder / "config.yaml").write_text(
        "foundation: seed\noptimizer: adamw\nlr: 0.002\nepochs: 100\nbatch_size: 4\nseed: 1\n"
        "refine:\n  method: lbfgs\n  evaluations: 80\n"
    )
    return folder


def edit_results(folder, change):
    path = folder / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))
