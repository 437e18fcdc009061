"""OpenAI's API, through its own client."""

import base64
from io import BytesIO

import faiss
import httpx
import numpy as np
import openai
import pytest
import torch
from PIL import Image

import lab
from lab.condition.conditioning import pool_vector
from lab.images import text_chunks
from lab.runs.png import read_record
from lab.search.features import BundleFeatures
from tests.paths import REPOSITORY

NEGATIVE = "lab/assets/emoji/negative.safetensors"
APPLE = "noto emoji of a red apple"
QUICK = {"steps": 2, "seed": 7}


def image(datum):
    return Image.open(BytesIO(base64.b64decode(datum.b64_json)))


def equal(one, other):
    return np.array_equal(np.asarray(one.convert("RGB")), np.asarray(other.convert("RGB")))


def test_a_faiss_program_finds_the_nearest_text(client):
    in_store = ["青いリンゴ", "The cat", "赤い車", "赤い林檎", "a blue boat"]
    query = "赤い林檎です"

    def embed(text):
        return client.embeddings.create(input=text, model="text-embedding-ada-002").data[0].embedding

    index = faiss.IndexFlatL2(len(embed(query)))
    index.add(np.array([embed(text) for text in in_store], dtype=np.float32))
    _, found = index.search(np.array([embed(query)], dtype=np.float32), 1)
    assert in_store[found[0][0]] == "赤い林檎"


def test_vectors_are_the_labs_own_in_both_encodings(client, emoji):
    texts = ["a red apple", "(weights) are [text] here", "<negative>"]
    unit = BundleFeatures(emoji, "eos", "plain").texts(texts[:2], {})
    unit = torch.nn.functional.normalize(unit, dim=1).numpy()
    sent = client.embeddings.create(input=texts, model="emoji")
    plain = client.embeddings.create(input=texts, model="emoji", encoding_format="float")
    for one, other in zip(sent.data, plain.data, strict=True):
        assert one.index == other.index and np.allclose(one.embedding, other.embedding, atol=1e-6)
    assert np.allclose([one.embedding for one in sent.data[:2]], unit, atol=1e-5)


def test_other_poolings_dimensions_and_lengths(client, emoji):
    conditioning = lab.encode(emoji, "a red apple", dialect="plain")
    mean = pool_vector(conditioning.first, "mean", emoji.context_length).numpy()
    asked = {"input": "a red apple", "model": "emoji:mean"}
    raw = client.embeddings.create(**asked, extra_body={"normalize": False}).data[0].embedding
    assert np.allclose(raw, mean, atol=1e-5)
    short = client.embeddings.create(**asked, dimensions=8).data[0].embedding
    assert np.allclose(short, mean[:8] / np.linalg.norm(mean[:8]), atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="dimensions: 4096"):
        client.embeddings.create(**asked, dimensions=4096)


def test_usage_counts_the_models_own_tokens(client, emoji):
    text = "a red apple on <negative>"
    usage = client.embeddings.create(input=[text, "a"], model="emoji").usage
    words = emoji.towers[0].tokenizer("a red apple on", add_special_tokens=False).input_ids
    vectors = lab.read_embedding(NEGATIVE).count
    assert usage.prompt_tokens == usage.total_tokens == len(words) + vectors + 1


def test_names_that_are_not_served_are_words(client):
    answer = client.embeddings.create(input=["<b>bold</b>", "embedding:nothing"], model="emoji")
    assert len(answer.data) == 2


def test_token_ids_are_refused_in_a_sentence(client):
    for ids in ([320, 736], [[320], [736]]):
        with pytest.raises(openai.BadRequestError, match="token ids are of another tokenizer"):
            client.embeddings.create(input=ids, model="emoji")


def test_the_models_are_listed_and_others_are_not_found(client):
    names = [model.id for model in client.models.list()]
    assert names == ["emoji", "emoji:mean", "emoji:first"]
    assert client.models.retrieve("emoji:mean").id == "emoji:mean"
    with pytest.raises(openai.NotFoundError, match="nearest: emoji") as refused:
        client.embeddings.create(input="a", model="emojy")
    assert refused.value.body["message"] and refused.value.type == "not_found_error"


def test_images_are_those_of_lab_generate_with_their_records(client, emoji):
    extra = QUICK | {"negative_prompt": "<negative>", "guidance": 3, "embeddings": ["negative"]}
    made = client.images.generate(prompt=APPLE, n=2, size="128x128", extra_body=extra)
    own = lab.generate(
        emoji,
        prompt=APPLE,
        negative_prompt="<negative>",
        seeds=[7, 8],
        steps=2,
        guidance=3,
        width=128,
        height=128,
        embeddings=NEGATIVE,
    )
    for datum, result in zip(made.data, own, strict=True):
        assert equal(image(datum), result.image)
        assert datum.record == result.record | {"embedding": [f"{REPOSITORY}/{NEGATIVE}=negative"]}
    assert made.usage.input_tokens == 2 * 6


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_url_leads_to_a_file_that_says_what_made_it(client, tmp_path, output_format):
    made = client.images.generate(
        prompt=APPLE, response_format="url", output_format=output_format, extra_body=QUICK
    ).data[0]
    file = tmp_path / "image"
    file.write_bytes(httpx.get(made.url).raise_for_status().content)
    if output_format == "png":
        assert read_record(file) == made.record and APPLE in text_chunks(file)["parameters"]
    else:
        comment = Image.open(file).getexif().get_ifd(0x8769)[0x9286]  # where the web UI looks
        assert comment.removeprefix(b"UNICODE\0").decode("utf-16-be").startswith(f"{APPLE}\nSteps: 2")
        assert text_chunks(file) == {"parameters": comment[8:].decode("utf-16-be")}
    assert httpx.get(made.url.replace("/v1/images/files/", "/v1/images/files/..%2f")).status_code == 404


