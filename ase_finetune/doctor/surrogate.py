"""How well a simple linear model predicts each energy from all others.

Ridge regression of the energy per atom on composition, smooth counts of pair distances and
densities (`geometry`). Not a potential: it only tells an energy that belongs to its
structure from one that does not, also where no other frame is near.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_FRAMES_PER_FEATURE = 3
_PASSES = 3
_MOST_LEVERAGE = 0.5
_UNUSUAL = 4.0  # times the usual leverage
_LIKE_FRAMES = 30
_LEAST_SCALE = 1.0  # of the scatter of all
_MIXTURE_RIDGE = 1e-6
_LEVEL_GAIN = 0.3  # of the scatter without levels; halving a bell curve leaves 0.6
_LEAST_STEP = 6.0  # times the scatter with levels
_LEAST_SHARE = 0.1
_ROUNDS = 50


@dataclass(frozen=True)
class Levels:
    """A model with two levels of energy.

    Attributes
    ----------
    step
        From the lower to the upper one, eV/atom.
    high
        (F,), whether a frame is on the upper one.
    """

    step: float
    high: NDArray[np.bool_]


@dataclass(frozen=True)
class Surrogate:
    """Predictions of each frame's energy by the others.

    Attributes
    ----------
    residual
        (F,), eV/atom, label minus the prediction of a fit without this frame; zero where nothing
        else is like it, so that there is no prediction.
    scatter
        Robust standard deviation of the residuals, eV/atom.
    explained
        One minus the ratio of robust variances of residuals and energies (composition removed);
        near one where energies follow their structures, near or below zero where they do not.
    levels
        Two levels of energy, if assuming them makes the model several times better.
    scale
        (F,), the scatter of frames with forces of like size, eV/atom: hot frames are harder.
    usual
        (F,), whether enough other frames are like this one to judge it alone.
    """

    residual: Array
    scatter: float
    explained: float
    levels: Levels | None
    scale: Array
    usual: NDArray[np.bool_]

    @property
    def scores(self) -> Array:
        """Residuals in units of the scatter of like frames, (F,)."""
        out: Array = (self.residual - np.median(self.residual)) / np.maximum(self.scale, 1e-9)
        return out


def surrogate(
    features: Array, energy: Array, elements: int, force: Array | None = None
) -> Surrogate | None:
    """Fit and predict.

    Parameters
    ----------
    features
        (F, K) of `geometry.geometry`; the first ``elements`` columns are the composition.
    energy
        (F,), eV/atom.
    elements
        Number of elements.
    force
        (F,), size of the forces, eV/A; frames are compared with others of like size.

    Returns
    -------
    Surrogate or None
        None if there are fewer than three frames per feature that varies.
    """
    composition = features[:, :elements]
    fit, *_ = np.linalg.lstsq(composition, energy, rcond=1e-8)
    target = energy - composition @ fit
    varying = features.std(axis=0) > 1e-9
    columns = features[:, varying]
    if len(energy) < max(24, _FRAMES_PER_FEATURE * columns.shape[1]):
        return None
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    kept = np.ones(len(energy), dtype=bool)
    residual, leverage = target, np.zeros(len(target))
    for _ in range(_PASSES):
        residual, leverage = _left_out(columns, target, kept)
        scores = np.abs(residual - np.median(residual)) / max(_spread(residual), 1e-12)
        kept = scores < 8
        if kept.sum() < len(energy) / 2:
            break
    scatter, before = _spread(residual), _spread(target)
    explained = 1 - (scatter / before) ** 2 if before > 0 else 0.0
    scale = np.full(len(energy), scatter) if force is None else _scale(residual, scatter, force)
    usual = leverage < _UNUSUAL * np.median(leverage)
    return Surrogate(residual, scatter, explained, _levels(columns, target), scale, usual)


def _scale(residual: Array, scatter: float, force: Array) -> Array:
    """Scatter among the frames whose forces are nearest in size."""
    order = np.argsort(force)
    off = np.abs(residual - np.median(residual))[order]
    half = max(_LIKE_FRAMES, len(off) // 10) // 2
    scale = np.empty(len(off))
    for place, row in enumerate(order):
        low = max(0, min(place - half, len(off) - 2 * half))
        scale[row] = 1.4826 * np.median(off[low : low + 2 * half])
    return np.maximum(scale, _LEAST_SCALE * scatter)


def step_between(
    features: Array, energy: Array, elements: int, second: NDArray[np.bool_]
) -> tuple[float, float] | None:
    """Fit a constant difference per atom between two sets beside the linear model.

    Parameters
    ----------
    features, energy, elements
        Of both sets, as in `surrogate`.
    second
        (F,), which frames are of the second set.

    Returns
    -------
    (step, scatter) or None
        Energies of the second set less those of the first, and what is left, eV/atom; None where
        there are too few frames, or the structures of the two have nothing in common.
    """
    composition = features[:, :elements]
    fit, *_ = np.linalg.lstsq(composition, energy, rcond=1e-8)
    target = energy - composition @ fit
    mark = second.astype(float)
    varying = features.std(axis=0) > 1e-9
    columns = features[:, varying]
    if len(energy) < max(24, _FRAMES_PER_FEATURE * columns.shape[1]):
        return None
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    left = left[:, sizes > 1e-6 * sizes[0]]

    def rest(values: Array) -> Array:
        values = values - values.mean()
        out: Array = values - left @ (left.T @ values)
        return out

    level, plain = rest(mark), rest(target)
    if float(level @ level) < _LEAST_SHARE * len(energy) * mark.mean() * (1 - mark.mean()):
        return None
    step = float(level @ plain / (level @ level))
    return step, _spread(plain - step * level)


def _left_out(columns: Array, target: Array, kept: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Residuals of a ridge fit without the frame itself, and how much each frame decides it.

    The ridge is chosen by the residuals.
    """
    middle = float(np.mean(target[kept]))
    center = columns[kept].mean(axis=0)
    left, sizes, right = np.linalg.svd(columns[kept] - center, full_matrices=False)
    inside, best = left.T @ (target[kept] - middle), (np.inf, 0.0)
    for strength in sizes[0] ** 2 * np.logspace(-10, 0, 21):
        shrink = sizes**2 / (sizes**2 + strength)
        wrong = target[kept] - middle - left @ (shrink * inside)
        decided = (left**2 * shrink).sum(axis=1) + 1 / kept.sum()
        score = float(np.median(np.abs(wrong / np.maximum(1 - decided, 1e-3))))
        if score < best[0]:
            best = (score, float(strength))
    shrink = sizes**2 / (sizes**2 + best[1])
    weights = right.T @ (sizes / (sizes**2 + best[1]) * inside)
    residual: Array = target - middle - (columns - center) @ weights
    spread = (columns - center) @ (right.T / np.sqrt(sizes**2 + best[1]))
    leverage: Array = (spread**2).sum(axis=1) + 1 / kept.sum()
    # Of a frame left out, what it would have if it were not.
    leverage[~kept] /= 1 + leverage[~kept]
    residual[kept] /= np.maximum(1 - leverage[kept], 1e-3)
    unlike = kept & (leverage > _MOST_LEVERAGE)
    residual[unlike] = float(np.median(residual[~unlike])) if not unlike.all() else 0.0
    return residual, leverage


