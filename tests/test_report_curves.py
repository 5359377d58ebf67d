"""Curves of a report that have no section of their own."""

from __future__ import annotations

import json

from matplotlib.figure import Figure

from ase_finetune.report.figures import PICTURE_DPI
from ase_finetune.report.page import write_report
from ase_finetune.report.tables import in_unit, property_name, unit_text


def test_names_and_units_of_molecular_properties():
    assert property_name("torsion_enol_rmse") == "Torsion, enol, RMSE of the curve"
    assert property_name("frequencies_rmse_other").endswith("RMSE of the curve against other")
    assert property_name("distance_OH") == "Distance OH"
    assert "GSFE" in property_name("gsfe_110_rigid_rmse")
    assert unit_text("cm^-1") == "cm⁻¹" and unit_text("deg") == "°"
    assert in_unit(1234.56, "cm^-1") == "1234.6"


def results_of_a_run():
    errors = {"force_rmse_meV_per_A": 50.0, "energy_rmse_meV_per_atom": 5.0, "n_frames": 3}
    row = {"value": 1.5, "unit": "meV", "reference": 0.0, "reference_source": "DFT of a test",
           "relative_error": None}  # fmt: skip
    return {
        "errors": {"zero_shot": {"test_id": errors}},
        "properties": {"zero_shot": {"torsion_enol_rmse": row}},
        "failures": {},
        "budget": {},
        "provenance": {},
    }


def test_a_report_draws_them_with_their_reference(tmp_path):
    curve = {"x": [0, 30, 60], "y": [0, 4, 9], "x_unit": "deg", "y_unit": "meV", "source": "ours"}
    (tmp_path / "results.json").write_text(json.dumps(results_of_a_run()))
    curves = {
        "zero_shot": {"torsion_enol": curve, "torsion_keto": curve},
        "reference": {"torsion_enol": {**curve, "source": "DFT of a test"}},
    }
    (tmp_path / "curves.json").write_text(json.dumps(curves))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert 'id="curves"' in page and "Generalized stacking fault" not in page
    assert "Points: DFT of a test." in page
    assert "There is no DFT curve of this kind." in page
    assert page.count("Torsion, enol") >= 2


def test_pictures_of_results_are_in_the_page_instead_of_their_curves(tmp_path):
    """A core has no curve; bands are shown by their picture instead of nine lines."""
    bands = {"x": [0, 1], "y": [[0, 1], [2, 3]], "x_unit": "path", "y_unit": "THz", "source": "a"}
    (tmp_path / "results.json").write_text(json.dumps(results_of_a_run()))
    (tmp_path / "curves.json").write_text(json.dumps({"zero_shot": {"phonon_bands": bands}}))
    without = write_report(tmp_path).read_text(encoding="utf-8")
    assert "data:image/png" not in without
    for name in ("screw", "phonons"):
        path = tmp_path / "figures" / "zero_shot" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Figure(figsize=(3, 2)).savefig(path, dpi=PICTURE_DPI)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert page.count("data:image/svg+xml") == without.count("data:image/svg+xml") - 1
    assert "Screw dislocation along its line, zero-shot" in page
