"""Jobs over HTTP: what they make, what becomes of them, and what they may not do."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from threading import Event
from time import monotonic, sleep

import httpx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import lab
from lab.files import atomic
from lab.runs.png import read_record
from lab.sample.engine import AUTOMATIC_BATCH
from lab.serve.config import ServeConfig
from lab.serve.image_sets import ImageSets, tidy_names
from lab.serve.job_kinds import JOB_KINDS, GenerateJob, TrainJob
from lab.serve.jobs import Jobs
from lab.serve.lane import BusyError
from lab.serve.service import Service
from tests.paths import REPOSITORY

NEGATIVE = REPOSITORY / "lab/assets/emoji/negative.safetensors"
QUICK = {"prompt": ["a red apple", "a cat"], "seeds": "1-2", "steps": 2}


@pytest.fixture(scope="module")
def http(address):
    with httpx.Client(base_url=f"{address}/lab/v1", timeout=60) as client:
        yield client


def ended(http, name):
    """The job as the last event of its stream has it."""
    with http.stream("GET", f"/jobs/{name}/events") as stream:
        told = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert len(told) > 1 or told[-1]["state"] == "done"
    return told[-1]


def start(http, kind, **settings):
    answer = http.post(f"/jobs/{kind}", json=settings)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def test_images_of_a_job_are_those_of_lab_generate(http, tmp_path, emoji):
    name = start(http, "generate", **QUICK, negative_prompt="<negative>")
    job = ended(http, name)
    assert job["state"] == "done" and job["progress"] == {"done": 4, "total": 4, "things": "images"}
    files = [file["name"] for file in http.get(f"/jobs/{name}/files").json()["files"]]
    assert {"config.yaml", "index.html", "contact-sheet.png"} <= set(files)
    image = "00003-seed2-a-cat.png"
    (tmp_path / "image.png").write_bytes(http.get(f"/jobs/{name}/files/{image}").content)
    own = lab.generate(emoji, **QUICK, negative_prompt="<negative>", embeddings=NEGATIVE)[3]
    assert read_record(tmp_path / "image.png") == own.record
    assert name in [job["id"] for job in http.get("/jobs").json()["jobs"]]


def test_a_comparison_gives_its_report(http):
    axes = {"embedding": [None, "negative"]}
    name = start(
        http,
        "compare",
        prompts=["a red apple", "a cat"],
        seeds="1",
        steps=1,
        axes=axes,
        embedding_side="negative",
        metrics=["clip_text"],
    )
    job = ended(http, name)
    assert job["state"] == "done", job
    assert "clip_text" in http.get(f"/jobs/{name}/files/effects.csv").text
    assert http.get(f"/jobs/{name}/files/report.html").headers["content-type"].startswith("text/html")


def png(colour):
    file = BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()


def test_what_a_training_learned_can_be_named_at_once(http, address):
    files = [("files", ("one.png", png("red"))), ("files", ("one.txt", b"a thing <my-toy>"))]
    files.append(("files", ("two.png", png("green"))))
    images = http.post("/images", files=files).json()["id"]
    settings = {"resolution": 64, "preview_every": 0, "batch_size": 1, "evaluate_on": 1}
    job = ended(http, start(http, "train", name="my-toy", images=images, steps=2, **settings))
    assert job["state"] == "done" and job["progress"]["step"] == 2, job
    asked = {"prompt": "a <my-toy>", "steps": 1}
    made = httpx.post(f"{address}/v1/images/generations", json=asked, timeout=60).json()
    assert [use["name"] for use in made["data"][0]["record"]["applied"]] == ["my-toy"]


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("generate", {"prompt": "a", "out": "/tmp/x"}, "out"),
        ("generate", {"prompt": "a", "prompt_file": "/etc/passwd"}, "prompt_file"),
        ("generate", {"prompt": "a", "model": "hub:a/b"}, "model"),
        ("generate", {"prompt": "a", "seeds": "1-10001"}, "over 10,000 in a job"),
        ("generate", {"prompt": "a", "steps": 31}, "this server's most"),
        ("generate", {"prompt": "<cat-toy>"}, "no embedding of that name"),
        ("generate", {}, "there is none"),
        ("compare", {"prompts": ["a"], "axes": {"model": ["emoji", "/etc"]}}, "opens no files"),
        ("compare", {"prompts": ["a"], "axes": {"embedding": [None, "/etc/passwd"]}}, "is not served"),
        ("compare", {"prompts": ["a"], "axes": {"embedding": "none,README.md"}}, "is not served"),
        ("compare", {"prompts": ["a"], "axes": {"steps": [1, 1000]}}, "this server's most"),
        ("compare", {"prompts": ["a"], "axes": {"guidance": "1-9 [9000]"}}, "over 10,000 in a job"),
        ("compare", {"prompts": ["a"]}, "there is none"),
        (
            "compare",
            {"prompts": ["a"], "axes": {"steps": [1, 2]}, "metrics": ["pickscore"]},
            "cannot run here",
        ),
        ("train", {"name": "x", "images": "../../etc"}, "there is no set"),
        ("train", {"name": "x", "images": "0" * 32}, "there is no set"),
        (
            "train",
            {"name": "x", "objective": "text", "text": "a", "init": "file:/etc/passwd"},
            "opens no files",
        ),
        ("train", {"name": "x", "objective": "text", "text": "a", "resume": "/tmp"}, "resume"),
        ("train", {"name": "x", "objective": "text", "text": "a", "preview_seeds": "1-99"}, "99 images"),
        (
            "train",
            {"name": "x", "objective": "text", "text": "a", "preview_prompt": "<x>" + " AND a" * 99},
            "AND joins 100 parts",
        ),
        (
            "train",
            {"name": "x", "objective": "text", "text": "a", "preview_negative": "a" * 10_001},
            "over 10,000",
        ),
        ("train", {"objective": "text", "text": "a"}, "name"),
        (
            "train",
            {"name": "negative", "objective": "text", "text": "a"},
            "is an embedding that the server has",
        ),
        ("train", {"name": "x"}, "images"),
    ],
)
def test_what_a_job_may_not_do_is_said_at_once(http, kind, settings, said):
    before = http.get("/jobs").json()
    answer = http.post(f"/jobs/{kind}", json=settings)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"], answer.text
    assert http.get("/jobs").json() == before


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("../up.png", png("red"), "no name for a file"),
        ("a.png", b"no image", "not an image"),
        ("a.pt", b"", "neither an image"),
        ("a.txt", b"words alone", "there is none"),
    ],
)
def test_images_that_cannot_be_learned_from_are_refused(http, name, data, said):
    answer = http.post("/images", files=[("files", (name, data))])
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_a_set_grows_and_its_copy_does_not(tmp_path):
    sets = ImageSets(tmp_path)
    name = sets.keep({"one.png": png("red")})
    copy = sets.copy(name)
    assert sets.keep({"two.png": png("green")}, name) == name
    sets.caption(name, "two.png", " a {name}\n")
    assert (sets.find(name) / "two.txt").read_text() == "a {name}\n"
    sets.caption(name, "two.png", " ")
    assert sorted(path.name for path in sets.find(name).iterdir()) == ["one.png", "two.png"]
    assert [path.name for path in sets.find(copy).iterdir()] == ["one.png"]
    for image in ("../one.png", "three.png", "two.txt"):
        with pytest.raises(lab.InputError, match="among them"):
            sets.caption(name, image, "a cat")


def test_an_image_is_taken_out_of_its_set_with_what_belongs_to_it(tmp_path):
    sets = ImageSets(tmp_path)
    files = {
        "one.png": png("red"),
        "one.txt": b"a {name}",
        "one.mask.png": png("white"),
        "two.png": png("green"),
    }
    name = sets.keep(files)
    with pytest.raises(lab.InputError, match="among them"):
        sets.take_out(name, "../one.png")
    assert sets.take_out(name, "one.png") == 1
    assert [path.name for path in sets.find(name).iterdir()] == ["two.png"]
    more = {
        "two_mask.png": png("white"),
        "two.webp": png("blue"),
        "two.txt": b"a {name}",
        "a.mask.png": png("white"),
    }
    sets.keep(more, name)
    assert sets.take_out(name, "two.png") == 1
    assert {path.name for path in sets.find(name).iterdir()} == more.keys(), "the other image has them too"
    assert sets.take_out(name, "two.webp") == 0
    assert [path.name for path in sets.find(name).iterdir()] == ["a.mask.png"]
    sets.remove(name)
    sets.remove(name)


def test_names_of_people_s_files_become_names_of_a_set():
    names = ["my cat (1).JPG", "my cat (1).txt", "my cat 1.png", "???.png", "b.mask.png", "b.png"]
    tidy = ["my-cat-1.JPG", "my-cat-1.txt", "my-cat-1-2.png", "image.png", "b.mask.png", "b.png"]
    assert list(tidy_names(names).values()) == tidy


def test_unknown_jobs_and_files_are_not_found(http):
    name = start(http, "generate", prompt="a", steps=1)
    ended(http, name)
    for path in (
        "/jobs/nothing",
        "/jobs/..%2f..",
        f"/jobs/{name}/files/../job.json",
        f"/jobs/{name}/files/.lock",
    ):
        assert http.get(path).status_code == 404
    assert http.post(f"/jobs/{name}/resume").status_code == 400  # it is done


def until(what):
    end = monotonic() + 30
    while not what():
        assert monotonic() < end
        sleep(0.01)


@pytest.fixture
def jobs(emoji, tmp_path, monkeypatch):
    """A server's jobs, without a server, and as another process would find them."""
    opened = []

    def begin(**settings):
        opened.append(Jobs(Service(emoji, ServeConfig(out=tmp_path, **settings))))
        return opened[-1]

    monkeypatch.setitem(AUTOMATIC_BATCH, "cpu", 2 * 16 * 16)  # two images
    yield begin
    for each in opened:
        each.close()


