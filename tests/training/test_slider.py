"""The slider objective: what it takes, and that its weight is learned through the tools' own weight arithmetic."""

import json

import pytest
import torch

import lab
from lab.errors import InputError
from lab.listening import Listener
from lab.training.config import TrainConfig
from lab.training.data.sides import Side, read_sides
from lab.training.ends import learn_ends
from lab.training.objectives.slider import Pick, even_shares
from lab.training.strength import Strength, place_images
from tests.training.drawings import draw


@pytest.fixture
def sliding(tmp_path):
    """A run of a few steps between two prompts."""

    def config(**settings):
        usual = {
            "objective": "slider",
            "from": "red X",
            "to": "blue X",
            "things": ["apple", "cat"],
            "name": "shift-by",
        }
        usual |= {"vectors": 2, "steps": 12, "batch_size": 4, "evaluate_every": 4, "stop": "never", "seed": 3}
        usual |= {"preview_every": 0, "sampling_steps": 2, "measured": 0, "out": tmp_path / "run"}
        return TrainConfig.build(usual | settings)

    return config


def test_prompts_are_read_for_each_thing(sliding):
    assert read_sides(sliding()) == [
        Side("apple", "red apple", "blue apple"),
        Side("cat", "red cat", "blue cat"),
    ]
    whole = Side("a cat", "a cat at night", "a cat on ice")
    assert read_sides(sliding(**{"from": whole.start, "to": whole.end})) == [whole]
    assert read_sides(sliding(neutral="photo of X"))[1].neutral == "photo of cat"


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_weight_is_learned_as_the_tools_apply_it(family, request, sliding, started):
    """What is compared with the direction is what `lab.encode` makes of the same prompt in each dialect."""
    bundle = request.getfixturevalue(family)
    objective, learned = started(bundle, sliding())
    (slider,) = learned.embeddings()
    for arithmetic in ("a1111", "comfy"):
        for weight in (0.0, 0.5, 1.0, 1.5):
            with torch.no_grad():
                embeds, _, _ = objective._encode([Pick(0, 0, weight, arithmetic)])
            prompt = f"apple (<shift-by>:{weight:g})"
            told = lab.encode(bundle, prompt, embeddings=[slider], dialect=arithmetic)
            assert torch.allclose(embeds[0], told.embeds, atol=1e-4), (arithmetic, weight)


def test_learning_leads_along_the_direction(sd1, sliding, heard):
    slider = lab.train(sd1, sliding(learning_rate=3e-4), listener=heard)
    lines = [json.loads(line) for line in (sliding().out / "progress.jsonl").read_text().splitlines()]
    explained = [line["fixed_explained"] for line in lines if "fixed_explained" in line]
    assert max(explained) > explained[0]
    assert slider.kind == "slider" and "Over weights 0 to 1.5 they do" in heard.notes[-1]


def test_strength_is_measured_and_kept_in_the_file(sd1, sliding, heard):
    slider = lab.train(sd1, sliding(steps=4, measured=1), listener=heard)
    assert "In a1111, " in heard.notes[-1] and "In comfy, " in heard.notes[-1]
    assert any("times is all that can be seen" in note for note in heard.notes)
    told = json.loads(slider.provenance.metadata["lab.slider.comfy"])
    assert told["weights"][0] == 0 and len(told["places"]) == len(told["weights"]) and len(told["even"]) == 5


def test_even_steps_undo_a_bent_scale():
    strength = Strength((0.0, 0.5, 1.0, 2.0), (0.0, 0.1, 0.9, 1.0), (0.0,) * 4)
    assert strength.even(3) == [0.0, pytest.approx(0.734, abs=1e-3), 1.5]
    assert strength.saturation == 1.5
    assert "equal are at weights 0, 0.59, 0.73, 0.88, 1.5, and" in strength.describe()
    shares = even_shares(strength)
    assert shares[0] == 0 and shares[1] == 1.5 and shares[1.5] == 2.25
    assert shares[0.25] < 0.7 < shares[0.5], "the steep part of the way is given more room"
    assert even_shares(Strength((0.0, 1.0), (0.0, 0.0), (0.0, 0.0)))[0.5] == 0.5
    nothing = Strength((0.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    assert nothing.even(2) == [0.0, 0.0] and nothing.describe().startswith("no weight leads")


def test_of_several_numbers_of_vectors_it_is_told_what_they_do(sd1, sliding, heard):
    lab.train(sd1, sliding(vectors="1,2", steps=1, things=["apple"]), listener=heard)
    told = [note for note in heard.notes if note.endswith(("% of what is aimed at", "(kept)"))]
    assert len(told) == 2 and not any("text" in note for note in told)


def test_places_of_images_are_told_from_what_else_changes():
    start, end, neutral = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    places, rests = place_images(torch.tensor([[[2.0, 0.0]], [[1.0, 3.0]]]), neutral, start, end)
    assert places.flatten().tolist() == [0.5, 0.0] and rests.flatten().tolist() == [0.0, 1.5]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"to": None}, "from: a slider leads from one prompt to another; give --from and --to"),
        ({"to": "red X"}, "to: is the same as --from"),
        ({"to": "Red X"}, "to: the model takes both prompts for the same"),
        ({"to": "blue"}, "neutral: --from and --to share no words"),
        ({"from": "blue apple " * 80}, "does not fit into a chunk"),
    ],
)
def test_what_cannot_be_a_slider_is_told_in_a_line(settings, told, sd1, sliding):
    with pytest.raises(InputError, match=told) as error:
        lab.train(sd1, sliding(**{"things": ["apple"]} | settings))
    assert "\n" not in str(error.value) and not sliding().out.exists()


