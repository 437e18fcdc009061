"""`lab compose` as a person uses it."""

import pytest

from tests.search.test_chat import answering


def test_what_it_writes_is_what_generate_takes(cli, sd1_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "made" / "prompts.txt"
    asked = "--keyword", "embedding", "--keyword", "code", "--about", "technique", "--about", "mood"
    code, out, said = cli("compose", "--model", sd1_folder, *asked, "--count", 3, "--out", file)
    prompts = out.splitlines()
    assert code == 0 and len(set(prompts)) == 3 and file.read_text(encoding="utf-8") == out
    assert all("embedding" in prompt and "code" in prompt for prompt in prompts) and "3 prompts" in said
    run = "generate", "--model", sd1_folder, "--steps", 1, "--out", tmp_path / "images"
    code, out, _ = cli(*run, "--prompt-file", file)
    assert code == 0 and "3 images" in out


def test_the_best_are_drawn_as_generate_draws_them(cli, sd1_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, said = cli(
        "compose", "--model", sd1_folder, "--keyword", "cat", "--count", 3, "--then-generate", 2
    )
    best = out.splitlines()[:2]
    assert code == 0 and "2 images in outputs" in said
    (folder,) = (tmp_path / "outputs").iterdir()
    code, out, said = cli(
        "generate", "--model", sd1_folder, *(part for prompt in best for part in ("--prompt", prompt))
    )
    assert code == 0 and f"outputs/{folder.name}" in out and "2 images there already" in said


def test_a_chat_server_writes_in_the_librarys_place(cli, sd1_folder):
    with answering("1. the dog\n2. a cat\n3. a red apple") as (url, _):
        code, out, _ = cli(
            "compose", "--model", sd1_folder, "--keyword", "a cat", "--count", 2, "--chat-url", url
        )
    assert code == 0 and out.splitlines()[0] == "a cat" and len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "keyword: there is none"),
        (["--keyword", "cat", "--about", "colr"], "nearest: colour"),
        (["--keyword", "cat", "--chat-url", "http://127.0.0.1:9"], "cannot be reached"),
    ],
)
def test_bad_input_is_one_line_and_code_2(cli, flags, says):
    code, _, err = cli("compose", *flags)
    assert code == 2 and says in err and err.strip().count("\n") == 0
