"""A hub that does not answer, or refuses: one line each, with what to do, or what the cache holds."""

import os
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import constants

from lab.errors import InputError
from lab.hub.repository import open_repository, split_source
from tests.hub.fetching import FILES, LARGE, fetched, refused
from tests.hub_server import Heard
from tests.paths import REPOSITORY


class TestOutOfReach:
    def test_nothing_cached(self, stored, cut_off, silent):
        cut_off()
        said = refused()
        assert said.startswith("hub:org/name: the hub is out of reach (http://127.0.0.1:9: ")
        assert said.endswith(
            "the local cache does not have it; check the connection, or give a folder or a file"
        )

    def test_cached(self, stored, cut_off, silent):
        fetched()
        cut_off()
        heard = Heard()
        assert fetched(listener=heard) == FILES
        (note,) = heard.notes
        assert "out of reach" in note and note.endswith("taken from the local cache")

    def test_offline_by_choice(self, stored, monkeypatch, silent):
        fetched()
        stored.requests.clear()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        heard = Heard()
        assert fetched(listener=heard) == FILES
        assert stored.requests == [] and heard.notes == []
        assert "HF_HUB_OFFLINE is set, and the local cache does not have it; unset it" in refused("org/other")

    def test_a_cached_revision(self, stored, cut_off, silent):
        stored.put("org/name", {"config.json": b"[]"}, "v2")
        fetched(names=["config.json"], revision="v2")
        cut_off()
        assert fetched(names=["config.json"], revision="v2") == {"config.json": b"[]"}
        assert refused(revision="v3").startswith("hub:org/name at v3: the hub is out of reach")

    def test_a_cached_commit_is_not_asked_for(self, stored):
        commit = stored.repositories["org/name"].references["main"]
        fetched(revision=commit)
        stored.requests.clear()
        assert fetched(revision=commit) == FILES
        assert stored.requests == []

    def test_half_in_the_cache(self, stored, cut_off, silent):
        stored.breaks = [1_000_000, 0, 0, 0]
        refused()
        cut_off()
        assert "and the local cache lacks part/x.safetensors, README.md; fetch it while online" in refused()

    def test_the_last_whole_commit_counts(self, stored, cut_off):
        fetched()
        newer = FILES | {"part/x.safetensors": LARGE[::-1]}
        stored.put("org/name", newer)
        stored.breaks = [1_000_000, 0, 0, 0]
        open_repository("org/name").fetch(["config.json"], preliminary=True)
        refused()
        cut_off()
        assert fetched() == FILES

    def test_the_environment_names_the_hub(self, tmp_path):
        """In a process of its own: the client reads its environment once."""
        script = "from lab.hub.repository import open_repository; open_repository('org/name')"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ
            | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        assert "InputError: hub:org/name: the hub is out of reach (http://127.0.0.1:9" in done.stderr
        assert done.stderr.startswith("Traceback") and done.stdout == "", "no library has said anything"


class TestRefused:
    def test_no_such_repository(self, stored, silent):
        said = refused("org/other")
        assert said == (
            "hub:org/other: no such repository, or a private one; check the name, or log in with `hf auth login`"
        )

    def test_gated(self, stored, silent):
        stored.repositories["org/name"].gated = True
        said = refused()
        assert f"gated; ask for access at {stored.endpoint}/org/name, and log in with `hf auth login`" in said

    def test_no_such_revision(self, stored, silent):
        stored.put("org/name", FILES, "fp16")
        assert refused(revision="fp15").endswith("has no such revision; nearest: fp16")

    def test_no_such_file(self, stored, silent):
        said = refused(names=["part/y.safetensors"])
        assert said == "hub:org/name: no file part/y.safetensors there; nearest: part/x.safetensors"

    def test_a_file_that_is_listed_and_not_there(self, stored, silent):
        repository = open_repository("org/name")
        del stored.repositories["org/name"].commits[repository.commit]["README.md"]
        with pytest.raises(InputError, match=r"README\.md: the hub does not have it"):
            repository.fetch(["README.md"])

    @pytest.mark.parametrize(
        ("headers", "when"),
        [
            ({"RateLimit": '"api";r=0;t=55'}, "55 seconds"),
            ({"Retry-After": "20"}, "20 seconds"),
            ({}, "some minutes"),
        ],
    )
    def test_too_many_requests(self, stored, silent, headers, when):
        stored.status, stored.headers = 429, headers
        assert f"too many requests for the hub; try again in {when}, or log in" in refused()

    @pytest.mark.parametrize("status", [500, 503])
    def test_server_errors(self, stored, silent, status):
        stored.status = status
        assert f"the hub answers {status}, and the local cache does not have it; try again later" in refused()
        stored.status = 0
        repository = open_repository("org/name")
        stored.status = status
        with pytest.raises(InputError, match=f"the hub answers {status}; try again later; the same command"):
            repository.fetch(["README.md"])

    def test_with_something_in_the_cache_a_refusal_is_a_note(self, stored):
        fetched()
        del stored.repositories["org/name"]
        heard = Heard()
        assert fetched(listener=heard) == FILES
        assert "no such repository, or a private one; taken from the local cache" in heard.notes[0]

    def test_a_slow_hub(self, stored, monkeypatch, silent):
        repository = open_repository("org/name")
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
        stored.seconds = 1
        assert "the hub does not answer in time, and the local cache does not have it" in refused("org/other")
        with pytest.raises(
            InputError, match=r"README\.md: the hub does not answer in time; try again later, or"
        ):
            repository.fetch(["README.md"])

    def test_a_login_page(self, stored, silent):
        stored.page = b"<html>Welcome to our hotel</html>"
        assert "what answers at http://127.0.0.1" in refused()

    def test_warnings_of_the_hub_are_not_printed(self, stored, silent):
        stored.headers = {"X-HF-Warning": "unauthenticated; Set a token for more"}
        assert fetched() == FILES

    @pytest.mark.parametrize("name", ["../../outside", "/outside", "..\\outside", ""])
    def test_names_that_leave_the_folder_are_not_listed(self, hub, name):
        hub.put("org/name", {name: b"x", "config.json": b"{}"})
        assert list(open_repository("org/name").files) == ["config.json"]
        with pytest.raises(InputError, match="not the name of a revision"):
            open_repository("org/name", "../../x")


def test_a_full_disk_is_told_before(stored, monkeypatch, silent):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1000))
    assert "0.0 GB to fetch, and 0.0 GB are free" in refused()
    assert stored.asked("/resolve/") == []


def test_a_cache_that_cannot_be_written(stored, monkeypatch, tmp_path, silent):
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    assert "cannot write: Not a directory; set HF_HOME to another folder" in refused()


def test_addresses():
    assert split_source("hub:org/name") == ("org/name", "")
    assert split_source("hub:org/name/folder/x.pt") == ("org/name", "folder/x.pt")
    for source in (
        "hub:",
        "hub:org",
        "hub:/x",
        "hub:org/",
        "hub:some one/--x",
        "hub:org/name@v2",
        "hub:a/../b",
    ):
        with pytest.raises(InputError, match="is not the name of a repository; write hub:org/name"):
            split_source(source)
