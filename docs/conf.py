"""Build of the documentation: ``python -m sphinx -W --keep-going -b html docs docs/_build/html``.

Nothing is fetched from the network. The gallery draws from stored results or computes for minutes.
"""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE), str(ROOT / "examples")]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it
os.environ.setdefault("MPLBACKEND", "Agg")

import commands  # noqa: E402  (beside this file)
from docutils import nodes  # noqa: E402
from docutils.parsers.rst import Directive  # noqa: E402
from docutils.statemachine import StringList  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

project = "ase-finetune"
author = "the authors of ase-finetune"
project_copyright = author
version = release = installed_version("ase-finetune")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_gallery.gen_gallery"]
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.py", "gallery/*.md5"]
nitpicky = False  # there is no inventory of other projects offline, so their names cannot resolve
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_preprocess_types = False

html_theme = "furo"
html_title = f"ase-finetune {version}"
html_static_path = ["_static"]
html_css_files = ["gallery.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False


sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_\d+_",
    "ignore_pattern": r"^(?!plot_\d+_)",
    "nested_sections": False,
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "plot_gallery": "True",
    "min_reported_time": 1,
    "image_srcset": ["2x"],
    "matplotlib_animations": False,
    "remove_config_comments": True,
    "reset_modules": ("matplotlib",),
    "capture_repr": (),
    "log_level": {"backreference_missing": "debug"},
}


class OptimizerTable(Directive):
    """The registry of optimizers as a table."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        from ase_finetune.optimizers import list_optimizers, optimizer_info

        lines = [
            ".. list-table::",
            "   :header-rows: 1",
            "",
            "   * - Name",
            "     - What it is",
            "     - Learning rate",
        ]
        for name in list_optimizers():
            info = optimizer_info(name)
            lines += [
                f"   * - ``{name}``",
                f"     - {info.description} ({info.paper})",
                f"     - {info.lr:g}",
            ]
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, "registry"), self.content_offset, node)
        return node.children


JOINED = re.compile(r"^(\w+(?:, \w+)+)(?= : |$)")
TIE = "\u2060"  # a word joiner, which is no white space to docutils


def keep_names_together(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Keep ``a, b : float`` of a NumPy docstring one entry.

    The fields of docutils would read the first name as a type.
    """
    for k, line in enumerate(lines):
        if found := JOINED.match(line):
            lines[k] = found[1].replace(" ", TIE) + line[found.end() :]


def part_names(app: Sphinx, doctree: nodes.document) -> None:
    """Set the names apart again that `keep_names_together` tied."""
    for text in list(doctree.findall(nodes.Text)):
        if TIE in text:
            text.parent.replace(text, nodes.Text(text.replace(TIE, " ")))


def say_return_type_once(app: Sphinx, domain: str, objtype: str, content: nodes.Element) -> None:
    """Drop the return type that autodoc adds where the docstring gives it already."""
    for fields in content.findall(nodes.field_list):
        named = {field[0].astext(): field for field in fields.findall(nodes.field)}
        if "returns" in named and "rtype" in named:
            fields.remove(named["rtype"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages of the commands before anything is read."""
    commands.write_pages(HERE / "commands")
    app.connect("object-description-transform", say_return_type_once, priority=900)
    app.connect("autodoc-process-docstring", keep_names_together, priority=100)
    app.connect("doctree-read", part_names)
    app.add_directive("optimizer-table", OptimizerTable)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
