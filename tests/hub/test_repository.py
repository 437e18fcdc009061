"""A repository's files, from a hub on this machine that answers by real HTTP."""

from pathlib import Path
from threading import Thread

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.hub.fetching import FILES, fetched, refused
from tests.hub_server import Heard


def test_files_come_with_their_megabytes(stored, silent):
    heard = Heard()
    assert fetched(listener=heard) == FILES
    done = [done for done, _, _ in heard.bars]
    assert done == sorted(done) and len(done) > 3
    assert heard.bars[-1] == (4, 4, "MB of org/name")
    assert heard.notes == []


def test_only_what_is_wanted_is_asked_for_and_only_once(stored):
    fetched(names=["config.json"])
    assert [each.path.partition("?")[0] for each in stored.requests] == [
        "/api/models/org/name/revision/main",
        f"/org/name/resolve/{stored.repositories['org/name'].references['main']}/config.json",
    ]
    stored.requests.clear()
    fetched(names=["config.json"])
    assert len(stored.requests) == 1


def test_two_at_once_fetch_a_file_once(stored):
    hearing = [Thread(target=fetched) for _ in range(2)]
    for thread in hearing:
        thread.start()
    for thread in hearing:
        thread.join()
    assert fetched() == FILES
    assert len(stored.asked("/storage/")) == 1


def test_without_symbolic_links_contents_move_to_their_names(stored, monkeypatch):
    def refuse(*_):
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert fetched() == FILES
    assert fetched() == FILES
    assert len(stored.asked("/storage/")) == 1
    assert not list(Path(constants.HF_HUB_CACHE).glob("models--org--name/blobs/*"))


def test_the_token_goes_to_the_hub_alone(stored, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetched()
    assert {each.token for each in stored.requests if "/storage/" not in each.path} == {"Bearer hf_secret"}
    assert [each.token for each in stored.asked("/storage/")] == [None]


def test_other_programs_find_what_was_fetched(stored, silent):
    fetched()
    folder = Path(huggingface_hub.snapshot_download("org/name", local_files_only=True))
    for name, data in FILES.items():
        path = huggingface_hub.hf_hub_download("org/name", name, local_files_only=True)
        assert Path(path).read_bytes() == data
        assert Path(path) == folder / name


def test_what_other_programs_fetched_is_found(stored, cut_off):
    huggingface_hub.snapshot_download("org/name")
    stored.requests.clear()
    assert fetched() == FILES
    assert [each.path.partition("?")[0] for each in stored.requests] == ["/api/models/org/name/revision/main"]
    cut_off()
    assert fetched() == FILES


class TestBrokenOff:
    def test_it_goes_on_in_the_same_run(self, stored, silent):
        stored.breaks = [1_000_000, 500_000]
        assert fetched() == FILES
        assert [each.range for each in stored.asked("/storage/")] == [
            None,
            "bytes=1000000-",
            "bytes=1500000-",
        ]

    def test_a_connection_that_brings_nothing_is_tried_three_times(self, stored, silent):
        stored.breaks = [0, 0]
        assert fetched() == FILES
        assert len(stored.asked("/storage/")) == 3

    def test_it_goes_on_in_the_next_run(self, stored, silent):
        stored.breaks = [1_000_000, 0, 0, 0]
        assert "the same command goes on where it was" in refused()
        stored.requests.clear()
        heard = Heard()
        assert fetched(listener=heard) == FILES
        assert [each.range for each in stored.asked("/storage/")] == ["bytes=1000000-"]
        assert heard.bars[0][0] >= 1

    def test_it_goes_on_after_an_interruption(self, stored):
        class Impatient(Heard):
            def progress(self, done, total, things="images"):
                if done > 1:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fetched(listener=Impatient())
        stored.requests.clear()
        assert fetched() == FILES
        (request,) = stored.asked("/storage/")
        assert request.range is not None

    def test_a_piece_of_something_else_is_not_kept(self, stored):
        stored.breaks = [1_000_000, 0, 0, 0]
        refused()
        (part,) = Path(constants.HF_HUB_CACHE).glob("models--org--name/blobs/*.incomplete")
        part.write_bytes(b"x" * 1_000_000)
        assert "not the hub" in refused() and not part.exists()
        assert fetched() == FILES

    def test_what_came_whole_is_not_fetched_again(self, stored):
        fetched(names=["config.json"])
        stored.breaks = [1_000_000, 0, 0, 0]
        refused()
        assert len(stored.asked("config.json")) == 1
