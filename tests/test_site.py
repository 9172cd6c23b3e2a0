"""The documentation: it builds without a warning, loads nothing from elsewhere, and works in a browser."""

import functools
import io
import re
import threading
import warnings
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from tests.browser import By, Keys, look, needs_browser, start, until, visit
from tests.pages import PAGES, ROOT

pytest.importorskip("sphinx", reason='needs the extra "docs", which `make install` brings')


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built pages; every test shares it."""
    from sphinx.application import Sphinx

    docs, out = ROOT / "docs", tmp_path_factory.mktemp("site")
    with warnings.catch_warnings(action="ignore"):  # what Sphinx and its extensions deprecate among themselves
        app = Sphinx(docs, docs, out, out / ".doctrees", "html", status=None, warning=(messages := io.StringIO()))
        app.build()
    assert messages.getvalue() == ""
    return out


@pytest.fixture(scope="module")
def address(site):
    """The site as a server gives it: a browser does not let a page read files beside it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def chrome(address):
    driver = start()
    visit(driver, f"{address}/index.html")  # an empty page has no width of a phone
    yield driver
    driver.quit()


@pytest.fixture
def browser(chrome):
    """On a desk, in light mode; without a warning or error in the console when the test is over."""
    look(chrome, 1200, "light")
    yield chrome
    assert [entry for entry in chrome.get_log("browser") if entry["level"] != "INFO"] == []


class Links(HTMLParser):
    """Where a page links to, what it loads, and the places that it has."""

    LOADED = frozenset(("script", "img", "source", "iframe", "video"))

    def __init__(self, page: Path):
        super().__init__()
        self.targets, self.loaded, self.places, self.without_text = [], [], set(), []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.places.add(attributes.get("id"))
        if tag == "a" and "href" in attributes:
            self.targets.append(attributes["href"])
        if tag in self.LOADED and "src" in attributes:
            self.loaded.append(attributes["src"])
        if tag == "link" and attributes.get("rel") == "stylesheet":
            self.loaded.append(attributes["href"])
        if tag == "img" and not attributes.get("alt"):
            self.without_text.append(attributes["src"])


@pytest.fixture(scope="module")
def pages(site):
    return {page: Links(page) for page in sorted(site.glob("**/*.html"))}


def test_every_page_is_built(site):
    for page in PAGES:
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").exists(), page


def test_links_lead_somewhere(pages):
    count = 0
    for page, links in pages.items():
        for target in links.targets:
            if target.startswith(("http://", "https://", "mailto:")):
                continue
            path, _, place = unquote(target).partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{page}: {target}"
            if place and linked in pages:
                assert place in pages[linked].places, f"{page}: {target}"
            count += 1
    assert count > 1000


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for page, links in pages.items():
        for path in links.loaded:
            assert (page.parent / unquote(path).partition("?")[0]).exists(), f"{page}: {path}"
    for style in site.glob("_static/**/*.css"):
        assert not re.search(r"(@import|url\()[\"' ]*(https?:)?//", style.read_text("utf-8")), style


def test_pictures_have_texts(pages):
    assert [path for links in pages.values() for path in links.without_text] == []


@needs_browser
def test_a_reader_finds_a_name(browser, address):
    visit(browser, f"{address}/index.html")
    box = browser.find_element(By.CSS_SELECTOR, ".sidebar-search")
    box.send_keys("ContextDropout", Keys.ENTER)
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#search-results li a"))
    results = [link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "#search-results li a")]
    assert any("reference/states.html" in result for result in results)
    browser.find_element(By.CSS_SELECTOR, "#search-results li a").click()
    until(browser, lambda: "search.html" not in browser.current_url)
    assert "ContextDropout" in browser.page_source


@needs_browser
def test_links_of_the_front_page_open(browser, address):
    visit(browser, f"{address}/index.html")
    browser.find_element(By.LINK_TEXT, "labels and tables").click()
    until(browser, lambda: browser.current_url.endswith("tutorials/labels-and-tables.html"))
    assert "labels and tables" in browser.find_element(By.TAG_NAME, "h1").text


def brightness(driver):
    colour = driver.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@needs_browser
def test_dark_mode_follows_the_reader_and_the_button(browser, address):
    visit(browser, f"{address}/index.html")
    assert brightness(browser) > 240
    look(browser, 1200, "dark")
    until(browser, lambda: brightness(browser) < 40)
    button = browser.find_element(
        By.CSS_SELECTOR, ".theme-toggle-content .theme-toggle, .content-icon-container .theme-toggle"
    )
    for _ in range(3):  # as the system has it, light, dark
        button.click()
        if brightness(browser) > 240:
            break
    assert brightness(browser) > 240, "light, though the system is dark"
    browser.execute_script("localStorage.clear()")


# Of the page, and of the column that on a phone would scroll inside it.
WIDEST = """return Math.max(...[document.documentElement, ...document.querySelectorAll('.main, .content, article')]
    .map(part => part.scrollWidth))"""


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_no_page_scrolls_sideways(browser, address, width):
    """Of pages with pictures, wide tables, long lines of code, and signatures."""
    look(browser, width, "light")
    for page in ("index", "gallery/index", "deployment", "works-with", "reference/models", "evidence"):
        visit(browser, f"{address}/{page}.html")
        assert browser.execute_script(WIDEST) <= width, page
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert loaded
        assert all(name.startswith((address, "data:")) for name in loaded)


@needs_browser
def test_a_phone_has_a_menu(browser, address):
    look(browser, 390, "light")
    visit(browser, f"{address}/index.html")
    link = browser.find_element(By.CSS_SELECTOR, ".sidebar-tree a")
    assert link.rect["x"] < 0, "closed at first"
    browser.find_element(By.CSS_SELECTOR, ".nav-overlay-icon").click()
    until(browser, lambda: link.rect["x"] >= 0)
    link.click()
    until(browser, lambda: browser.current_url.endswith("install.html"))
