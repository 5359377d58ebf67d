"""The true Hessian under every preconditioner, by Lanczos processes that advance together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ase_finetune.curvature.lanczos import Density, Interval, Lanczos, advance, probes, trace
from ase_finetune.curvature.outcome import HessianView
from ase_finetune.curvature.preconditioners import apply
from ase_finetune.curvature.products import LossProducts

if TYPE_CHECKING:
    from ase_finetune.curvature.analysis import Candidate, View

HUTCHINSON = 4


def preconditioned(
    candidate: Candidate, hessian: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the product with F^T H F and the optimizer's weight decay."""

    def product(x: torch.Tensor) -> torch.Tensor:
        given = candidate.P.factor(x)
        return finish(candidate, x, given, hessian(given))

    return product


def finish(
    candidate: Candidate, x: torch.Tensor, given: torch.Tensor, image: torch.Tensor
) -> torch.Tensor:
    """Return F^T (H F x), with H F x given, and what decay adds."""
    decay = candidate.decay
    if decay is not None and decay.coupled:
        image = image + decay.diagonal * given
    found = candidate.P.transposed(image)
    if decay is not None and not decay.coupled:
        found = found + decay.diagonal * x
    return found


def hessian_views(
    products: LossProducts,
    candidates: Sequence[Candidate],
    gradient: torch.Tensor,
    active: torch.Tensor,
    view: View,
    progress: Callable[[str, int, int], None],
) -> dict[str, HessianView]:
    """Return what Lanczos sees of each candidate.

    Parameters
    ----------
    products
        Of the chosen frames.
    candidates
        Preconditioners.
    gradient
        Of the loss, shape (size,).
    active
        1 where a parameter acts, else 0, shape (size,).
    view
        Numbers of steps and probes, and the seed.
    progress
        Called with a title and (done, total).
    """
    starts = probes(view.probes, products.size, view.seed, active)
    owners = [c for c in candidates for _ in range(view.probes)]
    processes = [Lanczos(start) for _ in candidates for start in starts]

    def images(alive: list[int], vectors: torch.Tensor) -> torch.Tensor:
        given = torch.stack(
            [owners[i].P.factor(v[None])[0] for i, v in zip(alive, vectors, strict=True)]
        )
        found = products.hessian(given)
        return torch.stack(
            [
                finish(owners[i], v[None], x[None], y[None])[0]
                for i, v, x, y in zip(alive, vectors, given, found, strict=True)
            ]
        )

    advance(
        processes,
        images,
        view.lanczos,
        lambda done, total: progress(f"Hessian, {view.name}", done, total),
    )
    for process in processes:
        process.release()
    steps = torch.stack([apply(c.P, gradient[None])[0] for c in candidates])
    bent = products.hessian(steps)
    found = {}
    for k, candidate in enumerate(candidates):
        own = processes[k * view.probes : (k + 1) * view.probes]
        density = Density.of(own, int(active.sum()))
        step = steps[k]
        squared = step.square().sum()
        found[candidate.name] = HessianView(
            largest=_extreme(own, -1),
            smallest=_extreme(own, 0),
            trace=density.integral(lambda x: x),
            negative_share=density.share(lambda x: x.clamp(max=0.0).abs(), torch.abs),
            sharpness=float(torch.dot(step, bent[k]) / squared),
            alignment=float(torch.dot(step, gradient) / squared.sqrt() / gradient.norm()),
            density=density,
        )
    return found


def _extreme(processes: Sequence[Lanczos], end: int) -> Interval:
    """The outermost Ritz value of all processes, which bounds the spectrum from inside."""
    best: tuple[float, float] | None = None
    for process in processes:
        values, _, residuals = process.ritz()
        here = (float(values[end]), float(residuals[end]))
        if best is None or (here[0] > best[0]) == (end == -1):
            best = here
    assert best is not None
    return Interval(*best)


def relative_difference(
    products: LossProducts, J: torch.Tensor, active: torch.Tensor, view: View
) -> Interval:
    """Return |H - J^T J| / |H| in the Frobenius norm, whose squares are traces of squares."""
    signs = probes(HUTCHINSON, products.size, view.seed + 1, active)
    image = products.hessian(signs)
    rest = image - signs @ J.T @ J
    ratios = (rest.norm(dim=1) / image.norm(dim=1)).tolist()
    return Interval.of(ratios)


def hessian_trace(
    products: LossProducts, J: torch.Tensor, signs: torch.Tensor
) -> tuple[Interval, float]:
    """Return the trace of H - J^T J with its interval, and that of J^T J, which is exact."""
    found = trace(lambda z: products.hessian(z) - z @ J.T @ J, signs)
    return found, float(J.square().sum())
