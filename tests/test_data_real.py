"""Reading and splitting of further real DFT data, where it is at hand."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from ase_finetune.data.read import is_isolated_atom, read_frames
from ase_finetune.data.splits import Splits, split_frames
from ase_finetune.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("ASEFT_TEST_DATA", ROOT.parent / "shared" / "data"))
real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no extra data in {REAL}")


@real_data
@pytest.mark.parametrize(
    ("name", "count", "stress"),
    [
        ("mo_vasp_pbe_train.xyz", 194, True),
        ("mo_vasp_pbe_test.xyz", 23, True),
        ("acac_train_300K.xyz", 503, False),
        ("acac_test_300K.xyz", 650, False),
        ("acac_test_600K.xyz", 650, False),
    ],
)
def test_real_files(name, count, stress):
    frames = read_frames(REAL / name, stress=stress or None)
    assert len(frames) == count
    assert all(("REF_stress" in frame.info) == stress for frame in frames)
    train, valid = split_frames(frames, valid_fraction=0.1)
    assert len(valid) == pytest.approx(0.1 * count, abs=2)
    assert not any(is_isolated_atom(frame) for frame in valid)
    sizes = Counter(frame.info["config_type"] for frame in frames if len(frame) > 1)
    kinds = {kind for kind, size in sizes.items() if size >= 5}
    assert {frame.info["config_type"] for frame in valid} == kinds
    assert kinds <= {frame.info["config_type"] for frame in train}


@real_data
def test_molecules_have_no_stress():
    with pytest.raises(DataError, match=r"no stress under 'REF_stress'.*drop --stress-weight"):
        Splits.from_files(REAL / "acac_train_300K.xyz", stress=True)
