"""Trainings, comparisons and votes on the page in a real browser, on the bundled model."""

import shutil
from dataclasses import replace
from threading import Event

import httpx
import pytest

from lab.comparing.votes import Poll
from lab.serve.job_kinds import JOB_KINDS, TrainJob
from lab.serve.lane import UnwantedError
from tests.paths import REPOSITORY
from tests.serve.pages import NEGATIVE, opened, until_read, write

pytest.importorskip("gradio")

SAMPLES = REPOSITORY / "lab/assets/samples/backpack"
FEW = {"preview_steps": 1, "preview_seeds": "1", "evaluate_on": 1}


def go_to(page, name):
    page.get_by_role("tab", name=name).click()


@pytest.fixture
def held(monkeypatch):
    """Jobs of a kind wait before they run, until `go` is set, and have done nothing if they were stopped meanwhile;
    trainings make few previews."""
    go = Event()

    def hold(kind):
        def run(place, asked, listener, run=JOB_KINDS[kind].run):
            go.wait(60)
            if listener.stopping():
                raise UnwantedError
            asked = TrainJob.build(asked.given() | FEW) if kind == "train" else asked
            return run(place, asked, listener)

        monkeypatch.setitem(JOB_KINDS, kind, replace(JOB_KINDS[kind], run=run))
        return go

    yield hold
    go.set()


@pytest.fixture(scope="module")
def phone(tab, served):
    """The same browser's page once more, as when somebody comes back: on a phone, in the dark."""
    page = tab[0].context.new_page()
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    yield opened(page, served[0])
    page.close()


def test_a_comparison_over_two_axes_is_stopped_resumed_and_reported(page, held):
    go = held("compare")
    go_to(page, "Compare")
    page.locator("#compare").click()
    until_read(page, "compare-said", "prompts: there is none")
    write(page, "compare-prompts", "a red apple\na cat")
    write(page, "values", "\nblurry")
    assert not page.locator("#compare-negative").is_visible(), "it varies"
    page.locator("#axis-2 input").click()
    page.get_by_role("option", name="steps", exact=True).click()
    write(page, "values-2", "1\n2")
    page.locator("#compare-steps").wait_for(state="hidden")  # likewise
    page.locator("#axis-3 input").wait_for()  # there is room for one more
    write(page, "compare-seeds", "1")
    page.locator("#metrics input").click()
    page.get_by_role("option", name="sharpness").click()
    page.keyboard.press("Escape")
    page.locator("#compare").click()
    card = page.locator("#comparisons .card")
    stop = card.get_by_role("button", name="Stop")
    stop.focus()
    until_read(page, "comparisons", "running")
    page.keyboard.press("Enter")  # it has the focus still, though the card was drawn anew
    until_read(page, "comparisons", "It is being broken off")
    go.set()
    card.get_by_role("button", name="Resume").click()
    with page.context.expect_page() as report:
        card.get_by_role("link", name="The report").click()
    report.value.get_by_text("steps=2").first.wait_for()
    assert (
        report.value.get_by_text("sharpness").count()
        and not report.value.get_by_text("colourfulness").count()
    )
    report.value.close()


def test_an_embedding_is_learned_and_used_at_once(page, held):
    go = held("train")
    go_to(page, "Train")
    page.locator("#foresee").click()
    until_read(page, "train-said", "images")
    page.locator("#pictures input[type=file]").set_input_files(
        [SAMPLES / f"{name}" for name in ("1.png", "1.txt", "2.png", "3.png")]
    )
    page.locator("[data-take-out='3.png']").click()
    page.locator("[data-caption='3.png']").wait_for(state="detached")
    caption = page.locator("[data-caption='2.png']")
    caption.wait_for()
    assert page.locator("[data-caption='1.png']").input_value().startswith("a <my-thing> on a white")
    caption.fill("a red thing")
    page.locator("#train-name textarea").fill("my-bag")
    page.locator("#foresee").click()
    until_read(page, "train-said", "2.png: without <my-bag> in 'a red thing'")
    caption.fill("a red <my-bag>")
    page.locator("#train-steps input").fill("2")
    page.locator("#foresee").click()
    until_read(page, "train-said", "2 images of your set")
    assert "a red <my-bag>" in page.locator("#train-said").inner_text()
    page.locator("#train-how > button").click()
    page.locator("#batch-size input").fill("1")
    page.locator("#train").click()
    card = page.locator("#trainings .card")
    card.get_by_role("button", name="Stop").click()
    until_read(page, "trainings", "It is being broken off")
    go.set()
    card.get_by_role("button", name="Resume").click()
    use = card.get_by_role("button", name="Use <my-bag> in a prompt")
    use.wait_for()
    card.locator(".curve svg").wait_for()
    assert card.locator(".previews img").evaluate_all(
        "all => all.every(one => one.naturalWidth || !one.complete)"
    )
    assert card.get_by_text("step 0", exact=True).count() and card.get_by_text("step 2", exact=True).count()
    use.click()
    until_read(page, "reading", "my-bag acts in rows")
    page.locator("[data-insert='<my-bag>']").wait_for()


