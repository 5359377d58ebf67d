"""What an optimizer leaves of an error along one eigenvector, with P frozen.

On a quadratic, the error along an eigenvector of P H with eigenvalue mu follows a linear recursion
in h = lr mu. After T steps from rest the share left is the filter f_T(h): (1 - h)^T for gradient
descent; momentum, bias corrections, Lookahead and averaging change it. The largest h with a bounded
recursion is the threshold of stability: 2 for gradient descent, (2 + 2 beta) / (1 + 2 beta) for
Nesterov's momentum, (2 + 2 beta1) / (1 - beta1) for Adam (Cohen et al., arXiv 2207.14484, eq. 4).

A state is an array of shape (d, n): the error of the weights that are deployed in row 0, then what
else the optimizer remembers, for n values of h at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ase_finetune.curvature.states import rectifier
from ase_finetune.errors import ConfigError
from ase_finetune.optimizers import optimizer_info

Array = NDArray[np.float64]
Advance = Callable[[Array, Array, float], Array]


@dataclass(frozen=True)
class Filter:
    """The recursion of one optimizer.

    Attributes
    ----------
    size
        Rows of a state.
    advance
        Maps a state, h of shape (n,) and the number of the step (from 1; infinite for the
        stationary recursion) to the next state.
    begin
        Rows of a state that start as the error itself; the others start at zero.
    period
        Steps after which the stationary recursion repeats.
    gain
        Factor that P holds at a step and that the recursion brings by itself, 1 for most: h means
        lr mu / gain, with mu an eigenvalue for P as it is at that step.
    """

    size: int
    advance: Advance
    begin: tuple[int, ...] = (0,)
    period: int = 1
    gain: Callable[[float], float] = lambda step: 1.0

    def curve(self, h: Array, steps: int) -> Array:
        """Return f_T(h) after so many steps from rest, signed, shape of h."""
        h = np.asarray(h, dtype=float)
        state = np.zeros((self.size, *h.shape))
        state[list(self.begin)] = 1.0
        with np.errstate(over="ignore", invalid="ignore"):
            for step in range(1, steps + 1):
                state = self.advance(state, h, float(step))
            found = state[0]
        # Beyond the threshold it grows without bound, past the largest number.
        return np.where(np.isnan(found), np.inf, found)

    def matrix(self, h: float) -> Array:
        """Return the matrix of one period of the stationary recursion, shape (d, d)."""
        state = np.eye(self.size)
        # Counted so that the steps of a period that differ come last.
        for k in range(1, self.period + 1):
            state = self.advance(state, np.full(self.size, h), math.inf if self.period == 1 else -k)
        return state

    def radius(self, h: float) -> float:
        """Return the spectral radius of one period."""
        return float(np.abs(np.linalg.eigvals(self.matrix(h))).max())

    def threshold(self, highest: float = 1e4) -> float:
        """Return the largest h up to which the stationary recursion stays bounded."""
        bound = 1.0 + 1e-9
        grid = np.geomspace(1e-3, highest, 400)
        beyond = next((i for i, h in enumerate(grid) if self.radius(h) > bound), None)
        if beyond is None:
            return math.inf
        low, high = (0.0 if beyond == 0 else float(grid[beyond - 1])), float(grid[beyond])
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (low, middle) if self.radius(middle) > bound else (middle, high)
        return low


def optimizer_filter(name: str, options: Mapping[str, Any] | None = None) -> Filter:
    """Return the filter of an optimizer of the registry, ``lbfgs`` or ``lm``.

    Parameters
    ----------
    name
        L-BFGS and Levenberg-Marquardt with P frozen and a step of 1 are gradient descent in P H:
        for the latter 1 - h = mu0 / (mu + mu0).
    options
        Over the registry's defaults.

    Raises
    ------
    ConfigError
        If there is no formula for this optimizer.
    """
    if name in ("lbfgs", "lm"):
        return gradient_descent()
    if name not in _FILTERS:
        raise ConfigError(f"There is no filter for {name}; there are {', '.join(_FILTERS)}.")
    return _FILTERS[name]({**optimizer_info(name).defaults, **(options or {})})


def gradient_descent() -> Filter:
    """Return (1 - h)^T."""
    return Filter(1, lambda state, h, step: state * (1.0 - h))


def momentum(beta: float, nesterov: bool) -> Filter:
    """Return the filter of heavy ball or Nesterov's momentum as torch's SGD has them."""

    def advance(state: Array, h: Array, step: float) -> Array:
        x, b = state
        b = beta * b + h * x
        return np.stack([x - (h * x + beta * b if nesterov else b), b])

    return Filter(2, advance)


def averaged_momentum(beta: float, nesterov: bool) -> Filter:
    """Return the filter of momentum as a moving average without bias correction (Muon)."""

    def advance(state: Array, h: Array, step: float) -> Array:
        x, m = state
        m = beta * m + (1.0 - beta) * h * x
        return np.stack([x - ((1.0 - beta) * h * x + beta * m if nesterov else m), m])

    return Filter(2, advance)


def adam(beta1: float, idle: int = 0, gain: Callable[[float], float] | None = None) -> Filter:
    """Return the filter of Adam's bias-corrected moving average.

    Parameters
    ----------
    beta1
        Of the first moment.
    idle
        First steps that neither move nor remember (SOAP: 1).
    gain
        Factor of each step (RAdam's rectifier), 1 in the stationary recursion.
    """

    def advance(state: Array, h: Array, step: float) -> Array:
        x, m = state
        if step <= idle and step > 0:
            return state
        m = beta1 * m + (1.0 - beta1) * h * x
        stationary = step < 0 or math.isinf(step)
        correction = 1.0 if stationary else 1.0 - beta1 ** (step - idle)
        factor = 1.0 if gain is None or stationary else gain(step)
        return np.stack([x - factor * m / correction, m])

    return Filter(2, advance, gain=gain or (lambda step: 1.0))


def lookahead(inner: Filter, every: int, alpha: float) -> Filter:
    """Return the filter of Lookahead around another: every so many steps the slow weights follow.

    The inner momentum is kept at each pull.
    """

    def advance(state: Array, h: Array, step: float) -> Array:
        fast, slow = inner.advance(state[:-1], h, step), state[-1]
        if step % every == 0:
            slow = slow + alpha * (fast[0] - slow)
            fast = np.concatenate([slow[None], fast[1:]])
        return np.concatenate([fast, slow[None]])

    return Filter(inner.size + 1, advance, begin=(0, inner.size), period=every, gain=inner.gain)


def schedule_free(beta: float) -> Filter:
    """Return the filter of ScheduleFree with a constant learning rate, on its average x.

    y = (1 - beta) z + beta x, z <- z - h y, x <- (1 - c) x + c z with c = 1 / t (Defazio et al.,
    arXiv 2405.15682, eqs. 1-3). In the limit of many steps x rests, and z is bounded up to
    h = 2 / (1 - beta).
    """

    def advance(state: Array, h: Array, step: float) -> Array:
        x, z = state
        c = 0.0 if math.isinf(step) else 1.0 / step
        z = z - h * ((1.0 - beta) * z + beta * x)
        return np.stack([(1.0 - c) * x + c * z, z])

    return Filter(2, advance, begin=(0, 1))


def _radam(options: Mapping[str, Any]) -> Filter:
    beta1, beta2 = options["betas"]
    first = options.get("unrectified", 0.0)

    def gain(step: float) -> float:
        r = rectifier(step, beta2)
        return first if r is None else r

    return adam(beta1, gain=gain)


_FILTERS: dict[str, Callable[[Mapping[str, Any]], Filter]] = {
    "adam": lambda o: adam(o["betas"][0]),
    "adamw": lambda o: adam(o["betas"][0]),
    "radam": _radam,
    "sgd": lambda o: momentum(o["momentum"], o["nesterov"]),
    "lamb": lambda o: adam(o["betas"][0]),
    "ranger": lambda o: lookahead(_radam(o), o["k"], o["alpha"]),
    "schedulefree": lambda o: schedule_free(o["betas"][0]),
    "muon": lambda o: averaged_momentum(o["momentum"], o.get("nesterov", True)),
    "soap": lambda o: adam(o["betas"][0], idle=1),
}
