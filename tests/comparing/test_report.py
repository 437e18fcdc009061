"""The report in a real browser, where there is one: the system's, or playwright's own."""

import re

import pytest

import lab
from lab.comparing import report as pages


@pytest.fixture(scope="module")
def folder(sd1, clip_folder, tmp_path_factory):
    """A report over several small pages, with text that means something to HTML."""
    limit, pages.PAGE_BYTES = pages.PAGE_BYTES, 12_000
    try:
        config = lab.CompareConfig(
            prompts=["a red apple", "a cat </script & <b more"],
            seeds="1-3",
            axes={"negative_prompt": ["", "blurry", 'a "quoted" `word`']},
            steps=2,
            clip=clip_folder,
            heat_map=["a"],
            out=tmp_path_factory.mktemp("runs") / "run",
        )
        return lab.compare(sd1, config).folder
    finally:
        pages.PAGE_BYTES = limit


@pytest.fixture
def page(browser, folder):
    """The open report; errors in its script, and anything it loads from elsewhere, fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto((folder / "report.html").as_uri())
    yield page
    context.close()
    assert not wrong


def test_pages_hold_every_image_once(folder):
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("report*.html"))]
    assert len(texts) > 1
    rows = [set(re.findall(r'data-image="(\d+)"', text)) for text in texts]
    assert len(set.union(*rows)) == 18 and sum(map(len, rows)) == 18
    for text in texts:
        found = re.findall(r'id="picture-(\d+)"', text)
        assert len(found) == len(set(found))
        assert "</script &" not in text and not re.search(r'(src|href)="(https?:)?//', text)


def test_every_image_is_shown_and_named(page):
    images = page.locator("main img")
    assert images.count() > 10
    assert page.evaluate(
        "[...document.querySelectorAll('main img')].every(i => i.complete && i.naturalWidth > 0)"
    )
    assert page.evaluate("[...document.querySelectorAll('main img')].every(i => i.alt.length > 5)")


def test_a_cell_opens_at_full_size_with_its_settings(page):
    cell = page.locator(".cell").nth(1)
    cell.click()
    assert page.locator("#viewer").is_visible()
    facts = page.locator("#own").inner_text()
    assert "negative prompt" in facts and "blurry" in facts and "steps" in facts and "baseline" in facts
    assert page.evaluate("document.getElementById('full').naturalWidth") > 0
    first, title = page.locator("#full").get_attribute("src"), page.locator("#viewer-title").inner_text()
    page.locator("#after").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#full").get_attribute("src") != first
    assert page.locator("#viewer-title").inner_text() != title
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")


def test_keyboard_opens_cells_and_gets_the_focus_back(page):
    cells, viewer = page.locator(".cell"), page.locator("#viewer")
    cells.first.focus()
    page.keyboard.press("Enter")
    assert viewer.is_visible()
    page.keyboard.press("ArrowRight")
    # The focus moves in the dialog's close event, a task after it is hidden: a later listener tells when it is over.
    page.evaluate("() => { viewer.addEventListener('close', () => { window.over = true; }); }")
    page.keyboard.press("Escape")
    page.wait_for_function("window.over")
    assert not viewer.is_visible()
    assert cells.nth(1).evaluate("cell => cell === document.activeElement")


def test_keyboard_moves_sliders(page):
    expect = pytest.importorskip("playwright.sync_api").expect  # waits, as the page draws when it has time
    slider = page.locator(".pairs .duel input").first
    slider.press("Home")
    over = page.locator(".pairs .duel .over").first
    expect(over).to_have_css("clip-path", "inset(0px 100% 0px 0px)")
    slider.press("End")
    expect(over).to_have_css("clip-path", re.compile(r"inset\(0px( 0% 0px 0px)?\)"))


def test_text_is_text(page):
    assert "a cat </script & <b more" in page.locator("main").inner_text()


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_light_and_dark(browser, folder, scheme, dark):
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    back, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (back, ink)]
    assert (brightness[0] < brightness[1]) == dark
    context.close()


def test_a_phone_needs_no_sideways_scrolling(browser, folder):
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(".cell").first.click()
    assert page.locator("#close").is_visible()
    context.close()
