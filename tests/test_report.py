"""The HTML report of a run, from a synthetic folder with the numbers of a plausible one."""

# ruff: noqa: RUF001 - minus signs and dashes are what the page shows

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from ase_finetune.errors import UserError
from ase_finetune.report import write_report
from ase_finetune.report_tables import duration, in_unit, percent, property_name, significant

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


class _Links(HTMLParser):
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


def _read(path):
    return path.read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mo"
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


@pytest.fixture(scope="module")
def page(full_run):
    path = write_report(full_run)
    assert path == full_run / "report.html"
    return _read(path)


@pytest.fixture
def copy(full_run, tmp_path):
    return shutil.copytree(full_run, tmp_path / "mo")


@pytest.fixture
def light(copy):
    """The same without most of the figures, which take the time."""
    for name in ("predictions.npz", "curves.json", "log.jsonl"):
        (copy / name).unlink()
    return copy


def _edit(folder, change):
    path = folder / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


def test_has_every_section_and_figure(page):
    found = _Links(page)
    assert found.ids >= {"errors", "types", "properties", "elastic", "gsfe", "learning", "parity",
                         "use", "provenance"}  # fmt: skip
    # 2 elastic, 1 equation of state, 2 GSFE (relaxed ones are guests), 2 learning, 4 parity.
    assert len(found.alts) == 11


def test_loads_nothing_from_elsewhere_and_is_small(page):
    for target in _Links(page).targets:
        assert target.startswith(("data:image/svg+xml;base64,", "#")), target[:80]
    assert not re.search(r"url\(|@import", page)
    assert len(page.encode()) < 2_000_000


def test_internal_links_lead_somewhere(page):
    found = _Links(page)
    assert {t[1:] for t in found.targets if t.startswith("#")} <= found.ids


def test_shows_the_numbers_with_units(page):
    for text in (">406<", ">52.4<", ">47.3<", "−88 %", "meV/Å³", ">3.1617<", ">465.6<", "+0.82 %",
                 ">−10.9123<", ">0.015<", "J/m²", "160 gradient equivalents",
                 "6 min 53 s"):  # fmt: skip
        assert text in page, text
    assert "The force error on test_id fell from 406 to 47.3 meV/Å (8.6 times lower)." in page
    assert "9 of 9 properties with a reference lie within 3 %" in page
    assert "(1 zero-shot)" in page
    assert "an RMSE of 0.015 J/m² ({110} rigid), 0.015 J/m² ({121} rigid)." in page
    assert "The energy error" not in page


def test_escapes_what_it_was_given(page):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;within&gt;" in page


def test_snippet_names_the_last_checkpoint(page, full_run):
    assert f'FineTunedCalculator("{(full_run / "checkpoints" / "refined").as_posix()}")' in page


def test_the_same_run_gives_the_same_page(page, full_run):
    assert _read(write_report(full_run)) == page


def test_plain_training_run(copy):
    (copy / "curves.json").unlink()
    shutil.rmtree(copy / "checkpoints" / "refined")

    def only_trained(results):
        results["properties"] = {}
        for table in ("errors", "errors_by_type"):
            del results[table]["refined"]
        del results["provenance"]["system"], results["provenance"]["level_of_theory"]
        for stage in results["errors"].values():
            for errors in stage.values():
                errors["stress_rmse_meV_per_A3"] = None
        for splits in results["errors_by_type"].values():
            for split in splits:
                splits[split] = {"default": splits[split]["eos"]}

    _edit(copy, only_trained)
    page = _read(write_report(copy))
    found = _Links(page)
    assert not found.ids & {"properties", "types", "gsfe", "elastic"}
    assert found.ids >= {"errors", "learning", "parity", "use"}
    assert "This run computed no properties." in page
    assert "no configuration types" in page
    assert "meV/Å³" not in page
    assert "refined" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.S)
    assert "checkpoints/finetuned" in page


def test_results_alone_are_enough(light):
    (light / "config.yaml").unlink()
    shutil.rmtree(light / "checkpoints")
    page = _read(write_report(light))
    for text in ("no learning curves", "no parity plots", "no checkpoint", "no config.yaml"):
        assert text in page
    assert not _Links(page).ids & {"learning", "parity", "gsfe", "use"}


