"""`lab serve`, up to where it would listen."""

import re

import pytest
import uvicorn

from lab.cli import serve
from lab.cli.main import main


@pytest.fixture
def served(monkeypatch):
    """The app that is served, and the sockets."""
    found = []
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda server, sockets: found.extend([server.config.app, *sockets])
    )
    yield found
    for listening in found[1:]:
        listening.close()


def test_it_says_where_and_for_whom(served, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "--port", "0", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    port = int(re.search(r"http://127\.0\.0\.1:(\d+) for this machine alone", said)[1])
    assert served[1].getsockname() == ("127.0.0.1", port) and port != 0


def test_the_key_may_come_from_the_environment(served, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_API_KEY", "geheim")
    assert main(["serve", "--port", "0", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "whoever has the key" in out and "geheim" not in out
    assert served[0].state.service.config.api_key == "geheim"


def test_without_its_packages_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == (
        "lab: serve: needs FastAPI and uvicorn; install them with pip install -e '.[serve]'\n"
    )
