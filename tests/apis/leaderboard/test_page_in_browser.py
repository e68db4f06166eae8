"""The page in a real browser: Debian's chromium without a window, driven by Playwright.

Screenshots go to the folder that ``LEADERBOARD_SHOTS`` names, if any.
"""

import os
from pathlib import Path

import pytest
from support.browser import MARKS, chromium
from support.results import result, store

from vpeft.apis.leaderboard.write import write_leaderboard
from vpeft.apis.results.files import read_results
from vpeft.apis.results.plots import front
from vpeft.apis.results.statistics import lines

pytestmark = MARKS

TASKS = ("digits", "textures", "sprite_count")
#: Mean of each task in percent, parameters, step in milliseconds.
METHODS = {
    "Linear": ((60, 50, 31), 0, 10),
    "LoRA": ((92, 81, 70), 36_864, 30),
    "BitFit": ((88, 83, 61), 5_000, 25),
    "AdaptFormer": ((90, 80, 72), 20_000, 28),
    "LST": ((85, 70, 60), 90_000, 15),
    "Full": ((91, 79, 71), 1_200_000, 50),
}
EVIL = "<img src=x onerror=alert(1)>"


def example(root: Path) -> None:
    runs = []
    for method, (means, parameters, step) in {**METHODS, EVIL: ((10, 11, 12), 77, 90)}.items():
        kind = "LoRA" if method == EVIL else method
        for task, mean in zip(TASKS, means, strict=True):
            for seed, off in enumerate((-0.01, 0, 0.01)):
                runs.append(result(method, task, seed, mean / 100 + off, parameters, config=f"{kind}.py",
                                   methods=[{"type": kind}], full_config=f"method = '{kind}'  # of {task}",
                                   git="0123456789abcdef" * 2 + "01234567"))  # fmt: skip
                runs[-1]["cost"] = {**runs[-1]["cost"], "step_seconds": step / 1000, "saved_bytes": 10**6 * step}
    runs += [result("SSF", "digits", 0, 0.99, protocol={"faults": ["early stopping"], "test_looks": 1})]
    runs += [{**result("Mona", "digits", 0, 0.5), "suite": None, "group": None, "task": "swin-l_ade20k"}]
    store(root, *runs)


class Seen:
    """A page, and what it asked for and complained about."""

    def __init__(self, page, url):
        self.page, self.url, self.asked, self.complaints = page, url, [], []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))

    def names(self):
        return self.page.locator("#board tbody tr").evaluate_all("rows => rows.map(r => r.dataset.name)")

    def shoot(self, name):
        if folder := os.environ.get("LEADERBOARD_SHOTS"):
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    example(root)
    return write_leaderboard(read_results(root))[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture
def seen(browser, site):
    page = browser.new_page()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme="light")
    found = Seen(page, site.as_uri())
    page.goto(found.url)
    yield found
    page.close()
    assert found.complaints == []
    assert set(found.asked) <= {found.url, "data:,"}


def test_it_loads_with_its_figures(seen, site):
    assert seen.names() == ["LoRA", "AdaptFormer", "Full", "BitFit", "LST", "Linear", EVIL]
    row = seen.page.locator("#board tbody tr").first
    assert row.locator("[data-col=mean]").inner_text().split() == ["81.0", "±", "1.0"]
    assert row.locator("[data-col='task:digits']").inner_text().split() == ["92.0", "±", "1.0"]
    assert row.locator("[data-col=parameters]").inner_text() == "36.9 k"
    assert row.locator("[data-col=ppt]").inner_text() == "0.809"  # 0.81 exp(-log10(1.0036864))
    assert row.locator("[data-col=step_seconds]").inner_text() == "30.0 ms"
    assert "best" in row.locator("[data-col='task:digits']").get_attribute("class")
    # The spreads of the seeds are the same everywhere: paired differences have none.
    assert "81.0 % ± 1.0" in seen.page.locator(".card").first.inner_text()
    assert "all others are behind it" in seen.page.locator(".card").first.inner_text()
    assert "early stopping" in seen.page.locator("#out").inner_text()
    assert "SSF" not in seen.names()
    # Cards of different rows; Linear and Full are baselines, which are no methods here.
    cards = [" | ".join(card.inner_text().split("\n")) for card in seen.page.locator(".card").all()]
    assert [card.split(" | ")[1] for card in cards] == ["LoRA", "AdaptFormer", "LST", EVIL]
    assert cards[1] == "Cheapest within 1 point | AdaptFormer | 20.0 k parameters | 80.7 %, 0.3 points behind the best"
    assert cards[2] == "Fastest | LST | 15.0 ms a step | 71.7 %, 9.3 points behind the best"
    assert cards[3].startswith("Smallest | ")
    assert "77 parameters" in cards[3]
    about = seen.page.inner_text("#board-about")
    assert about == "Top-1 accuracy in percent, mean over seeds \u00b7 3 tasks \u00b7 data: embedded"
    assert seen.page.inner_text("[data-sort='task:sprite_count']") == "Sprite count"
    notes = seen.page.locator("#guide").inner_text()
    assert "10,000,000" in notes
    seen.shoot("light")


