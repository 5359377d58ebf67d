"""Build a system's HDF5 file from its shards: ``python -m systems.dft.assemble mo``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from systems import get_system, list_systems
from systems.dft import (
    acetylacetone_frames,
    acetylacetone_references,
    mo_references,
    mos2_frames,
    mos2_references,
    water_graphene_frames,
    water_graphene_references,
)
from systems.dft.shards import read_shard
from systems.hdf5 import Reference, split_sizes, write_frames, write_references
from systems.system import DATA, SPLITS

# Position within a family, modulo the length. The split of a frame never changes as a shard grows.
CYCLE = ("train", "train", "train", "valid", "test_id", "train")
REFERENCE = "reference"
FREE_ATOM = "IsolatedAtom"  # trained on only in that it settles the E0s
# These differ from run to run and say nothing of the label.
DROPPED = ("wall_s", "cpu_s", "scf_iterations")


@dataclass(frozen=True)
class Recipe:
    """How a file comes about: shards, families never trained on, and references.

    Frames of ``reference_only`` families define reference values, so they are in no set that a
    model is trained or tested on. A system with ``split`` has its own rule instead of both.
    ``energy`` says which energy the labels are; without ``stress`` that of the shards is left out.
    """

    shards: tuple[str, ...]
    out_of_distribution: frozenset[str]
    reference_only: frozenset[str]
    references: Callable[[Mapping[str, Atoms]], list[Reference]]
    generator: str
    energy: str
    split: Callable[[Atoms], str] | None = None
    stress: bool = True


RECIPES = {
    "mo": Recipe(
        ("mo_gpaw.extxyz",),
        frozenset({"rattle_2400K", "vacancy", "surface_110", "surface_100"}),
        frozenset({"elastic"}),
        mo_references.references,
        "systems/dft/mo_gpaw.py",
        "force-consistent free energy, eV",
    ),
    "acetylacetone": Recipe(
        ("acetylacetone_pyscf.extxyz",),
        frozenset(),
        frozenset(),
        acetylacetone_references.references,
        "systems/dft/acetylacetone_pyscf.py",
        "total energy, eV",
        acetylacetone_frames.split_of,
    ),
    "mos2": Recipe(
        (mos2_frames.LABELS.name,),
        frozenset(mos2_frames.OUT_OF_DISTRIBUTION),
        frozenset({mos2_frames.CELLS}),
        mos2_references.references,
        "systems/dft/mos2_cp2k.py",
        "total energy, eV",
    ),
    "water_graphene": Recipe(
        (water_graphene_frames.LABELS.name,),
        frozenset(),
        frozenset(),
        water_graphene_references.references,
        "systems/dft/water_graphene_cp2k.py",
        "free energy at an electronic temperature of 300 K with dispersion, eV",
        water_graphene_frames.split_of,
        stress=False,
    ),
}


def split_of(atoms: Atoms, recipe: Recipe) -> str:
    """Return the split of a frame; depends on its family and on the numbers in its id only."""
    if recipe.split is not None:
        return recipe.split(atoms)
    if atoms.info["config_type"] in recipe.out_of_distribution:
        return "test_ood"
    if atoms.info["config_type"] == FREE_ATOM:
        return "train"
    if atoms.info["config_type"] in recipe.reference_only:
        return REFERENCE
    number = int(str(atoms.info["id"]).rsplit("_", 1)[1])
    return CYCLE[number % len(CYCLE)]


def assemble(name: str, path: Path | None = None) -> Path:
    """Write the HDF5 file of a system from its shards and references, and return its path."""
    system, recipe = get_system(name), RECIPES[name]
    frames: dict[str, Atoms] = {}
    for shard in recipe.shards:
        frames.update(read_shard(DATA / "shards" / shard))
    stored = []
    for key in sorted(frames):
        atoms = frames[key].copy()
        for dropped in DROPPED:
            atoms.info.pop(dropped, None)
        if not recipe.stress or atoms.info["config_type"] == FREE_ATOM:
            atoms.info.pop("REF_stress", None)
        atoms.info["split"] = split_of(atoms, recipe)
        stored.append(atoms)
    stored.sort(key=lambda atoms: (*SPLITS, REFERENCE).index(atoms.info["split"]))
    target = system.data_file if path is None else path
    part = target.with_suffix(".part")
    write_frames(
        part,
        stored,
        {
            "system": system.name,
            "description": system.description,
            "level_of_theory": system.level_of_theory,
            "license": system.license,
            "elements": list(system.elements),
            "energy": recipe.energy,
            "generator": f"{recipe.generator}, systems/dft/assemble.py",
        },
    )
    write_references(part, recipe.references(frames))
    part.replace(target)
    return target


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=list_systems())
    path = assemble(parser.parse_args().system)
    counts = split_sizes(path)
    print(path, sum(counts.values()), "frames", counts)


if __name__ == "__main__":
    main()
