"""What every system offers: labelled frames, references, and the properties that apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ase import Atoms

from properties.quantity import Curve, Quantity
from systems.errors import UnknownPropertyError
from systems.hdf5 import (
    Reference,
    file_attributes,
    iterate_frames,
    read_references,
    split_sizes,
)

DATA = Path(__file__).parent / "data"
SPLITS = ("train", "valid", "test_id", "test_ood")
Progress = Callable[[int, int], None]


class PropertyResult(Protocol):
    """Result of a property function of `properties`."""

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return the reported values by name, with their origin noted."""


Computation = Callable[[Any, Progress | None], PropertyResult]


@dataclass(frozen=True)
class System:
    """A material with its DFT data.

    Attributes
    ----------
    name, description : str
    level_of_theory : str
        How the labels were computed.
    license : str
        Of the data.
    elements : tuple of str
        Chemical symbols.
    data_file : Path
        HDF5 file (`systems.hdf5`) with frames and references.
    computations : mapping of str to callable
        ``(calculator, progress) -> result`` by property, in order.
    recipe : mapping of str to object
        Settings of a fine-tuning that suits these data, by the names of the command line.
    """

    name: str
    description: str
    level_of_theory: str
    license: str
    elements: tuple[str, ...]
    data_file: Path
    computations: Mapping[str, Computation]
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def properties(self) -> tuple[str, ...]:
        """Names of the properties that apply, in order."""
        return tuple(self.computations)

    def frames(self) -> dict[str, list[Atoms]]:
        """Return the frames of each split (`SPLITS`), with ``REF_*`` labels in ASE units."""
        return {split: list(iterate_frames(self.data_file, split)) for split in SPLITS}

    def counts(self) -> dict[str, int]:
        """Return the number of frames of each split without reading them."""
        return split_sizes(self.data_file)

    def references(self) -> dict[str, Quantity | Curve]:
        """Return what models are compared with by default, by the names of the results."""
        return {ref.name: ref.value for ref in self.all_references() if ref.default}

    def all_references(self) -> list[Reference]:
        """Return the references of every origin, the defaults among them."""
        return read_references(self.data_file)

    def compute(
        self, name: str, calculator: Any, progress: Progress | None = None
    ) -> PropertyResult:
        """Compute one property with a calculator.

        Parameters
        ----------
        name : str
            One of `properties`.
        calculator : ASE calculator
            Energies, forces and stress.
        progress : callable, optional
            Called with (done, total).

        Raises
        ------
        UnknownPropertyError
            If the system does not list this property.
        """
        if name not in self.computations:
            raise UnknownPropertyError(
                f"The system {self.name} has no property {name!r}; choose one of: "
                f"{', '.join(self.computations)}."
            )
        return self.computations[name](calculator, progress)

    def provenance(self) -> dict[str, Any]:
        """Return what the data file says of itself."""
        return file_attributes(self.data_file)
