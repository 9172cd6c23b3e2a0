"""The report in a real browser: the playground moves, nothing is loaded or logged, phones and dark mode are served."""

import pytest
import torch
from tests.browser import By, Keys, look, needs_browser, start, until, visit
from tests.experiments.compare.small import small_comparison
from tests.experiments.made_runs import every_study

from contextual_rnn.experiments.config import DecayConfig
from contextual_rnn.experiments.report.html import write_report
from contextual_rnn.experiments.runs.published import publish
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.studies.catalogue import study
from contextual_rnn.experiments.tasks.decay import linear_cosine_decay

pytestmark = needs_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    small = {"units": 6, "context_units": 4, "samples_per_period": 8, "epochs": 1}
    train(DecayConfig(**small), folder / "normal")
    return write_report(folder).as_uri()


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    """The report of made-up published results: findings, map, tables."""
    folder, runs = tmp_path_factory.mktemp("results"), every_study()
    for name in {study(run) for run in runs}:
        publish([run for run in runs if study(run) == name], folder / f"{name}.json")
    return write_report(folder).as_uri()


@pytest.fixture(scope="module")
def comparison():
    """The report of a comparison of a table."""
    return (small_comparison()[0] / "report.html").as_uri()


@pytest.fixture(scope="module")
def chrome():
    driver = start()
    yield driver
    driver.quit()


@pytest.fixture
def quiet(chrome):
    """A browser on a desk, in light mode; without a message to the console when the test is over."""
    look(chrome, 1200, "light")
    yield chrome
    assert chrome.get_log("browser") == []


@pytest.fixture
def browser(quiet, page):
    """The page, freshly opened, with all its folds open."""
    visit(quiet, page)
    unfold(quiet)
    until(quiet, lambda: curves(quiet))
    return quiet


def unfold(driver):
    driver.execute_script("document.querySelectorAll('details.fold').forEach(fold => fold.open = true)")


def curves(driver):
    """The points of every curve of the playground by its class."""
    script = """return [...document.querySelectorAll('#playground-plot polyline, #playground-plot polygon')]
        .map(line => [line.getAttribute('class'), line.getAttribute('points')])"""
    found = {}
    for kind, points in driver.execute_script(script):
        found.setdefault(kind, []).append([tuple(map(float, point.split(","))) for point in points.split()])
    return found


def text(driver, name):
    return driver.find_element(By.ID, f"playground-{name}").text


def move(driver, slider, key):
    """Press a key on a slider, and wait until the page says another value."""
    before = text(driver, f"{slider}-value")
    driver.find_element(By.ID, f"playground-{slider}").send_keys(key)
    until(driver, lambda: text(driver, f"{slider}-value") != before)


def test_the_playground_is_drawn(browser):
    found = curves(browser)
    assert {kind: len(lines) for kind, lines in found.items()} == {"band": 1, "sample": 10, "truth": 1}
    assert len(found["truth"][0]) == len(found["sample"][0]) == 26
    assert len(found["band"][0]) == 52, "there and back"
    assert len({tuple(line) for line in found["sample"]}) == 10, "every sample is its own"
    assert text(browser, "period-value") == "2.0, not in training"
    assert text(browser, "initial-value") == "3.0"
    assert text(browser, "inside").endswith("of 25 steps")


@pytest.mark.parametrize("slider", ["period", "initial"])
def test_sliders_move_and_curves_change(browser, slider):
    before, label = curves(browser), text(browser, f"{slider}-value")
    move(browser, slider, Keys.ARROW_RIGHT)
    after = curves(browser)
    assert text(browser, f"{slider}-value") != label
    for kind in ("band", "sample", "truth"):
        assert all(new != old for new, old in zip(after[kind], before[kind], strict=True)), kind
    move(browser, slider, Keys.ARROW_LEFT)
    assert curves(browser) == before


def test_ends_of_the_sliders_and_trained_periods(browser):
    move(browser, "period", Keys.HOME)
    assert text(browser, "period-value") == "0.5, trained on"
    move(browser, "period", Keys.END)
    assert text(browser, "period-value") == "4.5, trained on"
    assert len(curves(browser)["sample"][9]) == 26, "the last curve of the last row of the grid"
    browser.find_element(By.XPATH, "//button[.='T = 3']").click()
    until(browser, lambda: text(browser, "period-value") == "3.0, not in training")


def test_the_true_curve_is_equation_3(browser):
    """For T = 2 and x(0) = 3, read off the axis."""
    (truth,) = curves(browser)["truth"]
    lines = browser.execute_script(
        "return [...document.querySelectorAll('#playground-plot .rule')].map(line => +line.getAttribute('y1'))"
    )
    zero, one = lines[:2]  # the rules at x = 0 and 1
    heights = [(zero - y) / (zero - one) for _, y in truth]
    expected = linear_cosine_decay(torch.tensor([3.0]), torch.tensor([2.0]))[0].tolist()
    assert heights == pytest.approx(expected, abs=0.01)


