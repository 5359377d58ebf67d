"""Errors of phonon bands against a reference, branch by branch at identical q."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from properties.errors import PropertyError
from properties.phonon_path import PATH_UNIT
from properties.phonon_result import PhononResult
from properties.quantity import Curve, Quantity

Array = NDArray[np.float64]
DEGENERATE = 1e-3


@dataclass(frozen=True, eq=False)
class BandErrors:
    """Differences of two sets of bands.

    Sorted means: at each q the branches of both are ordered by frequency, and the n-th is compared
    with the n-th. Of all assignments that has the smallest mean error, so it understates the
    error where branches cross. Matched means: each branch is compared with the one that it
    resembles by its eigenvector.

    Attributes
    ----------
    x : ndarray, shape (n,)
        Path coordinate of the reference, see `properties.phonons`.
    errors : ndarray, shape (n, branches)
        THz, signed, model minus reference, sorted.
    errors_matched : ndarray, shape (n, branches), or None
        The same, matched, in the order of the reference's branches; None if the eigenvectors of
        either are not known.
    overlap : ndarray, shape (n, branches), or None
        ``|<e|e'>|^2`` of each matched pair. Of degenerate modes the overlap of their subspaces,
        over the dimension of the smaller: 1 for equal eigenvectors.
    weights : ndarray, shape (n,)
        Share of each q-point in the length of the path; they add up to 1.
    mae, mae_matched : float, float or None
        THz, mean absolute error over branches, averaged along the path.
    mean_error : float
        THz, signed mean; negative for a model that is too soft.
    maximum, maximum_at : float
        THz, largest absolute sorted error, and its path coordinate.
    """

    x: Array
    errors: Array
    errors_matched: Array | None
    overlap: Array | None
    weights: Array
    mae: float
    mae_matched: float | None
    mean_error: float
    maximum: float
    maximum_at: float

    @property
    def pointwise(self) -> Array:
        """Mean absolute sorted error over branches at each q, THz, shape (n,)."""
        mean: Array = np.abs(self.errors).mean(1)
        return mean

    @property
    def pointwise_matched(self) -> Array | None:
        """Mean absolute matched error over branches at each q, THz, shape (n,)."""
        return None if self.errors_matched is None else np.abs(self.errors_matched).mean(1)

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return ``phonon_mae``, ``phonon_mae_matched``, ``phonon_mean_error``, ``phonon_maximum``.

        Parameters
        ----------
        source : str
            Origin to note in each, for example the names of model and reference.
        """
        found: dict[str, Quantity | Curve] = {"phonon_mae": Quantity(self.mae, "THz", source)}
        if self.mae_matched is not None:
            found["phonon_mae_matched"] = Quantity(self.mae_matched, "THz", source)
        found["phonon_mean_error"] = Quantity(self.mean_error, "THz", source)
        found["phonon_maximum"] = Quantity(self.maximum, "THz", source)
        return found


def band_errors(result: PhononResult | Curve, reference: PhononResult | Curve) -> BandErrors:
    """Compare bands with a reference at the same fractional q.

    Parameters
    ----------
    result, reference : PhononResult or Curve
        A curve as :meth:`properties.phonon_result.PhononResult.curve` makes it. Two results are
        also compared with branches matched by eigenvector. A reference of stored DFT forces
        becomes a result by :func:`properties.phonon_files.load_phonons`.

    Returns
    -------
    BandErrors

    Raises
    ------
    PropertyError
        If the two do not have the same points and branches, so that errors would be of something
        else; compute both with the same path and points.
    """
    model, target = _curve(result), _curve(reference)
    _require_same(result, reference, model, target)
    difference: Array = model.y - target.y
    matched = overlap = None
    if isinstance(result, PhononResult) and isinstance(reference, PhononResult):
        matched, overlap = _matched(result, reference)
    weights = _weights(target.x)
    worst = np.unravel_index(np.abs(difference).argmax(), difference.shape)
    return BandErrors(
        x=target.x,
        errors=difference,
        errors_matched=matched,
        overlap=overlap,
        weights=weights,
        mae=float(weights @ np.abs(difference).mean(1)),
        mae_matched=None if matched is None else float(weights @ np.abs(matched).mean(1)),
        mean_error=float(weights @ difference.mean(1)),
        maximum=float(np.abs(difference[worst])),
        maximum_at=float(target.x[worst[0]]),
    )


