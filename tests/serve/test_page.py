"""The page in a real browser, on the bundled model: what it shows, what it keeps, and what it lets nobody do."""

import re
from io import BytesIO
from threading import Event

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from starlette.testclient import TestClient

import lab
from lab.images import comment_exif, text_chunks
from lab.runs.png import read_record
from lab.serve import service
from lab.serve.app import create_app
from lab.serve.config import ServeConfig
from tests.paths import REPOSITORY
from tests.serve.pages import NEGATIVE, WAIT, opened, until_read, write
from tests.serve.running import running

pytest.importorskip("gradio")


def tokens(page, reading):
    return [" ".join(text.split()) for text in page.locator(f"#{reading} .token").all_inner_texts()]


def few_steps(page):
    if not page.get_by_label("Steps").first.is_visible():
        page.locator("#settings > button").click()
    page.get_by_label("Steps").first.fill("2")


def images(page):
    return page.locator("#history img").count()


def make(page, expected):
    page.locator("#make").click()
    page.wait_for_function(
        "count => document.querySelectorAll('#history img').length === count", arg=expected
    )
    page.locator("#make").wait_for()


def made_in(folder):
    return sorted(folder.glob("*/*.png"), key=lambda file: file.name)


def newest(folder):
    return read_record(made_in(folder)[-1])


def test_prompts_are_read_as_they_are_typed(page):
    write(page, "prompt", "a (red:1.3) apple [cat|dog]")
    until_read(page, "reading", "dog")
    assert "red × 1.3" in tokens(page, "reading")
    assert "steps 3, 5" in page.locator("#reading").inner_text()
    write(page, "negative", "blurry")
    until_read(page, "negative-reading", "blurry")
    page.locator("#negative textarea").focus()
    page.get_by_role("button", name="<negative>").click()
    until_read(page, "negative-reading", "negative acts in rows")
    assert "<negative> 8 vectors" in tokens(page, "negative-reading")
    page.locator("#row-by-row > button").click()
    page.locator("#rows td").get_by_text("<negative>, 8 vectors").wait_for()
    write(page, "prompt", "a <nobody>")
    page.locator("#reading .problem").get_by_text("nobody").wait_for()


def test_what_is_typed_while_the_page_loads_stays(page, served):
    fresh = page.context.new_page()
    fresh.goto(served[0], wait_until="commit")
    write(fresh, "prompt", "a green cat")
    fresh.locator(
        "[data-insert]"
    ).first.wait_for()  # the server has answered what the page asks when it has loaded
    until_read(fresh, "reading", "green")
    assert fresh.locator("#prompt textarea").input_value() == "a green cat"
    write(fresh, "prompt", "noto emoji of a (red:1.2) apple")  # which the other tests begin with
    until_read(fresh, "reading", "red")
    fresh.close()


def test_images_stand_beside_those_before_and_nothing_is_lost(page, served):
    address, folder = served
    few_steps(page)
    write(page, "prompt", "noto emoji of a red apple")
    write(page, "negative", "<negative>")
    page.get_by_label("Seed").first.fill("7")
    before = images(page)
    make(page, before + 1)
    first = newest(folder)
    assert (first["seed"], first["steps"], first["negative_prompt"]) == (7, 2, "<negative>")
    assert [use["name"] for use in first["applied"]] == ["negative"]
    write(page, "prompt", "noto emoji of a cat")
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "count => document.querySelectorAll('#history img').length === count", arg=before + 2
    )
    assert newest(folder)["seed"] == 7 and newest(folder)["prompt"] == "noto emoji of a cat"
    changed = page.locator("#about tbody tr")
    changed.first.wait_for()
    assert changed.all_inner_texts() == ["prompt\tnoto emoji of a red apple\tnoto emoji of a cat"]
    sides = page.locator("#result img").evaluate_all("all => all.map(one => one.src)")
    assert len(set(sides)) == 2
    other = opened(page.context.new_page(), address)
    other.locator("#history img").first.wait_for()
    assert images(other) == before + 2
    assert other.locator("#prompt textarea").input_value() == "noto emoji of a cat"
    assert other.get_by_label("Seed").first.input_value() == "7"
    other.close()


def test_a_browser_sees_its_own_history_alone_and_can_remove_it(page, browser, served):
    before, own = len(made_in(served[1])), images(page)
    other = browser.new_context()
    other.set_default_timeout(WAIT)
    stranger = opened(other.new_page(), served[0])
    few_steps(stranger)
    make(stranger, 1)
    assert len(made_in(served[1])) == before + 1
    stranger.reload()
    stranger.locator("#history img").wait_for()
    assert images(stranger) == 1
    answers = ["dismiss", "accept"]
    stranger.on("dialog", lambda asked: getattr(asked, answers.pop(0))())
    for _ in (1, 2):
        with stranger.expect_event("dialog"):
            stranger.locator("#clear").click()
    stranger.wait_for_function("document.querySelectorAll('#history img').length === 0")
    assert len(made_in(served[1])) == before and images(page) == own
    other.close()


