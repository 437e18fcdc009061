"""What the axes do to a draft, and what is refused before anything is generated."""

import pytest
import torch

import lab
from lab.comparing.axes import AXES, option_axis
from lab.comparing.experiment import Experiment
from lab.embeddings.embedding import PARTNER, Embedding


def embedding(name, kind="concept"):
    return Embedding(name, {"clip": torch.ones(2, 32)}, kind=kind)


EMBEDDINGS = [embedding("cat-toy"), embedding("easy", "negative"), embedding("riddle", "unknown")]


def lay_out(config, **settings):
    return Experiment(config(**settings), EMBEDDINGS)


def texts(experiment):
    """(prompt, negative prompt) of the first pair of each variant."""
    cells = (experiment.cell(variant, 0, 0) for variant in experiment.variants)
    return [(cell.prompt, cell.options.negative_prompt) for cell in cells]


@pytest.mark.parametrize(
    ("name", "given", "field", "expected"),
    [
        ("guidance", "1-7 [3]", "guidance", [1, 4, 7]),
        ("guidance_rescale", "0-0.4 (+0.2)", "guidance_rescale", [0, 0.2, 0.4]),
        ("scheduler", "ddim, euler", "scheduler", ["ddim", "euler"]),
        ("clip_skip", "0-1", "clip_skip", [0, 1]),
        ("dialect", ["a1111", "comfy"], "dialect", ["a1111", "comfy"]),
        ("weighting", ["a1111", "ignore"], "weighting", ["a1111", "ignore"]),
        ("negative_prompt", '"", "a, b"', "negative_prompt", ["", "a, b"]),
        ("model", "emoji, other", "model", ["emoji", "other"]),
        ("negative_method", "cfg, nag", "negative_method", ["cfg", "nag"]),
        ("negative_strength", "none, 1-3 (+1)", "negative_strength", [None, 1, 2, 3]),
        ("negative_interval", "none, 0 0.5, 0.5 40", "negative_interval", [None, (0, 0.5), (0.5, 40)]),
        ("negative_interval", [None, [0, 0.5]], "negative_interval", [None, (0, 0.5)]),
    ],
)
def test_axes_over_options(config, name, given, field, expected):
    experiment = lay_out(config, axes={name: given})
    found = [getattr(experiment.cell(variant, 0, 0).options, field) for variant in experiment.variants]
    assert found == expected


def test_null_is_an_option_left_out(config):
    experiment = lay_out(config, axes={"negative_prompt": [None, "", "blurry"]})
    assert [negative for _, negative in texts(experiment)] == [None, "", "blurry"]
    assert [v.name for v in experiment.variants] == [
        "negative_prompt=(not given)",
        "negative_prompt=(empty)",
        "negative_prompt=blurry",
    ]
    axes = {"steps": [4, None], "embedding": [None, "cat-toy"]}
    experiment = lay_out(config, axes=axes, baseline={"steps": None}, steps=None)
    assert [cell.options.steps for cell in experiment.cells[::6]] == [4, 4, None, None]
    assert experiment.baseline.labels == {"steps": "(not given)", "embedding": "none"}


def test_an_axis_of_an_option_is_one_line(config, monkeypatch):
    for name in ("karras", "width", "guidance_interval"):
        monkeypatch.setitem(AXES, name, option_axis(name))
    axes = {"karras": "false, true", "width": "64-128 [2]", "guidance_interval": [None, [0.1, 5]]}
    cells = lay_out(config, axes=axes).cells[::6]
    found = [(cell.options.karras, cell.options.width, cell.options.guidance_interval) for cell in cells]
    assert found[0] == (False, 64, None) and found[-1] == (True, 128, (0.1, 5.0)) and len(found) == 8


def test_steps_axis(config):
    experiment = lay_out(config, axes={"steps": "2-6 [3]"}, steps=None)
    assert [v.name for v in experiment.variants] == ["steps=2", "steps=4", "steps=6"]


def test_every_combination_with_the_first_as_baseline(config):
    experiment = lay_out(config, axes={"guidance": [3, 7], "scheduler": ["ddim", "euler"]})
    assert [v.name for v in experiment.variants] == [
        "guidance=3, scheduler=ddim",
        "guidance=3, scheduler=euler",
        "guidance=7, scheduler=ddim",
        "guidance=7, scheduler=euler",
    ]
    assert experiment.baseline is experiment.variants[0]
    assert len(experiment.cells) == 4 * 2 * 3
    cell = experiment.cell(experiment.variants[3], 1, 2)
    other = experiment.counterpart(cell)
    assert (other.prompt, other.seed, other.pair) == (cell.prompt, 3, (1, 2)) and other.options.guidance == 3


def test_values_with_commas_are_quoted_in_names(config):
    experiment = lay_out(config, axes={"negative_prompt": ["", "blurry, noisy"], "guidance": [3, 7]})
    assert experiment.variants[2].name == 'negative_prompt="blurry, noisy", guidance=3'


def test_another_baseline(config):
    experiment = lay_out(config, axes={"guidance": [3, 7], "clip_skip": [0, 1]}, baseline={"guidance": 7})
    assert experiment.baseline.labels == {"guidance": "7", "clip_skip": "0"}


