"""Prompts from chat servers: transformers' own with a tiny random model, and one here that answers as it is told."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from lab.errors import InputError
from lab.search.chat import ask, base_address, prompts_in
from lab.search.config import ComposeConfig

WORDS = ["a", "red", "blue", "cat", "dog", "apple", "old"]


@contextmanager
def answering(content, status=200, seconds=0.0, models=("small",), body=None):
    """A server that answers every chat alike; yields its address and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in models]})

        def do_POST(self):
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({**told, "key": self.headers.get("Authorization"), "path": self.path})
            time.sleep(seconds)
            choice = {"index": 0, "message": {"role": "assistant", "content": content}}
            self._send(status, body or {"object": "chat.completion", "choices": [choice]})

        def _send(self, code, value):
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def config(url, **more):
    return ComposeConfig.build({"keyword": ["embedding", "code"], "chat_url": url, **more})


def test_it_asks_for_everything_in_a_system_and_a_user_message(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    more = {"about": ["technique", "mood"], "condition": "no people", "language": ["German", "Latin"]}
    with answering("1. a loom\n2. a map") as (url, asked):
        found = ask(config(url, **more, role="a weaver", count=3, chat_key_env="MY_KEY"))
    assert found == ["a loom", "a map"]
    (told,) = asked
    system, user = told["messages"]
    assert (system["role"], user["role"]) == ("system", "user") and "a weaver" in system["content"]
    for said in ("3 different", "German and in Latin", "embedding, code", "technique, mood", "- no people"):
        assert said in user["content"]
    assert (told["model"], told["key"], told["path"]) == ("small", "Bearer secret", "/v1/chat/completions")


@pytest.mark.parametrize(
    "address", ["http://h:1", "http://h:1/", "http://h:1/v1/chat/completions", "http://h:1/v1/"]
)
def test_a_servers_address_is_taken_in_any_form(address):
    assert base_address(address) == "http://h:1/v1"


THREE = ["a red apple, calm", "the sea at night", "an old map"]


@pytest.mark.parametrize(
    "answer",
    [
        "1. a red apple, calm\n2. the sea at night\n3. an old map",
        "Here are your prompts:\n\n1) **a red apple, calm**\n2) \"the sea at night\"\n\n3) `an old map`\n\nEnjoy!",
        "- a red apple,\n  calm\n- the sea at night\n* an old map\n",
        "a red apple, calm\nthe sea at night\n\nan old map\nan old map",
        "Prompt 1: a red apple, calm\nPrompt 2: the sea at night\nPrompt 3: an old map",
        '["a red apple, calm", "the sea at night", "an old map"]',
        'Sure!\n```json\n{"prompts": [{"id": "7", "prompt": "a red apple, calm"}, {"prompt": "the sea at night"}, '
        '"an old map"]}\n```',
        "<think>1. not this\n2. nor this</think>1. a red apple, calm --ar 16:9\n2. the sea <at> night\n3. an old map",
        "1. not this\n2. nor this\n</think>\n1. a red apple, calm\n2. the sea at night\n3. an old map",
        '["1. a red apple, calm", "2. the sea at night", "3. an old map"]',
    ],
)  # fmt: skip
def test_answers_are_read_whatever_list_they_are(answer):
    assert prompts_in(answer) == THREE


def test_hostile_answers_become_lines_that_generate_can_read():
    long = "word " * 1000
    found = prompts_in(
        f"1. {long}\n2. half \ud83d an emoji\x00\n3. # no comment\n4. \u00e9t\u00e9 \u96ea\n5. ***"
    )
    assert all(prompt == prompt.strip() and not prompt.startswith("#") for prompt in found)
    assert [len(found[0]) <= 600, *found[1:]] == [True, "half an emoji", "no comment", "\u00e9t\u00e9 \u96ea"]
    assert prompts_in("[" * 100_000) is not None and prompts_in("1.\n2.\n") is not None


@pytest.mark.parametrize(
    ("server", "more", "says"),
    [
        ({"status": 401, "body": {"error": {"message": "no secret"}}}, {}, "wants a key"),
        ({"status": 403}, {"chat_key_env": "MY_KEY"}, "refuses the key in MY_KEY"),
        ({"status": 404, "body": {"error": {"message": "no such model"}}}, {}, "status 404.*no such model"),
        ({"status": 500, "body": b"<html>\noops</html>"}, {}, "status 500"),
        ({"seconds": 0.5}, {"chat_timeout": 0.1}, "no answer within 0.1 seconds"),
        ({"content": ""}, {}, "without a prompt: nothing"),
        ({"content": None}, {}, "without a prompt: nothing"),
        ({"content": "Sure:"}, {}, "without a prompt: 'Sure:'"),
        ({"body": b"hello"}, {}, "answers as no chat server does: 'hello'"),
        ({"body": b"[" + b" " * 2**21 + b"]"}, {}, "over 1 MiB"),
        ({"models": ()}, {}, "lists no model"),
        ({}, {"chat_key_env": "ABSENT_KEY"}, "the environment has no ABSENT_KEY"),
    ],
)
def test_what_goes_wrong_is_one_line(monkeypatch, server, more, says):
    monkeypatch.setenv("MY_KEY", "secret-key")
    monkeypatch.delenv("ABSENT_KEY", raising=False)
    with (
        answering(**{"content": "1. a cat", **server}) as (url, _),
        pytest.raises(InputError, match=says) as error,
    ):
        ask(config(url, **more))
    assert "\n" not in str(error.value) and "secret-key" not in str(error.value)


def test_no_server_is_one_line():
    with pytest.raises(InputError, match="cannot be reached"):
        ask(config("http://127.0.0.1:9/v1"))


def test_the_client_may_be_missing(monkeypatch):
    monkeypatch.setattr("lab.search.chat.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the openai client"):
        ask(config("http://127.0.0.1:9/v1"))


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A tiny random model that says a few words and line ends."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("chat") / "tiny"
    said = [*(f"{word} " for word in WORDS), "\n", "\n1. ", ", ", "<unk>", "<end>"]
    tokens = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(said)}, unk_token="<unk>")
    )
    tokens.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokens.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokens, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    )
    fast.chat_template = "{% for each in messages %}{{ each['role'] }} {{ each['content'] }} {% endfor %}"
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(said), num_key_value_heads=2, **sizes))
    bad = [[said.index(word)] for word in ("<unk>", "<end>")]
    model.generation_config = GenerationConfig(
        do_sample=True, max_new_tokens=60, bad_words_ids=bad, pad_token_id=bad[1][0]
    )
    model.save_pretrained(folder)
    return folder


def test_transformers_own_server_is_asked(chat_model):
    serve = pytest.importorskip(
        "transformers.cli.serve", reason="transformers 5 and its server's dependencies"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        port = free.server_address[1]
    server = serve.Serve(
        force_model=str(chat_model),
        host="127.0.0.1",
        port=port,
        device="cpu",
        default_seed=1,
        non_blocking=True,
    )
    try:
        while not server.server.started:
            time.sleep(0.02)
        found = ask(config(f"http://127.0.0.1:{port}"))
    finally:
        server.kill_server()
    assert len(found) > 1 and {word for prompt in found for word in prompt.replace(",", " ").split()} <= {
        *WORDS
    }
