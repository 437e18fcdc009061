from safetensors.torch import load_file, save_file

from lab.cli.main import main
from tests.ldm import write_checkpoint


def test_without_a_source_it_lists_what_is_bundled(capsys):
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert "emoji" in said
    assert "v_prediction" in said


def test_it_says_what_a_folder_is(sdxl_folder, capsys):
    assert main(["models", str(sdxl_folder)]) == 0
    said = capsys.readouterr().out
    assert "Stable Diffusion XL" in said
    assert "clip_g (64 wide)" in said
    assert "unet 381,620" in said


def test_it_says_what_a_file_lacks_and_by_what_it_was_recognised(sd1, tmp_path, capsys):
    path = write_checkpoint(sd1, tmp_path / "x [v6] [red].safetensors")
    save_file({n: t for n, t in load_file(path).items() if not n.startswith("first_stage_model.")}, path)
    assert main(["models", f"file:{path}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Stable Diffusion 1.x (cond_stage_model.transformer." in said
    assert "lacks a VAE; give one by --vae" in said
    assert said.count("x [v6] [red].safetensors") == 2  # brackets are no markup


def test_what_is_no_model_is_one_line(tmp_path, capsys):
    assert main(["models", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
