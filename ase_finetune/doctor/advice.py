"""What to run after the doctor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ase_finetune.doctor.finding import Finding
from ase_finetune.doctor.read import DEFAULT_KEYS, Examined

_SEED = Path(__file__).parents[1] / "foundations" / "seed" / "checkpoint.json"


def check_seed(examined: Sequence[Examined]) -> list[Finding]:
    """Note elements that the bundled foundation does not know."""
    lacking = sorted(_elements(examined) - _known_to_seed())
    if not lacking:
        return []
    return [
        Finding(
            "note",
            "seed_elements",
            f"The bundled foundation, seed, does not know {', '.join(lacking)}.",
            "Name one that does with --foundation, here too to see its errors.",
            " and ".join(found.data.name for found in examined),
        )
    ]


def _elements(examined: Sequence[Examined]) -> set[str]:
    return {s for found in examined for s in found.contents["frames_with_element"]}


def _known_to_seed() -> set[str]:
    # Read without torch, which takes longer to load than most files to examine.
    return set(json.loads(_SEED.read_text(encoding="utf-8"))["elements"])


def recommended(
    examined: Sequence[Examined], findings: Sequence[Finding], foundation: str | None
) -> str:
    """Return the training command for these files, without stress if it is in doubt."""
    if foundation is None:
        foundation = "seed" if _elements(examined) <= _known_to_seed() else "FOUNDATION"
    paths: dict[str, list[str]] = {"data": [], "valid": [], "test": []}
    for found in examined:
        paths[found.data.role].append(str(found.data.path))
    parts = ["ase-finetune train"]
    for role, given in paths.items():
        # Training takes one file of each kind but of test frames.
        joined = given if role == "test" or len(given) < 2 else ["JOINED.xyz"]
        parts += [f"--{role} {path}" for path in joined]
    parts.append(f"--foundation {foundation}")
    keys = examined[0].data.keys
    named = {
        kind: f"--{kind}-key {keys[kind]}"
        for kind, default in DEFAULT_KEYS.items()
        if keys[kind] not in (None, default)
    }
    stress = named.pop("stress", None)
    parts += named.values()
    if _stress_is_sound(examined, findings):
        # A key without a weight would do nothing.
        parts += [*([stress] if stress else []), "--stress-weight 100"]
    return " ".join(parts)


def _stress_is_sound(examined: Sequence[Examined], findings: Sequence[Finding]) -> bool:
    doubtful = any(
        f.code.startswith(("stress_", "pressure_")) and f.level != "note" and f.code != "stress_key"
        for f in findings
    )
    return not doubtful and all(
        found.contents["n_labelled"]["stress"]
        >= found.contents["n_frames"] - found.contents["n_isolated_atoms"]
        for found in examined
        if found.data.role != "test"
    )
