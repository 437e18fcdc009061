"""`lab encode` on the bundled model."""

import pytest

from lab.condition.embeds_file import read_embeds


def test_a_prompt_is_shown_and_written(cli, tmp_path, emoji):
    out = tmp_path / "x.safetensors"
    code, shown, _ = cli("encode", "a (red:1.3) [apple|cat] AND a dog", "--steps", "4", "--out", out)
    assert code == 0
    for words in ("red", "1.3", "steps 1 to 2, 4: a (red:1.3) apple", "part 2 of 2", "hidden_states[-1]",
                  "A1111 shows 1", "nothing is truncated", "weighting a1111"):  # fmt: skip
        assert words in shown
    assert read_embeds(out, emoji, 4).prompt == "a (red:1.3) [apple|cat] AND a dog"


def test_a_prompt_is_said_in_another_dialect(cli):
    code, shown, _ = cli("encode", "a (red:1.3) apple AND a dog", "--to", "comfy")
    assert code == 0 and "a (red:1." in shown and "note: comfy has no AND" in shown
    assert "% of what the prompt does to the prompt embeddings" in shown


def test_prompts_are_compared_and_numbered(cli, tmp_path):
    code, shown, _ = cli("encode", "a cat", "a dog", "--pool", "mean", "--out", tmp_path / "x.safetensors")
    assert code == 0 and "Cosines" in shown and "Dot products" in shown
    assert shown.count("1.000") == 2  # each prompt with itself
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-1.safetensors", "x-2.safetensors"]


def test_what_cannot_work_is_told_before_the_model_is_read(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("lab.models.load.load_options", lambda *_: pytest.fail("the model was read"))
    for arguments, says in (
        (["--out", tmp_path / "x.pt"], "go into a .safetensors file"),
        (["--embeddings", tmp_path / "absent"], "no such file or folder"),
        (["--embedding", tmp_path / "absent.pt"], "no such file"),
        (["--embedding", "=x"], "expected FILE or FILE=name"),
        (["--weighting", "comfi"], "nearest: comfy"),
        (["--to", "comfi"], "nearest: comfy"),
        (["--to", "plain"], "known: a1111, comfy, compel"),
        (["--to", "comfy", "--out", tmp_path / "x.safetensors"], "--to gives text"),
    ):
        code, _, err = cli("encode", "a cat", *arguments)
        assert code == 2 and says in err and err.count("\n") == 1


def test_bad_input_is_one_line(cli):
    for arguments in (["a <nobody>"], [], ["cat", "--steps", "0"], ["cat", "--clip-skip", "9"]):
        code, _, err = cli("encode", *arguments)
        assert code == 2 and len(err.strip().splitlines()) == 1
