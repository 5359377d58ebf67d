"""A MACE module as plain data: its architecture as JSON, and back; element pruning.

The architecture is what ``mace.modules.ScaleShiftMACE`` takes, with classes by name, so that a
checkpoint needs no pickle. Numbers that are not parameters but belong to the model (E0s, scale,
shift) travel as tensors; coupling tensors are rebuilt.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from ase.data import chemical_symbols

from ase_finetune._mace import (
    AtomicNumberTable,
    extract_config_mace_model,
    load_foundations_elements,
    modules,
    o3,
    remove_pt_head,
)
from ase_finetune.errors import CheckpointError, FoundationError
from ase_finetune.fast_mace import plain

DTYPES = {"float32": torch.float32, "float64": torch.float64}
_CLASSES = ("interaction_cls", "interaction_cls_first", "readout_cls")
_IRREPS = ("hidden_irreps", "MLP_irreps", "edge_irreps")
_PLAIN = (
    "r_max",
    "num_bessel",
    "num_polynomial_cutoff",
    "max_ell",
    "num_interactions",
    "correlation",
    "radial_type",
    "radial_MLP",
    "pair_repulsion",
    "distance_transform",
    "avg_num_neighbors",
    "apply_cutoff",
    "use_reduced_cg",
    "use_so3",
    "use_agnostic_product",
    "use_last_readout_only",
    "use_edge_irreps_first",
)
_GATES = {"silu": torch.nn.functional.silu, "tanh": torch.tanh, "abs": torch.abs}
# Rebuilt from the architecture, and the E0s, which a checkpoint keeps in double precision.
_REBUILT = ("U_matrix", "_w3j", "output_mask", "zeros", "atomic_energies")


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype for the body: e3nn builds its constants in it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def dtype_name(module: torch.nn.Module) -> str:
    """Return ``float32`` or ``float64``, the dtype of the module's parameters."""
    return str(next(module.parameters()).dtype).removeprefix("torch.")


def _gate_name(gate: Any) -> str | None:
    if gate is None:
        return None
    # e3nn keeps the activation inside a normalizing wrapper.
    gate = getattr(gate, "f", gate)
    for name, function in _GATES.items():
        if gate is function or getattr(gate, "__name__", None) == name:
            return name
    raise FoundationError(f"The foundation's gate {gate!r} is not one of {sorted(_GATES)}.")


def describe(module: torch.nn.Module) -> dict[str, Any]:
    """Return the JSON-serializable architecture of a single-head energy MACE.

    Parameters
    ----------
    module
        A ``mace.modules.ScaleShiftMACE``.

    Raises
    ------
    FoundationError
        For any other class, several heads, or extra embeddings.
    """
    module = plain(module)
    name = type(module).__name__
    if name != "ScaleShiftMACE":
        raise FoundationError(
            f"A {name} cannot be fine-tuned here; use an energy model of class ScaleShiftMACE."
        )
    if hasattr(module, "joint_embedding"):
        raise FoundationError(
            "Models with charge, spin or field embeddings are not supported; use one without."
        )
    found = extract_config_mace_model(module)
    if len(found["heads"]) != 1:
        raise FoundationError(f"Choose one head of {found['heads']} first.")
    result: dict[str, Any] = {key: found[key] for key in _PLAIN}
    result["avg_num_neighbors"] = float(result["avg_num_neighbors"])
    result["radial_MLP"] = [int(n) for n in result["radial_MLP"]]
    result["distance_transform"] = result["distance_transform"] or "None"
    result["num_polynomial_cutoff"] = int(result["num_polynomial_cutoff"])
    for key in _CLASSES:
        result[key] = found[key].__name__
    for key in _IRREPS:
        result[key] = None if found[key] is None else str(found[key])
    result["gate"] = _gate_name(found["gate"])
    result["atomic_numbers"] = [int(z) for z in found["atomic_numbers"]]
    result["heads"] = list(found["heads"])
    # Coupling constants carry the rounding of the dtype they were built in.
    result["built_dtype"] = dtype_name(module)
    return result


def build(architecture: Mapping[str, Any], *, dtype: torch.dtype) -> torch.nn.Module:
    """Build the module of an architecture; its weights mean nothing yet and its E0s are zero.

    Parameters
    ----------
    architecture
        As returned by :func:`describe`.
    dtype
        Dtype of the returned parameters and buffers.

    Raises
    ------
    CheckpointError
        If the description is incomplete or impossible.
    """
    try:
        # Compiling the layers takes seconds, copying them a tenth of that.
        module = copy.deepcopy(_template(json.dumps(dict(architecture), sort_keys=True)))
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
        raise CheckpointError(
            f"The architecture in the checkpoint cannot be built ({type(error).__name__}: {error})."
        ) from error
    return module.to(dtype)


@functools.lru_cache(maxsize=8)
def _template(architecture: str) -> torch.nn.Module:
    return construct(json.loads(architecture))


