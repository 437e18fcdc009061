"""The table of schedulers, and which entry a model's saved scheduler is."""

import diffusers
import pytest

from lab.errors import InputError
from lab.models.schedulers import SCHEDULERS, make_scheduler, scheduler_name


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_model_saved_with_an_offered_scheduler_is_sampled_with_it(name):
    entry = SCHEDULERS[name]
    saved = getattr(diffusers, entry.class_name)(**entry.settings)
    assert scheduler_name({**saved.config, "_class_name": type(saved).__name__}) == name


def test_of_several_entries_of_a_class_the_first_is_usual_and_other_classes_are_ddim():
    assert scheduler_name({"_class_name": "DPMSolverMultistepScheduler"}) == "dpm++2m"
    assert scheduler_name({"_class_name": "PNDMScheduler", "skip_prk_steps": False}) == "pndm"
    assert scheduler_name({"_class_name": "DDPMScheduler"}) == scheduler_name({}) == "ddim"


def test_steps_past_the_last_timestep_are_refused():
    config = {"steps_offset": 1, "timestep_spacing": "leading", "num_train_timesteps": 1000}
    assert make_scheduler("ddim", False, config, 999).timesteps.max() < 1000
    with pytest.raises(InputError, match="cannot make 1000 steps: with the model's steps_offset"):
        make_scheduler("ddim", False, config, 1000)
