from lab.demo.demo import RECIPE
from lab.training.config import TrainConfig
from tests.paths import REPOSITORY


def test_the_demo_learns_by_the_recipe_of_the_bundled_model():
    recipe = TrainConfig.read(REPOSITORY / "configs" / "train" / "emoji-object.yaml", {})
    here = TrainConfig(**RECIPE)
    assert recipe.model_dump(exclude={"images", "name"}) == here.model_dump(exclude={"images", "name"})
