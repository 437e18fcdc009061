import openai
import pytest

from lab.serve.app import create_app
from lab.serve.config import ServeConfig
from tests.paths import REPOSITORY
from tests.serve.pages import page, served, tab  # noqa: F401 (fixtures)
from tests.serve.running import running


@pytest.fixture(scope="package")
def app(emoji, tmp_path_factory):
    out = tmp_path_factory.mktemp("serve")
    return create_app(
        ServeConfig(
            out=out,
            embeddings=[REPOSITORY / "lab/assets/emoji/negative.safetensors"],
            max_images=4,
            max_steps=30,
            page=False,
        ),
        emoji,
    )


@pytest.fixture(scope="package")
def address(app):
    with running(app) as where:
        yield where


@pytest.fixture(scope="package")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as one:
        yield one
