"""How commands end: one sentence and an exit code."""

from __future__ import annotations

import pytest
import typer

from ase_finetune.cli.app import app
from ase_finetune.cli.guard import guarded
from ase_finetune.errors import ConfigError


def ended(name, error, capsys):
    def command():
        raise error

    command.__name__ = name
    with pytest.raises(typer.Exit) as stop:
        guarded(command)()
    return stop.value.exit_code, capsys.readouterr().err


def test_ctrl_c_says_how_each_command_goes_on(capsys):
    names = {command.callback.__name__ for command in app.registered_commands}
    assert {"train", "run", "study"} <= names
    for name, words in (("train", "--resume"), ("run", "--resume"), ("study", "same command")):
        code, text = ended(name, KeyboardInterrupt(), capsys)
        assert code == 130 and words in text
    assert ended("properties", KeyboardInterrupt(), capsys) == (130, "Stopped.\n")


def test_errors_of_ours_and_of_the_system_are_one_sentence(capsys):
    assert ended("train", ConfigError("No."), capsys) == (2, "Error: No.\n")
    full = OSError(28, "No space left on device", "out/model.safetensors")
    code, text = ended("train", full, capsys)
    assert code == 2 and text == "Error: out/model.safetensors: No space left on device.\n"