def test_without_a_size_it_is_the_models_own(client):
    for size in ({}, {"size": "auto"}):
        made = client.images.generate(prompt="a", extra_body={"steps": 1}, **size)
        assert image(made.data[0]).size == (128, 128) and made.size == "128x128"


def test_a_stream_brings_previews_and_then_the_image(client, emoji):
    events = list(
        client.images.generate(prompt=APPLE, stream=True, partial_images=2, extra_body=QUICK | {"steps": 6})
    )
    kinds = [event.type.removeprefix("image_generation.") for event in events]
    assert kinds == ["partial_image", "partial_image", "completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    final = lab.generate(emoji, prompt=APPLE, seeds=7, steps=6)[0].image
    assert equal(image(events[2]), final)
    errors = [np.abs(np.asarray(image(event), float) - np.asarray(final, float)).mean() for event in events]
    assert errors[0] > errors[1] > errors[2]


def test_a_stream_ends_with_a_sentence_about_what_nobody_foresaw(address, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("tensors of /home/somebody\ndo not fit")

    monkeypatch.setattr("lab.serve.service.run_jobs", broken)
    asked = {"prompt": APPLE, "stream": True}
    told = httpx.post(f"{address}/v1/images/generations", json=asked, timeout=60).text
    assert "the server failed at this: RuntimeError; see its log" in told and "somebody" not in told
    assert "do not fit" in caplog.text


def test_of_very_many_images_the_newest_are_kept(client, app, monkeypatch):
    monkeypatch.setattr("lab.serve.kept.MOST_KEPT", 1 - app.state.service.config.max_waiting)
    asked = {"prompt": APPLE, "response_format": "url", "extra_body": {"steps": 1}}
    urls = [client.images.generate(**asked).data[0].url for _ in range(2)]
    assert [httpx.get(url).status_code for url in urls] == [404, 200]


def test_an_image_is_edited_as_lab_generate_does(client, emoji, tmp_path):
    start = tmp_path / "start.png"
    Image.new("RGB", (96, 64), "red").save(start)
    with start.open("rb") as file:
        made = client.images.edit(image=file, prompt=APPLE, extra_body=QUICK | {"steps": 4, "strength": 0.5})
    own = lab.generate(emoji, prompt=APPLE, seeds=7, steps=4, init_image=start, strength=0.5)
    assert equal(image(made.data[0]), own[0].image)
    with start.open("rb") as file, pytest.raises(openai.BadRequestError, match="inpainting"):
        client.images.edit(image=file, mask=start.open("rb"), prompt=APPLE)
    with pytest.raises(openai.BadRequestError, match="not an image"):
        client.images.edit(image=b"no image", prompt=APPLE)


def test_a_form_may_name_a_field_in_both_ways(address):
    file = BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    fields = {"prompt": "a", "embeddings": "nothing", "embeddings[]": "nobody"}
    image = {"image": ("a.png", file.getvalue())}
    answer = httpx.post(f"{address}/v1/images/edits", data=fields, files=image, timeout=60)
    assert answer.status_code == 400 and "'nobody' is not served" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"prompt": "a", "extra_body": {"stepz": 3}}, "stepz"),
        ({"prompt": "a", "extra_body": {"steps": 31}}, "steps: 31 are over 30"),
        ({"prompt": "a", "n": 5}, "n: 5 images are over 4"),
        ({"prompt": "a", "n": 2**32}, "n: "),
        ({"prompt": "a", "size": "100x128"}, "width: 100 is not a multiple"),
        ({"prompt": "a", "size": "8192x8192"}, "over this server's"),
        ({"prompt": "a", "size": "large"}, "WIDTHxHEIGHT"),
        ({"prompt": "a" * 10_001}, "10,001 characters"),
        ({"prompt": " AND ".join("abcdefghijklmnopqrs")}, "AND joins 19 parts"),
        ({"prompt": "a" * 9000 + "[a|b]", "extra_body": {"steps": 20}}, "its schedule"),
        ({"prompt": "<cat-toy>"}, "no embedding of that name"),
        ({"prompt": "a", "extra_body": {"embeddings": ["../../secret.pt"]}}, "is not served"),
        ({"prompt": "a", "extra_body": {"init_image": "/etc/passwd"}}, "init_image"),
        ({"prompt": "a", "extra_body": {"embedding": ["/etc/passwd"]}}, "embedding"),
        ({"prompt": "a", "background": "transparent"}, "background"),
        ({"prompt": "a", "stream": True, "extra_body": {"dialect": "a111"}}, "a1111"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_made(client, asked, said):
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(**asked)
    assert said in refused.value.body["message"] and refused.value.type == "invalid_request_error"
