"""The page of a run in a real browser, opened from disk."""

import pytest
from PIL import Image

from lab.runs.pages import write_overview
from lab.runs.run import RunFolder
from tests.runs.test_images import RECORD

THINGS = ["a red apple", "a blue cat </script> & <b>more", "a dog"]


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    yield page
    page.close()
    assert not problems


def run(path, prompts, seeds, **record):
    folder = RunFolder.open(path, "steps: 2\n", {"model": "0"})
    for index, (prompt, seed) in enumerate((prompt, seed) for prompt in prompts for seed in seeds):
        image = Image.new("RGB", (64, 96), (index % 256, 128, 0))
        folder.save(index, image, RECORD | {"prompt": prompt, "seed": seed} | record, "")
    write_overview(folder, folder.finished())
    return (path / "index.html").as_uri()


def test_seeds_stand_under_their_prompt_and_what_is_shared_is_said_once(page, tmp_path):
    page.goto(run(tmp_path, THINGS, [3, 7]))
    assert page.locator("section h2").all_inner_texts() == THINGS
    assert page.locator("figcaption").all_inner_texts() == ["seed 3", "seed 7"] * 3
    assert "20 steps" in page.locator("p.soft").all_inner_texts()[1]
    assert page.locator("img[loading=lazy]").count() == 6


def test_one_seed_makes_one_grid_with_the_prompts_under_the_images(page, tmp_path):
    page.goto(run(tmp_path, THINGS, [3]))
    assert page.locator("section h2").count() == 0
    assert page.locator("figcaption").all_inner_texts() == THINGS
    assert "seed 3" in page.locator("main").inner_text()


def test_the_filter_keeps_the_prompts_that_have_all_words(page, tmp_path):
    page.goto(run(tmp_path, THINGS, [3, 7]))
    page.keyboard.press("/")
    page.keyboard.type("CAT blue")
    assert page.locator("section:visible h2").all_inner_texts() == [THINGS[1]]
    assert page.locator("#count").inner_text() == "2 of 6 images"
    page.keyboard.type("x")
    assert page.locator("#none").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("figure:visible").count() == 6


def test_by_keyboard_alone_an_image_is_found_opened_and_left(page, tmp_path):
    page.set_viewport_size({"width": 500, "height": 800})  # one prompt below the other
    page.goto(run(tmp_path, THINGS, [3, 7]))
    page.keyboard.press("/")
    page.keyboard.press("Enter")
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#viewer-title").inner_text() == f"{THINGS[1]}, seed 7"
    facts = dict(zip(*(page.locator(f"#own {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    assert facts == {"prompt": THINGS[1], "seed": "7"}
    assert "dpm++2m" in page.locator("#shared").inner_text()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#viewer-title").inner_text() == f"{THINGS[1]}, seed 3"
    page.keyboard.press("Escape")
    page.wait_for_function("document.activeElement.dataset.image === '2'")


def test_prompts_with_few_seeds_stand_side_by_side(page, tmp_path):
    page.goto(run(tmp_path, THINGS, [3, 7]))
    tops = {page.locator("section").nth(number).bounding_box()["y"] for number in range(2)}
    assert len(tops) == 1


def test_in_the_filtered_page_the_viewer_turns_within_what_is_shown(page, tmp_path):
    page.goto(run(tmp_path, THINGS, [3, 7]))
    page.locator("#filter").fill("dog")
    page.locator("[data-image='5']").click()
    page.locator("#after").click()
    assert page.locator("#viewer-title").inner_text() == "a dog, seed 3"


def test_three_thousand_images_are_not_loaded_at_once(page, tmp_path):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    address = run(tmp_path, [f"a picture, number {number}" for number in range(300)], range(10))
    page.goto(address)
    assert page.locator("[data-image]").count() == 3000
    assert sum(url.endswith(".png") for url in asked) < 600


@pytest.mark.parametrize("width", [360, 1600])
def test_nothing_is_wider_than_the_window(page, tmp_path, width):
    page.set_viewport_size({"width": width, "height": 700})
    page.goto(run(tmp_path, ["x" * 500, "a cat"], [1, 2], negative_prompt="y" * 300))
    page.locator("[data-image]").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(
        "document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth"
    )
