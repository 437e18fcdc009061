"""What vectors can be learned for, by the name that `--objective` takes."""

OBJECTIVES: dict[str, str | type] = {
    "concept": "lab.training.objectives.denoising:Concept",
    "style": "lab.training.objectives.denoising:Style",
    "negative": "lab.training.objectives.denoising:Negative",
    "pair": "lab.training.objectives.pair:Pair",
    "reward": "lab.training.objectives.reward:RewardAscent",
}
"""An entry is a subclass of `lab.training.objectives.objective.Objective`, or where to find one as "module:Class",
so that options and help know the names without importing torch."""
