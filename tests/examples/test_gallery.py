"""The gallery and the README say of the examples what results/ holds, and show pictures that are there."""

import importlib
import re

import pytest
from tests.examples.running import EXAMPLES

ROOT = EXAMPLES.parent
README = " ".join((ROOT / "README.md").read_text().split())
PAGES = sorted((ROOT / "docs" / "gallery").glob("*.md"))


@pytest.fixture
def gallery(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("gallery")


def test_pages_and_readme_say_what_the_results_say(gallery):
    """Print what they should say: python examples/gallery.py"""
    for name, (page, _) in gallery.TABLES.items():
        text = (ROOT / "docs" / "gallery" / f"{page}.md").read_text()
        assert gallery.table(name) in text, name
        assert gallery.headline(name) in README, name


def test_results_have_three_seeds_or_more(gallery):
    for name in gallery.TABLES:
        for variant, found in gallery.figures_of(name).items():
            for figure in [found] if "mean" in found else found.values():
                assert len(figure["seeds"]) >= 3, (name, variant)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_is_in_the_readme_and_its_pictures_are_there(page):
    assert f"(docs/gallery/{page.name})" in README
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link