def test_fronts_are_those_of_the_results(seen, site):
    results = read_results(site.parents[1])
    for cost in ("parameters", "step_seconds", "saved_bytes"):
        best = front(lines(results.honest().filtered(task=TASKS)), cost)
        label = seen.page.locator(f"[data-plot={cost}]").get_attribute("aria-label")
        shown = [part.split(",")[0] for part in label.split("by rising cost: ")[1].split("; ")]
        assert shown == [line.row[0] for line in best]
        assert seen.page.locator(f"[data-plot={cost}] .mark:not(.off)").count() == len(best)


def test_it_sorts(seen):
    column = seen.page.locator("[data-sort='task:textures']")
    column.click()
    assert seen.names() == ["BitFit", "LoRA", "AdaptFormer", "Full", "LST", "Linear", EVIL]
    header = seen.page.locator("th:has([data-sort='task:textures'])")
    assert header.get_attribute("aria-sort") == "descending"
    seen.page.keyboard.press("Enter")  # the button has kept the focus
    assert seen.names() == [EVIL, "Linear", "LST", "Full", "AdaptFormer", "LoRA", "BitFit"]
    assert header.get_attribute("aria-sort") == "ascending"
    assert seen.page.locator("[aria-sort=none]").count() > 5
    seen.page.click("[data-sort=parameters]")
    assert seen.names()[:2] == ["Linear", EVIL]  # the smallest first


def test_it_filters(seen):
    seen.page.select_option("#f-category", "baseline")
    assert seen.names() == ["Full", "Linear"]
    assert "2 of 7 rows" in seen.page.inner_text("#shown")
    assert seen.page.locator("[data-plot=parameters] .mark").count() == 2
    seen.page.click("#reset")
    seen.page.select_option("#f-memory", "M0")
    assert seen.names() == ["LST", "Linear"]
    seen.page.click("#reset")
    seen.page.fill("#f-text", "adapt")
    assert seen.names() == ["AdaptFormer"]
    seen.page.click("#reset")
    seen.page.select_option("#f-group", "structured")
    assert seen.names()[0] == "AdaptFormer"
    assert seen.page.locator("[data-sort='task:digits']").count() == 0
    seen.page.click("#reset")
    assert len(seen.names()) == 7
    seen.page.click("[data-section=Cost]")
    assert seen.page.locator("[data-sort=step_seconds]").count() == 0


def test_a_cell_opens_its_runs(seen, site):
    seen.page.locator("tr[data-name=LoRA] [data-col='task:digits'] button").click()
    panel = seen.page.locator("#panel")
    assert panel.locator("h2").inner_text() == "LoRA: digits"
    assert panel.evaluate("p => p.scrollWidth <= p.clientWidth")  # nothing stands out at the side
    rows = panel.locator("#runs tbody tr")
    assert [rows.nth(i).locator("td").nth(1).inner_text() for i in range(3)] == ["91.00", "92.00", "93.00"]
    assert "0123456" in panel.inner_text()
    target = rows.first.locator("a").evaluate("a => decodeURIComponent(new URL(a.href).pathname)")
    assert Path(target).resolve().is_file()
    panel.locator("summary").click()
    seen.page.wait_for_function("document.getElementById('config').textContent.includes('of digits')")
    assert panel.locator("#config").inner_text() == "method = 'LoRA'  # of digits"
    seen.shoot("panel")
    seen.page.keyboard.press("Escape")
    assert not panel.is_visible()