def construct(architecture: Mapping[str, Any]) -> torch.nn.Module:
    """Make the module of an architecture with weights drawn from torch's generator."""
    keywords: dict[str, Any] = {key: architecture[key] for key in _PLAIN}
    for key in _CLASSES:
        keywords[key] = getattr(modules, architecture[key])
    for key in _IRREPS:
        value = architecture[key]
        keywords[key] = None if value is None else o3.Irreps(value)
    gate = architecture["gate"]
    keywords["gate"] = None if gate is None else _GATES[gate]
    # True would give the couplings another basis, of fewer weights, where cuequivariance is
    # installed; what is installed must not decide what weights mean.
    keywords["use_reduced_cg"] = False
    numbers = [int(z) for z in architecture["atomic_numbers"]]
    with default_dtype(DTYPES[architecture["built_dtype"]]), warnings.catch_warnings():
        # e3nn scripts its layers; TorchScript warns about each of them.
        warnings.simplefilter("ignore")
        module: torch.nn.Module = modules.ScaleShiftMACE(
            atomic_energies=torch.zeros(1, len(numbers)).numpy(),
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
            atomic_numbers=numbers,
            num_elements=len(numbers),
            heads=list(architecture["heads"]),
            **keywords,
        )
    return module


def stored_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors that define the model, without constants that are rebuilt."""
    return {
        # Scale and shift of one head are a number or a list of one number, by origin.
        name: (tensor.reshape(()) if name.startswith("scale_shift.") else tensor)
        .detach()
        .cpu()
        .contiguous()
        .clone()
        for name, tensor in module.state_dict().items()
        if not name.rpartition(".")[2].startswith(_REBUILT) and tensor.numel() > 0
    }


def load_tensors(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy stored tensors into a built module, all of them and nothing else.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unknown, not finite or of another shape.
    """
    wanted = stored_tensors(module)
    missing, unknown = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or unknown:
        raise CheckpointError(
            f"The weights do not belong to this architecture (missing {missing[:3]}, "
            f"unknown {unknown[:3]}); copy the whole checkpoint folder again."
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            hint = " (use_reduced_cg of mace-torch is not supported)"
            raise CheckpointError(
                f"Tensor {name} has shape {tuple(tensor.shape)}, the architecture needs "
                f"{tuple(wanted[name].shape)}{hint if 'symmetric_contractions' in name else ''}."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"Tensor {name} holds numbers that are not finite.")
    state = module.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def check_couplings(module: torch.nn.Module) -> None:
    """Refuse a module whose weights belong to other coupling tensors than :func:`build` makes.

    Raises
    ------
    FoundationError
        If it was made with ``use_reduced_cg`` where cuequivariance was installed.
    """
    if not getattr(module, "use_reduced_cg", False):
        return
    architecture = describe(module)
    one = {**architecture, "atomic_numbers": architecture["atomic_numbers"][:1]}
    theirs = dict(module.named_buffers())
    for name, ours in build(one, dtype=DTYPES[dtype_name(module)]).named_buffers():
        if "U_matrix" in name and not (
            ours.shape == theirs[name].shape and torch.allclose(ours, theirs[name], atol=1e-6)
        ):
            raise FoundationError(
                "The foundation has the reduced couplings of cuequivariance (use_reduced_cg of "
                "mace-torch), which are not supported; train it without."
            )


def single_head(module: torch.nn.Module, head: str | None) -> torch.nn.Module:
    """Return the module reduced to one head; a single-head module comes back as it is.

    Raises
    ------
    FoundationError
        If there are several heads and none, or an unknown one, is named.
    """
    heads = list(getattr(module, "heads", ["Default"]))
    if len(heads) == 1:
        if head is not None and head != heads[0]:
            raise FoundationError(f"The foundation has no head {head!r}; it has {heads}.")
        return module
    if head not in heads:
        raise FoundationError(
            f"The foundation has several heads; choose one with --head, of {', '.join(heads)}."
        )
    with default_dtype(next(module.parameters()).dtype):
        reduced: torch.nn.Module = remove_pt_head(module, head)
    return reduced


def _symbols(numbers: Sequence[int]) -> str:
    names = [chemical_symbols[z] for z in numbers]
    return ", ".join(names if len(names) <= 12 else [*names[:12], "..."])


def prune(module: torch.nn.Module, numbers: Sequence[int]) -> torch.nn.Module:
    """Return the module restricted to some elements, with identical predictions for them.

    Parameters
    ----------
    module
        A single-head ``ScaleShiftMACE``.
    numbers
        Atomic numbers to keep.

    Raises
    ------
    FoundationError
        If the foundation lacks one of the elements.
    """
    architecture = describe(module)
    have = architecture["atomic_numbers"]
    keep = sorted(set(int(z) for z in numbers))
    lacking = [z for z in keep if z not in have]
    if lacking:
        raise FoundationError(
            f"The foundation does not know {_symbols(lacking)}, which the data contain; "
            f"it knows {_symbols(have)}: choose another foundation or drop those frames."
        )
    if keep == have:
        return module
    dtype = next(module.parameters()).dtype
    small: Any = build({**architecture, "atomic_numbers": keep}, dtype=dtype)
    with default_dtype(dtype):
        small = load_foundations_elements(
            small,
            module,
            AtomicNumberTable(keep),
            load_readout=True,
            max_L=o3.Irreps(architecture["hidden_irreps"]).lmax,
        )
    columns = [have.index(z) for z in keep]
    energies: Any = module.atomic_energies_fn
    with torch.no_grad():
        small.atomic_energies_fn.atomic_energies.copy_(
            torch.atleast_2d(energies.atomic_energies)[:, columns]
        )
    result: torch.nn.Module = small
    return result
