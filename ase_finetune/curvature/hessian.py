"""The true Hessian under every preconditioner, by Lanczos processes that advance together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ase_finetune.curvature.lanczos import Density, Interval, Lanczos, advance, probes, trace
from ase_finetune.curvature.outcome import HessianView
from ase_finetune.curvature.preconditioners import Blockwise, apply
from ase_finetune.curvature.products import LossProducts

if TYPE_CHECKING:
    from ase_finetune.curvature.analysis import Candidate, View

HUTCHINSON = 4
SAME = 1e-10


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


def same_map(a: Candidate, b: Candidate) -> bool:
    """Whether two candidates have the same P, up to rounding, and the same decay."""
    if a is b:
        return True
    if a.decay is not None or b.decay is not None:
        return False
    if not (isinstance(a.P, Blockwise) and isinstance(b.P, Blockwise)):
        return False
    plain = not a.P.turned and not b.P.turned
    return plain and torch.allclose(a.P.diagonal, b.P.diagonal, rtol=SAME, atol=0.0)


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
    # Adam, AdamW and ScheduleFree, say, are one map at one theta: it is looked at once.
    origin = [
        next(i for i, other in enumerate(candidates) if same_map(c, other)) for c in candidates
    ]
    distinct = sorted(set(origin))
    owners = [candidates[i] for i in distinct for _ in range(view.probes)]
    processes = [Lanczos(start) for _ in distinct for start in starts]

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
        first = distinct.index(origin[k]) * view.probes
        own = processes[first : first + view.probes]
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


def beyond_gauss_newton(
    products: LossProducts, J: torch.Tensor, active: torch.Tensor, view: View
) -> tuple[Interval, Interval]:
    """Return |H - J^T J| / |H| in the Frobenius norm and the trace of H - J^T J, by Hutchinson.

    The trace of J^T J is known exactly, so that of H has the error of this small part alone.
    """
    signs = probes(HUTCHINSON, products.size, view.seed + 1, active)
    image = products.hessian(signs)
    rest = image - signs @ J.T @ J
    # Squared norms of images estimate traces of squares.
    ratios = (rest.norm(dim=1) / image.norm(dim=1)).tolist()
    return Interval.of(ratios), trace(signs, rest)
