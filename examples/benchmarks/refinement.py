"""Refine a fine-tuned seed by L-BFGS and by Levenberg-Marquardt within one budget.

    python refinement.py mo acetylacetone --costs

The seed is fine-tuned on a bundled system by its recipe without replay frames (``--epochs``
shortens it). Both methods start from these weights and minimize the same loss, that of the recipe's
refinement, for at most its number of gradient equivalents (``--budget`` changes it). Prints one
JSON line for each system: errors of the fine-tuned and both refined potentials on the validation
set, which chose their weights, and on the test sets, which nobody looked at; the last training
loss; gradient equivalents and wall time. ``ours`` and ``peer`` are the validation force errors in
meV/A of Levenberg-Marquardt and L-BFGS, whose ratio is above 1 if ours is better.

``--costs`` measures what Levenberg-Marquardt does in units of one full-batch gradient: the numbers
behind the constants in ``levenberg_marquardt.py``. Apart from times the output is deterministic.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from ase_finetune import Checkpoint, RefineConfig, Splits, TrainConfig, finetune, refine
from ase_finetune.cli.options import resolve
from ase_finetune.evaluate import predict_frames
from ase_finetune.gauss_newton import SecantModel
from ase_finetune.levenberg_marquardt import ROW_COST
from ase_finetune.loss import Loss
from ase_finetune.residuals import Residuals
from ase_finetune.start import make_graphs, training_frames
from systems import get_system

METHODS = ("lbfgs", "lm")


def errors(checkpoint: Checkpoint, splits: Splits) -> dict[str, dict[str, float]]:
    """Errors on the validation and test sets, in meV/A and meV/atom."""
    found = {}
    for name, frames in {"valid": splits.valid, **splits.tests}.items():
        e = predict_frames(checkpoint, training_frames(frames)).errors()
        found[name] = {
            "force_rmse_meV_per_A": round(e.force_rmse_meV_per_A or 0.0, 3),
            "energy_rmse_meV_per_atom": round(e.energy_rmse_meV_per_atom or 0.0, 3),
        }
    return found


def seconds(function: Callable[[], Any], repeat: int = 3) -> float:
    """Shortest time of a call, after one that warms up."""
    function()
    times = []
    for _ in range(repeat):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return min(times)


def costs(problem: Residuals) -> dict[str, float]:
    """Times in units of loss and gradient of the whole training set."""
    gradient = seconds(problem.gradient)
    vector = torch.ones(problem.size, dtype=torch.float64)
    begun = time.perf_counter()
    rho, J = problem.jacobian()
    rows = time.perf_counter()
    model = SecantModel(J)
    gram = time.perf_counter()
    step = seconds(lambda: model.step(rho, torch.zeros_like(vector), 0.0, 1e-3 * model.largest))
    evaluation = seconds(problem.values)
    found = {
        "evaluation": evaluation / gradient,
        "product": seconds(lambda: problem.normal(vector)) / gradient,
        "jacobian": (rows - begun) / gradient,
        "gram": (gram - rows) / gradient,
        "row": (gram - begun) / gradient * problem.n_frames / problem.rows,
        "row_counted": ROW_COST,
        "step": (evaluation + step) / gradient,
    }
    return {"gradient_s": round(gradient, 3), **{k: round(v, 2) for k, v in found.items()}}


def residuals(checkpoint: Checkpoint, splits: Splits, config: RefineConfig) -> Residuals:
    """The least-squares problem that the refinement solves."""
    weights = [
        float(checkpoint.config[n] if getattr(config, n) is None else getattr(config, n))
        for n in ("energy_weight", "forces_weight", "stress_weight")
    ]
    graphs = make_graphs(
        training_frames(splits.train), checkpoint, "float64", stress=weights[2] > 0
    )
    module = checkpoint.module("float64", accelerate=True)
    return Residuals(module, graphs, Loss.for_graphs(graphs, *weights), len(checkpoint.numbers))


def compare(name: str, budget: int | None, epochs: int | None, measure: bool) -> dict[str, Any]:
    """Fine-tune, refine both ways and return the line of a system."""
    system = get_system(name)
    splits = Splits.from_named(system.frames())
    changes = {"replay_weight": 0.0} | ({} if epochs is None else {"epochs": epochs})
    config, recipe = resolve(changes, budget, system.recipe)
    assert isinstance(config, TrainConfig) and recipe is not None
    begun = time.perf_counter()
    tuned = finetune(splits, config)
    line: dict[str, Any] = {
        "name": f"refinement of {name}",
        "budget": recipe.evaluations,
        "epochs": config.epochs,
        "finetuned": {"wall_s": round(time.perf_counter() - begun, 1), **errors(tuned, splits)},
    }
    problem = residuals(tuned, splits, recipe)
    line |= {"parameters": problem.size, "residuals": problem.rows, "frames": problem.n_frames}
    if measure:
        line["costs"] = costs(problem)
    for method in METHODS:
        settings = {k: getattr(recipe, k) for k in RefineConfig.__dataclass_fields__}
        refined = refine(tuned, splits, RefineConfig(**{**settings, "method": method}))
        metrics = refined.metrics
        line[method] = {
            **{k: metrics[k] for k in ("accepted", "ended", "gradient_equivalents")},
            "wall_s": round(metrics["wall_s"], 1),
            "train_loss": metrics["history"][-1]["train_loss"] if metrics["history"] else None,
            **errors(refined, splits),
        }
    forces = {m: line[m]["valid"]["force_rmse_meV_per_A"] for m in METHODS}
    return {
        **line,
        "ours": forces["lm"],
        "peer": forces["lbfgs"],
        "ratio": round(forces["lbfgs"] / forces["lm"], 3),
    }


def main() -> None:
    """Parse the command line and compare system by system."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", nargs="*", default=["mo", "acetylacetone"])
    parser.add_argument("--budget", type=int, help="gradient equivalents of each refinement")
    parser.add_argument("--epochs", type=int, help="of the fine-tuning before")
    parser.add_argument("--costs", action="store_true", help="measure the constants")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for name in arguments.systems:
        line = compare(name, arguments.budget, arguments.epochs, arguments.costs)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
