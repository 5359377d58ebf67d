"""How commands end: one sentence and an exit code."""

from __future__ import annotations

import os
import signal

import pytest
import typer

from ase_finetune import stop
from ase_finetune.cli.app import app
from ase_finetune.cli.guard import guarded
from ase_finetune.errors import ConfigError
from ase_finetune.study.view import StudyView
from ase_finetune.terminal import TerminalReporter


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


class DiesLoudly:
    """Gets a signal while it is deleted, where Python forgets what is raised."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        for _ in range(100):
            pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_forgets_still_stops_the_command(number, monkeypatch):
    monkeypatch.setattr(stop, "_told", False)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop.catch_signals()
        move = TerminalReporter().steps("elastic")
        move(1, 3)
        DiesLoudly(number)
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    with pytest.raises(KeyboardInterrupt):
        move(2, 3)
    with pytest.raises(KeyboardInterrupt):
        TerminalReporter().record({})
    with pytest.raises(KeyboardInterrupt):
        StudyView().update({}, (), 1)


def test_an_ignored_ctrl_c_stays_ignored():
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop.catch_signals()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
