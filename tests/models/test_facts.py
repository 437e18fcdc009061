"""What is known of a model before its weights are read, and what is refused by it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from lab.embeddings.embedding import Embedding
from lab.embeddings.facts import check_fits
from lab.errors import InputError
from lab.models.attention import cross_attention_layers
from lab.models.config import ModelOptions
from lab.models.facts import CONFIGS, check_clip_skip, read_facts
from lab.models.family import FAMILIES
from lab.models.load import load
from tests.paths import REPOSITORY


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "emoji"])
def test_facts_are_the_loaded_models(family, request):
    bundle = request.getfixturevalue(family)
    facts, loaded = read_facts(ModelOptions(model=bundle.source)), bundle.facts
    for name in ("source", "family", "root", "widths", "size_multiple", "defaults"):
        assert getattr(facts, name) == getattr(loaded, name)
    assert facts.scheduler_config == dict(loaded.scheduler_config)


def test_facts_need_no_torch(sd1_folder):
    script = (
        "import sys; from lab.models.facts import read_facts; from lab.models.config import ModelOptions; "
        f"read_facts(ModelOptions(model={str(sd1_folder)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "False", done.stderr


def test_another_vae_decides_over_sizes(sd1, sd2):
    assert read_facts(ModelOptions(model=sd1.source)).size_multiple == 8
    assert read_facts(ModelOptions(model=sd1.source, vae=sd2.source)).size_multiple == 4


def test_a_lora_for_other_prompt_embeddings_is_refused_by_its_header(sd1_folder, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"lora_unet_down_blocks_1_attn2_to_k.lora_down.weight": torch.zeros(2, 1024)}, path)
    with pytest.raises(InputError, match=r"1024 wide, and .* 32 wide; use one made for SD 1\.x"):
        load(sd1_folder, device="cpu", lora=[str(path)])


def test_embeddings_and_clip_skips_that_do_not_fit_are_refused(sdxl, sd1):
    def check(**widths):
        check_fits(Embedding("toy", {key: torch.ones(1, width) for key, width in widths.items()}), sdxl.facts)

    with pytest.raises(InputError, match=r"toy is 768 wide \(SD 1.x\), the model .* takes 32 \+ 64 wide"):
        check(clip_l=768)
    check(clip_l=32, clip_g=64)
    with pytest.raises(InputError, match="clip skip 3: the text encoder has 3 layers; use 0 to 2"):
        check_clip_skip(3, sd1.facts)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "emoji"])
def test_configs_tell_how_many_layers_read_the_text(family, request):
    bundle = request.getfixturevalue(family)
    assert bundle.facts.cross_attention_layers == len(cross_attention_layers(bundle.unet))


def test_published_unets_have_so_many_layers_that_read_the_text(sd1):
    configs = {
        family: json.loads((CONFIGS / family / "unet" / "config.json").read_text()) for family in FAMILIES
    }
    found = {family: replace(sd1.facts, unet=unet).cross_attention_layers for family, unet in configs.items()}
    assert found == {"sd1": 16, "sd2": 16, "sdxl": 70}


def test_an_unknown_scheduler_of_a_model_folder_is_refused(sd1_folder, tmp_path):
    folder = shutil.copytree(sd1_folder, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"scheduler": "eulr"}))
    with pytest.raises(InputError, match="scheduler: unknown scheduler 'eulr'; nearest: euler"):
        read_facts(ModelOptions(model=str(folder)))


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block"),
        ("unet/config.json", {"sample_size": 1.5}, "sample_size"),
        ("vae/config.json", {"block_out_channels": None}, "block_out_channels"),
        ("vae/config.json", {"scaling_factor": "x"}, "scaling_factor"),
        ("vae/config.json", {"scaling_factor": float("nan")}, "scaling_factor: input should be"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**5}, "num_hidden_layers"),
        (
            "scheduler/scheduler_config.json",
            {"beta_start": "x"},
            "beta_start: input should be a valid number",
        ),
        ("scheduler/scheduler_config.json", {"_class_name": []}, "_class_name"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "EDMEulerScheduler"},
            "EDMEulerScheduler is for noise",
        ),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "prediction_type: input"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.5]}, "trained_betas are 1, not 1000"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 1}, "num_train_timesteps"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "x"}, "beta_schedule"),
        ("scheduler/scheduler_config.json", {"steps_offset": 10**9}, "steps_offset"),
        ("unet/config.json", {"conv_in_kernel": 10**5}, "conv_in_kernel"),
        ("text_encoder/config.json", {"hidden_act": "x"}, "hidden_act"),
        ("generation_config.json", {"guidance": float("inf")}, "guidance"),
    ],
)
def test_a_config_with_another_value_is_one_line_with_file_and_key(sd1_folder, tmp_path, file, change, said):
    folder = shutil.copytree(sd1_folder, tmp_path / "model")
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | change))
    with pytest.raises(InputError, match=rf"{file}: .*{said}"):
        read_facts(ModelOptions(model=str(folder)))
    path.write_text('{"a":' * 100_000)
    with pytest.raises(InputError, match=rf"{file}: not valid JSON"):
        read_facts(ModelOptions(model=str(folder)))


def test_a_token_that_the_text_encoder_does_not_know_is_named(sd1_folder, tmp_path):
    folder = shutil.copytree(sd1_folder, tmp_path / "model")
    path = folder / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "<nobody>"}))
    with pytest.raises(InputError, match=r"tokenizer: its pad_token '<nobody>' is none of the \d+ tokens"):
        load(str(folder), device="cpu")
