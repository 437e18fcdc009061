"""The A1111 web UI's API, through webuiapi and as SillyTavern and Open WebUI use it."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep
from unittest.mock import ANY

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from starlette.testclient import TestClient
from webuiapi import WebUIApi

import lab
from lab.cli.rerun import rerun
from lab.embeddings.embedding import Embedding
from lab.images import comment_exif
from lab.runs.png import read_parameters
from lab.serve.a1111_lists import find_sampler
from lab.serve.app import create_app
from lab.serve.config import ServeConfig
from tests.serve.running import running

APPLE = "noto emoji of a (red:1.2) apple"
SMALL = {"width": 64, "height": 64, "steps": 2}
OWN = {"bare_names": True, "negative_prompt": ""}
"""How the web UI's texts are read: embeddings by their bare names, an empty negative prompt for none."""

SILLY_TAVERN = {
    "url": "http://127.0.0.1:7860",
    "auth": "user:secret",
    "prompt": "noto emoji of a cat, best quality",
    "negative_prompt": "lowres, worst quality",
    "sampler_name": "DDIM",
    "scheduler": "normal",
    "steps": 2,
    "cfg_scale": 7,
    "width": 64,
    "height": 64,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 2,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A served folder with an embedding for the model, one for another, and a file that is none."""
    folder = tmp_path_factory.mktemp("embeddings")
    torch.manual_seed(1)
    vectors = torch.randn(2, 256) * 0.4
    Embedding("cat-toy", {"clip": vectors}).save(folder / "cat-toy.safetensors")
    save_file({"emb_params": torch.randn(1, 768)}, folder / "easy.safetensors")
    (folder / "broken.pt").write_bytes(b"no embedding")
    return folder


@pytest.fixture(scope="module")
def served(emoji, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("a1111")
    return create_app(ServeConfig(out=out, embeddings=[folder], max_images=4, max_steps=60), emoji)


@pytest.fixture(scope="module")
def address(served):
    with running(served) as where:
        yield f"{where}/sdapi/v1"


@pytest.fixture(scope="module")
def api(address):
    return WebUIApi(baseurl=address, steps=2)


@pytest.fixture(scope="module")
def service(served):
    return served.state.service


def post(address, path, **fields):
    return httpx.post(f"{address}/{path}", json=fields, timeout=60)


def image(text):
    return Image.open(BytesIO(base64.b64decode(text)))


def equal(one, other):
    return np.array_equal(np.asarray(one.convert("RGB")), np.asarray(other.convert("RGB")))


def until(what):
    end = monotonic() + 20
    while not (found := what()):
        assert monotonic() < end
        sleep(0.01)
    return found


def test_images_are_those_of_lab_generate(api, emoji):
    made = api.txt2img(prompt=APPLE, seed=7, batch_size=2, width=64, height=64, cfg_scale=3)
    own = lab.generate(emoji, prompt=APPLE, seeds=[7, 8], scheduler="euler-a", guidance=3, **OWN, **SMALL)
    assert all(equal(one, other.image) for one, other in zip(made.images, own, strict=True))
    assert [json.loads(one.info["lab"])["seed"] for one in made.images] == made.info["all_seeds"] == [7, 8]
    assert made.info["infotexts"] == [one.info["parameters"] for one in made.images]
    assert made.info["sampler_name"] == made.parameters["sampler_name"] == "Euler a"
    assert made.info["all_prompts"] == [APPLE, APPLE]


def test_an_image_is_made_again_from_itself(api, tmp_path, capsys):
    file = tmp_path / "apple.png"
    made = api.txt2img(prompt=APPLE, seed=-1, sampler_name="DDIM", width=64, height=64)
    file.write_bytes(base64.b64decode(made.json["images"][0]))
    rerun(file)
    assert "the same, pixel for pixel" in capsys.readouterr().out
    again = api.txt2img(prompt=APPLE, seed=made.info["seed"], sampler_name="DDIM", width=64, height=64)
    assert equal(made.image, again.image)


def test_image_to_image_is_that_of_lab_generate(api, emoji, tmp_path):
    start = Image.fromarray(np.arange(48 * 32 * 3, dtype=np.uint8).reshape(32, 48, 3))
    asked = {"prompt": APPLE, "seed": 7, "width": 64, "height": 64, "steps": 4, "denoising_strength": 0.5}
    made = [api.img2img(images=[start], resize_mode=mode, **asked).image for mode in (0, 1)]
    start.save(tmp_path / "cut.png")
    start.resize((64, 64), Image.Resampling.LANCZOS).save(tmp_path / "stretched.png")
    for name, one in zip(("stretched", "cut"), made, strict=True):
        own = lab.generate(
            emoji,
            prompt=APPLE,
            seeds=7,
            scheduler="euler-a",
            init_image=tmp_path / f"{name}.png",
            strength=0.5,
            guidance=7,
            **OWN,
            **SMALL | {"steps": 4},
        )
        assert equal(one, own[0].image)


def test_what_silly_tavern_sends(address, service):
    assert httpx.get(f"{address}/options").json()["sd_model_checkpoint"].startswith("emoji [")
    lists = ("sd-models", "samplers", "schedulers", "upscalers", "latent-upscale-modes", "sd-vae")
    models, samplers, schedulers, *empty = (httpx.get(f"{address}/{name}").json() for name in lists)
    assert "DDIM" in [one["name"] for one in samplers] and schedulers[0]["name"] == "automatic"
    assert empty == [[], [], []]
    assert post(address, "options", sd_model_checkpoint=models[0]["title"]).status_code == 200
    progress = httpx.get(f"{address}/progress").json()
    assert progress["progress"] == 0.0 and progress["state"]["job_count"] == 0
    answer = post(address, "txt2img", **SILLY_TAVERN).json()
    record = json.loads(image(answer["images"][0]).info["lab"])
    assert record["scheduler"] == "ddim" and record["clip_skip"] == 0 and not record["karras"]
    assert "secret" not in json.dumps(answer)
    saved = list((service.config.out / "saved").glob("*.png"))
    assert len(saved) == 1 and saved[0].read_bytes() == base64.b64decode(answer["images"][0])
    assert httpx.post(f"{address}/interrupt").json() == {}


def test_what_open_webui_sends(address):
    options = httpx.get(f"{address}/options").json()
    (model,) = httpx.get(f"{address}/sd-models").json()
    assert options["sd_model_checkpoint"] == model["title"] and model["model_name"] == "emoji"
    assert post(address, "options", **options | {"sd_model_checkpoint": model["title"]}).json() is None
    sent = {"prompt": "noto emoji of a cat", "batch_size": 2, "negative_prompt": "blurry", **SMALL}
    answer = post(address, "txt2img", **sent).json()
    assert len(answer["images"]) == 2 and json.loads(answer["info"])["negative_prompt"] == "blurry"
    assert json.loads(answer["info"])["sampler_name"] == "DDIM"  # the model's own
    small = post(address, "txt2img", prompt="a", steps=1).json()
    assert image(small["images"][0]).size == (128, 128)  # likewise


def test_every_list_is_what_webuiapi_reads(api):
    assert api.util_get_model_names() == [api.util_get_current_model()]
    assert "Euler a" in api.util_get_sampler_names() and "PLMS" not in api.util_get_sampler_names()
    assert api.util_get_scheduler_names() == ["automatic"]  # zero terminal SNR has no Karras levels
    lists = "upscalers latent_upscale_modes loras sd_vae hypernetworks face_restorers realesrgan_models"
    for name in (*lists.split(), "prompt_styles", "artists", "artist_categories"):
        assert getattr(api, f"get_{name}")() == []
    assert api.get_scripts() == {"txt2img": [], "img2img": []}
    assert api.get_memory()["ram"]["used"] > 0 and api.get_cmd_flags()["api"]
    assert api.refresh_checkpoints() is None and api.skip() is None
    api.util_set_model("emoji")
    api.util_wait_for_ready(check_interval=0.1)


def test_an_image_is_made_again_from_another_folder(emoji, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    config = ServeConfig(out=Path("out"), embeddings=[Path(folder.name)], page=False)
    there = TestClient(create_app(config, emoji), "http://127.0.0.1")
    text = {"prompt": "[<cat-toy>:a:0]", "negative_prompt": "<cat-toy>", "cfg_scale": 1}
    start = there.post("/sdapi/v1/txt2img", json=SMALL | text | {"steps": 1}).json()["images"]
    made = there.post("/sdapi/v1/img2img", json=SMALL | text | {"init_images": start}).json()["images"]
    (tmp_path / "again.png").write_bytes(base64.b64decode(made[0]))
    monkeypatch.chdir(tmp_path)
    rerun(Path("again.png"))
    assert "the same, pixel for pixel" in capsys.readouterr().out


def test_embeddings_are_listed_and_found_by_their_bare_names(api, address, folder, tmp_path, capsys):
    listed = api.get_embeddings()
    assert listed["loaded"] == {
        "cat-toy": {
            "step": None,
            "sd_checkpoint": None,
            "sd_checkpoint_name": None,
            "shape": 256,
            "vectors": 2,
        }
    }
    assert listed["skipped"].keys() == {"broken", "easy"}
    assert "768" in listed["skipped"]["easy"]["reason"] and listed["skipped"]["easy"]["vectors"] == 1
    assert "broken.pt" in listed["skipped"]["broken"]["reason"]
    made = api.txt2img(prompt="noto emoji of a cat-toy", sampler_name="DDIM", seed=3, width=64, height=64)
    (applied,) = json.loads(made.image.info["lab"])["applied"]
    assert applied["name"] == "cat-toy" and "TI hashes: " in made.info["infotexts"][0]
    (tmp_path / "cat.png").write_bytes(base64.b64decode(made.json["images"][0]))
    rerun(tmp_path / "cat.png")
    assert "the same, pixel for pixel" in capsys.readouterr().out
    (folder / "other.safetensors").write_bytes((folder / "cat-toy.safetensors").read_bytes())
    assert post(address, "refresh-embeddings").status_code == 200
    assert api.get_embeddings()["loaded"].keys() == {"cat-toy", "other"}


def test_clip_skip_counts_from_one_everywhere(api, address):
    def skipped(**fields):
        answer = post(
            address, "txt2img", prompt="a", send_images=False, **SMALL | {"steps": 1}, **fields
        ).json()
        assert answer["images"] == []
        return json.loads(answer["info"])["clip_skip"]

    assert skipped() == 1 and skipped(clip_skip=2) == 2
    assert skipped(override_settings={"CLIP_stop_at_last_layers": 2}) == 2
    api.set_options({"CLIP_stop_at_last_layers": 2})
    assert api.get_options()["CLIP_stop_at_last_layers"] == skipped() == 2
    assert skipped(clip_skip=1, override_settings_restore_afterwards=False) == 1
    assert (
        skipped(override_settings={"CLIP_stop_at_last_layers": 1}, override_settings_restore_afterwards=False)
        == skipped()
        == 1
    )


@pytest.mark.parametrize(
    ("proxy", "believed"), [("127.0.0.1", True), ("10.1.2.3", True), ("10.2.0.1", False)]
)
def test_clients_behind_a_proxy_that_is_believed_are_told_apart(emoji, tmp_path, proxy, believed):
    config = ServeConfig(out=tmp_path, allow_proxy=["10.1.0.0/16"], page=False)
    behind = TestClient(create_app(config, emoji), "http://127.0.0.1", client=(proxy, 1))
    asked = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in (1, 2)]
    behind.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2}, headers=asked[0])
    told = [behind.get("/sdapi/v1/options", headers=each).json() for each in asked]
    assert [each["CLIP_stop_at_last_layers"] for each in told] == [2, 1 if believed else 2]


@pytest.mark.parametrize(
    ("sampler", "scheduler", "meant"),
    [
        (None, None, (None, False)),
        ("", "Automatic", (None, False)),
        ("Euler a", "normal", ("euler-a", False)),
        ("euler", "Karras", ("euler", True)),
        ("DPM++ 2M SDE Karras", None, ("dpm++2m-sde", True)),
        ("DPM++ 2M Karras", "automatic", ("dpm++2m", True)),
        ("dpm++2m", "uniform", ("dpm++2m", False)),
    ],
)
def test_samplers_and_schedulers_have_the_web_uis_names(sampler, scheduler, meant):
    assert find_sampler(sampler, scheduler) == meant


def test_an_image_tells_what_made_it(api, address):
    made = api.txt2img(prompt=f"{APPLE},\ntwo lines", negative_prompt="a: b", width=64, height=64)
    told = api.png_info(made.image)
    assert told.info == made.image.info["parameters"]
    assert json.loads(told.json["items"]["lab"])["seed"] == made.info["seed"]
    parts = told.parameters
    assert parts["Prompt"] == f"{APPLE},\ntwo lines" and parts["Negative prompt"] == "a: b"
    assert (
        parts["Sampler"] == "Euler a" and parts["Seed"] == str(made.info["seed"]) and parts["Size-1"] == "64"
    )
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", exif=comment_exif(made.image.info["parameters"]))
    told = post(address, "png-info", image=base64.b64encode(file.getvalue()).decode()).json()
    assert told == {"info": made.image.info["parameters"], "items": {}, "parameters": parts}
    assert api.png_info(Image.new("RGB", (8, 8))).json == {
        "info": "",
        "items": {},
        "parameters": {"Prompt": "", "Negative prompt": ""},
    }


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a\nb", {"Prompt": "a\nb", "Negative prompt": ""}),
        ("Steps: 2", {"Prompt": "Steps: 2", "Negative prompt": ""}),
        ("Steps: 2, Seed: 1, Size: 8x8," + "a" * 10_000, {"Prompt": ANY, "Negative prompt": ""}),
        (
            'Negative prompt: x\ny\nSteps: 2, Size: 8x9, TI hashes: "a: 1, b: 2", Odd: "x',
            {
                "Prompt": "",
                "Negative prompt": "x\ny",
                "Steps": "2",
                "Size-1": "8",
                "Size-2": "9",
                "TI hashes": "a: 1, b: 2",
                "Odd": '"x',
            },
        ),
    ],
)
def test_parameters_are_read_as_the_web_ui_reads_them(text, parts):
    assert read_parameters(text) == parts


def seen(progress):
    return progress["current_image"] and progress["state"]["sampling_step"] and progress


@pytest.fixture
def slow(service, monkeypatch):
    """A request of three iterations that takes its time."""
    from lab.serve import service as service_module

    run_jobs = service_module.run_jobs

    def slowly(bundle, jobs, observer):
        def watch(step):
            observer(step)
            sleep(0.02)

        return run_jobs(bundle, jobs, observer=watch)

    monkeypatch.setattr(service_module, "run_jobs", slowly)
    monkeypatch.setattr(service_module, "automatic_batch", lambda *_: 1)


@pytest.mark.parametrize(("how", "left"), [("interrupt", 0), ("skip", 2)])
def test_images_under_way_are_watched_and_stopped(api, service, slow, how, left):
    with ThreadPoolExecutor(1) as threads:
        steps = 50 if how == "interrupt" else 8
        asked = threads.submit(api.txt2img, prompt="a", n_iter=3, steps=steps, width=64, height=64)
        told = until(lambda: seen(api.get_progress()))
        assert 0 < told["progress"] < 1 and told["eta_relative"] > 0 and told["textinfo"] == "0 of 3 images"
        state = told["state"]
        assert state["job_count"] == 3 and state["job_no"] == 0 and 0 < state["sampling_step"] < steps
        assert image(told["current_image"]).size == (64, 64)
        other = {
            "X-Forwarded-For": "192.0.2.1"
        }  # what another machine asked for is not its to see or to stop
        assert httpx.get(f"{api.baseurl}/progress", headers=other).json()["state"]["job_count"] == 0
        httpx.post(f"{api.baseurl}/interrupt", headers=other)
        getattr(api, how)()
        made = asked.result(30)
    assert len(made.images) == len(made.info["all_seeds"]) == left
    until(lambda: not service.pictures.orders)
    assert api.get_progress()["progress"] == 0


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"enable_hr": True}, 501, "enable_hr: there is no second pass"),
        ({"restore_faces": True}, 501, "restore_faces"),
        ({"styles": ["anime"]}, 501, "styles"),
        ({"subseed_strength": 0.5}, 501, "subseed_strength"),
        ({"s_noise": 0.9}, 501, "s_noise"),
        ({"eta": 0.5}, 501, "eta: 0.5"),
        ({"sampler_name": "Euler a", "eta": 0}, 501, "eta: 0"),
        ({"script_name": "xyz"}, 501, "script_name"),
        ({"alwayson_scripts": {"ControlNet": {"args": [{"model": "x"}]}}}, 501, "ControlNet"),
        ({"override_settings": {"sd_vae": "anime.pt"}}, 501, "sd_vae"),
        ({"override_settings": {"eta_noise_seed_delta": 31337}}, 501, "eta_noise_seed_delta: is 0"),
        ({"override_settings": {"sd_hypernetwork": "x"}}, 501, "no such option"),
        ({"override_settings": {"sd_model_checkpoint": "v1-5"}}, 404, "model 'v1-5' not found; emoji ["),
        ({"override_settings": {"CLIP_stop_at_last_layers": 0}}, 422, "CLIP_stop_at_last_layers"),
        ({"sampler_name": "DPM2"}, 404, "Sampler not found: 'DPM2'; nearest: DPM++ 2M"),
        ({"scheduler": "exponential"}, 404, "Scheduler not found"),
        ({"sampler_index": "DPM++ 2M Karras"}, 422, "Karras sigmas"),
        ({"sampler_name": "PLMS"}, 422, "zero terminal SNR"),
        ({"sd_vae": "x"}, 422, "sd_vae: is an option; send it among the override_settings"),
        ({"prompt": "an easy cup"}, 422, "embedding easy is 768 wide"),
        ({"prompt": "a broken cup"}, 422, "broken.pt"),
        ({"step": 3}, 422, "step: there is no such field; nearest: steps"),
        ({"steps": "many"}, 422, "steps: "),
        ({"steps": 61}, 422, "steps: 61 are over 60"),
        ({"batch_size": 3, "n_iter": 2}, 422, "6 images are over 4"),
        ({"width": 100}, 422, "width: 100 is not a multiple"),
        ({"prompt": "<lora:x:1>"}, 422, "a LoRA"),
        ({"prompt": "a \ud800"}, 422, "half a character"),
        ({"hr_prompt": "\ud800"}, 422, "half a character"),
        ({"seed": 2**64 - 1, "batch_size": 2}, 422, "beyond the largest"),
        ({"init_image": "/etc/passwd"}, 422, "no such field"),
    ],
)
def test_what_cannot_be_done_is_said_as_the_web_ui_says_it(address, fields, status, said):
    body = json.dumps({"prompt": "a", **SMALL, **fields})
    answer = httpx.post(f"{address}/txt2img", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status and said in answer.json()["detail"]
    assert answer.json().keys() == {"error", "detail", "body", "errors"}


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({}, 404, "Init image not found"),
        ({"init_images": ["/etc/passwd"]}, 422, "init_images"),
        ({"init_images": ["http://127.0.0.1/x.png"]}, 422, "fetches nothing"),
        ({"init_images": ["AAAA", "AAAA"]}, 501, "one is taken"),
        ({"init_images": ["AAAA"], "mask": "AAAA"}, 501, "inpainting"),
        ({"init_images": ["AAAA"], "resize_mode": 2}, 501, "resize_mode"),
    ],
)
def test_images_that_cannot_be_used_are_refused(address, fields, status, said):
    answer = post(address, "img2img", prompt="a", **fields)
    assert answer.status_code == status and said in answer.json()["detail"]


def test_what_is_not_here_says_so(api, address):
    dot = Image.new("RGB", (8, 8))
    for call in (api.extra_single_image, api.interrogate, lambda dot: api.extra_batch_images([dot])):
        with pytest.raises(RuntimeError, match="501"):
            call(dot)
    answer = httpx.get(f"{address.removesuffix('/sdapi/v1')}/controlnet/model_list")
    assert answer.status_code == 501 and "ControlNets are not served" in answer.json()["detail"]


def test_fields_that_ask_for_nothing_are_taken(address):
    nothing = {
        "enable_hr": False,
        "styles": [],
        "mask": None,
        "seed": None,
        "sampler_name": None,
        "subseed": 5,
        "seed_resize_from_h": -1,
        "s_noise": 1.0,
        "s_tmax": 0,
        "eta": 1.0,
        "override_settings": {"CLIP_stop_at_last_layers": None},
        "hr_upscaler": "Latent",
        "alwayson_scripts": {"ADetailer": {"args": [False]}, "ControlNet": {"args": []}},
        "of_another_program": "",
    }
    answer = post(address, "txt2img", prompt="", **SMALL, **nothing)
    assert answer.status_code == 200 and answer.json()["parameters"]["steps"] == 2


def test_basic_authentication_is_the_key(emoji, tmp_path):
    with running(create_app(ServeConfig(out=tmp_path, api_key="secret"), emoji)) as where:
        api = WebUIApi(baseurl=f"{where}/sdapi/v1", username="anybody", password="secret")
        assert api.get_options()["sd_vae"] == "Automatic"
        assert httpx.get(f"{where}/sdapi/v1/options").status_code == 401
