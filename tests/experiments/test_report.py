"""The report: self-contained, complete, and saying only what the runs say."""

import json
import math
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from tests.sentences import crowded, html_text

from contextual_rnn.experiments.config import DecayConfig, RetrievalConfig, config_to_dict
from contextual_rnn.experiments.report import gather
from contextual_rnn.experiments.report.html import write_report
from contextual_rnn.experiments.runs.folder import write_json

VERSIONS = {"contextual_rnn": "0.0", "torch": "1.1", "python": "2.2"}
HOSTILE = "<script>alert('&amp;')</script>"


def make_run(folder, config, final, *, epochs=3, finished=True, command=None):
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config_to_dict(config))
    lines = [{"epoch": epoch, "step": epoch, **final, "seconds": 60.0 * epoch} for epoch in range(epochs + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        final = {name: value for name, value in lines[-1].items() if name != "seconds"}
        command = command or f"contextual-rnn train {folder.name}"
        result = {"final": final, "seconds": 450.0, "command": command, "versions": VERSIONS, "parameters": 12345}
        write_json(folder / "result.json", result)


def retrieval(folder, start, state, accuracy=0.5, *, epochs=3, finished=True, **options):
    config = RetrievalConfig(state=state, start=start, epochs=3, **options)
    final = {"validation_accuracy": accuracy, "validation_log_likelihood": accuracy - 2}
    make_run(folder, config, final, epochs=epochs, finished=finished)


def decay(folder, state, error=0.0625, *, finished=True, command=None, **options):
    config = DecayConfig(state=state, epochs=3, **options)
    final = {"validation_squared_error": error, "free_running_squared_error": 0.03125}
    make_run(folder, config, final, finished=finished, command=command)


@pytest.fixture
def whole(tmp_path):
    return make_whole(tmp_path)


def make_whole(folder):
    for start, accuracies in (("wenke2019", (0.7125, 0.9125, 0.9875)), ("sound", (0.9905, 0.9915, 0.9925))):
        for state, accuracy in zip(("zero", "free", "context"), accuracies, strict=True):
            retrieval(folder / "retrieval" / f"{start}-{state}", start, state, accuracy)
    decay(folder / "decay" / "zero", "zero")
    decay(folder / "decay" / "normal", "normal")
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of one run of each kind, written once: its folder, its HTML, and the same parsed."""
    folder = make_whole(tmp_path_factory.mktemp("whole"))
    html = write_report(folder).read_text(encoding="utf-8")
    return SimpleNamespace(folder=folder, html=html, page=parsed(html))


class Page(HTMLParser):
    """What a page refers to, its ids, its table rows, the alternative texts of its pictures, and its text."""

    def __init__(self, html):
        super().__init__()
        self.references, self.ids, self.tags, self.rows, self.labels, self.text = [], [], [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "svg" and dict(attrs).get("role") == "img":
            self.labels.append(dict(attrs).get("aria-label"))
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "srcset", "action", "poster"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.text += data
        if self.lasttag in ("td", "th") and self.rows and data.strip():
            self.rows[-1].append(data)


def page_of(folder):
    return parsed(write_report(folder).read_text(encoding="utf-8"))


def parsed(html):
    page = Page(html)
    page.text = " ".join(page.text.split())
    return page


def test_page_opens_offline(written):
    html, page = written.html, written.page
    assert page.references
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    assert "@import" not in html
    assert len(html.split("url(")) > 1
    assert all(part.startswith("#") for part in html.split("url(")[1:])
    assert html.startswith("<!doctype html>")
    assert html.lower().count("<!doctype") == 1, "one document, not figures with headers of their own"
    assert html.rstrip().endswith("</html>")


def test_ids_are_unique_and_resolve(written):
    html, page = written.html, written.page
    assert len(set(page.ids)) == len(page.ids) > 100
    clips = {part.split(")")[0] for part in html.split("url(")[1:]}
    assert {reference[1:] for reference in {*page.references, *clips}} <= set(page.ids)


def test_page_has_every_figure_that_needs_no_weights(written):
    page = written.page
    for number in range(1, 6):
        assert f"Figure {number}: " in page.text
    assert page.tags.count("svg") == 10, "two that show the answer, three drawings, two metrics of two starts, decay"
    assert page.text.index("The authors' own start") < page.text.index("A sound start")
    accuracies = [f"{share} (one seed)" for share in ("71.25%", "91.25%", "98.75%")]
    assert ["the authors' own", "h, wenke2019", "3", "1", *accuracies] in page.rows


def test_every_figure_has_an_alternative_text(written):
    labels = written.page.labels
    assert len(labels) == written.page.tags.count("svg") == len(set(labels))
    assert all(labels)
    assert "A sound start: validation accuracy by epoch" in labels


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("task", "start", "words", "absent"),
    [
        (retrieval, "sound", ["Starting weights", "Eq. 2b", "a retrieval sequence"], ["decay curve", "Running free"]),
        (decay, None, ["Running free", "Wenke and Fleming (2019)"], ["Starting weights", "a retrieval sequence"]),
    ],
)
def test_words_and_sections_are_those_of_the_runs(tmp_path, task, start, words, absent):
    for state in ("zero", "free", "context"):
        task(tmp_path / state, *filter(None, [start]), state)
    text = page_of(tmp_path).text
    assert not [word for word in words if word not in text]
    assert not [word for word in [*absent, "Under both starts", "normal:", "Diverged"] if word in text]


def test_table_has_the_numbers_of_the_runs(written):
    rows = [row for row in written.page.rows if "3 of 3" in row]
    assert len(rows) == 8
    first, *_, last = rows
    assert first == ["zero", "wenke2019", "wenke2019", "h", "-", "0", "3 of 3", "12,345", "71.25%", "-1.288", "7.5"]
    assert last == ["normal", "-", "0", "3 of 3", "12,345", "0.0625", "0.03125", "-", "7.5"]


def test_options_beyond_the_columns_are_named(tmp_path, no_pictures):
    retrieval(tmp_path / "run", "sound", "zero", pairs=2, layer_norm=False)
    assert any("pairs 2, layer norm no" in row for row in page_of(tmp_path).rows)


def test_commands_and_versions_are_those_of_the_results(whole, no_pictures):
    decay(whole / "half", "context", finished=False)
    html = write_report(whole).read_text(encoding="utf-8")
    commands = html.split("<pre>")[1].split("</pre>")[0].split("\n")
    recorded = {json.loads(path.read_text())["command"] for path in whole.rglob("result.json")}
    assert recorded < set(commands)
    assert f"contextual-rnn train decay --epochs 3 --state context --out {whole / 'half'}" in commands
    assert "Trained with contextual_rnn 0.0, torch 1.1, python 2.2 (8 runs)." in html


def test_summary_is_written_beside(written):
    assert len(json.loads((written.folder / "summary.json").read_text())) == 8


def test_runs_that_differ_otherwise_get_pictures_of_their_own(tmp_path):
    for index, options in enumerate([{}, {"timing": "ba2016"}, {"pairs": 2}, {"leaves": "h+a"}]):
        retrieval(tmp_path / f"{index}", "sound", "zero", **options)
        retrieval(tmp_path / f"{index} again", "sound", "zero", seed=1, **options)
    page = page_of(tmp_path)
    assert page.text.count("Settings") == (page.tags.count("svg") - 3) // 2 == 4
    assert "A sound start: leaves h, timing ba2016, pairs 4" in page.text
    assert "pairs 2, modified no" in page.text


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ({"zero": 1, "context": 1}, "1 seed of each state. Settings"),
        ({"zero": 1, "free": 2, "context": 3, "normal": 1}, "1 to 3 seeds of each state. Settings"),
    ],
)  # fmt: skip
def test_caption_says_how_many_seeds(tmp_path, seeds, said, no_pictures):
    for state, count in seeds.items():
        for seed in range(count):
            retrieval(tmp_path / f"{state}{seed}", "sound", state, seed=seed)
    assert said in page_of(tmp_path).text


def test_several_seeds_are_summed_up_with_intervals(whole, written, no_pictures):
    assert "Over seeds" not in written.page.text, "single seeds have no intervals"
    for seed in range(3):
        retrieval(whole / f"zero{seed}", "sound", "zero", 0.5 + 0.1 * seed, seed=seed, units=20)
        retrieval(whole / f"context{seed}", "sound", "context", 0.75 + 0.1 * seed, seed=seed, units=20)
    page = page_of(whole)
    assert "Associative retrieval, A sound start, units 20" in page.text
    assert ["zero", "validation accuracy", "3", "60.00% (50.00% to 70.00%)", "-", "-"] in page.rows
    gained = ["context", "validation accuracy", "3", "85.00% (75.00% to 95.00%)", "25.00% (25.00% to 25.00%)"]
    assert [*gained, "1 (1 to 1)"] in page.rows
    assert ["zero", "epochs to 99", "3", "never (never to never)", "-", "-"] in page.rows


@pytest.mark.usefixtures("no_pictures")
def test_a_large_sweep_is_cut_to_the_groups_nearest_to_the_defaults_and_says_so(whole, written, monkeypatch):
    assert "groups of settings" not in written.page.text
    assert "Left out" not in written.page.text
    for units in (20, 30, 50):
        for seed in range(2):
            retrieval(whole / f"units{units}seed{seed}", "sound", "zero", 0.25, units=units, pairs=3, seed=seed)
    monkeypatch.setattr(gather, "PICTURES", 3)
    monkeypatch.setattr(gather, "TABLES", 3)
    monkeypatch.setattr(gather, "ROWS", 7)
    page = page_of(whole)
    assert page.text.count("Settings") == 3, "two starts, and of pairs 3 that with fewest changes"
    assert "Here are 14 runs in 6 groups of settings" in page.text
    assert "units 20" not in page.text
    assert len(json.loads((whole / "summary.json").read_text())) == 11, "the figures of all are in the file"
    assert page.text.count("contextual-rnn train ") == 7


def test_what_is_missing_or_unfinished_is_said(tmp_path):
    retrieval(tmp_path / "half", "sound", "free", epochs=2, finished=False)
    page = page_of(tmp_path)
    assert "Linear cosine decay" not in page.text
    assert "0 seeds of free, 1 run unfinished." in page.text
    assert "Associative retrieval: 1 run is unfinished (free state)." in page.text
    assert page.rows[1] == [
        "free",
        "sound",
        "wenke2019",
        "h",
        "-",
        "0",
        "2 of 3, unfinished",
        "-",
        "50.00%",
        "-1.5",
        "2.0",
    ]
    assert "Figure 6:" not in page.text
    assert "Trained with" not in page.text


def test_runs_of_different_lengths_share_a_picture_and_are_not_compared(tmp_path, no_pictures):
    for state, epochs in (("zero", 2), ("context", 4)):
        for seed in range(2):
            config = RetrievalConfig(state=state, seed=seed, epochs=epochs)
            make_run(tmp_path / f"{state}{seed}", config, {"validation_accuracy": 0.5 + 0.1 * epochs}, epochs=epochs)
    page = page_of(tmp_path)
    assert "2 seeds of each state." in page.text
    assert ["context", "validation accuracy", "2", "90.00% (90.00% to 90.00%)", "-", "-"] in page.rows
    assert "Associative retrieval, A sound start, epochs 4" in page.text


def test_a_command_in_the_answer_is_code(tmp_path, no_pictures):
    decay(tmp_path / "run", "normal", units=8, clip_norm=2.0, samples_per_period=4)
    html = write_report(tmp_path).read_text()
    assert "<p>To compare states: <code>contextual-rnn sweep decay --epochs 3 --units 8 " in html
    assert not crowded(html_text(html), 3)


def test_a_run_that_has_only_begun_is_no_picture(tmp_path):
    decay(tmp_path / "begun", "zero", finished=False)
    (tmp_path / "begun" / "metrics.jsonl").unlink()
    page = page_of(tmp_path)
    assert "Associative retrieval" not in page.text
    assert "No epoch has finished yet." in page.text
    assert page.tags.count("svg") == 2


def test_runs_with_numbers_that_are_not_finite_are_left_out_by_name(tmp_path, no_pictures):
    """Training writes none: a run that has them is damaged."""
    decay(tmp_path / "a", "zero", error=math.nan, finished=False)
    decay(tmp_path / "b", "context", error=math.inf)
    decay(tmp_path / "c", "free")
    page = page_of(tmp_path)
    assert [row[0] for row in page.rows[1:]] == ["free"]
    for name in ("a", "b"):
        assert f"{name}/metrics.jsonl, got JSON with {'NaN' if name == 'a' else 'Infinity'}" in page.text


def test_hostile_strings_are_text(tmp_path, monkeypatch):
    monkeypatch.setitem(VERSIONS, "torch", HOSTILE)
    decay(tmp_path / HOSTILE.replace("/", ""), "normal", command=HOSTILE)
    decay(tmp_path / "half" / HOSTILE.replace("/", ""), "zero", finished=False)
    page = page_of(tmp_path)
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) == 2
    assert page.text.count(HOSTILE.replace("/", "").replace("'", "'\"'\"'")) == 1, "the command of the unfinished run"


def test_report_is_the_same_bytes_for_the_same_runs(written):
    assert write_report(written.folder).read_text(encoding="utf-8") == written.html
    assert not list(written.folder.glob("*.writing"))


def test_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder: expected runs"):
        write_report(tmp_path)
