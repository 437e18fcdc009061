"""A few of the requests that `scripts/hostile_requests.py` sends by the thousand."""

import httpx

from lab.serve.app import create_app
from lab.serve.config import ServeConfig
from scripts.hostile_requests import SMALL, attack
from tests.serve.running import running


def test_no_request_is_answered_with_a_5xx(emoji, tmp_path):
    app = create_app(ServeConfig(out=tmp_path, **SMALL), emoji)
    with running(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        statuses, bad = attack(client, app, count=60, chance=0)
        assert client.get("/v1/models").status_code == 200
    assert not bad and 0 < statuses[400] < statuses.total()