def _levels(columns: Array, target: Array) -> Levels | None:
    """Fit a model with an unknown level for each frame, alternating between the two.

    It starts from the sign of the residual and from breaks in the order of the frames.
    """
    count = len(target)
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    shrink = sizes**2 / (sizes**2 + _MIXTURE_RIDGE * sizes[0] ** 2)

    def smooth(values: Array) -> Array:
        middle = float(values.mean())
        fitted: Array = middle + left @ (shrink * (left.T @ (values - middle)))
        return fitted

    plain = target - smooth(target)
    order = np.arange(count)
    starts = [plain > np.median(plain), *(order >= count * k // 6 for k in (2, 3, 4))]
    best: Levels | None = None
    least = _LEVEL_GAIN * _spread(plain)
    for high in starts:
        for _ in range(_ROUNDS):
            if not _LEAST_SHARE < high.mean() < 1 - _LEAST_SHARE:
                break
            level = high - smooth(high.astype(float))
            step = float(level @ plain / (level @ level))
            rest = target - smooth(target - step * high)
            again = rest / step > 0.5
            if (again == high).all():
                break
            high = again
        if not _LEAST_SHARE < high.mean() < 1 - _LEAST_SHARE:
            continue
        scatter = _spread(plain - step * (high - smooth(high.astype(float))))
        if scatter < least and abs(step) > _LEAST_STEP * scatter:
            least = scatter
            best = Levels(abs(step), high if step > 0 else ~high)
    return best


def _spread(values: Array) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