def test_prompt_axes(config):
    experiment = lay_out(config, prompts=None, axes={"prompt": ["a cat", "a dog"]})
    assert [text for text, _ in texts(experiment)] == ["a cat", "a dog"] and experiment.pairs == 3
    experiment = lay_out(config, axes={"prompt_replace": "red, green, (red:1.3)"})
    assert [text for text, _ in texts(experiment)] == ["a red apple", "a green apple", "a (red:1.3) apple"]


def test_an_embedding_in_a_comment_is_not_there_yet(config):
    experiment = lay_out(config, prompts=["a cat # <cat-toy> "], axes={"embedding": ["none", "cat-toy"]})
    cell = experiment.cells[-1]
    assert cell.prompt == "a cat # <cat-toy> \n, <cat-toy>" and [each.name for each in cell.embeddings] == [
        "cat-toy"
    ]


def test_seed_axis_takes_the_place_of_seeds(config):
    experiment = lay_out(config, seeds=None, axes={"seed": "5-7"})
    assert [cell.seed for cell in experiment.cells] == [5, 5, 6, 6, 7, 7]


def test_embeddings_join_the_side_they_belong_to(config):
    given = ["none", "cat-toy", "easy", "cat-toy+easy"]
    experiment = lay_out(config, axes={"embedding": given}, negative_prompt="blurry")
    assert texts(experiment) == [
        ("a red apple", "blurry"),
        ("a red apple, <cat-toy>", "blurry"),
        ("a red apple", "blurry, <easy>"),
        ("a red apple, <cat-toy>", "blurry, <easy>"),
    ]
    assert [v.name for v in experiment.variants] == [f"embedding={name}" for name in given]


def test_weights_and_the_slot(config):
    settings = {
        "prompts": ["a {embedding}, on white"],
        "axes": {"embedding": "cat-toy", "embedding_weight": "0.5, 1"},
    }
    assert [text for text, _ in texts(lay_out(config, **settings))] == [
        "a (<cat-toy>:0.5), on white",
        "a <cat-toy>, on white",
    ]
    compel = lay_out(config, dialect="compel", **settings)
    assert texts(compel)[0][0] == "a (<cat-toy>)0.5, on white"
    slot = lay_out(config, prompts=["{embedding}, a cat"], axes={"embedding": ["none", "cat-toy"]})
    assert [text for text, _ in texts(slot)] == ["a cat", "<cat-toy>, a cat"]


def test_what_clip_is_asked_has_no_embeddings_weights_and_schedules(config):
    prompt = "a (red:1.3) [cat:dog:0.5], <cat-toy>, BREAK painting AND white :0.5"
    experiment = lay_out(config, prompts=[prompt])
    assert experiment.cells[0].words == "a red dog, painting, white"


def test_saved_steps_of_a_training_run(config, tmp_path):
    folder = tmp_path / "training" / "checkpoints"
    folder.mkdir(parents=True)
    for step in (50, 100):
        embedding("my-cat").save(folder / f"my-cat-{step:06d}.safetensors")
    (folder / "state.safetensors").write_bytes(b"")
    experiment = lay_out(
        config, prompts=["a <my-cat>"], axes={"embedding_checkpoint": str(tmp_path / "training")}
    )
    assert [v.name for v in experiment.variants] == [
        "embedding_checkpoint=my-cat step 50",
        "embedding_checkpoint=my-cat step 100",
    ]
    assert texts(experiment)[0] == ("a <my-cat>", "")
    assert experiment.cells[0].options.embedding != experiment.cells[-1].options.embedding


def test_a_learned_pair_acts_on_both_sides(config, tmp_path):
    halves = {name: embedding(name, kind) for name, kind in (("toy", "concept"), ("toy-neg", "negative"))}
    for name, other in (("toy", "toy-neg"), ("toy-neg", "toy")):
        halves[name].save(tmp_path / f"{name}.safetensors", metadata={PARTNER: other})
    by_file = lay_out(config, axes={"embedding": ["none", str(tmp_path / "toy.safetensors")]})
    assert [v.name for v in by_file.variants] == ["embedding=none", "embedding=toy"]
    expected = [("a red apple", "bad"), ("a red apple, <toy>", "bad, <toy-neg>")]
    by_name = {"embeddings": [tmp_path], "axes": {"embedding": ["none", "toy"]}, "negative_prompt": "bad"}
    assert texts(lay_out(config, **by_name)) == expected
    slot = lay_out(config, prompts=["{embedding} on white"], **by_name)
    assert texts(slot)[1] == ("<toy> on white", "bad, <toy-neg>")
    alone = lay_out(config, **by_name | {"axes": {"embedding": ["none", "toy-neg"]}})
    assert texts(alone)[1] == ("a red apple", "bad, <toy-neg>")


