"""Packaging: explicit packages, so that nothing else in the checkout is ever installed."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
VERSION = "0.1.0"

setup(
    name="ase-finetune",
    version=VERSION,
    description="Fine-tune MACE potentials for ASE and score the physics against DFT",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=[
        "ase_finetune",
        "ase_finetune.cli",
        "ase_finetune.curvature",
        "ase_finetune.data",
        "ase_finetune.doctor",
        "ase_finetune.foundations",
        "ase_finetune.optimizers",
        "ase_finetune.report",
        "ase_finetune.study",
        "properties",
        "systems",
        "systems.dft",
    ],
    package_dir={"": "."},
    package_data={
        "ase_finetune": ["py.typed", "templates/*"],
        "ase_finetune.foundations": ["seed/*"],
        "properties": ["py.typed"],
        "systems": ["py.typed", "data/*.h5", "data/*.json"],
    },
    install_requires=[
        "ase>=3.29",
        "h5py>=3.10",
        "jinja2>=3.1",
        "mace-torch>=0.3.16",
        "matplotlib>=3.8",
        "matscipy>=1.2",
        "numpy>=1.26",
        "phonopy>=4.0",
        "pyyaml>=6.0",
        "rich>=13.0",
        "safetensors>=0.4.3",
        "schedulefree>=1.4",
        "scipy>=1.11",
        "symfc>=1.6",
        "torch>=2.6",
        "torch-optimizer>=0.3",
        "typer>=0.12",
    ],
    extras_require={
        "test": ["mypy>=1.11", "pytest>=8.0", "pytest-xdist>=3.5", "ruff>=0.6", "types-PyYAML"],
        "study": ["dask[distributed]>=2024.1", "dask-jobqueue>=0.8"],
        "gallery": ["furo>=2025.12", "sphinx>=9.0", "sphinx-gallery>=0.22"],
        "dft": ["pyscf>=2.6", "dftd3>=1.0"],
        "tracking": ["tensorboard>=2.15"],
    },
    entry_points={
        "console_scripts": ["ase-finetune=ase_finetune.cli:main"],
        "ase.plugins": ["ase-finetune=ase_finetune.ase_plugin"],
        "ase.ioformats": ["ase-finetune-h5=ase_finetune.ase_format:ase_finetune_h5"],
    },
)
