"""How a command ends when something is wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer

from ase_finetune.errors import UserError

_SAVED = "; epochs that were finished are saved, and --resume goes on from them"
_GOES_ON = {
    "train": _SAVED,
    "run": _SAVED,
    "study": "; finished runs are saved, and the same command goes on from there",
}


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Make bad input one sentence on stderr and exit code 2, and Ctrl-C a word about resuming."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        from properties.errors import PropertyError
        from systems.errors import SystemsError

        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo(f"Stopped{_GOES_ON.get(command.__name__, '')}.", err=True)
            raise typer.Exit(130) from None
        except (UserError, PropertyError, SystemsError) as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            typer.echo(f"Error: {where}{error.strerror or error}.", err=True)
            raise typer.Exit(2) from None

    return wrapper