def as_the_web_ui_writes_it(image):
    file = BytesIO()
    Image.open(image).save(file, "WEBP", exif=comment_exif(text_chunks(image)["parameters"]))
    return {"name": "rocket.webp", "mimeType": "image/webp", "buffer": file.getvalue()}


def test_settings_come_back_from_the_history_and_from_a_dropped_image(page, served):
    few_steps(page)
    write(page, "prompt", "noto emoji of a rocket")
    write(page, "negative", "")
    page.get_by_label("Seed").first.fill("11")
    make(page, images(page) + 1)
    rocket = made_in(served[1])[-1]
    write(page, "prompt", "noto emoji of a crown")
    page.locator("#another").click()
    make(page, images(page) + 1)
    assert newest(served[1])["seed"] != 11
    page.locator("#history button").nth(1).click()
    page.locator("#same").click()
    page.locator("#said").get_by_text("Its settings are in the form").wait_for()
    assert page.locator("#prompt textarea").input_value() == "noto emoji of a rocket"
    assert page.get_by_label("Seed").first.input_value() == "11"
    write(page, "prompt", "something else")
    page.locator("#dropped input[type=file]").set_input_files(rocket)
    page.locator("#said").get_by_text(rocket.name).wait_for()
    assert page.locator("#prompt textarea").input_value() == "noto emoji of a rocket"
    write(page, "prompt", "something else")
    page.locator("#dropped input[type=file]").set_input_files(as_the_web_ui_writes_it(rocket))
    page.locator("#said").get_by_text("rocket.webp").wait_for()
    assert page.locator("#prompt textarea").input_value() == "noto emoji of a rocket"
    bare = REPOSITORY / "lab/assets/readme.png"
    page.locator("#dropped input[type=file]").set_input_files(bare)
    page.locator("#said .problem").get_by_text("readme.png: carries no settings").wait_for()


def test_what_cannot_be_made_is_said_on_the_page(page, served):
    made = len(made_in(served[1]))
    write(page, "prompt", "a cat")
    few_steps(page)
    page.get_by_label("Steps").first.fill("9999")
    page.locator("#make").click()
    page.locator("#said .problem").get_by_text("steps").wait_for()
    assert len(made_in(served[1])) == made
    page.get_by_label("Steps").first.fill("2")


def test_embeddings_are_shown_inspected_and_written_in_other_layouts(page, tmp_path):
    page.get_by_role("tab", name="Embeddings").click()
    card = page.locator("#cards .card")
    card.get_by_text("8 vectors, clip 256 wide, negative").wait_for()
    card.locator("summary").click()
    card.get_by_text("blurry").first.wait_for()
    card.get_by_text(re.compile(r"Made with it: \d image")).wait_for()
    page.locator("#write").click()
    with page.expect_download() as download:
        page.locator("#download").click()
    written, read = lab.read_embedding(download.value.path(), name="x"), lab.read_embedding(NEGATIVE)
    assert written.provenance.layout == "kohya"
    assert torch.equal(written.vectors["clip"], read.vectors["clip"])
    save_file({"emb_params": torch.full((2, 768), 5.0)}, tmp_path / "large.safetensors")
    page.locator("#file input[type=file]").set_input_files(tmp_path / "large.safetensors")
    inspected = page.locator("#inspected")
    inspected.get_by_text("<large>").wait_for()
    warnings = " ".join(inspected.locator(".problem").all_inner_texts())
    assert "768" in warnings and "where words have about" in warnings
    page.locator("#file").get_by_role("button", name="Clear").click()
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    page.locator("#file input[type=file]").set_input_files(tmp_path / "none.safetensors")
    inspected.get_by_role("alert").wait_for()
    assert inspected.inner_text().startswith("none.safetensors: ")
    page.locator("#file").get_by_role("button", name="Clear").click()
    page.get_by_role("tab", name="Play").click()


def choose(page, *names):
    page.locator("#which input").click()
    for name in names:
        page.get_by_role("option", name=name).click()
    page.keyboard.press("Escape")