def ask(jobs, **settings):
    return jobs.add("somebody", "generate", GenerateJob.build(QUICK | settings))


def learned_at_once(place, *_):
    place.folder.mkdir(parents=True)
    shutil.copy(NEGATIVE, place.folder / "toy.safetensors")


def test_a_job_is_removed_with_what_it_alone_has(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr("lab.serve.image_sets.UNUSED", -1.0)
    monkeypatch.setitem(JOB_KINDS, "train", replace(JOB_KINDS["train"], run=learned_at_once))
    opened = jobs()
    lost, shared = (opened.keep_images({"a.png": png(colour)}) for colour in ("red", "green"))
    asked = TrainJob(name="toy", images=shared, resolution=64)
    first, other = (opened.add("somebody", "train", asked) for _ in range(2))
    until(lambda: first.ended and other.ended)
    opened.keep_images({"a.png": png("blue")})
    sets = tmp_path / "sets"
    assert not (sets / lost).exists() and (sets / shared).is_dir()
    opened.remove(first)
    assert not first.folder.exists() and (sets / shared).is_dir() and opened.all() == [other]
    assert opened._service.library["toy"].provenance.path.is_relative_to(other.folder)
    opened.remove(other)
    assert not (sets / shared).exists() and "toy" not in opened._service.library
    opened.close()
    assert not jobs().all()


def test_a_job_is_removed_over_http_when_it_has_ended(http, monkeypatch):
    go = Event()
    monkeypatch.setitem(JOB_KINDS, "generate", replace(JOB_KINDS["generate"], run=lambda *_: go.wait(20)))
    name = start(http, "generate", **QUICK)
    assert http.delete(f"/jobs/{name}").status_code == 400
    go.set()
    ended(http, name)
    assert http.delete(f"/jobs/{name}").status_code == 204
    assert http.get(f"/jobs/{name}").status_code == http.delete(f"/jobs/{name}").status_code == 404


def test_a_cancelled_job_goes_on_from_what_it_has_made(jobs, denoised):
    opened = jobs()
    job = ask(opened, seeds="1-5")
    until(lambda: any(file.endswith(".png") for file in job.files()))
    opened.cancel(job)
    assert job.record.state == "cancelled" and job.ended
    until(lambda: job.order is None)
    made = sum(file.endswith(".png") for file in job.files())
    assert 0 < made < 10
    denoised.clear()
    opened.resume(job, "somebody else")
    until(lambda: job.ended)
    assert job.record.state == "done" and len(denoised) == 10 - made


def test_what_a_job_says_tells_no_place_of_the_server_s_disk(jobs, tmp_path):
    opened = jobs()
    job = ask(opened, seeds="1-5")
    until(lambda: job.files())
    opened.cancel(job)
    until(lambda: job.order is None)
    (job.run / "config.yaml").write_text("steps: [")
    opened.resume(job, "somebody")
    until(lambda: job.ended and job.order is None)
    assert job.record.state == "failed" and "config.yaml" in job.record.message
    assert str(tmp_path) not in str(job.describe())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{out}/jobs/0af/run/results.csv: not a table", "results.csv: not a table"),
        ("2 images of {out}/sets/0af; {out}/sets/0af/2.png: no", "2 images of your set; 2.png: no"),
        ("{out}/saved/a b.png: full", "saved/a b.png: full"),
        ("{own}/neg.pt: damaged, as is {own}/other.pt", "neg.pt: damaged, as is other.pt"),
        ("/tmp/upload/a b.pt: no embedding", "a b.pt: no embedding"),
        ("a prompt about {out}er space and /etc/passwd", "a prompt about {out}er space and /etc/passwd"),
    ],
)
@pytest.mark.parametrize("out", ["serve", "/srv/serve"])
def test_messages_call_files_by_the_names_that_clients_know(text, told, out, tmp_path):
    (tmp_path / "neg.pt").touch()
    config = ServeConfig(out=out, embeddings=[tmp_path / "neg.pt"])
    places = {"out": out, "own": tmp_path}
    assert config.without_places(text.format(**places), Path("/tmp/upload/a b.pt")) == told.format(**places)


