"""Every figure of the pages about the paper's results comes from results/, by code."""

import re
import shutil
from pathlib import Path

import pytest
from tests.experiments.made_runs import every_study
from tests.sentences import crowded, html_text, markdown_text

from contextual_rnn.experiments.report import pages
from contextual_rnn.experiments.report.answer import answer
from contextual_rnn.experiments.report.html import write_report
from contextual_rnn.experiments.runs.published import publish
from contextual_rnn.experiments.studies.catalogue import study

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def block(path):
    return path.read_text().partition(pages.BEGIN)[2].partition(pages.END)[0].strip()


@pytest.fixture(scope="module")
def of_results():
    return pages.pages_of(RESULTS)


def test_pages_and_figure_say_what_results_say(of_results):
    """Of the figure its texts; outlines depend on matplotlib's version. Regenerate with: make pages"""
    blocks, evidence, figure = of_results
    assert (ROOT / pages.EVIDENCE).read_text() == evidence
    for page, text in blocks.items():
        assert block(ROOT / page) == text.strip(), page
    committed, drawn = (re.findall(r"<text[^>]*>([^<]*)<", svg) for svg in ((ROOT / pages.FIGURE).read_text(), figure))
    assert committed == drawn


@pytest.fixture
def root(tmp_path, of_results):
    """A clone with made-up results."""
    for name in ("results", "docs"):
        (tmp_path / name).mkdir()
    runs = every_study()
    for name in {study(run) for run in runs}:
        publish([run for run in runs if study(run) == name], tmp_path / "results" / f"{name}.json")
    shutil.copy(RESULTS / pages.ARTICLE, tmp_path / "results")
    for page in of_results.blocks:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text(f"before\n{pages.BEGIN}\nstale\n{pages.END}\nafter\n")
    return tmp_path


def test_pages_are_written_between_their_marks(root):
    pages.write_pages(root)
    readme = (root / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith(f"{pages.END}\nafter\n")
    assert "stale" not in readme
    assert readme.count("\n- ") == 3, "three sentences"
    assert "](docs/figures/when-it-helps.svg)" in readme
    assert (root / pages.FIGURE).read_text().count("+29.0") == 2
    evidence = (root / "docs" / "evidence.md").read_text()
    assert "### Controls" in evidence
    assert "](figures/when-it-helps.svg)" in evidence
    pages.write_pages(root)
    assert (root / "README.md").read_text() == readme
    (root / "README.md").write_text("no marks")
    with pytest.raises(ValueError, match=r"README.md: page: expected <!-- from results/ by make pages --> and"):
        pages.write_pages(root)


def test_sentences_of_the_committed_article_hold_few_numbers():
    assert not crowded(markdown_text((ROOT / pages.EVIDENCE).read_text()), 3)


def test_the_report_of_results_alone(root):
    html = write_report(root / "results").read_text()
    assert not crowded(html_text(html), 3)
    for sentence in answer(every_study()):
        assert f"<p>{sentence}</p>".replace("'", "&#39;") in html
    for title in ("When does it help?", "What explains the gain?", "Networks of several sizes"):
        assert f"<h2>{title}</h2>" in html
    assert "Playground" not in html
    assert "contextual-rnn train retrieval --out runs/retrieval-authors-start/zero-seed0" in html
    assert {path.name for path in (root / "results").glob("*.json")} == {f"{study(run)}.json" for run in every_study()}
