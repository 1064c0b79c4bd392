"""The explorer's page in a real browser: from disk, with a keyboard, and as narrow as a phone."""

from __future__ import annotations

import browser
import pytest

import jaxprompt as jp
from jaxprompt.presentation.explorer import explore, explorer_page

pytestmark = pytest.mark.skipif(browser.installed() is None, reason="no Chromium is installed")

CURVE = "[...document.querySelectorAll('#plot path, #plot polyline')].map(p => p.outerHTML).join()"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    claim = jp.claim("universal.prefix_rate")
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    path.write_text(explorer_page(claim, explore(claim), None), encoding="utf-8")
    return path


@pytest.fixture(params=[400, 1200])
def page(request, file, tmp_path):
    opened = browser.Page(file, tmp_path / "profile", width=request.param)
    yield opened
    opened.close()


def test_it_opens_from_the_disk_and_asks_no_host(page, file):
    assert page.run("document.querySelectorAll('#plot path, #plot polyline').length") > 0
    assert page.run("document.getElementById('read').textContent.length") > 0
    assert {url.split("?")[0] for url in page.requests} <= {file.resolve().as_uri(), "about:blank"}


def test_a_keyboard_moves_the_sliders(page):
    page.run("document.body.focus()")
    reached = set()
    for _ in range(20):
        page.press("Tab")
        reached.add(page.run("document.activeElement.id"))
    sliders = page.run("[...document.querySelectorAll('input[type=range]')].map(s => s.id)")
    assert set(sliders) <= reached, f"Tab reaches {reached}, of the sliders {sliders}"
    for slider in sliders:
        page.run(f"document.getElementById('{slider}').focus()")
        before = page.run(CURVE), page.run("document.getElementById('read').textContent")
        page.press("Home")
        page.press("ArrowRight")
        page.press("End")
        after = page.run(CURVE), page.run("document.getElementById('read').textContent")
        assert after != before, f"the slider {slider} moves neither the curves nor the reading"


def test_nothing_is_wider_than_the_window(page):
    wide = page.run("document.scrollingElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{wide} pixels are outside"
