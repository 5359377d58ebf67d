"""Input and output of CP2K, without running it."""

from __future__ import annotations

import pytest
from ase import units

from systems.dft.cp2k import parse
from systems.dft.cp2k_deck import Level, deck, provenance
from systems.dft.mos2_frames import plan_levels, primitive

OUTPUT = """ CP2K| version string: CP2K version 2023.1
{scf}
 ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]:              -88.753867783572417

 ATOMIC FORCES in [a.u.]

 # Atom   Kind   Element          X                  Y                  Z
      1      1      Mo          0.000000000253    -0.000000004180    -0.000000038892
      2      2      S          -0.000000000224     0.000000003636     0.000009370624
 SUM OF ATOMIC FORCES          -0.000000000195     0.000000000112     0.000000000001     0.000000000225

 STRESS| Analytical stress tensor [GPa]
 STRESS|                        x                   y                   z
 STRESS|      x       -4.17856297178E-02  -1.74543040939E-06   2.10028495693E-13
 STRESS|      y       -1.74543040939E-06  -4.17848569116E-02   3.03360638064E-07
 STRESS|      z        2.10028495693E-13   3.03360638064E-07   1.84321007581E-03
 STRESS| 1/3 Trace                                            -2.72424255179E-02
"""  # noqa: E501, lines of CP2K 2023.1


def test_output_of_cp2k_is_read():
    found = parse(OUTPUT.format(scf="  *** SCF run converged in    16 steps ***"), 2)
    assert found.energy == pytest.approx(-88.753867783572417 * units.Hartree, abs=1e-9)
    assert found.forces.shape == (2, 3)
    assert found.forces[1, 2] == pytest.approx(0.000009370624 * units.Hartree / units.Bohr)
    # CP2K counts pressure positive.
    assert found.stress / units.GPa == pytest.approx(
        [0.0417856, 0.0417849, -0.0018432, 0.0, 0.0, 0.0], abs=1e-5
    )
    assert (found.version, found.iterations) == ("2023.1", 16)


def test_an_scf_that_did_not_converge_is_refused():
    for scf in ("  *** SCF run NOT converged ***", ""):
        with pytest.raises(RuntimeError, match=r"not converge|incomplete"):
            parse(OUTPUT.format(scf=scf), 2)
    with pytest.raises(RuntimeError, match="2 atoms instead of 3"):
        parse(OUTPUT.format(scf="  *** SCF run converged in    16 steps ***"), 3)


def test_deck_says_what_the_provenance_says():
    level = plan_levels()["harmonic_300K_00"]
    text = deck(primitive(), level)
    said = provenance({"Mo", "S"}, level)
    for line in ("CUTOFF 600", "REL_CUTOFF 60", "EPS_SCF 1e-06", "MONKHORST-PACK 3 3 1"):
        assert line in text, line
    assert "POTENTIAL GTH-PBE-q14" in text and "Mo GTH-PBE-q14" in said["pseudopotentials"]
    assert "VDW_POTENTIAL" not in text and said["dispersion"] == "none"
    assert "SMEAR" not in text and said["smearing"] == "none"
    wet = Level(dispersion=True, smearing_K=300.0, added_mos=40)
    assert (
        "DFTD3(BJ)" in deck(primitive(), wet) and "D3(BJ)" in provenance({"O"}, wet)["dispersion"]
    )
    assert Level(kpts=(2, 2, 1)).mesh == "2x2x1 Monkhorst-Pack" and Level().mesh == "1x1x1 gamma"
    with pytest.raises(ValueError, match="positive"):
        Level(kpts=(2, 0, 1))