def match_branches(
    frequencies: Array,
    vectors: NDArray[np.complex128],
    reference_frequencies: Array,
    reference_vectors: NDArray[np.complex128],
) -> tuple[NDArray[np.intp], Array]:
    """Assign to each branch of a reference the one of a model that resembles it, at one q.

    The assignment maximizes the sum of overlaps ``|<e|e'>|^2``. The vectors of degenerate modes
    are arbitrary within their subspace, so overlaps are averaged over both subspaces before.

    Parameters
    ----------
    frequencies, reference_frequencies : ndarray, shape (branches,)
        THz, ascending.
    vectors, reference_vectors : ndarray, shape (branches, branches)
        Eigenvectors in columns.

    Returns
    -------
    order : ndarray, shape (branches,)
        Branch of the model for each branch of the reference.
    overlap : ndarray, shape (branches,)
        See :class:`BandErrors`.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = _groups(reference_frequencies), _groups(frequencies)
    squared = np.abs(reference_vectors.conj().T @ vectors) ** 2
    alike = _averages(rows) @ squared @ _averages(columns)
    # Between equal overlaps, as within degenerate modes, the order of frequencies decides.
    rank = np.arange(len(frequencies)) / len(frequencies)
    chosen, order = linear_sum_assignment(1e-6 * (rank[:, None] - rank) ** 2 - alike)
    larger = np.maximum(_sizes(rows), _sizes(columns)[order])
    return order, np.minimum(1.0, alike[chosen, order] * larger)


def _matched(result: PhononResult, reference: PhononResult) -> tuple[Array, Array]:
    errors, overlaps = np.empty_like(reference.frequencies), np.empty_like(reference.frequencies)
    for i, (ours, theirs) in enumerate(zip(result.frequencies, reference.frequencies, strict=True)):
        order, overlaps[i] = match_branches(
            ours, result.eigenvectors[i], theirs, reference.eigenvectors[i]
        )
        errors[i] = ours[order] - theirs
    return errors, overlaps


def _groups(frequencies: Array) -> NDArray[np.intp]:
    """Number the sets of degenerate branches: a step of more than `DEGENERATE` THz starts one."""
    return np.concatenate([[0], np.cumsum(np.diff(frequencies) > DEGENERATE)])


def _sizes(groups: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the number of branches in the set of each branch."""
    size: NDArray[np.intp] = np.bincount(groups)[groups]
    return size


def _averages(groups: NDArray[np.intp]) -> Array:
    """Return the matrix that replaces each branch by the mean of its set."""
    mean: Array = np.equal.outer(groups, groups) / _sizes(groups)
    return mean


def _weights(x: Array) -> Array:
    """Weights of the trapezoidal rule over a path of length 1."""
    steps = np.diff(x)
    weights: Array = 0.5 * (np.append(steps, 0.0) + np.append(0.0, steps)) / (x[-1] - x[0])
    return weights


def _curve(bands: PhononResult | Curve) -> Curve:
    return bands.curve("") if isinstance(bands, PhononResult) else bands


def _require_same(
    result: PhononResult | Curve, reference: PhononResult | Curve, model: Curve, target: Curve
) -> None:
    for curve in (model, target):
        if (curve.x_unit, curve.y_unit) != (PATH_UNIT, "THz") or curve.y.ndim != 2:
            raise PropertyError(
                f"Bands are in THz over the unit {PATH_UNIT!r}, one column for each branch; a "
                f"curve has {curve.y_unit} over {curve.x_unit}."
            )
    same = model.y.shape == target.y.shape and np.allclose(model.x, target.x, rtol=0, atol=1e-3)
    if same and isinstance(result, PhononResult) and isinstance(reference, PhononResult):
        same = np.allclose(result.path.q, reference.path.q, rtol=0, atol=1e-6)
        if list(result.atoms.numbers) != list(reference.atoms.numbers):
            raise PropertyError("The two cells hold other atoms, or the same in another order.")
    if not same:
        raise PropertyError(
            f"The bands have {model.y.shape} and {target.y.shape} points and branches, or other "
            "q; compute both with the same path, points and choice of cell vectors."
        )
