"""The published update rules in plain numpy, one function a step, for the conformance suite.

Each takes the weights, the gradient, what it keeps, and its settings, and returns new weights.
"""

from __future__ import annotations

import numpy as np


def _adam(gradient, kept, betas, eps):
    kept["t"] = t = kept.get("t", 0) + 1
    kept["m"] = betas[0] * kept.get("m", 0.0) + (1 - betas[0]) * gradient
    kept["v"] = betas[1] * kept.get("v", 0.0) + (1 - betas[1]) * gradient**2
    return kept["m"] / (1 - betas[0] ** t), kept["v"] / (1 - betas[1] ** t), eps


def adam(w, g, kept, lr, decay, betas=(0.9, 0.999), eps=1e-8):
    m, v, eps = _adam(g + decay * w, kept, betas, eps)
    return w - lr * m / (np.sqrt(v) + eps)


def adamw(w, g, kept, lr, decay, betas=(0.9, 0.999), eps=1e-8):
    m, v, eps = _adam(g, kept, betas, eps)
    return w - lr * decay * w - lr * m / (np.sqrt(v) + eps)


def radam(w, g, kept, lr, decay, betas=(0.9, 0.999), eps=1e-8):
    m, _, _ = _adam(g, kept, betas, eps)
    t = kept["t"]
    longest = 2 / (1 - betas[1]) - 1
    rho = longest - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
    w = w - lr * decay * w
    if rho <= 5:
        return w - lr * m
    r = np.sqrt((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho))
    # torch puts eps beside the uncorrected second moment.
    scale = np.sqrt(1 - betas[1] ** t) / (np.sqrt(kept["v"]) + eps)
    return w - lr * m * r * scale


def sgd(w, g, kept, lr, decay, momentum=0.9):
    g = g + decay * w
    kept["buffer"] = g if "buffer" not in kept else momentum * kept["buffer"] + g
    return w - lr * (g + momentum * kept["buffer"])


def lamb(w, g, kept, lr, decay, betas=(0.9, 0.999), eps=1e-6):
    m, v, eps = _adam(g, kept, betas, eps)
    u = m / (np.sqrt(v) + eps) + decay * w
    norms = np.linalg.norm(w), np.linalg.norm(u)
    return w - lr * (norms[0] / norms[1] if min(norms) > 0 else 1.0) * u


def ranger(w, g, kept, lr, decay, betas=(0.95, 0.999), eps=1e-5, k=6, alpha=0.5):
    slow = kept.setdefault("slow", w)
    w = radam(w, g, kept, lr, decay, betas, eps)
    if kept["t"] % k == 0:
        kept["slow"] = w = slow + alpha * (w - slow)
    return w


def schedulefree(w, g, kept, lr, decay, betas=(0.9, 0.999), eps=1e-8):
    """Weights are y; x and z are kept. Constant rate, so that x is the plain average of z."""
    kept["t"] = t = kept.get("t", 0) + 1
    z, x = kept.get("z", w), kept.get("x", w)
    kept["v"] = betas[1] * kept.get("v", 0.0) + (1 - betas[1]) * g**2
    step = g / (np.sqrt(kept["v"] / (1 - betas[1] ** t)) + eps) + decay * w
    kept["z"] = z - lr * step
    kept["x"] = x + (kept["z"] - x) / t
    return betas[0] * kept["x"] + (1 - betas[0]) * kept["z"]


def muon(w, g, kept, lr, decay, momentum=0.95, betas=(0.9, 0.999), eps=1e-8):
    if w.ndim != 2 or min(w.shape) < 2:
        return adamw(w, g, kept, lr, decay, betas, eps)
    kept["b"] = momentum * kept.get("b", 0.0) + (1 - momentum) * g
    x = (1 - momentum) * g + momentum * kept["b"]
    x = x / np.linalg.norm(x)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    return w - lr * decay * w - lr * 0.2 * np.sqrt(max(w.shape)) * x


def soap(w, g, kept, lr, decay, betas=(0.95, 0.95), eps=1e-8, beta=0.95, refresh=10):
    if w.ndim != 2 or min(w.shape) < 2:
        return adamw(w, g, kept, lr, decay, betas, eps)
    new = w - lr * decay * w
    kept.setdefault("t", 0)
    if "QL" in kept:
        kept["t"] = t = kept["t"] + 1
        left, right = kept["QL"], kept["QR"]
        kept["m"] = betas[0] * kept.get("m", 0.0) + (1 - betas[0]) * g
        kept["v"] = betas[1] * kept.get("v", 0.0) + (1 - betas[1]) * (left.T @ g @ right) ** 2
        turned = left.T @ kept["m"] @ right / (1 - betas[0] ** t)
        step = turned / (np.sqrt(kept["v"] / (1 - betas[1] ** t)) + eps)
        new = new - lr * left @ step @ right.T
    for side, product in (("L", g @ g.T), ("R", g.T @ g)):
        kept[side] = beta * kept.get(side, 0.0) + (1 - beta) * product
        if "Q" + side not in kept:
            kept["Q" + side] = np.linalg.eigh(kept[side])[1][:, ::-1]
        elif kept["t"] % refresh == 0:
            basis = kept["Q" + side]
            order = np.argsort(-np.diag(basis.T @ kept[side] @ basis), kind="stable")
            kept["v"] = kept["v"][order] if side == "L" else kept["v"][:, order]
            kept["Q" + side] = np.linalg.qr(kept[side] @ basis[:, order])[0]
    return new


RULES = {
    rule.__name__: rule
    for rule in (adam, adamw, radam, sgd, lamb, ranger, schedulefree, muon, soap)
}
