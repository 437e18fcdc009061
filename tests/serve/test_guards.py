"""Hosts, origins, keys and sizes: what does not reach the app."""

import base64
from http.client import HTTPConnection
from select import select

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from lab.errors import InputError
from lab.serve.config import ServeConfig
from lab.serve.guards import Guards
from tests.serve.running import running


async def echo(request):
    return PlainTextResponse(str(len(await request.body())))


def guarded_echo(**settings):
    return Guards(
        Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])]), ServeConfig.build(settings)
    )


def client(**settings):
    return TestClient(guarded_echo(**settings), base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7860", 200),
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("[::1]:7860", 200),
        ("192.168.1.5:7860", 200),
        ("lab.example.org", 200),
        ("evil.example.org:7860", 421),
        ("localhost.example.org", 421),
        ("", 421),
    ],
)
def test_the_server_answers_to_its_own_names(host, status):
    answer = client(allow_host=["lab.example.org"]).get("/", headers={"Host": host})
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:7860", 200),
        ("https://page.example.org", 200),
        ("https://evil.example.org", 403),
        ("http://127.0.0.1:9999", 403),
        ("http://localhost:7860", 403),
        ("null", 403),
    ],
)
def test_pages_from_elsewhere_may_not_send_requests(origin, status):
    guarded = client(allow_origin=["https://page.example.org/"])
    assert guarded.post("/", content=b"x", headers={"Origin": origin}).status_code == status


def basic(password, user="anybody"):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer geheim:1", 200),
        ("bearer geheim:1", 200),
        (basic("geheim:1"), 200),
        ("Bearer geheim", 401),
        ("Bearer geheim:12", 401),
        ("geheim:1", 401),
        ("Bearer ", 401),
        ("Bearer geheim:1é", 401),
        (basic("other"), 401),
        ("Basic not-base64", 401),
        (None, 401),
    ],
)
def test_a_key_is_asked_for(authorization, status):
    guarded = client(host="0.0.0.0", api_key="geheim:1")
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    answer = guarded.get("/", headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert (
            answer.json()["error"]["type"] == "authentication_error" and "WWW-Authenticate" in answer.headers
        )


def test_bodies_are_bounded_whatever_they_say_of_their_length():
    guarded = client(max_body=1)
    assert guarded.post("/", content=b"x" * 2**20).text == str(2**20)
    assert guarded.post("/", content=b"x" * (2**20 + 1)).status_code == 413
    assert guarded.post("/", content=(b"x" * 2**18 for _ in range(5))).status_code == 413
    assert guarded.post("/", content=b"x", headers={"Content-Length": "-1"}).status_code == 413


@pytest.mark.parametrize("path", ["/lab/v1/images", "/gradio_api/upload"])
@pytest.mark.parametrize("chunked", [False, True])
def test_images_to_learn_from_may_be_larger_together(path, chunked):
    guarded = client(max_body=1, max_upload=2)
    for size, status in ((2**21, 200), (2**21 + 1, 413)):
        content = iter([b"x" * size]) if chunked else b"x" * size
        assert guarded.post(path, content=content).status_code == status


@pytest.mark.parametrize("said", [("Content-Length", str(20 * 2**20)), ("Transfer-Encoding", "chunked")])
def test_whoever_sends_too_much_can_send_it_all_and_reads_why(said):
    chunk, end = b"x" * 2**20, b""
    if said[1] == "chunked":
        chunk, end = b"100000\r\n" + chunk + b"\r\n", b"0\r\n\r\n"
    with running(guarded_echo(max_body=1)) as address:
        client = HTTPConnection(address.removeprefix("http://"), timeout=20)
        client.putrequest("POST", "/")
        client.putheader(*said)
        client.endheaders(chunk * 2)
        select([client.sock], [], [], 20)  # the answer is there
        client.send(chunk * 18 + end)  # more than lies between the two
        answer = client.getresponse()
        assert answer.status == 413 and b"over 1 MiB" in answer.read()
        client.close()


def test_a_proxy_is_named_by_its_address():
    with pytest.raises(InputError, match="is no address"):
        ServeConfig.build({"allow_proxy": ["proxy.example.org"]})


def test_other_machines_are_let_in_with_a_key_alone():
    for host in ("0.0.0.0", "", "::", "192.168.1.5", "lab.example.org"):
        with pytest.raises(InputError, match="--api-key"):
            ServeConfig.build({"host": host})
        assert not ServeConfig.build({"host": host, "api_key": "x"}).is_local
    for host in ("127.0.0.1", "localhost", "::1", "127.8.0.1"):
        assert ServeConfig.build({"host": host}).is_local
