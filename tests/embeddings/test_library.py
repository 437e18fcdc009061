import os
import unicodedata
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lab
from lab.embeddings import library
from lab.embeddings.embedding import Embedding
from lab.embeddings.library import collect
from lab.prompt.references import find_references
from tests.embeddings.files import TOKEN, a1111, encoded_image, pixel_image, torch_file, vectors


def write(path: Path, count: int = 1) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(torch_file(a1111(vectors(count, 8))))
    return path


@pytest.fixture
def reads(monkeypatch):
    """The files that were read, in order."""
    paths = []
    real = library.read_file

    def read_file(path, name=None):
        paths.append(Path(path).name)
        return real(path, name)

    monkeypatch.setattr(library, "read_file", read_file)
    return paths


def test_single_files_answer_to_their_stem_or_the_given_name(tmp_path):
    first, second = write(tmp_path / "first.pt", 1), write(tmp_path / "second.pt", 2)
    found = collect([str(first), f"{second}=other"])
    assert sorted(found) == ["first", "other"]
    assert found["other"].name == "other"
    assert found["other"].count == 2


def test_a_file_may_have_an_equals_sign_in_its_name(tmp_path):
    path = write(tmp_path / "lr=5e-3.pt")
    assert list(collect([str(path)])) == ["lr=5e-3"]
    assert list(collect([f"{path}=x"])) == ["x"]


def test_folders_are_read_one_name_at_a_time(tmp_path, reads):
    for number in range(500):
        write(tmp_path / f"e{number}.pt", number % 3 + 1)
    found = collect([], [tmp_path])
    assert len(found) == len(list(found)) == 500
    assert "e41" in found
    assert "e500" not in found
    assert reads == []
    assert found["e41"].count == found["e41"].count == 3
    assert reads == ["e41.pt"]
    assert found.get("e500") is None


def test_subfolders_and_diffusers_folders(tmp_path):
    write(tmp_path / "styles" / "ink.pt")
    (tmp_path / "cat-toy").mkdir()
    (tmp_path / "cat-toy" / "learned_embeds.bin").write_bytes(torch_file({TOKEN: vectors(2, 8)}))
    found = collect([], [tmp_path])
    assert sorted(found) == ["cat-toy", "ink"]
    assert found["cat-toy"].name == "cat-toy"


def test_only_images_with_an_embedding_count(tmp_path, reads):
    write(tmp_path / "ink.pt")
    picture = encoded_image(torch.full((8, 8, 3), 9).byte().numpy(), "PNG")
    for name in ("ink.png", "ink.preview.png", "holiday.png"):
        (tmp_path / name).write_bytes(picture)
    (tmp_path / "hidden.png").write_bytes(pixel_image(vectors(2, 8)))
    found = collect([], [tmp_path])
    assert sorted(found) == ["hidden", "ink"]
    assert found["hidden"].count == 2


def test_a_pair_answers_to_two_names(tmp_path):
    write(tmp_path / "art.pt", 3)
    write(tmp_path / "art-neg.pt", 6)
    assert list(collect([str(tmp_path / "art.pt")])) == ["art", "art-neg"]
    assert list(collect([f"{tmp_path / 'art.pt'}=x"])) == ["x", "x-neg"]
    found = collect([str(tmp_path / name) for name in ("art.pt", "art-neg.pt")], [tmp_path])
    assert [(name, each.count) for name, each in found.items()] == [("art", 3), ("art-neg", 6)]


class TestClashes:
    def both(self, first, second):
        return f"two files answer to 'ink': {first} and {second}"

    def test_two_given_files(self, tmp_path):
        first, second = write(tmp_path / "a" / "ink.pt"), write(tmp_path / "b" / "x.pt", 2)
        with pytest.raises(lab.InputError, match=self.both(first, second)):
            collect([str(first), f"{second}=ink"])

    def test_two_files_of_folders(self, tmp_path):
        first, second = write(tmp_path / "a" / "ink.pt"), write(tmp_path / "b" / "ink.bin", 2)
        found = collect([], [tmp_path / "a", tmp_path / "b"])
        with pytest.raises(lab.InputError, match=self.both(first, second)):
            found["ink"]
        with pytest.raises(lab.InputError, match=self.both(first, second)):
            found.get("ink")

    def test_a_given_file_and_one_of_a_folder(self, tmp_path):
        first, second = write(tmp_path / "x.pt"), write(tmp_path / "b" / "ink.pt", 2)
        found = collect([f"{first}=ink"], [tmp_path / "b"])
        with pytest.raises(lab.InputError, match=self.both(first, second)):
            found["ink"]

    def test_the_same_file_twice_is_none(self, tmp_path, monkeypatch):
        path = write(tmp_path / "ink.pt")
        (tmp_path / "link").symlink_to(tmp_path)
        monkeypatch.chdir(tmp_path)
        found = collect([str(path), "ink.pt"], [tmp_path, Path(), tmp_path / "link"])
        assert len(found) == 1
        assert found["ink"].count == 1


