"""The page in a real browser, on the bundled model: fixtures of a module, and what its tests do on every tab."""

import pytest

from lab.serve.app import create_app
from lab.serve.config import ServeConfig
from tests.paths import REPOSITORY
from tests.serve.running import running

NEGATIVE = REPOSITORY / "lab/assets/emoji/negative.safetensors"
WAIT = 60_000


@pytest.fixture(scope="module")
def served(emoji, tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    with running(create_app(ServeConfig(out=out, embeddings=[NEGATIVE], max_images=4), emoji)) as address:
        yield address, out / "page"


@pytest.fixture(scope="module")
def tab(browser, served):
    """The page in a browser that reaches this machine alone, and what went wrong in it or was asked of others."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT)
    problems = []

    def keep_out(route):
        problems.append(route.request.url)
        route.abort()

    context.route(lambda url: not url.startswith(("http://127.0.0.1", "data:", "blob:")), keep_out)
    context.on("weberror", lambda error: problems.append(str(error.error)))
    context.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    yield opened(context.new_page(), served[0]), problems
    context.close()


@pytest.fixture
def page(tab):
    page, problems = tab
    yield page
    assert not problems


def opened(page, address):
    page.goto(address)
    page.locator("#reading .token, #reading .problem").first.wait_for()
    return page


def write(page, field, text):
    page.locator(f"#{field} textarea").fill(text)


def until_read(page, reading, says):
    page.locator(f"#{reading}").get_by_text(says).first.wait_for()