def test_a_cancelled_training_keeps_its_steps(jobs):
    opened = jobs()
    settings = {"objective": "text", "name": "few", "text": "blurry", "init": "random", "preview_every": 0}
    settings |= {"stop": "never", "steps": 20, "batch_size": 1}
    job = opened.add("somebody", "train", TrainJob.build(settings))
    until(lambda: job.progress.get("step", 0) > 2)
    opened.cancel(job)
    until(lambda: job.order is None)
    stopped = job.progress["step"]
    assert stopped < 20 and any("--resume" in note for note in job.notes)
    opened.resume(job, "somebody")
    until(lambda: job.ended)
    assert job.record.state == "done" and job.progress["step"] == 20, job.record
    assert any(f"Going on at step {stopped}" in note for note in job.notes)
    assert job.files()["few.safetensors"].is_file()


def test_a_job_that_waits_is_cancelled_without_a_trace(jobs, denoised):
    opened = jobs()
    first, second = ask(opened, seeds="1-8", steps=3), ask(opened)
    opened.cancel(second)
    assert second.record.state == "cancelled" and not first.ended
    opened.cancel(first)
    until(lambda: first.order is None)
    assert not second.files()
    opened.remove(second)
    with pytest.raises(lab.InputError, match="was removed"):
        opened.resume(second, "who had found it before")
    assert not second.folder.exists()


