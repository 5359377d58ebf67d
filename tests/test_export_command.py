"""Export keeps what exists, names the choices, and has a command."""

from __future__ import annotations

import errno
import json
import os

import pytest
import typer
from typer.testing import CliRunner

from ase_finetune.cli.export import export as command
from ase_finetune.errors import CheckpointError, ConfigError
from ase_finetune.export import export

app = typer.Typer()
app.command()(command)


def test_what_exists_is_kept(checkpoint_of, tmp_path, monkeypatch):
    checkpoint = checkpoint_of("MP-0 L0")
    path = tmp_path / "new" / "exported.model"
    export(checkpoint, path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"exists; .* --overwrite"):
        export(checkpoint, path)
    with pytest.raises(ConfigError, match="is a folder"):
        export(checkpoint, tmp_path, overwrite=True)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(CheckpointError, match="No space left"):
                export(checkpoint, path, overwrite=True, dtype="float32")
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == [path.name], "a temporary file was left"
    with pytest.raises(CheckpointError, match=r"Cannot write .*below.model: File exists"):
        export(checkpoint, path / "below.model")
    export(checkpoint, path, overwrite=True, dtype="float32")
    assert len(path.read_bytes()) < 0.9 * len(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx"}, "choose one of mace, lammps"),
        ({"dtype": "float16"}, "choose one of float32, float64"),
    ],
)
def test_unknown_names_list_the_choices(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        export("seed", tmp_path / "exported.model", **options)
    assert not list(tmp_path.iterdir())


def call(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command(checkpoint_of, tmp_path):
    folder = checkpoint_of("MP-0 L0", "float32").save(tmp_path / "checkpoint")
    out = tmp_path / "exported.model"
    result = call(folder, "--out", out)
    assert result.exit_code == 0, result.output
    assert "mace, float32" in result.stdout
    assert "E0s are rounded by up to" in result.stderr
    refused = call(folder, "--out", out)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("Error: ") and "exists" in refused.stderr
    result = call(folder, "--out", out, "--overwrite", "--dtype", "float64", "--json")
    assert json.loads(result.stdout) == {
        "path": str(out),
        "format": "mace",
        "dtype": "float64",
        "size_bytes": out.stat().st_size,
        "E0_rounding_eV": 0.0,
    }
    assert call(tmp_path / "nothing", "--out", tmp_path / "a.model").exit_code == 2
