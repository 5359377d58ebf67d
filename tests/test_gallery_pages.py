"""The stored results of gallery pages 2 to 6 agree with themselves and with the systems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from properties import Curve, compare, load_phonons
from systems import get_system

GALLERY = Path(__file__).resolve().parent.parent / "examples" / "results" / "gallery"
REFINED = ("L-BFGS", "LM")
SCREWS = ("zero-shot", "adam", "adam+LM")
WATER = ("adam", "schedulefree", "soap", "adam_lbfgs", "adam_lbfgs_selected")


def stored(page: str, name: str) -> dict[str, Any]:
    """Return the results of a page under a name."""
    data: dict[str, Any] = json.loads((GALLERY / page / f"{name}.json").read_text())["data"]
    return data


@pytest.mark.parametrize(
    "page", ["mo_elastic", "mo_gsfe", "mo_screw", "mos2_bands", "water_graphene"]
)
def test_results_are_small_and_name_their_command(page: str) -> None:
    files = sorted((GALLERY / page).iterdir())
    assert files
    for file in files:
        assert file.stat().st_size < 1_000_000, file.name
        if file.suffix == ".json":
            record = json.loads(file.read_text())
            number = {"mo_elastic": 2, "mo_gsfe": 3, "mo_screw": 4}.get(page)
            number = number or {"mos2_bands": 5, "water_graphene": 6}[page]
            script = f"examples/plot_{number}_{page}.py"
            assert record["command"] == f"python {script} --{record['mode']}"


class TestElastic:
    def test_references_are_those_of_the_system(self) -> None:
        references = get_system("mo").references()
        for name, found in stored("mo_elastic", "models")["references"].items():
            one = references[name]
            assert (found["value"], found["unit"], found["source"]) == (
                pytest.approx(one.value, rel=1e-12),  # type: ignore[union-attr]
                one.unit,  # type: ignore[union-attr]
                one.source,
            )

    def test_moduli_follow_from_the_constants(self) -> None:
        for name, model in stored("mo_elastic", "models")["models"].items():
            v = model["values"]
            assert v["bulk_modulus_vrh"] == pytest.approx((v["C11"] + 2 * v["C12"]) / 3, rel=1e-6)
            assert v["poisson_ratio_100"] == pytest.approx(v["C12"] / (v["C11"] + v["C12"]))
            assert v["C11"] > v["C12"] > 0 < v["C44"], name

    def test_readme_has_the_stored_numbers(self) -> None:
        stored_page = stored("mo_elastic", "models")
        models, references = stored_page["models"], stored_page["references"]

        def error(name: str, constant: str) -> float:
            reference = references[constant]["value"]
            return 100.0 * (models[name]["values"][constant] - reference) / reference

        def mean(name: str) -> str:
            return f"{np.mean([abs(error(name, c)) for c in ('C11', 'C12', 'C44')]):.1f} %"

        text = " ".join((GALLERY.parents[2] / "README.md").read_text().split())
        assert f"leave C12 {-error('adam', 'C12'):.0f} % too low" in text
        assert f"weights stops at {-error('adam, continued', 'C12'):.0f} %." in text
        assert all(abs(error(f"adam + {method}", "C12")) < 1.0 for method in REFINED)
        assert f"is {mean('zero-shot')} (zero-shot), {mean('adam')} (Adam), " in text
        assert f"{mean('adam, continued')} (Adam continued), " in text
        assert f"{mean('adam + L-BFGS')} (L-BFGS) and {mean('adam + LM')} (Levenberg-" in text
        assert f"SOAP, before any refinement, has {mean('soap')} (" in text

    def test_a_refinement_is_a_change_exactly_if_it_was_accepted(self) -> None:
        models = stored("mo_elastic", "models")["models"]
        optimizers = list({m["optimizer"]: 0 for m in models.values() if "optimizer" in m})
        assert len(optimizers) >= 3
        for optimizer in optimizers:
            before = models[optimizer]
            for method in REFINED:
                after = models[f"{optimizer} + {method}"]
                valid = [m["force_rmse_meV_per_A"]["valid"] for m in (before, after)]
                # What was not accepted has the same weights in float64: some 1e-8 of rounding.
                assert (valid[1] < valid[0] * (1 - 1e-6)) == after["accepted"]
                same = after["values"]["C44"] == pytest.approx(before["values"]["C44"], rel=1e-6)
                assert same != after["accepted"]


class TestSlip:
    LEVELS = {"DFT (labels' level)": True, "DFT (tutorial)": False}  # noqa: RUF012

    def test_errors_are_those_of_the_curves(self) -> None:
        references = get_system("mo").all_references()
        for model in stored("mo_gsfe", "models")["models"].values():
            for mode, curve in model["curves"].items():
                name = f"gsfe_{mode}"
                ours = Curve(curve["x"], curve["gamma"], "b", "J/m^2", "model", periodic=True)
                assert curve["rmse_J_per_m2"]
                for level, rmse in curve["rmse_J_per_m2"].items():
                    (target,) = [
                        r.value
                        for r in references
                        if r.name == name and r.default == self.LEVELS[level]
                    ]
                    assert isinstance(target, Curve)
                    (found,) = compare({name: ours}, {name: target}).values()
                    assert rmse == pytest.approx(found.rmse, rel=1e-9)

    def test_curves_have_the_symmetry_of_the_crystal(self) -> None:
        for model in stored("mo_gsfe", "models")["models"].values():
            for mode, curve in model["curves"].items():
                gamma = np.array(curve["gamma"])
                assert gamma[0] == 0.0
                assert abs(gamma[-1]) < 1e-3
                if mode.startswith("110"):
                    assert np.abs(gamma - gamma[::-1]).max() < 5e-3
                relaxed = model["curves"][mode.replace("rigid", "relaxed")]["gamma"]
                assert (np.array(relaxed) <= gamma + 1e-3).all()


class TestScrew:
    @pytest.mark.parametrize("name", SCREWS)
    def test_map_follows_from_the_positions(self, name: str) -> None:
        core = stored("mo_screw", name)
        arrays = {k: np.array(v) for k, v in core["arrays"].items()}
        moved = (np.array(core["positions_A"]) - np.array(core["bulk_positions_A"]))[:, 2]
        first, second = arrays["pairs"].T
        steps = (moved[second] - moved[first]) / core["burgers_A"]
        away = steps - arrays["differential"]
        assert np.abs(away - np.round(away)).max() < 1e-4
        triangle = np.array(core["bulk_positions_A"])[core["core_columns"]][:, :2]
        np.testing.assert_allclose(triangle.mean(axis=0), arrays["core_center"], atol=1e-4)

    @pytest.mark.parametrize("name", SCREWS)
    def test_one_burgers_vector_goes_around_the_core(self, name: str) -> None:
        core = stored("mo_screw", name)
        pairs = [tuple(pair) for pair in core["arrays"]["pairs"]]
        steps = dict(zip(pairs, core["arrays"]["differential"], strict=True))
        a, b, c = core["core_columns"]
        around = [
            steps[i, j] if (i, j) in steps else -steps[j, i] for i, j in ((a, b), (b, c), (c, a))
        ]
        assert abs(sum(around)) == pytest.approx(1.0, abs=1e-4)


class TestBands:
    @pytest.mark.parametrize("name", ["zero_shot", "adam", "lbfgs", "lm"])
    def test_phonopy_file_gives_the_stored_modes(self, name: str) -> None:
        about = stored("mos2_bands", name)
        found = load_phonons(GALLERY / "mos2_bands" / f"{name}.yaml", dimension=2, path="GMKG")
        for mode, frequency in about["gamma_modes_THz"].items():
            assert found.gamma_modes[mode] == pytest.approx(frequency, abs=2e-3)
        assert found.lowest_frequency == pytest.approx(about["lowest_frequency_THz"], abs=5e-3)
        assert np.abs(found.at("G")[:3]).max() < 0.05


class TestWater:
    @pytest.mark.parametrize("name", WATER)
    def test_D_is_the_slope_of_the_displacement(self, name: str) -> None:
        run = stored("water_graphene", name)
        if "curves" not in run:
            assert run["blow_up"] is not None
            return
        window = run["fit"]["window_ps"]
        assert (window is None) == ("D_parallel" not in run["numbers"])
        if window is None:
            return
        lag, msd = (np.array(run["curves"]["msd_parallel"][k]) for k in ("x", "y"))
        chosen = (lag >= window[0] - 1e-6) & (lag <= window[1] + 1e-6)
        slope, intercept = np.polyfit(lag[chosen], msd[chosen], 1)
        D = run["numbers"]["D_parallel"]
        assert D["unit"] == "cm^2/s"
        assert D["value"] == pytest.approx(slope / 4 * 1e-4, rel=1e-3)  # A^2/ps in the plane
        assert run["fit"]["intercept_A2"] == pytest.approx(intercept, abs=1e-3)

    @pytest.mark.parametrize("name", WATER)
    def test_a_run_is_as_long_as_it_says(self, name: str) -> None:
        run = stored("water_graphene", name)
        if run["blow_up"] is None:
            assert 0 < run["reached_ps"] <= run["planned_ps"]
            # One frame each 10 fs, and the first.
            length = run["reached_ps"] - run["observed_from_ps"]
            assert run["n_frames"] == round(100 * length) + 1
        else:
            ended = run["blow_up"]["time_ps"] - run["equilibration_ps"]
            assert run["reached_ps"] == pytest.approx(max(0.0, ended))

    @pytest.mark.parametrize("name", WATER)
    def test_means_are_those_of_the_distributions(self, name: str) -> None:
        run = stored("water_graphene", name)
        if "curves" not in run:
            return
        angle = run["curves"]["HOH_angle"]
        assert sum(angle["y"]) == pytest.approx(1.0, abs=1e-4)
        mean = np.dot(angle["x"], angle["y"])
        assert run["numbers"]["HOH_angle_mean"]["value"] == pytest.approx(mean, abs=0.1)
        trace = run["curves"]["temperature"]["y"]
        assert run["numbers"]["temperature_mean"]["value"] == pytest.approx(
            np.mean(trace), rel=0.02
        )
        g = run["curves"]["g_OO"]
        highest = run["numbers"]["g_OO_peak_height"]["value"]
        assert highest == pytest.approx(max(g["y"]), rel=0.25)

    def test_a_committee_would_have_told_of_ions(self) -> None:
        frames = stored("water_graphene", "committee")["frames"]
        data = get_system("water_graphene")
        known = {a.info["id"] for s in data.frames().values() for a in s if len(a) > 3}
        assert known <= {f["id"] for f in frames}
        later = ("selected", "drawn")
        held_out = [
            f for f in frames if f["split"] != "train" or f["config_type"].startswith(later)
        ]
        (ions,) = (f for f in held_out if f["id"].endswith("_ions"))
        others = [f for f in held_out if not f["config_type"].startswith(later) and f != ions]
        for key in ("disagreement", "error"):
            assert ions[key] > max(f[key] for f in others), key
        chosen, drawn = (
            [f["disagreement"] for f in frames if f["config_type"] == kind] for kind in later
        )
        assert (len(chosen), len(drawn)) == (10, 6)
        assert min(chosen) > np.median(drawn)

    def test_what_frames_labelled_later_do_is_stored(self) -> None:
        added = stored("water_graphene", "added")
        before = {name: stored("water_graphene", name) for name in ("adam", "soap", "adam_lbfgs")}
        for name, run in zip(added["none"], before.values(), strict=True):
            for key, value in run["force_rmse_meV_per_A"].items():
                assert added["none"][name]["force_rmse_meV_per_A"][key] == pytest.approx(value)
            found = {label: rows[name]["frames"]["train"] for label, rows in added.items()}
            assert found == {
                "none": 19, "six drawn at random": 25, "six chosen": 25, "ten chosen": 29,
            }  # fmt: skip
