"""How the commands print results."""

from __future__ import annotations

import json
from typing import Any

import typer


def show(results: dict[str, Any], as_json: bool) -> None:
    """Print results as one JSON document, or as tables of what they hold."""
    if as_json:
        typer.echo(json.dumps(results, indent=1))
        return
    from ase_finetune.terminal import error_table, property_table, table_console

    console = table_console()
    if results.get("errors"):
        console.print(error_table(results["errors"], "Errors (RMSE)"))
    for split in _held_out(results):
        by_type = {stage: rows[split] for stage, rows in results["errors_by_type"].items()}
        if len(next(iter(by_type.values()))) > 1:
            console.print(error_table(by_type, f"Errors (RMSE) on {split} by configuration type"))
    if results.get("properties"):
        console.print(property_table(results["properties"]))


def _held_out(results: dict[str, Any]) -> list[str]:
    stages = list(results.get("errors_by_type", {}).values())
    return [name for name in stages[0] if name not in ("train", "valid")] if stages else []