def test_a_worse_result_is_called_worse(light):
    def worse(results):
        results["errors"]["refined"]["test_ood"]["force_rmse_meV_per_A"] = 1376.8
        results["errors"]["refined"]["test_id"]["energy_rmse_meV_per_atom"] = 90.0

    _edit(light, worse)
    page = _read(write_report(light))
    assert "The force error on test_ood rose from 688 to 1377 meV/Å (2.0 times higher)." in page
    assert "The energy error on test_id rose from 45.1 to 90.0 meV/atom." in page


def test_forces_that_vanish_by_symmetry_are_not_ranked(light):
    def symmetric(results):
        for k, stage in enumerate(STAGES):
            entry = results["errors_by_type"][stage]["test_id"]["eos"]
            entry["force_rmse_meV_per_A"] = (3 - k) * 1e-15

    _edit(light, symmetric)
    page = _read(write_report(light))
    row = re.search(r"<tr><th scope=\"row\">eos</th>.*?</tr>", page)[0]
    assert row.count("&lt; 0.001") == 3
    assert "e−1" not in page
    assert row.count("best") == 1  # of the energies


def test_a_property_that_failed_is_said(light):
    def failed(results):
        results["failures"] = {"zero_shot": {"elastic": "The relaxation did not converge."}}
        for name in list(results["properties"]["zero_shot"]):
            if name not in ("a0", "a0_eos", "gamma_usf_110_rigid"):
                del results["properties"]["zero_shot"][name]

    _edit(light, failed)
    page = _read(write_report(light))
    assert "elastic failed for the zero-shot model: The relaxation did not converge." in page
    assert "Relative errors of elastic constants, by stage" in page


def test_labels_may_lack(copy):
    with np.load(copy / "predictions.npz") as stored:
        arrays = dict(stored)
    for stage in STAGES:
        arrays[f"{stage}/test_id/energy_ref"][:] = np.nan
        arrays[f"{stage}/test_ood/forces_ref"][:6] = np.nan
    np.savez_compressed(copy / "predictions.npz", **arrays)
    page = _read(write_report(copy))
    assert "Predicted against DFT energy on test_id" not in page
    assert "Predicted against DFT force on test_id" in page


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("results.json", None, "holds no results.json"),
        ("results.json", "{", "not valid JSON"),
        ("results.json", "[]", "no errors and provenance"),
        ("results.json", '{"errors": {}, "provenance": {}}', "no errors of any stage"),
        ("results.json", '{"errors": {"refined": {"test_id": 3}}, "provenance": {}}',
         "do not belong together"),
        ("log.jsonl", '{"stage": "finetuned"}\n{"sta', "Line 2"),
        ("log.jsonl", '{"stage": "finetuned"}\n', "gradient_equivalents"),
        ("predictions.npz", "not an archive", "cannot be read"),
        ("curves.json", '{"refined": {"gsfe_110": {"x": [0]}}}', "not a file of curves"),
        ("config.yaml", "a: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_damaged_folder_ends_with_one_sentence(copy, name, content, expected):
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(content)
    with pytest.raises(UserError, match=expected) as caught:
        write_report(copy)
    assert "\n" not in str(caught.value)
    assert not (copy / "report.html").read_text().startswith("{")
    assert not list(copy.glob(".report*"))


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="holds no results"):
        write_report(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1376.8, "1377"), (52.44, "52.4"), (0.0314159, "0.0314"), (-2.5e-9, "−2.50e−09"),
     (99.96, "100"), (float("nan"), "–"), (None, "–")],
)  # fmt: skip
def test_significant_digits(value, text):
    assert significant(value) == text


def test_other_formats():
    assert in_unit(3.16149, "A") == "3.1615"
    assert in_unit(-0.25, "THz") == "−0.25"
    assert in_unit(12.34567, "cm^2/s") == "12.35"
    assert percent(-0.0042) == "−0.42\N{NO-BREAK SPACE}%"
    assert percent(0.126) == "+12.6\N{NO-BREAK SPACE}%"
    assert duration(4.25) == "4.2 s"
    assert duration(59.7) == "60 s"
    assert duration(412.7) == "6 min 53 s"
    assert duration(7384) == "2 h 3 min"
    assert property_name("C44") == "<i>C</i><sub>44</sub>"
    assert property_name("odd_<b>") == "odd &lt;b&gt;"