def test_keys_go_through_the_table_and_the_plots(seen):
    seen.page.locator("tr[data-name=LoRA] .row").focus()
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        seen.page.keyboard.press(key)
    assert seen.page.locator("#panel h2").inner_text() == "AdaptFormer"
    seen.page.click("#close")
    seen.page.locator("[data-plot=parameters]").focus()
    seen.page.keyboard.press("ArrowRight")
    assert "Linear" in seen.page.locator("#tip").inner_text()
    seen.page.keyboard.press("Enter")
    assert seen.page.locator("#panel h2").inner_text() == "Linear"


def background(seen):
    return seen.page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_light_and_dark(seen):
    light = background(seen)
    seen.page.emulate_media(color_scheme="dark")
    dark = background(seen)
    assert dark != light
    seen.page.click("#theme")
    assert background(seen) == light
    seen.page.click("#theme")
    assert background(seen) == dark
    seen.shoot("dark")
    seen.page.evaluate("localStorage.clear()")


def test_on_a_phone(seen):
    seen.page.set_viewport_size({"width": 375, "height": 812})
    seen.page.goto(seen.url)
    assert seen.page.evaluate("document.documentElement.scrollWidth") == 375
    scroller = seen.page.locator("#scroller")
    assert scroller.evaluate("s => s.scrollWidth > s.clientWidth")
    name = seen.page.locator("tbody th.name").first
    before = name.bounding_box()["x"]
    scroller.evaluate("s => { s.scrollLeft = 300; }")
    assert name.bounding_box()["x"] == before  # the first column stays
    seen.shoot("phone")
    # No line ends inside a part of a name.
    whole = """bs => bs.flatMap(b => [...b.childNodes]).filter(n => n.length).every(n => {
        const range = document.createRange(); range.selectNode(n); return range.getClientRects().length === 1; })"""
    assert seen.page.locator("tr:not([data-name*=img]) .row b").evaluate_all(whole)
    seen.page.locator("tr[data-name=LoRA] [data-col='task:digits'] button").click()
    assert seen.page.locator("#panel").evaluate("p => p.scrollWidth <= p.clientWidth")


def test_the_smallest_page(browser, tmp_path):
    """One run, of one seed, with costs that nobody knows."""
    unknown = {"step_seconds": None, "adapter_bytes": 7}
    store(tmp_path, result("Linear", "digits", 0, 0.5, 0, cost=unknown))
    page = browser.new_page()
    seen = Seen(page, write_leaderboard(read_results(tmp_path), None, [])[0].as_uri())
    page.goto(seen.url)
    assert seen.names() == ["Linear"]
    assert not page.locator("#tabs").is_visible()
    assert page.locator("[data-col=mean]").inner_text() == "50.0"
    assert page.locator("#plots figure").count() == 1
    assert page.locator("h2:visible").all_inner_texts()[-1] == "How to read this"
    assert page.locator("section:visible").count() == 4  # none about tables or left-out files: there are none
    assert page.locator(".tag:visible").count() == 0
    assert page.locator(".card").count() == 1
    assert "Best, smallest" in page.locator(".card").inner_text()
    page.locator("tr[data-name=Linear] .row").click()
    assert "50.0 % digits" in " ".join(page.locator("#panel").inner_text().split())
    page.locator("#panel td button").click()
    assert page.locator("#runs tbody tr").count() == 1
    page.close()
    assert seen.complaints == []