def newer_comparison(address):
    asked = {
        "prompts": ["a cat"],
        "seeds": "1",
        "steps": 1,
        "axes": {"guidance": [2, 6]},
        "metrics": ["sharpness"],
    }
    job = httpx.post(f"{address}/lab/v1/jobs/compare", json=asked, timeout=60).json()["id"]
    with httpx.stream("GET", f"{address}/lab/v1/jobs/{job}/events", timeout=60) as events:
        assert '"state": "done"' in list(events.iter_lines())[-2]
    return job


def remove(page, tab, job):
    go_to(page, tab)
    page.once("dialog", lambda asked: asked.accept())
    page.locator(f"#remove-{job}").click()
    page.locator(f"#remove-{job}").wait_for(state="hidden")


def test_a_dozen_votes_become_a_ranking(page, served, phone):
    go_to(page, "Vote")
    pair = page.locator("#ballot img")
    pair.nth(1).wait_for()
    assert "steps" not in page.locator("#ballot").inner_html(), "nothing tells what made them"
    until_read(page, "outcome", "0 of 12 votes")
    page.keyboard.press("ArrowLeft")
    until_read(page, "outcome", "1 of 12 votes")
    newer = newer_comparison(served[0])
    page.keyboard.press("Backspace")
    until_read(page, "outcome", "0 of 12 votes")
    assert [len(Poll(run.parent).votes()) for run in served[1].parent.glob("jobs/*/run/cells")] == [0, 0]
    remove(page, "Compare", newer)
    go_to(page, "Vote")
    pair.nth(1).click()
    until_read(page, "outcome", "1 of 12 votes")
    go_to(phone, "Vote")
    until_read(phone, "outcome", "1 of 12 votes")
    (cells,) = served[1].parent.glob("jobs/*/run/cells")
    poll = Poll(cells.parent)
    while len(poll.votes()) < 10:
        ballot = poll.next()
        poll.vote(ballot.left, ballot.right, "right")
    for number in (10, 11):  # at first on a pair that has a vote: it counts once, and the next one is shown
        page.keyboard.press("ArrowRight")
        until_read(page, "outcome", f"{number} of 12 votes")
    phone.keyboard.press("ArrowLeft")  # likewise
    until_read(phone, "outcome", "11 of 12 votes")
    phone.keyboard.press("ArrowLeft")
    until_read(phone, "outcome", "Which metric agrees with you")
    until_read(phone, "ballot", "Every pair of this comparison has a vote")
    assert phone.locator("#outcome td").get_by_text("the baseline").count() == 1
    assert [vote.preferred for vote in poll.votes()] == ["right"] * 11 + ["left"]


def test_whoever_comes_back_finds_jobs_and_forms(page, served, phone):  # `page` holds that nothing went wrong
    for name, field, text in (("Train", "train-name", "my-bag"), ("Compare", "values-2", "1\n2")):
        go_to(phone, name)
        phone.wait_for_function(
            "([field, text]) => document.querySelector(`#${field} textarea`)?.value === text",
            arg=[field, text],
        )
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    go_to(phone, "Vote")
    until_read(phone, "outcome", "What you prefer")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    go_to(phone, "Train")
    until_read(phone, "shown-pictures", "2 images")
    assert phone.locator("[data-caption='2.png']").input_value() == "a red <my-bag>"
    phone.locator("#trainings [data-use]").wait_for()
    (job,) = httpx.get(f"{served[0]}/lab/v1/jobs").json()["jobs"][:1]
    remove(phone, "Train", job["id"])
    until_read(phone, "trainings", "Trainings stand here")


def learned_at_once(place, *_):
    place.folder.mkdir(parents=True)
    shutil.copy(NEGATIVE, place.folder / "toy.safetensors")


def test_what_a_program_had_learned_is_shown_too(page, served, monkeypatch):
    monkeypatch.setitem(JOB_KINDS, "train", replace(JOB_KINDS["train"], run=learned_at_once))
    api = f"{served[0]}/lab/v1"
    image = ("files", ("1.png", (SAMPLES / "1.png").read_bytes()))
    asked = {"name": "toy", "images": httpx.post(f"{api}/images", files=[image]).json()["id"]}
    assert httpx.post(f"{api}/jobs/train", json=asked, timeout=60).status_code == 202
    go_to(page, "Train")
    page.locator("#use-toy").wait_for()
