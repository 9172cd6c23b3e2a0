"""A page in headless Chromium: on a desk or a phone, in light or dark mode."""

import itertools
import shutil

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By as By  # noqa: E402
from selenium.webdriver.common.keys import Keys as Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
WANTED = "needs chromium and chromedriver (on Debian: apt install chromium-driver)"
needs_browser = pytest.mark.skipif(not (BROWSER and DRIVER), reason=WANTED)
PATIENCE = 200  # seconds until a page that never gets there is an error; no test asks for more speed than this
VISITS = itertools.count()
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900")


def start():
    """A browser that keeps what is written to its console; `quit` ends it."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(DRIVER))


def visit(driver, url):
    """Open `url` and wait for all of it: where it is the address already, `get` may return before the page is there."""
    address = f"{url}?visit={next(VISITS)}"  # a name and a value: the scripts of Sphinx 8.0 write ?0 as ?0=
    driver.get(address)
    script = "return location.href === arguments[0] && document.readyState === 'complete'"
    until(driver, lambda: driver.execute_script(script, address))


def until(driver, condition):
    """Wait for what the browser does in its own time."""
    waiting = WebDriverWait(driver, PATIENCE, poll_frequency=0.05, ignored_exceptions=[WebDriverException])
    return waiting.until(lambda _: condition())


def look(driver, width, scheme):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    seen = "return [innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]"
    until(driver, lambda: driver.execute_script(seen) == [width, scheme == "dark"])
