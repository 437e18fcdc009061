"""Searching text files, images, embeddings and the vocabulary."""

import numpy as np
import pytest
import torch
from PIL import Image

import lab
from lab.embeddings.embedding import Embedding
from lab.score.clip import load_clip
from lab.search.config import SearchConfig
from lab.search.features import BundleFeatures
from lab.search.search import search
from lab.search.sources import read_source
from tests.listening import Heard

LIBRARY = """# animals
a red apple
the blue cat
a (red:1.3) dog, <lora:fur:0.8>

a red apple
photo of a cat, embedding:unknown
"""


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "library.txt"
    path.write_text(LIBRARY, encoding="utf-8")
    return path


def look(bundle, **settings):
    return search(bundle, **settings)


def texts(hits):
    return [hit.row.text for hit in hits]


@pytest.mark.parametrize("pooling", ["eos", "mean", "first"])
def test_a_prompt_is_nearest_to_itself(sd1, library, pooling):
    answer = look(sd1, over=[f"prompts:{library}"], text=["the blue cat"], pooling=pooling)
    assert answer.added == len(answer.index.rows) == 4
    best = answer.hits["the blue cat"][0]
    assert best.row.text == "the blue cat" and best.row.source == f"{library}:3"
    assert best.score == pytest.approx(1, abs=1e-4)


def test_weights_and_names_that_are_not_here_do_not_stop_a_library(sd1, library):
    query = "a red dog, lora:fur:0.8"
    (best, *_) = look(sd1, over=[f"prompts:{library}"], text=[query], kind="flat-l2").hits[query]
    assert best.row.text.startswith("a (red:1.3) dog") and best.score < 1e-3


def test_features_are_clips_own(emoji):
    clip = load_clip(emoji)
    prompts = ["noto emoji of a cat", "a red apple"]
    tokens = clip.tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = clip.model.get_text_features(**tokens)
    expected = getattr(found, "pooler_output", found)
    torch.testing.assert_close(BundleFeatures(emoji).texts(prompts, {}), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["eos", "mean", "first"])
def test_tokens_are_texts_of_their_own(sdxl, pooling):
    features = BundleFeatures(sdxl, pooling)
    expected = features.texts(["apple", "cat"], {})
    torch.testing.assert_close(features.tokens(["apple</w>", "cat</w>"]), expected, rtol=1e-4, atol=1e-4)


def test_a_learned_copy_of_a_word_finds_the_word(sd1, tmp_path):
    tower = sd1.towers[0]
    number = tower.tokenizer.convert_tokens_to_ids("cat</w>")
    copy = tower.encoder.get_input_embeddings().weight[number : number + 1].detach().clone()
    Embedding("felix", {"clip": copy}).save(tmp_path / "saved" / "felix.safetensors")
    file, folder = tmp_path / "saved" / "felix.safetensors", tmp_path / "saved"
    answer = look(sd1, over=["vocabulary"], embedding=[str(file)], top=1)
    assert texts(answer.hits["<felix>"]) == ["cat</w>"]
    back = look(sd1, over=["vocabulary", f"embeddings:{folder}"], text=["cat"], top=2)
    assert {hit.row.kind for hit in back.hits["cat"]} == {"token", "embedding"}
    named = look(sd1, over=["vocabulary"], embedding=[f"{file}=tom"], text=["<tom>"], top=1)
    assert texts(named.hits["<tom>"]) == ["cat</w>"]


def test_images_by_image_and_by_text(emoji, tmp_path):
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{seed}.png")
    answer = look(emoji, over=[f"images:{tmp_path}"], image=[tmp_path / "2.png"], text=["a cat"], top=2)
    hits = answer.hits[str(tmp_path / "2.png")]
    assert hits[0].row.text == str(tmp_path / "2.png") and hits[0].score == pytest.approx(1, abs=1e-5)
    assert len(answer.hits["a cat"]) == 2


def test_an_index_grows_by_what_is_new_and_is_searched_without_its_sources(sd1, library, tmp_path):
    index = tmp_path / "index"
    assert look(sd1, over=[f"prompts:{library}"], index=index).added == 4
    library.write_text(LIBRARY + "a white painting\n", encoding="utf-8")
    assert look(sd1, over=[f"prompts:{library}"], index=index).added == 1
    library.unlink()
    answer = look(sd1, index=index, text=["a white painting"], top=1)
    assert answer.added == 0 and texts(answer.hits["a white painting"]) == ["a white painting"]