OUTSIDE = """return [...document.querySelectorAll('.card svg')].flatMap(svg => {
    const [box, texts] = [svg.getBoundingClientRect(), [...svg.querySelectorAll('text')]];
    return texts.filter(text => !text.closest('defs') && text.textContent.trim()).filter(text => {
        const {left, right, top, bottom} = text.getBoundingClientRect();
        return left < box.left - 1 || right > box.right + 1 || top < box.top - 1 || bottom > box.bottom + 1;
    }).map(text => text.textContent);
})"""
BROKEN = """return [...document.querySelectorAll('.fold p.soft, figcaption')]
    .filter(line => line.getBoundingClientRect().height > 30).map(line => line.textContent)"""


def assert_figures_fit(driver, width):
    """All folds are open."""
    fits = "return [...document.querySelectorAll('.card')].every(card => card.scrollWidth <= card.clientWidth)"
    assert driver.execute_script(fits), "no figure scrolls sideways"
    assert driver.execute_script(OUTSIDE) == [], "text that is cut off"
    if width == 1200:
        assert driver.execute_script(BROKEN) == [], "captions of more than a line"


@pytest.mark.parametrize("width", [320, 390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_scrolls_sideways(browser, width, scheme):
    look(browser, width, scheme)
    root = "document.documentElement"
    whole, seen, window = browser.execute_script(f"return [{root}.scrollWidth, {root}.clientWidth, innerWidth]")
    assert whole == seen <= width == window
    plot = browser.find_element(By.ID, "playground-plot").rect
    # The page is drawn anew at the event `resize`, a little after it has its new width.
    until(browser, lambda: plot["width"] - 12 < curves(browser)["truth"][0][-1][0] < plot["width"])
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('#playground-plot text')].map(t => t.getBoundingClientRect().height)"
    )
    assert min(sizes) > 11, "text is not scaled down with the plot"
    assert_figures_fit(browser, width)


def test_dark_mode_is_dark_and_readable(browser):
    def colours():
        names = ("background-color of body", "color of body", "stroke of .truth", "stroke of .sample")
        script = "return getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])"
        return {name: browser.execute_script(script, *reversed(name.split(" of "))) for name in names}

    light = colours()
    look(browser, 1200, "dark")
    dark = colours()
    for found in (light, dark):
        back = found.pop("background-color of body")
        assert luminance(back) < 0.02 if found is dark else luminance(back) > 0.9
        for name, colour in found.items():
            assert contrast(colour, back) > 4.5, (name, colour, back)


@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (390, "light"), (1200, "dark")])
@pytest.mark.parametrize("report", ["evidence", "comparison"])
def test_the_answer_is_seen_first_and_everything_fits(quiet, report, request, width, scheme):
    visit(quiet, request.getfixturevalue(report))
    look(quiet, width, scheme)
    sentences = quiet.find_elements(By.CSS_SELECTOR, "#answer p")
    assert len(sentences) == 3
    back = quiet.find_element(By.TAG_NAME, "body").value_of_css_property("background-color").replace("rgba", "rgb")
    for sentence in sentences:
        assert sentence.rect["y"] + sentence.rect["height"] < 800, "seen without scrolling"
        assert sentence.rect["x"] + sentence.rect["width"] <= width
        assert contrast(sentence.value_of_css_property("color").replace("rgba", "rgb"), back) > 7
    left, right = quiet.find_elements(By.CSS_SELECTOR, "#answer + .pair figure")
    assert (left.rect["y"] == right.rect["y"]) == (width == 1200), "side by side, and on a phone stacked"
    assert not quiet.find_element(By.CSS_SELECTOR, ".fold table").is_displayed(), "details are folded"
    unfold(quiet)
    root = "document.documentElement"
    assert quiet.execute_script(f"return {root}.scrollWidth === {root}.clientWidth"), "no width scrolls sideways"
    assert quiet.execute_script(
        "return [...document.querySelectorAll('.card')].every(c => c.scrollWidth <= c.clientWidth)"
    )
    assert quiet.execute_script(OUTSIDE) == [], "text that is cut off"
    if width == 1200:
        assert quiet.execute_script(BROKEN) == [], "captions of more than a line"


def test_a_link_of_the_contents_opens_its_fold(quiet, evidence):
    visit(quiet, evidence)
    links = quiet.find_elements(By.CSS_SELECTOR, "nav a")
    titles = [title.text for title in quiet.find_elements(By.CSS_SELECTOR, ".fold h2")]
    assert [link.text for link in links] == titles
    assert "When does it help?" in titles
    table = quiet.find_element(By.CSS_SELECTOR, "#about-when table")
    assert not table.is_displayed()
    quiet.find_element(By.LINK_TEXT, "When does it help?").click()
    until(quiet, table.is_displayed)
    assert "29.00" in table.text


def luminance(colour):
    """Relative luminance (WCAG 2) of rgb(r, g, b)."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : colour.index(")")].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_nothing_is_fetched(browser):
    """Beside the page itself."""
    entries = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert entries == []