def test_embeddings_are_merged(page, tmp_path):
    page.get_by_role("tab", name="Embeddings").click()
    chosen = page.locator("#which .token")
    chosen.get_by_text("negative").wait_for()
    save_file({"emb_params": torch.ones(2, 256)}, tmp_path / "toy.safetensors")
    page.locator("#file input[type=file]").set_input_files(tmp_path / "toy.safetensors")
    page.locator("#inspected").get_by_text("<toy>").wait_for()
    chosen.get_by_text("the dropped file").wait_for()
    assert chosen.count() == 1
    choose(page, "negative")
    page.locator("#write").click()
    page.locator("#written .problem").get_by_text("different numbers of vectors").wait_for()
    page.locator("#method input").click()
    page.get_by_role("option", name="concat").click()
    page.locator("#weights input, #weights textarea").fill("0.5, 1")
    page.locator("#called input, #called textarea").fill("both")
    page.locator("#write").click()
    page.locator("#written .card").get_by_text("10 vectors").wait_for()
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "both.safetensors"
    merged, first = lab.read_embedding(download.value.path(), name="both"), lab.read_embedding(NEGATIVE)
    expected = torch.cat([torch.full((2, 256), 0.5), first.vectors["clip"]])
    assert torch.equal(merged.vectors["clip"], expected)
    page.locator("#file").get_by_role("button", name="Clear").click()
    page.locator("#which input").click()
    page.get_by_role("option", name="negative").wait_for()
    page.get_by_role("option", name="the dropped file").wait_for(state="detached")
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Play").click()


def test_after_a_reload_on_a_phone_in_the_dark_all_is_there(page, tab):
    write(page, "prompt", "a (red:1.1) cat")
    until_read(page, "reading", "× 1.1")
    count = images(page)
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    until_read(page, "reading", "× 1.1")
    tab[1].clear()  # what was under way when the page was left
    page.locator("#history img").first.wait_for()
    assert images(page) == count > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", ground)[:3])) < 60


def test_whoever_follows_keeps_no_other_tab_waiting(page, served, monkeypatch):
    go = Event()

    def held(*jobs, run_jobs=service.run_jobs, **watched):
        go.wait(60)
        return run_jobs(*jobs, **watched)

    monkeypatch.setattr(service, "run_jobs", held)
    page.locator("#make").click()
    page.locator("#stop").wait_for()
    others = [page.context.new_page() for _ in range(2)]
    for other in others:
        other.goto(served[0])
        other.locator("#stop").wait_for()
    page.locator("#stop").click()
    go.set()
    for each in (page, *others):
        each.locator("#make").wait_for()
    for other in others:
        other.close()


@pytest.fixture(scope="module")
def with_key(emoji, tmp_path_factory):
    config = ServeConfig(out=tmp_path_factory.mktemp("keyed"), api_key="geheim")
    with TestClient(create_app(config, emoji), base_url="http://127.0.0.1") as client:
        yield client


def test_a_browser_asks_for_the_key(browser, emoji, tmp_path):
    with running(create_app(ServeConfig(out=tmp_path, api_key="geheim"), emoji)) as address:
        stranger = browser.new_context()
        answer = stranger.request.get(address)
        assert answer.status == 401 and answer.headers["www-authenticate"].startswith("Basic ")
        assert "gradio" not in answer.text()
        stranger.close()
        known = browser.new_context(http_credentials={"username": "anybody", "password": "geheim"})
        known.set_default_timeout(WAIT)
        problems = []
        known.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page = opened(known.new_page(), address)
        few_steps(page)
        make(page, 1)
        page.wait_for_function("document.querySelector('#history img').naturalWidth > 0")
        assert not problems
        known.close()


PATHS = ("/", "/config", "/gradio_api/info", "/gradio_api/file=/etc/hostname", "/gradio_api/queue/data")


@pytest.mark.parametrize("path", PATHS)
def test_the_page_asks_for_the_key_too(with_key, path):
    assert with_key.get(path).status_code == 401
    assert with_key.post("/gradio_api/upload", files={"files": b"x"}).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=/proc/self/environ",
        f"/gradio_api/file={REPOSITORY}/pyproject.toml",
        "/gradio_api/file=pyproject.toml",
        "/gradio_api/file=http://127.0.0.1/docs",
        "/gradio_api/proxy=http://127.0.0.1/docs",
        "/gradio_api/vibe-code",
        "/gradio_api/openapi.json",
        "/gradio_api/run-history/buckets",
        "/monitoring",
        "/nothing",
        f"/static/{'a' * 3000}",
    ],
)
def test_it_serves_no_file_of_the_machine_and_fetches_nothing(with_key, path):
    headers = {"Authorization": "Bearer geheim"}
    assert with_key.get("/", headers=headers).status_code == 200
    assert with_key.get(path, headers=headers).status_code in (403, 404)


def test_what_no_page_sends_is_refused(with_key):
    key = {"Authorization": "Bearer geheim"}
    body = {"data": [], "fn_index": -1, "session_hash": "a"}
    assert with_key.post("/gradio_api/queue/join", json=body, headers=key).status_code == 400
    odd = key | {"Content-Type": "application/json"}
    assert with_key.post("/gradio_api/queue/join", content=b"\x86", headers=odd).status_code == 400
    told = with_key.get("/gradio_api/queue/data?session_hash=nobody", headers=key).text
    assert "session_not_found" in told


def test_pages_from_elsewhere_may_not_use_it(with_key):
    headers = {"Authorization": "Bearer geheim", "Origin": "https://evil.example.org"}
    assert with_key.post("/gradio_api/queue/join", json={}, headers=headers).status_code == 403