def test_an_index_of_another_model_is_refused(sd1, sd2, library, tmp_path):
    look(sd1, over=[f"prompts:{library}"], index=tmp_path / "index")
    with pytest.raises(lab.InputError, match="is an index of another model"):
        look(sd2, index=tmp_path / "index", text=["a cat"])
    with pytest.raises(lab.InputError, match="leave out --pooling"):
        look(sd1, index=tmp_path / "index", text=["a cat"], pooling="mean")
    with pytest.raises(lab.InputError, match="leave out --kind"):
        look(sd1, index=tmp_path / "index", text=["a cat"], kind="ivf")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text": ["a"]}, "nothing to search"),
        ({"over": ["vocabulary"]}, "nothing to look for"),
        ({"over": ["vocabulry"], "text": ["a"]}, "nearest: vocabulary"),
        ({"over": ["prompts"], "text": ["a"]}, "write prompts:PATH"),
        ({"over": ["vocabulary:x"], "text": ["a"]}, "write vocabulary"),
        ({"over": ["prompts:absent.txt"], "text": ["a"]}, "absent.txt: no such file"),
        ({"over": ["images:absent"], "text": ["a"]}, "no such folder"),
        ({"index": "absent", "text": ["a"]}, "no index there"),
        ({"over": ["vocabulary"], "text": ["<felix>"]}, "felix"),
        ({"over": ["vocabulary"], "image": ["x.png"]}, "x.png: no such file"),
        ({"over": ["vocabulary"], "image": [__file__]}, "no vision half"),
        ({"over": ["vocabulary"], "image": [__file__], "pooling": "mean"}, "use --pooling eos"),
    ],
)
def test_bad_input_is_one_line(sd1, settings, said):
    with pytest.raises(lab.InputError, match=said):
        look(sd1, **settings)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("pooling", ["eos", "mean", "first"])
def test_texts_without_their_padding_pool_as_with_it(family, pooling, request):
    from lab.condition.conditioning import pool_vector

    bundle = request.getfixturevalue(family)
    widths = {tower.key: tower.width for tower in bundle.towers}
    toy = Embedding("toy", {key: torch.ones(3, width) for key, width in widths.items()})
    prompts = ["", "a <toy> on white", "a (red:1.4) apple", "a cat, " * 40, "[a dog:a cat:0.5] AND a hat"]
    found = BundleFeatures(bundle, pooling).texts(prompts, {"toy": toy})
    encodings = [cond.parts[0].entries[0][1] for cond in
                 lab.encode(bundle, prompts, embeddings=toy, weighting="ignore", steps=1)]  # fmt: skip
    expected = torch.stack([pool_vector(encoding, pooling, 77) for encoding in encodings])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_embeddings_of_another_width_are_left_out_by_name(sd1, tmp_path):
    for name, width in (("fits", 32), ("wider", 64)):
        Embedding(name, {"clip": torch.ones(1, width)}).save(tmp_path / f"{name}.safetensors")
    heard = Heard()
    config = SearchConfig.build({"over": [f"embeddings:{tmp_path}"], "text": ["a cat"]})
    answer = search(sd1, config, listener=heard)
    assert texts(answer.hits["a cat"]) == ["fits"] and heard.moves == [(1, 1, "rows")]
    assert len(heard.notes) == 1 and "left out wider" in heard.notes[0]
    (tmp_path / "fits.safetensors").unlink()
    with pytest.raises(lab.InputError, match="none of its embeddings fits"):
        search(sd1, config)


def test_images_that_cannot_be_read_are_skipped_with_a_note(sd1, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"<!DOCTYPE html>")
    (tmp_path / "c.heic").write_bytes(b"x")
    listener = Heard()
    rows = read_source(f"images:{tmp_path}", sd1, listener)
    assert [row.source for row in rows] == [str(tmp_path / "a.png")]
    assert listener.notes[0] == f"{tmp_path}: 1 file left out: .heic"
    assert listener.notes[1].startswith(f"skipped: {tmp_path / 'b.jpg'}: not an image that can be read")
    (tmp_path / "a.png").unlink()
    with pytest.raises(lab.InputError, match=r"b\.jpg: not an image that can be read"):
        read_source(f"images:{tmp_path}", sd1, listener)


@pytest.mark.parametrize("kind", ["flat-ip", "ivf"])
def test_rows_whose_line_is_gone_go(sd1, tmp_path, kind, capfd):
    library, index = tmp_path / "p.txt", tmp_path / "index"
    other = tmp_path / "other.txt"
    library.write_text("a cat\na dog\n")
    other.write_text("the blue apple\n")
    sources = [f"prompts:{library}", f"prompts:{other}"]
    look(sd1, over=sources, index=index, text=["a dog"], kind=kind)
    library.write_text("a red apple\na cat\n")
    answer = look(sd1, over=[sources[0]], index=index, text=["a dog"])
    found = {(row.text, row.source) for row in answer.index.rows}
    assert found == {
        ("a red apple", f"{library}:1"),
        ("a cat", f"{library}:2"),
        ("the blue apple", f"{other}:1"),
    }
    (best, *_) = look(sd1, index=index, text=["a cat"]).hits["a cat"]
    assert best.row.text == "a cat" and best.score == pytest.approx(1, abs=1e-4)
    assert capfd.readouterr().out == ""  # FAISS would like more rows for an ivf index