def test_saved_steps_of_a_pair_are_taken_together(config, tmp_path):
    folder = tmp_path / "training" / "checkpoints"
    folder.mkdir(parents=True)
    for step in (50, 100):
        embedding("toy").save(folder / f"toy-{step:06d}.safetensors")
        embedding("toy-neg", "negative").save(folder / f"toy-neg-{step:06d}.safetensors")
    experiment = lay_out(config, axes={"embedding_checkpoint": str(tmp_path / "training")})
    assert [v.name for v in experiment.variants] == [
        "embedding_checkpoint=toy step 50",
        "embedding_checkpoint=toy step 100",
    ]
    assert texts(experiment) == [("a red apple, <toy>", "<toy-neg>")] * 2


def test_equal_cells_share_one_picture(config):
    axes = {"embedding": ["none", "cat-toy"], "embedding_weight": [0.5, 1]}
    experiment = lay_out(config, axes=axes)
    assert len(experiment.cells) == 24 and len(experiment.pictures) == 18


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"axes": {"guidence": [1, 2]}}, "nearest: guidance"),
        ({"axes": {}}, "nothing to compare"),
        ({"axes": {"guidance": [3]}}, "one value"),
        ({"axes": {"guidance": [3, 3.0]}}, "twice"),
        ({"axes": {"guidance": "a, b"}}, "1-10"),
        ({"axes": {"guidance": [3, -7]}}, "greater than or equal to 0"),
        ({"axes": {"clip_skip": [1, float("inf")]}}, "no number"),
        ({"axes": {"negative_prompt": ["", {"a": "b"}]}}, "valid string"),
        ({"axes": {"prompt_replace": ["red", None]}}, "null is no text"),
        ({"axes": {"guidance": [3, 7]}, "guidance": 5.0}, "varies what the option 'guidance' fixes"),
        ({"axes": {"prompt": ["a", "b"]}}, "varies what the option 'prompts' fixes"),
        ({"axes": {"seed": [1, 2]}}, "varies what the option 'seeds' fixes"),
        ({"axes": {"embedding_weight": [0.5, 1]}}, "embedding as well"),
        ({"axes": {"embedding": ["none", "cat-to"]}}, "nearest: cat-toy"),
        ({"axes": {"embedding": ["none", "riddle"]}}, "--embedding-side"),
        (
            {"axes": {"embedding": ["cat-toy"], "embedding_weight": [1, 2]}, "dialect": "plain"},
            "plain dialect",
        ),
        ({"axes": {"embedding": ["none", "easy"], "embedding_checkpoint": "x"}}, "no saved steps|combined"),
        ({"axes": {"embedding_checkpoint": "nowhere"}}, "no saved steps"),
        ({"axes": {"prompt_replace": ["purple", "red"]}}, "no prompt has 'purple'"),
        ({"axes": {"guidance": [3, 7]}, "baseline": {"guidance": 5}}, "no value '5'"),
        ({"axes": {"guidance": [3, 7]}, "baseline": {"steps": 5}}, "no axis"),
        ({"axes": {"dialect": ["a1111", "midjourney"]}}, "dialect"),
        ({"prompts": None}, "--prompt"),
        ({"prompts": ["a cat", "a dog", "a  cat "]}, "'a cat' is given twice"),
        ({"prompts": ["a <dragon>"]}, "dragon"),
        ({"axes": {"negative_prompt": ["", "<dragon>"]}}, "dragon"),
    ],
)
def test_bad_experiments_are_one_line(config, settings, words):
    with pytest.raises(lab.InputError, match=words) as caught:
        lay_out(config, **settings)
    assert "\n" not in str(caught.value)


def test_bare_names_use_what_the_text_names_alone(config, tmp_path):
    for name in ("red toy", "unused"):
        embedding(name).save(tmp_path / f"{name}.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"never read")
    experiment = Experiment(
        config(
            prompts=["a Red Toy, <unused>"], bare_names=True, embeddings=[tmp_path], axes={"guidance": [1, 5]}
        )
    )
    assert {one.name for cell in experiment.cells for one in cell.embeddings} == {"red toy", "unused"}


def test_none_is_an_option_left_out(config):
    experiment = lay_out(config, axes={"negative_prompt": "none, blurry"})
    assert [negative for _, negative in texts(experiment)] == [None, "blurry"]


def test_a_prompt_that_stands_twice_would_count_twice(config):
    with pytest.raises(lab.InputError, match="prompts: 'a cat' is given twice"):
        lay_out(config, prompts=["a cat", "a  cat "])


def test_embedding_files_may_have_the_marks_of_lists_in_their_names(config, tmp_path):
    for name in ("c++.pt", "a,b=c.pt"):
        embedding(name).save(tmp_path / name)
    first, second = f"{tmp_path}/c++.pt", f"{tmp_path}/a,b=c.pt"
    experiment = lay_out(
        config, axes={"embedding": f"none,{first},{second}+{first}"}, embedding_side="positive"
    )
    assert [v.labels["embedding"] for v in experiment.variants] == ["none", "c++", "a,b=c+c++"]


def test_half_a_character_in_a_setting_is_told_with_the_prompts(config):
    experiment = lay_out(config, axes={"negative_prompt": ["", "\ud800"]})
    assert [negative for _, negative in texts(experiment)] == [
        "",
        "\ud800",
    ]  # encoding refuses it in one line
