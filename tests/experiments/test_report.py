"""The report: self-contained, complete, and saying only what the runs say."""

import json
import math
from html.parser import HTMLParser

import pytest
import torch

from contextual_rnn.experiments import report as module
from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig
from contextual_rnn.experiments.linear_cosine_decay import linear_cosine_decay
from contextual_rnn.experiments.report import write_report
from contextual_rnn.experiments.results import config_to_dict, write_json

VERSIONS = {"contextual_rnn": "0", "torch": "0", "python": "0"}


@pytest.fixture(autouse=True)
def _no_models(monkeypatch):
    """Figure 6 from made-up trajectories, each sample its own."""

    def sample_trajectories(run, *, initial, periods, num_samples, **_):
        curves = linear_cosine_decay(torch.full((len(periods),), initial), torch.tensor(periods))
        return curves[:, None] + 0.01 * torch.arange(num_samples)[:, None]

    monkeypatch.setattr(module, "sample_trajectories", sample_trajectories)


def make_run(folder, config, final, finished=True):
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config_to_dict(config))
    lines = [{"epoch": epoch, "step": epoch, **final} for epoch in range(config.epochs + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        result = {"final": lines[-1], "seconds": 90.0, "command": "x", "versions": VERSIONS, "parameters": 1}
        write_json(folder / "result.json", result)


def retrieval(folder, start, state, accuracy, **options):
    config = RetrievalConfig(state=state, start=start, epochs=3, **options)
    make_run(folder, config, {"validation_accuracy": accuracy, "validation_log_likelihood": -1.5})


def decay(folder, state, error=0.0625, finished=True, **options):
    config = DecayConfig(state=state, epochs=3, **options)
    make_run(folder, config, {"validation_squared_error": error, "free_running_squared_error": 0.03125}, finished)


@pytest.fixture
def whole(tmp_path):
    for start, accuracies in (("wenke2019", (0.7125, 0.9125, 0.9875)), ("sound", (0.9905, 0.9915, 0.9925))):
        for state, accuracy in zip(("zero", "free", "context"), accuracies, strict=True):
            retrieval(tmp_path / start / state, start, state, accuracy)
    decay(tmp_path / "decay" / "zero", "zero")
    decay(tmp_path / "decay" / "normal", "normal")
    return tmp_path


class Page(HTMLParser):
    """What a page refers to, its ids, and its text."""

    def __init__(self, html):
        super().__init__()
        self.references, self.ids, self.tags, self.text = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "srcset", "action"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.text += data


def page_of(folder):
    return Page(write_report(folder).read_text())


def test_page_opens_offline(whole):
    html = write_report(whole).read_text()
    page = Page(html)
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "@import" not in html
    assert all(part.startswith("#") for part in html.split("url(")[1:])
    assert html.rstrip().endswith("</html>")


def test_ids_are_unique_and_resolve(whole):
    page = page_of(whole)
    assert len(set(page.ids)) == len(page.ids) > 100
    assert {reference[1:] for reference in page.references} <= set(page.ids)


def test_page_has_every_figure_number_and_command(whole):
    page = page_of(whole)
    for figure in ("Figure 1:", "Figure 2:", "Figure 3:", "Figure 4:", "Figure 5:", "Figure 6:"):
        assert figure in page.text
    assert page.tags.count("svg") == 7, "Figure 2 once for each start"
    for shown in ("71.25%", "98.75%", "0.0625", "0.03125", "-1.5", "3 of 3"):
        assert shown in page.text
    assert page.text.count("contextual-rnn train retrieval") == 6
    assert page.text.count("contextual-rnn train decay") == 2
    assert "T = 2, x(0) = 3" in page.text
    assert "10 samples" in page.text
    assert page.text.index("The authors' own start,") < page.text.index("A sound start,")
    summary = json.loads((whole / "summary.json").read_text())
    assert len(summary) == 8


@pytest.mark.parametrize(
    ("authors", "sound", "sentence"),
    [
        ((0.71, 0.99), (0.992, 0.994), "The gap between the states is a matter of the start"),
        ((0.71, 0.99), (0.71, 0.99), "The contextual state is ahead under both starts"),
        ((0.99, 0.99), (0.99, 0.99), "These runs do not show the paper's gap"),
        ((0.99, 0.71), (0.99, 0.99), "These runs do not show the paper's gap"),
    ],
)
def test_the_sentence_says_what_the_runs_say(tmp_path, authors, sound, sentence):
    for start, accuracies in (("wenke2019", authors), ("sound", sound)):
        for state, accuracy in zip(("zero", "context"), accuracies, strict=True):
            retrieval(tmp_path / start / state, start, state, accuracy)
    text = page_of(tmp_path).text
    assert sentence in text
    assert f"under the authors' own start context {authors[1]:.1%}, zero {authors[0]:.1%}" in text


def test_no_sentence_without_both_starts(tmp_path):
    retrieval(tmp_path / "a", "sound", "zero", 0.9)
    retrieval(tmp_path / "b", "sound", "context", 0.9)
    assert "matter of the start" not in page_of(tmp_path).text


def test_runs_that_differ_otherwise_get_pictures_of_their_own(tmp_path):
    for index, options in enumerate([{}, {"timing": "ba2016"}, {"pairs": 2}, {"leaves": "h+a"}]):
        retrieval(tmp_path / str(index), "sound", "zero", 0.9, **options)
        retrieval(tmp_path / f"{index} again", "sound", "zero", 0.8, **options, seed=1)
    page = page_of(tmp_path)
    assert page.text.count("Figure 2:") == 4
    assert "2 seeds, each a thin line" in page.text
    assert "zero (2a), median of 2 seeds" in page.text


def test_what_is_missing_or_unfinished_is_said(tmp_path):
    decay(tmp_path / "half", "normal", finished=False)
    page = page_of(tmp_path)
    assert "There are no retrieval runs in this folder" in page.text
    assert "Unfinished: half" in page.text
    assert "3 of 3, unfinished" in page.text
    assert "Figure 6:" not in page.text


def test_non_finite_numbers_and_hostile_names_are_harmless(tmp_path):
    decay(tmp_path / "<script>alert(1)</script>", "zero", error=math.nan, finished=False)
    page = page_of(tmp_path)
    assert "non-finite" in page.text
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


def test_report_is_the_same_bytes_for_the_same_runs(whole):
    first = write_report(whole).read_bytes()
    assert write_report(whole).read_bytes() == first
    assert not list(whole.glob("*.writing"))


def test_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder: expected runs"):
        write_report(tmp_path)
