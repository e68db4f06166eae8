"""The page to drop pictures on, in a real browser: Debian's chromium without a window, driven by Playwright.

Screenshots go to the folder that ``SERVE_SHOTS`` names, if any.
"""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.browser import MARKS, chromium

from vpeft.apis.serve.app import make_app

pytestmark = MARKS
TOKEN = "0123456789abcdef"
EVIL = "<img src=x onerror=alert(1)>.png"


def picture(seed):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)).resize((240, 180)).save(
        file, "PNG"
    )
    return file.getvalue()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture
def open_page(browser):
    """Opens an address; nothing outside of it may be asked for, and nothing complain."""
    pages, seen = [], []

    def opened(url, dark=False, size=(1100, 800)):
        page = browser.new_page()
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.on("request", lambda request: seen.append(request.url))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
        page.goto(url)
        pages.append((page, url))
        return page

    yield opened
    for page, url in pages:
        assert [one for one in seen if not one.startswith((url, "blob:", "data:"))] == []
        page.close()


def shoot(page, name):
    if folder := os.environ.get("SERVE_SHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def drop(page, *files):
    """Choose files, and wait for their answers."""
    kinds = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files]
    page.locator("#files").set_input_files(kinds)
    page.locator("article").nth(len(files) - 1).wait_for()  # the page's policy lets no script of ours poll


def test_pictures_are_answered_by_the_adapter_that_is_chosen(client, open_page):
    page = open_page(client.url + "/")
    page.locator("option").nth(1).wait_for(state="attached")
    assert page.locator("option").all_inner_texts() == ["digits", "photos"]
    page.locator("#adapter").select_option("photos")
    drop(page, (EVIL, picture(1)), ("broken.png", picture(2)[:500]), ("good.png", picture(3)))
    cards = page.locator("article").all()
    assert [card.locator("h2").inner_text() for card in cards] == ["good.png", "broken.png", EVIL]
    _, wanted = client.post("/predict?adapter=photos", ("good.png", picture(3)))
    rows = [row.inner_text().split("\n") for row in cards[0].locator("li").all()]
    assert [row[0] for row in rows] == [one["class"] for one in wanted["predictions"][0]["classes"]]
    assert rows[0][1] == f"{100 * wanted['predictions'][0]['classes'][0]['score']:.1f} %"
    assert [card.locator(".by").inner_text() for card in cards] == ["answered by photos"] * 3
    assert cards[1].locator("img").count() == 0  # no empty frame for what cannot be read
    assert "truncated or no image" in cards[1].locator(".reason").inner_text()
    shoot(page, "light")
    shoot(open_page(client.url + "/", dark=True, size=(390, 700)), "phone")


def test_it_asks_for_the_token_where_there_is_one(served, serve, open_page):
    with serve(make_app(served, TOKEN, host="0.0.0.0")) as client:
        page = open_page(client.url + "/")
        page.wait_for_selector("#token", state="visible")
        assert page.locator("#said").inner_text() == "The server asks for a token."
        page.locator("#token").fill(TOKEN)
        page.locator("#token").blur()
        page.locator("option").nth(1).wait_for(state="attached")
        assert page.locator("#said").inner_text() == ""
        drop(page, ("a.png", picture(1)))
        assert page.locator("article li").count() == 5
