"""A server that is killed, and what another one finds."""

import re
import subprocess
import sys
from time import monotonic, sleep

import httpx
import pytest

from lab.serve.config import ServeConfig
from lab.serve.jobs import Jobs
from lab.serve.service import Service
from tests.paths import REPOSITORY


@pytest.fixture
def server(tmp_path):
    options = ["--port", "0", "--no-page", "--device", "cpu", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "lab", "serve", *options], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.wait()


def test_after_kill_9_finished_work_is_there_and_a_job_goes_on(server, tmp_path, emoji, denoised):
    address = re.search(r"http://\S+", server.stdout.readline())[0]
    asked = {"prompt": "a cat", "seeds": "1-36", "steps": 1}
    job = httpx.post(f"{address}/lab/v1/jobs/generate", json=asked, timeout=30).json()
    run, end = tmp_path / "jobs" / job["id"] / "run", monotonic() + 60
    while not list(run.glob("[0-9]*.png")):
        assert monotonic() < end
        sleep(0.01)
    server.kill()
    server.wait()
    kept = {path: path.stat().st_mtime_ns for path in run.glob("[0-9]*.png")}
    jobs = Jobs(Service(emoji, ServeConfig(out=tmp_path)))
    found = jobs.find(job["id"])
    assert found.record.state == "interrupted" and "resume" in found.record.message
    jobs.resume(found, "somebody")
    while not found.ended:
        assert monotonic() < end + 60
        sleep(0.01)
    jobs.close()
    images = [path for path in found.files().values() if re.match(r"\d{5}-seed\d+.*\.png", path.name)]
    assert found.record.state == "done" and len(images) == 36
    assert len(denoised) == 36 - len(kept) and {path: path.stat().st_mtime_ns for path in kept} == kept