def test_after_a_restart_jobs_say_what_became_of_them_and_go_on(jobs):
    first = jobs()
    done = ask(first)
    until(lambda: done.ended)
    running = ask(first, seeds="1-10", steps=30)
    until(lambda: running.progress.get("done"))
    waiting = ask(first)
    first.close()  # what is on disk is what a killed process leaves, but for the state that it could not write
    running.become("running")
    second = jobs()
    with pytest.raises(lab.InputError, match="in use by another process"):
        jobs()
    assert second.find(done.record.id).record.state == "done"
    assert second.find(done.record.id).files().keys() == done.files().keys()
    broken_off = second.find(running.record.id)
    assert broken_off.record.state == "interrupted" and "resume" in broken_off.record.message
    until(lambda: second.find(waiting.record.id).record.state == "done")


def kept(out, name, state, kind="generate", **settings):
    """Writes a job as a server before leaves it, and returns its run folder."""
    record = {"id": name, "kind": kind, "settings": settings, "state": state, "created": 1}
    (out / "jobs" / name / "run").mkdir(parents=True)
    (out / "jobs" / name / "job.json").write_text(json.dumps(record))
    return out / "jobs" / name / "run"


def test_after_a_restart_what_waited_may_name_what_was_learned(jobs, tmp_path, monkeypatch):
    def slow(service, refresh=Service.refresh_embeddings):
        sleep(0.1)
        refresh(service)

    monkeypatch.setattr(Service, "refresh_embeddings", slow)
    kept(tmp_path, "1", "waiting", prompt="a <toy>", steps=1)
    shutil.copy(NEGATIVE, kept(tmp_path, "2", "done", "train") / "toy.safetensors")
    job = jobs().find("1")
    until(lambda: job.ended)
    assert job.record.state == "done", job.record


