"""`lab search` as a person uses it."""


def test_an_index_is_made_grown_and_asked(cli, sd1_folder, tmp_path):
    (tmp_path / "x.txt").write_text("a red apple\nthe blue cat\n", encoding="utf-8")
    model = "--model", sd1_folder, "--index", tmp_path / "index"
    code, out, _ = cli("search", *model, "--over", f"prompts:{tmp_path / 'x.txt'}")
    assert code == 0 and "2 rows, 2 of them new" in " ".join(out.split())
    code, out, _ = cli("search", *model, "--text", "the blue cat", "--top", 1)
    assert code == 0 and "1.000" in out and "the blue cat" in out and "red apple" not in out


def test_words_of_the_vocabulary_are_shown_as_words(cli, sd1_folder):
    code, out, _ = cli(
        "search", "--model", sd1_folder, "--over", "vocabulary", "--text", "apple", "--top", 400
    )
    shown = out.split()
    assert code == 0 and "apple" in shown and "a..." in shown and "</w>" not in out


def test_bad_input_is_one_line_and_code_2(cli, sd1_folder, tmp_path):
    code, _, err = cli("search", "--model", sd1_folder, "--text", "a", "--index", tmp_path / "absent")
    assert code == 2 and err.count("\n") == 1 and "no index there" in err
