"""Whether labels include a dispersion correction, so that nobody adds it twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ase import Atoms

from ase_finetune.data.read import is_isolated_atom

NONE = "none"
_KEYS = ("dispersion", "vdw", "dispersion_correction")
_THEORY = ("level_of_theory", "functional", "xc", "method", "theory")
_METHODS = re.compile(
    r"\bD[234]\b|-D[234]\b|D[234]\(|vdW|rVV10|\bMBD\b|Tkatchenko|dispersion", re.IGNORECASE
)
_ABSENT = ("none", "no", "off", "false", "0", "")


def label_dispersion(frames: Sequence[Atoms]) -> str | None:
    """Return the dispersion correction that the labels of some frames include.

    Parameters
    ----------
    frames
        Labelled frames. ``info["dispersion"]`` states it (``none``: they lack it); else the words
        of ``level_of_theory`` or ``functional`` may. Isolated atoms have none in any case.

    Returns
    -------
    str or None
        As stated, different ones joined by ``; ``; ``none`` where all frames say that there is
        none; None where they do not say.
    """
    meant = [a for a in frames if not is_isolated_atom(a)]
    stated = {_stated(a.info) for a in meant}
    included = sorted(text for text in stated if text not in (None, NONE))
    if included:
        return "; ".join(text for text in included if text is not None)
    return NONE if stated == {NONE} else None


def _stated(info: dict[str, Any]) -> str | None:
    for key in _KEYS:
        if key in info:
            text = str(info[key]).strip()
            return NONE if text.lower() in _ABSENT else text
    for key in _THEORY:
        text = str(info.get(key, ""))
        if _METHODS.search(text):
            return text
    return None
