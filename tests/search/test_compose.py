"""Prompts from keywords, put together from libraries."""

import pytest
import torch

from lab.errors import InputError
from lab.prompt.parse import parse
from lab.search.compose import compose
from lab.search.features import BundleFeatures
from lab.search.prompt_library import LINES, attributes, library_lines, parts_of
from tests.listening import Heard

LIBRARY = """# my own
a red apple, oil painting, pale pastel colours, calm
a blue cat, pencil sketch, earth tones, eerie
the white dog, linocut print, teal and copper, solemn
a red apple, woodcut print, faded colours, calm
"""


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "library.txt"
    path.write_text(LIBRARY, encoding="utf-8")
    return path


def words(prompts):
    return {frozenset(prompt.replace(",", "").split()) for prompt in prompts}


@pytest.mark.parametrize("family", ["emoji", "general"])
def test_the_bundled_libraries_have_2000_different_lines_that_can_be_read(family):
    lines = library_lines(family)
    assert len(set(lines)) == len(lines) == LINES and lines == library_lines(family)
    lists = list(attributes(family).values())
    for line in lines:
        assert all(part in entries for part, entries in zip(parts_of(line), lists, strict=True))
    assert all(parse(line, "a1111") for line in lines[::50])


def test_the_bundled_model_gets_the_things_that_it_draws_best_first(emoji):
    heard = Heard()
    settings = {"keyword": ["cat", "sea"], "about": ["technique", "colour", "mood"], "count": 6}
    prompts = compose(emoji, **settings, listener=heard)
    assert len(words(prompts)) == 6 and "cat" in " ".join(prompts)
    lists = [attributes("emoji")[name] for name in ("subject", "technique", "colour")]
    for prompt in prompts:
        assert all(part in entries for part, entries in zip(parts_of(prompt), lists, strict=True))
    assert len({parts_of(prompt)[0] for prompt in prompts}) == 6
    assert any("left out mood" in note for note in heard.notes)
    features = BundleFeatures(emoji)
    vectors, asked = (
        torch.nn.functional.normalize(features.texts(texts, {}), dim=1) for texts in (prompts, ["cat", "sea"])
    )
    near = (vectors @ asked.T).mean(dim=1)
    assert near.equal(near.sort(descending=True).values)


def test_the_seed_decides(sd1, library):
    asked = {"library": library, "keyword": "cat", "about": ["technique", "mood"], "count": 3}
    made = [compose(sd1, **asked, seed=seed) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]


def test_other_models_get_scenes_that_name_the_keywords(sd1):
    prompts = compose(sd1, keyword=["embedding", "code"], about=["technique", "mood", "light"], count=5)
    lists = attributes("general")
    for prompt in prompts:
        subject, *words, technique, mood, light = parts_of(prompt)
        assert subject in lists["subject"] and "embedding" in words and ("code" in words or "code" in subject)
        assert technique in lists["technique"] and mood in lists["mood"] and light in lists["light"]
    silent = compose(sd1, keyword="embedding", name_keywords=False, count=5)
    assert "embedding" not in " ".join(silent)
    assert all(len(parts_of(prompt)) == len(lists) for prompt in silent), "what the library's line says"


def test_a_library_of_ones_own_is_put_together_anew(sd1, library):
    prompts = compose(sd1, library=library, keyword="cat", about=["technique", "mood"], count=4)
    for prompt in prompts:
        technique, mood = parts_of(prompt)[-2:]
        assert technique in ("oil painting", "pencil sketch", "linocut print", "woodcut print")
        assert mood in ("calm", "eerie", "solemn")
    (cat,) = (prompt for prompt in prompts if "a blue cat" in prompt)
    assert cat.count("cat") == 1 and all("cat" in prompt for prompt in prompts)
    (whole,) = compose(sd1, library=library, keyword="dog", count=1)
    assert whole.replace(", dog", "") in LIBRARY


def test_of_an_aspect_that_is_in_no_list_the_nearest_parts_are_taken(sd1, library):
    library.write_text("a red apple, shot on film\na cat, seen by a bee\n", encoding="utf-8")
    for prompt in compose(sd1, library=library, keyword="cat", about="camera", count=2):
        assert parts_of(prompt)[-1] in ("shot on film", "seen by a bee")


def test_fewer_are_made_where_no_more_differ(sd1, tmp_path):
    (tmp_path / "x.txt").write_text("a red apple\na red apple\napple, a red\n", encoding="utf-8")
    heard = Heard()
    prompts = compose(sd1, library=tmp_path / "x.txt", keyword="apple", count=3, listener=heard)
    assert len(prompts) == len(words(prompts)) == 1 and any("1 that differ" in note for note in heard.notes)


def test_prompts_written_elsewhere_are_put_in_order(sd1):
    drafts = ["a painting of the dog", "a cat", "A cat", "a red apple"]
    prompts = compose(sd1, drafts=drafts, keyword="a cat", count=3)
    assert prompts[0] == "a cat" and sorted(prompts) == ["a cat", "a painting of the dog", "a red apple"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "keyword: there is none"),
        ({"keyword": " "}, "write a word"),
        ({"keyword": "cat", "about": "colours"}, "nearest: colour"),
        ({"keyword": "cat", "then_generate": 9}, "raise --count"),
        ({"keyword": "cat", "role": "a poet"}, "give its --chat-url"),
        ({"keyword": "cat", "chat_url": "localhost:8000"}, "no address"),
        ({"keyword": "cat", "chat_url": "http://h:1", "seed": 1}, "seed: a chat server"),
        (
            {"keyword": "cat", "chat_url": "http://h:1", "name_keywords": False},
            "name_keywords: a chat server",
        ),
        ({"keyword": "cat", "count": 0}, "count"),
        ({"keyword": "cat", "library": "absent.txt"}, "no such file"),
        ({"keyword": "<absent>"}, "absent"),
    ],
)
def test_bad_input_is_one_line(sd1, settings, says):
    with pytest.raises(InputError, match=says) as error:
        compose(sd1, **settings)
    assert "\n" not in str(error.value)


def test_nothing_to_choose_from_is_said(sd1, tmp_path):
    (tmp_path / "x.txt").write_text(", ,\n", encoding="utf-8")
    with pytest.raises(InputError, match="commas alone"):
        compose(sd1, library=tmp_path / "x.txt", keyword="cat")
    with pytest.raises(InputError, match="drafts: there is none"):
        compose(sd1, drafts=[], keyword="cat")


def test_a_library_without_parts_has_nothing_to_say_about_an_aspect(sd1, tmp_path):
    (tmp_path / "x.txt").write_text("a red apple\n", encoding="utf-8")
    with pytest.raises(InputError, match="nothing in it stands between commas"):
        compose(sd1, library=tmp_path / "x.txt", keyword="cat", about="colour")