def test_a_negative_weight_of_a_slider_is_explained(sd1):
    slider = lab.Embedding("shift-by", {"clip": torch.randn(1, 32)}, kind="slider")
    (note,) = [
        one
        for one in lab.encode(sd1, "cat (<shift-by>:-1)", embeddings=[slider]).first.notes
        if "slider" in one
    ]
    assert "--from and --to exchanged" in note


def test_folders_at_both_ends_become_styles_in_the_prompts(sliding, tmp_path):
    for end in ("old", "new"):
        (tmp_path / end).mkdir()
    runs = []

    def learn(run):
        runs.append((run.objective, run.images.name, run.name, run.from_))
        lab.Embedding(run.name, {"clip": torch.randn(1, 32)}, kind="style").save(
            tmp_path / f"{run.name}.safetensors"
        )
        return lab.read_embedding(tmp_path / f"{run.name}.safetensors")

    folders = {"from": str(tmp_path / "old"), "to": str(tmp_path / "new")}
    run = learn_ends(sliding(**folders, neutral="photo of X"), learn)
    assert runs == [("style", "old", "shift-by-from", None), ("style", "new", "shift-by-to", None)]
    assert read_sides(run)[1] == Side(
        "photo of cat", *(f"photo of cat in <shift-by-{end}> style" for end in ("from", "to"))
    )
    assert [path.stem for path in run.embeddings] == ["shift-by-from", "shift-by-to"]
    assert run.init == f"file:{tmp_path / 'shift-by-to.safetensors'}", "already on the way"
    assert learn_ends(sliding(**folders, init="random"), learn).init == "random"
    with pytest.raises(InputError, match="to: is the folder of --from"):
        learn_ends(sliding(**folders | {"to": folders["from"]}), pytest.fail)
    with pytest.raises(InputError, match="so --from and --to both have to be one"):
        learn_ends(sliding(**folders | {"to": "blue X"}), learn)
    with pytest.raises(InputError, match="images: says nothing to --objective slider"):
        learn_ends(sliding(**folders, images=tmp_path / "old"), pytest.fail)


def test_styles_at_the_ends_that_were_learned_before_an_interruption_are_taken(sd1, sliding, tmp_path):
    folders = {"from": str(draw(tmp_path / "old", 1)), "to": str(draw(tmp_path / "new", 2))}
    config, notes = sliding(**folders, steps=1, init="text:red"), []

    class Interrupted(Listener):
        def note(self, text):
            notes.append(text)

        def stopping(self):
            return (config.out / "shift-by-from" / "shift-by-from.safetensors").is_file()

    with pytest.raises(KeyboardInterrupt):
        lab.train(sd1, config, listener=Interrupted())
    assert notes[-1] == f"The same command with --out {config.out} goes on with the slider."
    first = (config.out / "shift-by-from" / "progress.jsonl").read_bytes()
    assert lab.train(sd1, config).kind == "slider"
    assert (config.out / "shift-by-from" / "progress.jsonl").read_bytes() == first


def test_between_folders_it_is_learned_and_used_in_every_dialect(sd1, sliding, tmp_path):
    folders = {"from": str(draw(tmp_path / "old", 1)), "to": str(draw(tmp_path / "new", 2))}
    config = sliding(**folders, steps=1, flip=True, measured=1)
    assert lab.train(sd1, config).kind == "slider"
    file = config.out / "shift-by.safetensors"
    assert file.stat().st_size < 2500 + 2 * 32 * 4, "little beside the vectors"
    assert {path.stem for path in config.out.glob("*/*.safetensors")} >= {"shift-by-from", "shift-by-to"}
    for dialect, written in {
        "a1111": "(<shift-by>:0.5)",
        "comfy": "(<shift-by>:0.5)",
        "compel": "(<shift-by>)0.5",
    }.items():
        half, whole = (
            lab.generate(sd1, prompt=f"cat {text}", steps=1, embeddings=[file], dialect=dialect)[0].image
            for text in (written, "<shift-by>")
        )
        assert half.tobytes() != whole.tobytes(), dialect


def test_yaml_takes_from_as_it_is_said(tmp_path):
    path = tmp_path / "slider.yaml"
    path.write_text("objective: slider\nfrom: an old X\nto: a new X\n")
    assert TrainConfig.read(path).from_ == "an old X"