def test_boards_are_tabs(seen):
    assert seen.page.locator("[role=tab]").all_inner_texts() == [
        "Image classification, mini-benchmark",
        "Image classification, Swin-L ADE20K",
    ]
    assert seen.page.inner_text("#board-title") == "Image classification: mini-benchmark"
    seen.page.locator("[role=tab]").nth(1).click()
    assert seen.page.inner_text("#board-title") == "Image classification: Swin-L ADE20K"
    assert seen.names() == ["Mona"]
    assert seen.page.locator("[role=tab]").nth(1).get_attribute("aria-selected") == "true"
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_page_that_goes_alone_names_files_without_links(browser, site, tmp_path):
    page = browser.new_page()
    alone = write_leaderboard(read_results(site.parent.parent), tmp_path, alone=True)[0]
    page.goto(alone.as_uri())
    page.locator("tr[data-name=LoRA] [data-col='task:digits'] button").click()
    assert page.locator("#panel #runs tbody tr code", has_text=".json").count() == 3
    assert page.locator("#panel a").count() == 0
    page.close()


def test_one_seed_tells_nothing(browser, tmp_path):
    store(
        tmp_path,
        result("LoRA", "digits", 0, 0.9),
        result("Linear", "digits", 0, 0.5),
        result("Linear", "digits", 1, 0.5),
    )
    page = browser.new_page()
    page.goto(write_leaderboard(read_results(tmp_path), None, [])[0].as_uri())
    assert "one seed does not tell it from the others" in page.locator(".card").first.inner_text()
    cell = page.locator("tr[data-name=Linear] [data-col=behind]")
    assert cell.inner_text().split("\n") == ["\u221240.0", "not known: one seed"]
    store(tmp_path, result("LoRA", "digits", 1, 0.9), result("Mona", "digits", 0, 0.4))
    page.goto(write_leaderboard(read_results(tmp_path), None, [])[0].as_uri())
    # 40.0 points on both seeds behind LoRA is Linear; Mona has a seed alone.
    assert (
        "the others are behind it (95\u00a0%); 1 not known, with one seed" in page.locator(".card").first.inner_text()
    )
    page.close()


def test_one_seed_is_told_apart_by_what_seeds_do_to_other_rows(browser, tmp_path):
    for seed in range(3):
        store(tmp_path, result("LoRA", "digits", seed, 0.9 + 0.01 * seed))
    store(tmp_path, result("Linear", "digits", 0, 0.5), result("Mona", "digits", 0, 0.89))
    page = browser.new_page()
    page.goto(write_leaderboard(read_results(tmp_path), None, [])[0].as_uri())
    cells = [
        page.locator(f"tr[data-name={name}] [data-col=behind]").inner_text().split("\n")[1]
        for name in ("Linear", "Mona")
    ]
    # Half a deviation of 0.01 over sqrt(1 + 1/3) times t of 2 degrees: 4.97 points to either side of the same seed's.
    assert cells[0] == "\u221245.0 to \u221235.0, by other rows\u2019 seeds"
    assert cells[1] == "\u22126.0 to +4.0, holds 0, by other rows\u2019 seeds"
    page.close()


def test_times_of_a_busy_machine_are_marked(browser, tmp_path):
    cost = result("LoRA", "digits", 0, 0.9)["cost"]
    store(
        tmp_path,
        result("LoRA", "digits", 0, 0.9, cost={**cost, "load": 0.9}),
        result("LoRA", "digits", 1, 0.9, cost={**cost, "load": 1.6}),
        result("SSF", "digits", 0, 0.8, cost={**cost, "load": 1.25}),
        result("Mona", "digits", 0, 0.7),  # did not note it
    )
    files = write_leaderboard(read_results(tmp_path), None, [])
    page = browser.new_page()
    page.goto(files[0].as_uri())
    times = {
        name: page.locator(f"tr[data-name={name}] [data-col=step_seconds]").inner_text()
        for name in ("LoRA", "SSF", "Mona")
    }
    assert times == {"LoRA": "100 ms\u00a0\u2021", "SSF": "100 ms", "Mona": "100 ms"}
    assert "1 of 3 rows were timed on a busy machine (\u2021)" in page.inner_text("#notes")
    assert "\u2021 on a busy machine" in page.inner_text("#legend")
    page.locator("tr[data-name=LoRA] .row").click()
    assert "1.60 times what its processors do at once \u2021 busy" in page.inner_text("#panel")
    assert "| 100.0 \u2021 |" in files[1].read_text()
    page.close()