class TestNames:
    def test_a_converted_copy_in_the_same_folder_is_no_clash(self, tmp_path):
        first = write(tmp_path / "ink.pt", 2)
        lab.read_embedding(first).save(tmp_path / "ink.safetensors")
        assert collect([tmp_path])["ink"].count == 2
        assert collect([first, tmp_path])["ink"].count == 2
        assert collect([first, tmp_path / "ink.safetensors"])["ink"].count == 2

    def test_what_is_no_embedding_does_not_hide_one_of_the_same_name(self, tmp_path):
        write(tmp_path / "ink.pt", 2)
        save_file({"lora_unet_x.lora_up.weight": vectors()}, tmp_path / "ink.safetensors")
        assert collect([tmp_path])["ink"].count == 2

    @pytest.mark.parametrize("file, written", [("NFD", "NFC"), ("NFC", "NFD")])
    def test_composed_and_decomposed_names_are_the_same(self, tmp_path, file, written):
        write(tmp_path / f"{unicodedata.normalize(file, 'café')}.pt", 2)
        name = unicodedata.normalize(written, "café")
        for found in (collect([tmp_path]), dict(collect([tmp_path]))):
            for text in (f"a <{name}>", f"an embedding:{name}, b"):
                (reference,) = find_references(text, found)
                assert found[reference.name].count == 2
                assert reference.span[1] == len(text.removesuffix(", b"))
        with pytest.raises(lab.InputError, match="no embedding of that name"):
            find_references(f"embedding:{name}", ["cafe"])

    def test_a_name_inside_a_file_is_found(self, tmp_path):
        (tmp_path / "learned_embeds.bin").write_bytes(torch_file({"<birb-style>": vectors(2, 8)}))
        for source in (tmp_path, tmp_path / "learned_embeds.bin"):
            found = collect([source])
            (reference,) = find_references("a <birb-style> bird", found)
            assert found[reference.name].count == 2
            assert reference.span == (2, 14)
        write(tmp_path / "birb-style.pt", 3)
        found = collect([tmp_path])
        (reference,) = find_references("<birb-style>", found)
        assert found[reference.name].count == 3


class TestErrors:
    @pytest.mark.parametrize("text", ["=x", "x.pt="])
    def test_half_a_name(self, text):
        with pytest.raises(lab.InputError, match="expected FILE or FILE=name"):
            collect([text])

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(lab.InputError, match="no such folder"):
            collect([], [tmp_path / "x"])

    def test_a_broken_file_in_a_folder_matters_when_it_is_named(self, tmp_path):
        (tmp_path / "x.pt").write_bytes(b"hello")
        found = collect([], [tmp_path])
        with pytest.raises(lab.InputError, match=r"x\.pt: not a safetensors"):
            found["x"]

    def test_a_folder_that_cannot_be_read(self, tmp_path):
        folder = tmp_path / "closed"
        folder.mkdir(mode=0)
        if os.access(folder, os.R_OK):
            pytest.skip("permissions do not bind this user")
        with pytest.raises(lab.InputError, match="cannot read the folder"):
            collect([], [folder])


def test_embeddings_in_memory_and_files_that_answer_to_one_name_are_refused(tmp_path):
    path = write(tmp_path / "toy.pt")
    made = Embedding("toy", {"clip": vectors(2, 8)})
    assert collect([made])["toy"] is made
    read = lab.read_embedding(path)
    assert collect([str(path)], [tmp_path], [read])["toy"] is read  # the same file
    with pytest.raises(lab.InputError, match="two embeddings are called 'toy'"):
        collect([made, read])
    with pytest.raises(lab.InputError, match=r"in memory.*toy\.pt"):
        collect([str(path)], [], [made])


def test_values_files_folders_and_mappings_together(tmp_path, reads):
    file, shelf = write(tmp_path / "ink.pt"), tmp_path / "shelf"
    write(shelf / "deep" / "oil.pt")
    made = Embedding("toy", {"clip": vectors(2, 8)})
    by_name = collect(
        [made, [Embedding("first", made.vectors), Embedding("second", made.vectors)], file, shelf]
    )
    assert list(by_name) == ["toy", "first", "second", "ink", "oil"]
    assert reads == [] and by_name["oil"].count == 1 and reads == ["oil.pt"]
    assert list(collect(f"{file}=pen")) == ["pen"] and list(collect(made)) == ["toy"]
    assert collect(by_name, ()) is by_name
    both = collect({"other": made}, [shelf])
    assert set(both) == {"other", "oil"} and both["other"] is made and "ink" not in both
    with pytest.raises(lab.InputError, match="expected an Embedding, a file or a folder, not int"):
        collect([3])


def test_a_folder_by_diffusers_offers_its_last_step_alone(tmp_path):
    folder = tmp_path / "cat-toy"
    folder.mkdir()
    for name in ("learned_embeds.bin", "learned_embeds-steps-100.bin"):
        (folder / name).write_bytes(torch_file({TOKEN: vectors(2, 8)}))
    assert list(collect([tmp_path])) == list(collect(str(folder))) == ["cat-toy"]
    assert list(collect(folder / "learned_embeds-steps-100.bin")) == ["learned_embeds-steps-100"]


def test_folders_that_hold_too_many_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "MOST_FOLDERS", 2)
    for name in "abc":
        (tmp_path / name).mkdir()
    with pytest.raises(lab.InputError, match="over 2 folders in it; give the one with the embeddings"):
        collect(tmp_path)


def test_what_may_not_be_looked_into_is_passed_over(tmp_path, monkeypatch):
    write(tmp_path / "a" / "cat.pt")
    (tmp_path / "b").symlink_to("/nowhere")
    real = Path.is_dir

    def is_dir(path):
        if path.name == "b":
            raise PermissionError(13, "Permission denied", str(path))  # as of /proc/1/cwd
        return real(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    assert list(collect(tmp_path)) == ["cat"]


@pytest.mark.parametrize("source", [torch.ones(2, 3), 3, [None]])
def test_what_is_no_source_is_one_line(source):
    with pytest.raises(lab.InputError, match="expected an Embedding, a file or a folder, not"):
        collect(source)
