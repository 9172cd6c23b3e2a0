"""The gallery and the README say of the examples what results/ holds, and show pictures that are there."""

import importlib
import json
import re

import pytest
from tests.examples.running import EXAMPLES

ROOT = EXAMPLES.parent
README = " ".join((ROOT / "README.md").read_text().split())
PAGES = sorted((ROOT / "docs" / "gallery").glob("*.md"))
MARKED = [page for page in (ROOT / "README.md", *PAGES) if "<!-- / -->" in page.read_text()]


@pytest.fixture
def gallery(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("gallery")


@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.stem)
def test_pages_say_what_the_results_say(gallery, page):
    """Where this fails after new results: python examples/gallery.py"""
    text = page.read_text()
    assert gallery.MARK.search(text)
    assert gallery.filled(text) == text


def test_a_mark_is_filled_with_the_results(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "ROOT", tmp_path)
    empty = "a <!-- said: dates -->old<!-- / --> b\n<!-- table: dates -->old<!-- / -->"
    assert "old" not in gallery.filled(empty), "no results, no figures"
    (tmp_path / "results").mkdir()
    exact = {"mean": 0.975, "seeds": [0.97, 0.98], "interval": [0.97, 0.98]}
    figures = {"contextual encoder, attention": {"exact match, all": exact}, "alone": exact}
    (tmp_path / "results" / "dates.json").write_text(json.dumps({"figures": figures}))
    said, _, *rows = gallery.filled(empty).splitlines()
    assert said == "a <!-- said: dates --> 97.50% (97.00% to 98.00%) exact with attention <!-- / --> b"
    assert rows[2].startswith("| contextual encoder, attention | 97.50% (97.00% to 98.00%) |  |")
    assert rows[-3:] == ["- alone: 0.9750 (0.9700 to 0.9800)", "- seeds: 2", "<!-- / -->"]
    assert gallery.filled(gallery.filled(empty)) == gallery.filled(empty)


def test_results_are_of_three_seeds_at_least(gallery):
    for name in gallery.TABLES:
        if (ROOT / "results" / f"{name}.json").exists():
            for variant, found in gallery.figures_of(name).items():
                several = [found] if "mean" in found else [f for f in found.values() if isinstance(f, dict)]
                assert several
                assert all(len(figure["seeds"]) >= 3 for figure in several), (name, variant)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_is_in_the_readme_and_its_pictures_are_there(page):
    assert f"(docs/gallery/{page.name})" in README
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link
