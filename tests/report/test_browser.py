"""Reports of real fits in a real browser without a network: `make test-browser`.

Needs Debian's ``chromium`` and ``chromium-driver``, or Chrome and its driver.
"""

import base64
import json
import os
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask.config import RunConfig, check_config
from gmm_dask.report.differences import compare
from gmm_dask.report.page.document import report_page
from tests.report.subjects import mixture_of, rows_of, subject_of
from tests.steps.tables import run_fit

pytestmark = pytest.mark.browser

WIDTHS = {"desk": 1280, "phone": 390}
D = [1, 2, 12]


@pytest.fixture(scope="module")
def chrome():
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    browsers = ("chromium", "google-chrome", "chromium-browser")
    browser = next(filter(None, map(shutil.which, browsers)), None)
    driver = shutil.which("chromedriver")
    assert browser, "no browser: apt-get install chromium"
    assert driver, "no driver: apt-get install chromium-driver"
    options = ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options=options, service=Service(driver)) as running:
        yield running


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The reports of real fits, by the number of features."""
    paths = {}
    for d in D:
        root = tmp_path_factory.mktemp(f"d{d}")
        names = [f"feature {j}" for j in range(d)]
        rows = rows_of(mixture_of(4, d, seed=3), 6_000)
        pq.write_table(pa.table(dict(zip(names, rows.T, strict=True))), root / "rows.parquet")
        tables = {
            "input": {"path": str(root / "rows.parquet"), "columns": names},
            "model": {"n_components": 4},
            "fit": {"tol": 0.0, "max_iter": 12, "search_rows": "none", "init_params": "random"},
            "output": {"models": str(root / "models"), "name": "browsed"},
        }
        run = check_config(RunConfig, tables, "run.toml")
        paths[d] = run_fit(run).published.path / "report.html"
    return paths


class Opened:
    """A page in the browser, and what the tests ask of it."""

    def __init__(self, chrome, path, width="desk", scheme="light", media="screen"):
        self.chrome, self.path = chrome, path
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=WIDTHS[width], height=900, deviceScaleFactor=1, mobile=width == "phone",
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", media=media, features=features)
        for log in ("browser", "performance"):
            chrome.get_log(log)  # what earlier pages left
        chrome.get(path.as_uri())

    def devtools(self, command, **arguments):
        return self.chrome.execute_cdp_cmd(command, arguments)

    def run(self, script, *arguments):
        return self.chrome.execute_script(script, *arguments)

    def all(self, selector):
        from selenium.webdriver.common.by import By

        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.chrome).send_keys(*keys).perform()

    def drawn(self):
        """Where the replay has put what it moves."""
        return self.run(
            "const moved = '[data-move],[data-at],[data-curve],[data-total]';"
            "return [...document.querySelectorAll(moved)].map("
            "(mark) => mark.getAttribute('transform') ?? mark.getAttribute('d'))"
        )

    def chosen(self):
        """Ids of the marks that are followed, for each chart and card."""
        return self.run(
            "return [...document.querySelectorAll('.pair, .marginal, .card')].map((panel) =>"
            "[...new Set([panel, ...panel.querySelectorAll('[data-id]')]"
            ".filter((mark) => mark.matches('.on')).map((mark) => mark.dataset.id))])"
        )

    def eventually(self, holds):
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.chrome, 20, 0.05).until(lambda chrome: holds())


@pytest.fixture
def keys():
    from selenium.webdriver.common.keys import Keys

    return Keys


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("d", D)
def test_it_opens_without_a_word_and_asks_for_nothing(chrome, reports, d, scheme, width):
    page = Opened(chrome, reports[d], width, scheme)
    assert chrome.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    requests = [
        message["params"]["request"]["url"]
        for message in sent
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert reports[d].as_uri() in requests
    assert all(url == reports[d].as_uri() or url.startswith("data:") for url in requests)
    assert reports[d].stat().st_size < 2_000_000
    # Nothing is wider than the screen.
    assert page.run("return document.documentElement.scrollWidth") <= WIDTHS[width]
    sizes = page.run(
        "return [...document.querySelectorAll('svg[role=img]')]"
        ".map((chart) => chart.getBoundingClientRect()).map((box) => [box.width, box.height])"
    )
    assert sizes
    assert np.min(sizes) > 20


@pytest.mark.parametrize("d", D)
def test_the_slider_replays_em_by_keys_and_ends_where_it_began(chrome, reports, keys, d):
    page = Opened(chrome, reports[d])
    (slider,) = page.all(".iteration")
    final = page.drawn()
    assert len(final) >= 4
    page.run("arguments[0].focus()", slider)
    page.press(keys.HOME)
    first = page.drawn()
    assert sum(a != b for a, b in zip(first, final, strict=True)) > len(final) // 2
    assert slider.get_attribute("aria-valuetext").startswith("iteration 0 of 12: −")
    assert page.run("return document.querySelector('.now').dataset.iteration") == "0"
    page.press(keys.ARROW_RIGHT)
    assert page.drawn() != first
    assert slider.get_attribute("aria-valuetext").startswith("iteration 1 of 12: −")
    page.press(keys.END)
    assert _numbers(page.drawn()) == pytest.approx(_numbers(final), abs=0.11)
    assert chrome.get_log("browser") == []


def test_the_replay_of_a_searched_fit_begins_at_its_start(chrome, keys, tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(report_page([subject_of(iterations=2, searched=4)]))
    page = Opened(chrome, path)
    (slider,) = page.all(".iteration")
    final = page.drawn()
    page.run("arguments[0].focus()", slider)
    page.press(keys.HOME)
    assert page.drawn() != final
    assert slider.get_attribute("aria-valuetext").startswith("iteration search, 0 of 3: −5 nats")
    assert page.run("return document.querySelector('.now').dataset.iteration") == "search-0"
    page.press(keys.END)
    assert page.run("return document.querySelector('.now').dataset.iteration") == "2"
    assert chrome.get_log("browser") == []


def _numbers(texts):
    """The numbers of transforms and paths."""
    return [float(number) for text in texts for number in re.findall(r"-?[\d.]+", text)]


def test_the_button_plays_to_the_end_and_can_be_stopped(chrome, reports):
    page = Opened(chrome, reports[2])
    (play,), (slider,) = page.all(".play"), page.all(".iteration")
    play.click()
    assert play.text == "Pause"
    assert play.get_attribute("aria-pressed") == "true"
    play.click()
    assert play.text == "Replay EM"
    assert int(slider.get_attribute("value")) < 12
    play.click()
    page.eventually(lambda: slider.get_attribute("value") == "12")
    assert play.text == "Replay EM"


@pytest.mark.parametrize("d", D)
def test_a_component_that_is_clicked_is_followed_in_every_panel(chrome, reports, keys, d):
    page = Opened(chrome, reports[d])
    identity = "1"
    mark = "text.id" if d > 1 else ".curve"
    target = page.all(f'{mark}[data-id="{identity}"]:not(.crowded)')[0]
    page.run("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", target)
    panels = page.chosen()
    assert len(panels) == min(d, 6) * (min(d, 6) - 1) // 2 + min(d, 6) + 4
    assert all(panel == [identity] for panel in panels[:-4])
    assert sorted(map(tuple, panels[-4:])) == [(), (), (), (identity,)]
    pressed = page.all('main button[aria-pressed="true"]')
    assert {button.get_attribute("data-id") for button in pressed} == {identity}
    other = "return getComputedStyle(document.querySelector('svg [data-id=\"0\"]')).opacity"
    page.eventually(lambda: float(page.run(other)) < 0.2)
    page.press(keys.ESCAPE)
    assert not any(page.chosen())


@pytest.mark.parametrize("d", [2])
def test_a_real_click_on_an_ellipse_chooses_it(chrome, reports, d):
    from selenium.webdriver.common.action_chains import ActionChains

    page = Opened(chrome, reports[d])
    ellipse = page.all(".ellipse .s1")[-1]
    page.run("arguments[0].scrollIntoView({block: 'center'})", ellipse)
    ActionChains(chrome).move_to_element(ellipse).click().perform()
    assert any(page.chosen())


def test_a_component_is_chosen_by_keys_alone(chrome, reports, keys):
    page = Opened(chrome, reports[12])
    page.press(keys.TAB)  # the link that skips
    page.press(keys.TAB)
    assert page.run("return document.activeElement.name") == "component"
    page.press(keys.ARROW_RIGHT)
    assert page.chosen()[0] == ["0"]
    page.press(keys.ARROW_RIGHT)
    assert page.chosen()[0] == ["1"]
    # A card's button works by keys as well.
    page.run("document.querySelector('.card button[data-id=\"2\"]').focus()")
    page.press(keys.ENTER)
    assert page.chosen()[0] == ["2"]
    assert page.run("return document.querySelector('nav input:checked').value") == "2"


def test_the_background_is_chosen_by_keys(chrome, reports, keys):
    page = Opened(chrome, reports[2])

    def visible():
        return page.run(
            "return [...document.querySelector('.pair').querySelectorAll('.layer')]"
            ".filter((layer) => getComputedStyle(layer).visibility === 'visible')"
            ".map((layer) => layer.classList[1])"
        )

    assert visible() == ["rows"]
    page.run("document.querySelector('.layers input').focus()")
    page.press(keys.ARROW_RIGHT)
    assert visible() == ["rows", "doubt"]
    page.press(keys.ARROW_RIGHT)
    assert visible() == ["rows", "moved"]
    cross = page.all(".cross")[0]
    assert page.run("return getComputedStyle(arguments[0]).visibility", cross) == "visible"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(chrome, reports, scheme):
    page = Opened(chrome, reports[2], scheme=scheme)
    colors = page.run(
        "const root = getComputedStyle(document.documentElement);"
        "return ['--paper', '--raised', '--ink', '--quiet', '--good', '--bad']"
        ".map((name) => root.getPropertyValue(name).trim())"
    )
    paper, raised, *texts = map(_luminance, colors)
    assert (paper < 0.1) == (scheme == "dark")
    for background in (paper, raised):
        for text in texts:
            light, dark = max(background, text), min(background, text)
            assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, AA


def _luminance(code):
    if len(code) == 4:
        code = "#" + "".join(2 * letter for letter in code[1:])
    values = np.array([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_a_screen_reader_finds_a_name_for_everything(chrome, reports):
    page = Opened(chrome, reports[12])
    page.devtools("Accessibility.enable")
    nodes = page.devtools("Accessibility.getFullAXTree")["nodes"]
    named = {"button", "slider", "radio", "image", "heading", "article", "navigation", "table"}
    roles = set()
    for node in nodes:
        role = node.get("role", {}).get("value")
        if node["ignored"] or role not in named:
            continue
        roles.add(role)
        if role != "table":
            assert node["name"]["value"].strip(), node
    assert named <= roles


def test_it_prints(chrome, reports):
    page = Opened(chrome, reports[12])
    pdf = base64.b64decode(page.devtools("Page.printToPDF", printBackground=False)["data"])
    assert pdf.startswith(b"%PDF")
    page = Opened(chrome, reports[12], media="print")
    for selector in ("nav", ".replay", ".layers"):
        assert not page.all(selector)[0].is_displayed()
    assert page.all(".pair")[0].is_displayed()


HOSTILE = (
    "</script><script>window.broken = 1</script>",
    "\"><img src=x onerror='window.broken = 1'>",
    "\x1b]0;x\x07" + "n" * 300,
)


def test_names_from_the_data_do_nothing(chrome, tmp_path):
    path = tmp_path / "hostile.html"
    path.write_bytes(report_page([subject_of(d=3, columns=HOSTILE)]))
    page = Opened(chrome, path, "phone")
    assert page.run("return window.broken ?? null") is None
    assert chrome.get_log("browser") == []
    assert page.run("return document.querySelectorAll('script').length") == 2
    assert page.run("return document.documentElement.scrollWidth") <= WIDTHS["phone"]


def test_a_script_that_is_not_ours_does_not_run(chrome, tmp_path):
    path = tmp_path / "changed.html"
    added = b"<script>window.broken = 1</script></body>"
    path.write_bytes(report_page([subject_of()]).replace(b"</body>", added))
    page = Opened(chrome, path)
    assert page.run("return window.broken ?? null") is None
    assert "Content Security Policy" in chrome.get_log("browser")[0]["message"]


def test_versions_beside_each_other_follow_the_same_component(chrome, tmp_path, keys):
    path = tmp_path / "both.html"
    both = [subject_of(version=1, ids=(0, 1, 2)), subject_of(version=2, ids=(2, 1, 7))]
    path.write_bytes(report_page(both, [compare(both[0].model, both[1].model, by_ids=True)]))
    page = Opened(chrome, path)
    page.run("document.querySelector('input[name=component][value=\"2\"]').focus()")
    page.press(keys.SPACE)
    on = page.run(
        "return [...document.querySelectorAll('.version')]"
        ".map((version) => version.querySelectorAll('.ellipse.on').length)"
    )
    assert on == [1, 1]
    # One background for both, chosen in either.
    page.run("document.querySelector('input[name=layer-1][value=doubt]').click()")
    assert page.run("return document.querySelector('input[name=layer-0]:checked').value") == "doubt"
    # Each has a replay of its own.
    before = page.drawn()
    page.run("document.getElementById('iteration-1').focus()")
    page.press(keys.HOME)
    half = len(before) // 2
    assert page.drawn()[:half] == before[:half]
    assert page.drawn()[half:] != before[half:]


@pytest.mark.parametrize("k", [100])
def test_a_hundred_components_in_fifteen_panels_move_in_time(chrome, tmp_path, k):
    path = tmp_path / "many.html"
    path.write_bytes(report_page([subject_of(k=k, d=12, n=20_000, iterations=3)]))
    assert path.stat().st_size < 2_000_000
    page = Opened(chrome, path)
    assert len(page.all(".ellipse")) == 15 * k
    before = page.drawn()
    (slider,) = page.all(".iteration")
    page.run("arguments[0].value = 0; arguments[0].dispatchEvent(new Event('input'))", slider)
    assert page.drawn() != before
    assert chrome.get_log("browser") == []
