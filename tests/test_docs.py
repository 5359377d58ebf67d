"""The documentation and the gallery build by the README's own command, without a warning."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        names = {"a": "href", "img": "src"}
        self.found += [value for key, value in attrs if key == names.get(tag) and value]


@pytest.mark.slow
def test_the_documentation_builds_and_its_links_lead_somewhere():
    for package in ("sphinx", "sphinx_gallery", "furo"):
        pytest.importorskip(package, reason="needs the extra `gallery`")
    (command,) = re.findall(r"^python (-m sphinx .*)$", (ROOT / "README.md").read_text(), re.M)
    done = subprocess.run(
        [sys.executable, *shlex.split(command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    built = ROOT / "docs/_build/html"
    pages = {path.stem for path in (built / "gallery").glob("plot_*.html")}
    assert pages == {path.stem for path in (ROOT / "examples").glob("plot_*.py")}
    for page in built.rglob("*.html"):
        links = _Links()
        links.feed(page.read_text())
        for link in links.found:
            target = link.partition("#")[0].partition("?")[0]
            if target and not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), (page.name, link)
