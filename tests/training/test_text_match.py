"""The text objective: what vectors stand for, measured on the prompt embeddings themselves."""

import pytest
import torch

import lab
from lab.condition.effect import laid_out
from lab.condition.embeds_file import write_embeds
from lab.errors import InputError
from lab.training.config import TrainConfig
from lab.training.counts import fewest
from lab.training.image_share import share
from lab.training.prepare import describe_run
from tests.listening import Heard, StopsAt

TEXT = "red apple, blurry photo"


@pytest.fixture
def worded(tmp_path):
    """A run of a few steps over a few contexts; the fourth is kept apart."""

    def config(**settings):
        contexts = ["{name}", "a cat, {name}", "{name} on white", "a dog, {name}, blue"]
        usual = {"objective": "text", "text": TEXT, "name": "stands-in", "vectors": 2, "templates": contexts}
        usual |= {"steps": 40, "stop": "never", "preview_every": 0, "out": tmp_path / "run"}
        return TrainConfig.build(usual | settings)

    return config


def shares_missing(objective):
    with torch.no_grad():
        return torch.cat([objective.losses(group) for group in [objective.batch(0), *objective.fixed()]])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_as_many_vectors_as_tokens_are_the_text(family, request, worded, started):
    bundle = request.getfixturevalue(family)
    tokens = len(bundle.towers[0].tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    objective, _ = started(bundle, worded(vectors=tokens))
    assert shares_missing(objective).abs().max() < 1e-5


def test_vectors_that_need_not_move_are_kept(sd1, worded):
    """Begun at the text's own tokens, they are there already, and others may still be tried beside them."""
    text = "red cat"
    embedding = lab.train(
        sd1, worded(text=text, templates=["{name}"], vectors="1,2", steps=2, evaluate_every=1)
    )
    ids = sd1.towers[0].tokenizer(text, add_special_tokens=False)["input_ids"]
    assert torch.equal(embedding.vectors["clip"], sd1.towers[0].encoder.get_input_embeddings().weight[ids])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_learning_brings_them_nearer_where_they_were_not_learned(family, request, worded, started, heard):
    bundle = request.getfixturevalue(family)
    before, _ = started(bundle, worded())
    missing = float(torch.cat([before.losses(group) for group in before.fixed()]).mean().detach())
    embedding = lab.train(bundle, worded(), listener=heard)
    assert any("contexts kept apart they do" in note for note in heard.notes)
    page = (worded().out / "index.html").read_text(encoding="utf-8")
    assert "contexts kept apart they do" in page
    after, learned = started(bundle, worded())
    learned.restore({f"stands-in/{key}": rows for key, rows in embedding.vectors.items()})
    with torch.no_grad():
        assert float(torch.cat([after.losses(group) for group in after.fixed()]).mean()) < 0.9 * missing


def test_other_embeddings_may_be_what_is_stood_for(sd1, worded, started, tmp_path):
    """Three vectors learned elsewhere, as three vectors that begin where those are."""
    other = lab.Embedding("long", {"clip": torch.randn(3, sd1.towers[0].width)})
    path = tmp_path / "long.safetensors"
    other.save(path)
    objective, _ = started(
        sd1, worded(text="<long>", init=f"file:{path}", vectors=3, embeddings=[path], templates=["{name}"])
    )
    assert shares_missing(objective).abs().max() < 1e-5


def test_rows_are_laid_out_for_more_and_for_fewer():
    states = torch.arange(8.0)[:, None]
    assert laid_out(states, [2, 3], 4).flatten().tolist() == [0, 1, 2.5, 4.5, 6, 7, 7, 7]
    assert laid_out(states, [2, 3, 4], 1).flatten().tolist() == [0, 1, 2, 2, 2, 3, 4, 5]
    assert laid_out(states, [2], 0).flatten().tolist() == [0, 1, 7, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_encoded_prompts_are_stood_for_as_their_words_are(family, request, worded, started, tmp_path):
    """As many vectors as tokens, which begin at the words, are the file's prompt."""
    bundle, path = request.getfixturevalue(family), tmp_path / "embeds.safetensors"
    write_embeds(path, lab.encode(bundle, TEXT, dialect="plain"), {})
    tokens = len(bundle.towers[0].tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    objective, _ = started(bundle, worded(text=None, templates=[], embeds=path, vectors=tokens))
    assert shares_missing(objective).abs().max() < 1e-5


def test_a_bare_tensor_is_met_row_by_row(sd1, worded, started, tmp_path):
    """One that three vectors made is met by these three, and its effect in images with it."""
    other = lab.Embedding("long", {"clip": torch.randn(3, sd1.towers[0].width)})
    other.save(tmp_path / "long.safetensors")
    torch.save(lab.encode(sd1, "<long>", embeddings=[other]).embeds[None], tmp_path / "bare.pt")
    settings = {"text": None, "templates": [], "embeds": tmp_path / "bare.pt", "vectors": 3}
    objective, learned = started(sd1, worded(**settings, init=f"file:{tmp_path / 'long.safetensors'}"))
    assert shares_missing(objective).abs().max() < 1e-5
    common = {"measured": 2, "sampling_steps": 2}
    for more in ({}, {"prompt_file": tmp_path / "prompts.txt"}):
        (tmp_path / "prompts.txt").write_text("a dog\n")
        objective, learned = started(
            sd1, worded(**settings, **common, **more, init=f"file:{tmp_path / 'long.safetensors'}")
        )
        told = objective.verdict({"explained": 1.0}, learned.embeddings())
        assert "In prompt embeddings they do 100 %" in told and "they do 100 % ± 0 in pixels" in told
        assert ("as a negative prompt" in told) == bool(more)


def test_the_share_in_images_counts_what_is_done_besides():
    a, b = torch.zeros(3, 2), torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    assert share(a, b, b).value == 1 and share(a, b, a).value == 0
    assert share(a, b, b / 2).value == pytest.approx(0.75)
    assert share(a, b, b + torch.tensor([0.0, 2.0])).value == pytest.approx(-1)
    assert share(a[:1], b[:1], b[:1]).margin == float("inf")


def test_of_several_numbers_the_fewest_near_the_best_are_kept(sd1, worded, heard):
    config = worded(vectors=[4, 1, 2], steps=4, tolerance=0.9)
    assert config.vectors == "1,2,4"
    assert "with 4" in next(describe_run(sd1, config))
    embedding = lab.train(sd1, config, listener=heard)
    assert embedding.count == 1
    assert lab.read_embedding(config.out / "stands-in.safetensors").count == 1
    assert [note.split(":")[0] for note in heard.notes if "% of what" in note and "Stopped" not in note] == [
        "1 vector",
        "2 vectors",
        "4 vectors",
    ]
    with pytest.raises(InputError, match=r"tolerance: the run in .*vectors-1 has"):
        lab.train(sd1, config, tolerance=0.5)
    with pytest.raises(InputError, match="several numbers are for --objective text"):
        lab.train(sd1, config, objective="concept")
    assert fewest({1: 0.5, 2: 0.895, 4: 0.89, 8: 0.9}, 0.01) == 2


def test_several_numbers_go_on_where_they_were_interrupted(sd1, worded, heard, tmp_path):
    settings = {"vectors": "1,2,4", "steps": 4, "tolerance": 0.0}
    whole = lab.train(sd1, worded(**settings, out=tmp_path / "whole"))
    config = worded(**settings)
    interrupted = StopsAt(7)
    with pytest.raises(KeyboardInterrupt):
        lab.train(sd1, config, listener=interrupted)
    assert (
        interrupted.notes[-1]
        == f"The same command with --out {config.out} goes on with all numbers of vectors."
    )
    embedding = lab.train(sd1, config, listener=heard)
    assert [report.step for report in heard.steps] == [4, 1, 2, 3, 4]
    assert torch.equal(embedding.vectors["clip"], whole.vectors["clip"])
    again = Heard()
    assert lab.train(sd1, config, listener=again).count == embedding.count and not again.steps


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text": None}, "give one, --text WORDS or --embeds FILE"),
        ({"vectors": "1,x"}, "nor several such as 1,2,4,8"),
        ({"vectors": "1,65"}, "not a number from 1 to 64"),
        ({"text": "red " * 80}, "80 tokens, and a chunk has 75"),
        ({"templates": ["no name {words}"]}, r"needs a \{name\}"),
        (
            {"text": "red " * 70, "templates": ["a photo of a cat on the white dog, {name}"]},
            "no context fits",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused(settings, said, sd1, worded, started):
    with pytest.raises(InputError, match=said):
        started(sd1, worded(**settings))


def test_embeddings_that_are_no_chunk_are_refused(sd1, worded, started, tmp_path):
    path = tmp_path / "embeds.safetensors"
    write_embeds(path, lab.encode(sd1, "a cat AND a dog"), {})
    for settings, said in (({}, "leave them out"), ({"templates": []}, "vectors stand for one chunk")):
        with pytest.raises(InputError, match=said):
            started(sd1, worded(text=None, embeds=path, **settings))


def test_contexts_that_are_too_long_are_left_out_and_counted(sd1, worded, started):
    objective, _ = started(sd1, worded(text="red " * 72))
    assert objective.skipped == ["contexts left out, too long beside the text: 1"]


def test_a_dry_run_says_what_would_be_learned(sd1, worded):
    told = list(describe_run(sd1, worded()))
    assert told[0].endswith(TEXT) and "  a dog, {name}, blue" in told
    assert told[-1] == "time: little, the U-Net takes no part; at most 40 steps"


def test_one_context_is_not_called_kept_apart(sd1, worded, heard):
    lab.train(sd1, worded(templates=["{name}"], steps=2), listener=heard)
    assert any("In the one context that they were learned in they do" in note for note in heard.notes)
