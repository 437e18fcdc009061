"""`lab inspect`, `lab convert` and `lab merge`, as people type them."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

import lab
from lab.cli.main import BAD_INPUT, main
from lab.embeddings.embedding import Embedding, Provenance
from lab.models.load import load
from tests.embeddings.files import a1111, torch_file, vectors


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def run(*words) -> int:
    return main([str(word) for word in words])


class TestInspect:
    def test_what_a_file_says(self, tmp_path, capsys):
        path = tmp_path / "cat.pt"
        path.write_bytes(torch_file(a1111(vectors(2, 768))))
        embedding = lab.read_embedding(path)
        assert run("inspect", path) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1:14] == [
            f"file           {path}",
            "layout         a1111",
            "in prompts     <cat>",
            "internal name  internal",
            "kind           unknown",
            "vectors        2",
            "widths         clip_l 768",
            "family         SD 1.x",
            "steps          1419",
            "base model     some-model",
            f"sha256         {embedding.provenance.sha256}",
            f"A1111 hash     {embedding.provenance.sha256[:12]}",
            f"A1111 checksum {embedding.a1111_checksum}",
        ]
        assert lines[14] == "metadata       sd_checkpoint: 89d59c3dde"

    def test_many_vectors_and_norms_far_from_words(self, tmp_path, capsys):
        Embedding("x", {"clip_l": torch.full((2500, 4), 1e38)}).save(tmp_path / "x.safetensors")
        assert run("inspect", tmp_path / "x.safetensors") == 0
        out = capsys.readouterr().out
        assert "Cosines between the vectors of clip: left out, as there are 2,500" in out
        assert (
            "note           the vectors of clip have norms of 2e+38 to 2e+38, where words have about 0.4"
            in out
        )

    def test_vectors_for_other_families_are_shown_and_the_half_for_clip_is_used(self, tmp_path, capsys):
        alone, both = tmp_path / "alone.safetensors", tmp_path / "both.safetensors"
        save_file({"t5xxl": vectors(2, 4096), "qwen3_4b": vectors(3, 2560)}, alone)
        save_file({"clip_l": vectors(2, 768), "t5": vectors(3, 4096), "t5_out": vectors(3, 4096)}, both)
        assert run("inspect", alone, both) == 0
        out = capsys.readouterr().out
        assert "t5xxl for T5 (SD3, Flux, PixArt, Chroma)" in out and "qwen3_4b for Qwen" in out
        assert "Vectors of qwen3_4b, 2560 wide" in out and "Cosines between the vectors of qwen3_4b" in out
        assert "the CLIP half alone is used" in out and "Vectors of t5_out, 4096 wide" in out
        assert run("generate", "--prompt", "<alone>", "--embedding", alone) == BAD_INPUT
        assert "nothing in it is for CLIP" in capsys.readouterr().err
        assert run("convert", both, tmp_path / "clip.safetensors") == 0
        assert "left out, as no model here has their text encoders: t5, t5_out" in capsys.readouterr().out

    def test_norms_and_nearest_tokens_of_a_model(self, tmp_path, capsys, sd1_folder):
        (tower,) = load(str(sd1_folder), device="cpu").towers
        table = tower.encoder.get_input_embeddings().weight.detach()
        number = tower.tokenizer.convert_tokens_to_ids("apple</w>")
        Embedding("x", {"clip": table[[number, number]] * 3}).save(tmp_path / "x.safetensors")
        assert run("inspect", tmp_path / "x.safetensors", "--model", sd1_folder) == 0
        out = capsys.readouterr().out
        rows = [line for line in out.splitlines() if "apple 1.00" in line]
        assert len(rows) == 2
        assert f"{3 * table[number].norm():.3f}" in rows[0]
        low, middle, high = table.norm(dim=1).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        assert f"{low:.3f}, {middle:.3f}, {high:.3f}" in out

    def test_a_model_of_one_variant_alone(self, tmp_path, capsys, sd1_folder):
        folder = shutil.copytree(sd1_folder, tmp_path / "model")
        for path in list(folder.glob("*/*.safetensors")):
            path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
        (tower,) = load(str(sd1_folder), device="cpu").towers
        table = tower.encoder.get_input_embeddings().weight.detach()
        Embedding("x", {"clip": table[:1]}).save(tmp_path / "x.safetensors")
        assert run("inspect", tmp_path / "x.safetensors", "--model", folder) == BAD_INPUT
        assert "use --variant fp16" in capsys.readouterr().err
        assert run("inspect", tmp_path / "x.safetensors", "--model", folder, "--variant", "fp16") == 0
        assert "!... 1.00" in capsys.readouterr().out

    def test_both_encoders_of_sdxl(self, tmp_path, capsys, sdxl_folder):
        towers = load(str(sdxl_folder), device="cpu").towers
        tensors = {tower.key: tower.encoder.get_input_embeddings().weight.detach()[:1] for tower in towers}
        Embedding("x", tensors).save(tmp_path / "x.safetensors")
        assert run("inspect", tmp_path / "x.safetensors", "--model", sdxl_folder) == 0
        assert capsys.readouterr().out.count("!... 1.00") == 2

    def test_a_model_that_does_not_fit(self, tmp_path, capsys, sd1_folder):
        Embedding("x", {"clip_l": vectors(1, 768)}).save(tmp_path / "x.safetensors")
        assert run("inspect", tmp_path / "x.safetensors", "--model", sd1_folder) == 0
        out = capsys.readouterr().out
        assert "The model has clip 32; nothing to compare clip_l 768 with." in out
        assert f"{vectors(1, 768).norm():.3f}" in out

    def test_cosines_between_vectors_and_files(self, tmp_path, capsys):
        one, other = torch.eye(8)[:2], torch.tensor([[1.0, 1.0, *[0.0] * 6]])
        Embedding("one", {"clip": one}).save(tmp_path / "one.safetensors")
        Embedding("other", {"clip": other}).save(tmp_path / "other.safetensors")
        assert run("inspect", tmp_path / "one.safetensors", tmp_path / "other.safetensors") == 0
        within, between = capsys.readouterr().out.split("Cosines between the mean vectors of clip")
        assert "0.00" in within.split("Cosines between the vectors of clip")[1]
        assert [line.split() for line in between.splitlines() if "one" in line][-1][3::2] == ["1.00", "1.00"]

    def test_many_vectors_are_summed_up(self, tmp_path, capsys):
        Embedding("x", {"clip": torch.eye(20)}).save(tmp_path / "x.safetensors")
        assert run("inspect", tmp_path / "x.safetensors") == 0
        assert "Cosines between the vectors of clip: 0.00 to 0.00, median 0.00" in capsys.readouterr().out

    def test_folders_and_names_with_markup(self, tmp_path, capsys):
        for name in ("[red]a", "b"):
            Embedding(name, {"clip": vectors(1, 8)}).save(tmp_path / f"{name}.safetensors")
        assert run("inspect", tmp_path) == 0
        assert "<[red]a>" in capsys.readouterr().out

    def test_words_that_do_what_it_does(self, tmp_path, capsys, sd1_folder, monkeypatch):
        monkeypatch.setattr("lab.search.explain.TRIED", 4)
        monkeypatch.setattr("lab.search.explain.PATIENCE", 1)
        file, behind = tmp_path / "one.safetensors", tmp_path / "behind.safetensors"
        Embedding("one", {"clip": torch.randn(1, 32, generator=torch.Generator().manual_seed(0))}).save(file)
        Embedding("behind", {"clip": torch.zeros(1, 32)}, outputs={"clip": vectors(1, 32)}).save(behind)
        assert main(["inspect", str(behind), str(file), "--model", str(sd1_folder), "--explain"]) == 0
        shown = capsys.readouterr().out
        assert "<behind> acts behind the text encoder" in shown
        assert (
            "<one> in words" in shown
            and "the words nearest its vectors (" in shown
            and "what is left:" in shown
        )
        assert main(["inspect", str(file), "--explain"]) == 2
        assert "give --model" in capsys.readouterr().err

    def test_nothing_to_inspect(self, capsys):
        assert run("inspect") == BAD_INPUT
        assert "name at least one" in capsys.readouterr().err


class TestConvert:
    def test_a_pickle_to_safetensors(self, tmp_path, capsys):
        path, out = tmp_path / "cat.pt", tmp_path / "dog.safetensors"
        path.write_bytes(torch_file(a1111(vectors(2, 768))))
        assert run("convert", path, out, "--layout", "kohya") == 0
        assert capsys.readouterr().out == f"{path} (a1111) -> {out} (kohya): clip_l 2 x 768\n"
        embedding = lab.read_embedding(out)
        assert torch.equal(embedding.vectors["clip_l"], vectors(2, 768))
        assert embedding.provenance.internal_name == "internal"
        assert embedding.provenance.step == 1419
        assert embedding.provenance.metadata["modelspec.title"] == "dog"

    def test_one_of_a_pair(self, tmp_path):
        for name in ("art", "art-neg"):
            (tmp_path / f"{name}.pt").write_bytes(torch_file(a1111(vectors(2, 768))))
        assert run("convert", tmp_path / "art.pt", tmp_path / "x.safetensors") == 0

    def test_an_sdxl_folder_becomes_one_file(self, tmp_path):
        folder = tmp_path / "toy"
        folder.mkdir()
        for suffix, width in (("", 768), ("_2", 1280)):
            (folder / f"learned_embeds{suffix}.safetensors").write_bytes(
                torch_file({"<toy>": vectors(2, width)})
            )
        assert run("convert", folder, tmp_path / "x.safetensors") == 0
        assert lab.read_embedding(tmp_path / "x.safetensors").provenance.layout == "sdxl"

    def test_a_layout_that_cannot_hold_it(self, tmp_path, capsys):
        tensors = {"clip_l": vectors(2, 768), "clip_g": vectors(2, 1280)}
        Embedding("x", tensors).save(tmp_path / "x.safetensors")
        assert run("convert", tmp_path / "x.safetensors", tmp_path / "y.pt", "--layout", "kohya") == BAD_INPUT
        assert "take sdxl" in capsys.readouterr().err
        assert not (tmp_path / "y.pt").exists()

    def test_for_another_model(self, tmp_path, capsys, sd1_folder, sdxl_folder):
        path, out = tmp_path / "cat.pt", tmp_path / "cat-xl.safetensors"
        path.write_bytes(torch_file(a1111(vectors(2, 32))))
        assert (
            run("convert", path, out, "--from-model", sd1_folder, "--to-model", sdxl_folder, "--no-refine")
            == 0
        )
        said = capsys.readouterr().out
        assert "nearest token" in said and "taken as they are, of the same text encoder: clip_l" in said
        made = lab.read_embedding(out)
        assert torch.equal(made.vectors["clip_l"], vectors(2, 32)) and made.widths["clip_g"] == 64
        assert made.provenance.base_model == str(sdxl_folder)
        assert made.provenance.metadata["lab.converted_from"] == lab.read_embedding(path).provenance.sha256
        assert said.rstrip().endswith(f"; {made.provenance.metadata['lab.converted_how']}")

    def test_what_does_not_fit_the_models(self, tmp_path, capsys, sd1_folder, sdxl_folder, monkeypatch):
        path, out = tmp_path / "cat.pt", tmp_path / "cat-xl.safetensors"
        path.write_bytes(torch_file(a1111(vectors(2, 768))))
        assert run("convert", path, out, "--from-model", sd1_folder, "--to-model", sdxl_folder) == BAD_INPUT
        assert "embedding cat-xl is 768 wide" in capsys.readouterr().err
        path.write_bytes(torch_file(a1111(vectors(2, 32))))
        both = ["--from-model", sd1_folder, "--to-model", sdxl_folder]
        monkeypatch.setattr("lab.models.load.load_options", pytest.fail)  # told before weights are read
        assert run("convert", path, out, *both, "--layout", "kohya") == BAD_INPUT
        assert "take sdxl" in capsys.readouterr().err
        assert run("convert", path, out, "--from-model", sd1_folder) == BAD_INPUT
        assert "give --from-model and --to-model" in capsys.readouterr().err
        assert run("convert", path, out, "--refine") == BAD_INPUT
        assert "refine: is for the way to another model" in capsys.readouterr().err
        assert run("convert", path, out, "--from-model", sd1_folder, "--to-model", "emojy") == BAD_INPUT
        assert not out.exists()


class TestMerge:
    @pytest.fixture
    def two(self, tmp_path):
        paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
        for seed, path in enumerate(paths):
            told = Provenance(base_model="some-model")
            Embedding(path.stem, {"clip": vectors(2, 8, seed)}, provenance=told).save(path)
        return paths

    def test_weighted(self, tmp_path, two, capsys):
        out = tmp_path / "c.safetensors"
        assert run("merge", *two, "--weights", 0.7, 0.3, "--out", out) == 0
        assert capsys.readouterr().out == f"{out}: 2 vectors; average: a * 0.7, b * 0.3\n"
        expected = 0.7 * vectors(2, 8, 0) + 0.3 * vectors(2, 8, 1)
        torch.testing.assert_close(lab.read_embedding(out).vectors["clip"], expected)
        assert lab.read_embedding(out).provenance.base_model == "some-model"

    def test_a_negative_weight(self, tmp_path, two):
        assert run("merge", *two, "--weights", 2, -1, "--out", tmp_path / "c.pt", "--layout", "kohya") == 0
        expected = 2 * vectors(2, 8, 0) - vectors(2, 8, 1)
        torch.testing.assert_close(lab.read_embedding(tmp_path / "c.pt").vectors["clip"], expected)

    def test_concat(self, tmp_path, two):
        assert run("merge", *two, "--method", "concat", "--out", tmp_path / "c.pt") == 0
        assert lab.read_embedding(tmp_path / "c.pt").count == 4

    def test_one_is_not_enough(self, tmp_path, two, capsys):
        assert run("merge", two[0], "--out", tmp_path / "c.pt") == BAD_INPUT
        assert "at least two" in capsys.readouterr().err


def test_inspect_says_what_a_bare_tensor_of_a_whole_context_is(tmp_path, capsys):
    torch.save(torch.randn(1, 77, 768), tmp_path / "published.bin")
    assert main(["inspect", str(tmp_path / "published.bin")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "prompt embeddings rather than vectors for a prompt; give the file by --embeds" in said