def test_what_was_learned_takes_no_served_name(jobs, tmp_path):
    shutil.copy(NEGATIVE, tmp_path / "toy.safetensors")
    save_file({"emb_params": torch.ones(1, 256)}, kept(tmp_path, "1", "done", "train") / "toy.safetensors")
    service = jobs(embeddings=[tmp_path / "toy.safetensors"])._service
    assert service.library["toy"].provenance.path == tmp_path / "toy.safetensors"


def test_a_job_that_is_done_is_done_whatever_became_of_the_served_folder(jobs, tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    opened = jobs(embeddings=[served])
    served.rmdir()
    job = ask(opened)
    until(lambda: job.ended)
    assert job.record.state == "done", job.record


@pytest.fixture
def full_disk(monkeypatch):
    """A switch: while it is on, no job's record can be written."""
    state = {"on": False}

    @contextmanager
    def writing(path):
        if state["on"]:
            raise lab.InputError(f"{path}: cannot write: the disk is full")
        with atomic(path) as temporary:
            yield temporary

    monkeypatch.setattr("lab.serve.job.atomic", writing)
    return state


def test_a_job_ends_on_a_full_disk_too(jobs, full_disk, monkeypatch):
    def run(place, asked, listener):
        full_disk["on"] = True

    monkeypatch.setitem(JOB_KINDS, "generate", replace(JOB_KINDS["generate"], run=run))
    told = []
    job = ask(jobs())
    job.watch(lambda: told.append(job.record.state))
    until(lambda: "done" in told)
    assert job.ended and job.order is None


def test_what_cannot_be_written_down_is_not_queued(jobs, full_disk):
    opened = jobs()
    job = ask(opened)
    opened.cancel(job)
    until(lambda: job.order is None)
    full_disk["on"] = True
    for again in (lambda: ask(opened), lambda: opened.resume(job, "somebody")):
        with pytest.raises(lab.InputError, match="the disk is full"):
            again()
    assert opened.all() == [job] and job.ended


def test_a_job_that_is_still_being_broken_off_can_be_resumed_later(jobs, monkeypatch):
    going, go = Event(), Event()

    def run(place, asked, listener):
        going.set()
        go.wait(20)

    monkeypatch.setitem(JOB_KINDS, "generate", replace(JOB_KINDS["generate"], run=run))
    opened = jobs()
    job = ask(opened)
    assert going.wait(20)
    opened.cancel(job)
    with pytest.raises(BusyError, match="still being broken off"):
        opened.resume(job, "somebody")
    go.set()
