"""What a conditioning says of itself, and how `encode` takes its options."""

import pytest

import lab
from lab.condition.config import TextOptions
from lab.embeddings.embedding import Embedding
from tests.condition.samples import close, embedding_for


@pytest.mark.parametrize(
    "prompt, steps, shown",
    [
        ("[a:b:3]", 10, "aaaabbbbbb"),
        ("[a|b]", 6, "aababa"),
        ("[a:b:9]", 10, "aaaaaaaaaa"),
        ("[a:b:0]", 3, "bbb"),
    ],
)
def test_a_schedule_is_in_force_as_in_the_web_ui(sd1, prompt, steps, shown):
    (part,) = lab.encode(sd1, prompt, steps=steps).parts
    assert "".join(part.at(step).text for step in range(steps)) == shown


def test_a_notebook_shows_what_the_rows_are(sd1):
    shown = lab.encode(sd1, "a (red & <toy>:1.3) [cat|dog] BREAK b", embeddings=[embedding_for(sd1)], steps=4)
    html = shown._repr_html_()
    assert html.count("<table>") == 2, "a text that comes back is shown once"
    assert "<td>2&ndash;2</td><td>red</td><td>1.3</td>" in html
    assert (
        "&lt;toy&gt;" in html and "<toy>" not in html and "red &amp;" in html and "154 rows, 32 wide" in html
    )
    noted = lab.encode(sd1, "a AND b", dialect="comfy")._repr_html_()
    assert "AND is a plain word in the comfy dialect" in noted
    assert "(empty)" in lab.encode(sd1, "")._repr_html_()


def test_settings_go_on_top_of_a_config(sd1, tmp_path):
    toy = embedding_for(sd1)
    toy.save(tmp_path / "toy.safetensors")
    config = TextOptions(dialect="comfy", embeddings=[tmp_path])
    made = lab.encode(sd1, "(<toy>) cat", config)
    assert close(
        made.embeds, lab.encode(sd1, "(<toy>:1.1) cat", config, dialect="a1111", weighting="comfy").embeds
    )
    whole = lab.GenerateConfig(prompt="x", dialect="comfy", embedding=[str(tmp_path / "toy.safetensors")])
    assert close(made.embeds, lab.encode(sd1, ["(<toy>) cat"], whole)[0].embeds)
    assert lab.encode(sd1, "<pen>", embeddings=Embedding("pen", toy.vectors)).applied[0].name == "pen"


def test_what_is_no_option_stops(sd1):
    with pytest.raises(lab.InputError, match="unknown option 'dialekt'; nearest: dialect"):
        lab.encode(sd1, "a", dialekt="comfy")
    with pytest.raises(lab.InputError, match="expected TextOptions, not list; everything else is given by"):
        lab.encode(sd1, "a", [embedding_for(sd1)])
