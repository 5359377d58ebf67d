"""How far a foundation is from the labels before any training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from ase_finetune.checkpoint import Checkpoint
from ase_finetune.data.agreement import contradiction
from ase_finetune.doctor.finding import Finding, Progress, of_frames
from ase_finetune.doctor.lone import lone_energies, lone_finding
from ase_finetune.e0s import resolve_E0s
from ase_finetune.evaluate import Predictions, predict_frames
from ase_finetune.foundations import load_foundation

_MOST_FRAMES = 200
_CHUNK = 10
_SCALES = (0.2, 5.0)


def zero_shot(
    name: str,
    frames: Sequence[Atoms],
    rows: Sequence[int],
    source: str,
    progress: Progress | None = None,
) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Evaluate a foundation on frames, its E0s shifted to the labels as fine-tuning does.

    Parameters
    ----------
    name
        For `load_foundation`.
    frames, rows, source
        Frames with labels, their numbers in the set, and its name. Of more than 200 frames, 200
        evenly spaced ones are taken.
    progress
        Called with (title, done, total).

    Returns
    -------
    (results, findings)
        Errors in all and by configuration type, or None if an element is unknown.
    """
    whole = load_foundation(name)
    elements = sorted({int(z) for f in frames for z in f.numbers})
    lacking = [z for z in elements if z not in whole.numbers]
    if lacking:
        bad = [i for i, f in zip(rows, frames, strict=True) if np.isin(f.numbers, lacking).any()]
        symbols = ", ".join(chemical_symbols[z] for z in lacking)
        return None, [
            Finding(
                "error",
                "unknown_element",
                f"The foundation {name} does not know {symbols}, which "
                f"{of_frames(len(bad), len(rows))} contain.",
                "Choose a foundation that does, or drop these frames.",
                source,
                tuple(bad),
            )
        ]
    foundation = load_foundation(name, elements)
    checkpoint = Checkpoint.from_module(
        foundation.module, foundation.E0s, stage="zero_shot", foundation={}
    )
    places = np.linspace(0, len(frames) - 1, min(len(frames), _MOST_FRAMES)).round().astype(int)
    chosen = [frames[p] for p in places]
    parts = []
    for start in range(0, len(chosen), _CHUNK):
        parts.append(predict_frames(checkpoint, chosen[start : start + _CHUNK]))
        if progress is not None:
            progress(f"{name} on {source}", min(start + _CHUNK, len(chosen)), len(chosen))
    found = _joined(parts)
    E0 = resolve_E0s(
        "estimated",
        chosen,
        elements,
        foundation_E0s=dict(foundation.E0s),
        foundation_energies=found.energy,
    )
    shift = np.array(
        [sum(E0.values[int(z)] - foundation.E0s[int(z)] for z in f.numbers) for f in chosen]
    )
    found = dataclasses.replace(found, energy=found.energy + shift)
    results = {
        "foundation": name,
        "n_frames": len(chosen),
        "E0s": E0.note,
        "errors": dataclasses.asdict(found.errors()),
        "errors_by_type": {k: dataclasses.asdict(e) for k, e in found.errors_by_type().items()},
        "force_correlation": _cosine(found.forces, found.forces_ref),
        "force_ratio": _ratio(found.forces_ref, found.forces),
    }
    judged = _judged(results, contradiction(chosen, found.energy, found.forces, name), name, source)
    wrong = {} if judged else _far_off(chosen, found)
    if wrong:
        by_number = {rows[places[k]]: off for k, off in wrong.items()}
        beside = f"what {name} predicts"
        judged.append(lone_finding(by_number, len(chosen), beside, source))
    return results, judged


def _far_off(frames: Sequence[Atoms], found: Predictions) -> dict[int, float]:
    """Frames whose forces are predicted as well as others', and whose energy is not."""
    ends = np.cumsum(found.n_atoms)[:-1]

    def size(values: np.ndarray) -> np.ndarray:
        return np.array([np.linalg.norm(part) for part in np.split(values, ends)])

    return lone_energies(
        frames,
        found.energy_ref - found.energy,
        size(found.forces - found.forces_ref),
        size(found.forces_ref),
    )


def _judged(
    results: dict[str, Any], wrong: tuple[str, str] | None, name: str, source: str
) -> list[Finding]:
    if wrong is not None:
        what, remedy = wrong
        advice = f"{remedy[0].upper()}{remedy[1:]}."
        return [Finding("error", "zero_shot_labels", f"{what}.", advice, source)]
    ratio, cosine = results["force_ratio"], results["force_correlation"]
    if cosine is not None and cosine < -0.5:
        what = f"run against those of {name} (correlation {cosine:.2f})"
    elif ratio is not None and not _SCALES[0] < ratio < _SCALES[1]:
        what = f"are {ratio:.3g} times as large as those of {name}"
    else:
        return []
    return [
        Finding(
            "warning",
            "zero_shot_forces",
            f"The forces {what}.",
            "Check their sign and unit, unless the foundation knows nothing like these frames.",
            source,
        )
    ]


def _joined(parts: Sequence[Predictions]) -> Predictions:
    arrays = {
        field.name: np.concatenate([getattr(p, field.name) for p in parts])
        for field in dataclasses.fields(Predictions)
        if field.name != "config_type"
    }
    return Predictions(**arrays, config_type=tuple(t for p in parts for t in p.config_type))


def _cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    known = np.isfinite(b)
    length = float(np.linalg.norm(a[known]) * np.linalg.norm(b[known]))
    return float(a[known] @ b[known]) / length if length > 0 else None


def _ratio(a: np.ndarray, b: np.ndarray) -> float | None:
    known = np.isfinite(a)
    below = float(np.linalg.norm(b[known]))
    return float(np.linalg.norm(a[known])) / below if below > 0 else None
