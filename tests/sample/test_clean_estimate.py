"""What the latents would become, as previews show it."""

import pytest
import torch

from lab.sample.config import GenerateConfig, requests
from lab.sample.denoise import clean_estimate
from lab.sample.engine import run_jobs
from lab.sample.plan import plan


@pytest.mark.parametrize("model", ["sd1", "emoji"])  # epsilon and v
def test_at_the_last_step_it_is_the_image(request, model):
    bundle = request.getfixturevalue(model)
    config = GenerateConfig(prompt="a", seeds="1-2", steps=3, scheduler="euler", width=64, height=64)
    seen = []
    made = list(run_jobs(bundle, plan(bundle, requests(config)), observer=seen.append))
    latents = torch.stack([sample.latents for sample in made])
    assert [job.seed for job in seen[-1].jobs] == [1, 2]
    assert torch.allclose(clean_estimate(bundle, seen[-1]), latents, atol=2e-3)
    assert not torch.allclose(clean_estimate(bundle, seen[0]), latents, atol=2e-2)
