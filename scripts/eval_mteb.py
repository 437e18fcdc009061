"""How good texts' vectors are by MTEB's own measures, through the server's endpoint as MTEB asks any other one.

    pip install -e ".[serve,mteb]"
    python -m scripts.eval_mteb
    python -m scripts.eval_mteb --endpoint http://127.0.0.1:7860 --model emoji:mean

MTEB's `OpenAIAPIEncodeWrapper` runs two small tasks on the bundled captions, since those of its own are downloaded:
`--task NAME` runs one of them in their place, where its data can be had.

- CaptionRetrieval: of each thing's name, the captions of its pictures among all (nDCG at 10).
- CaptionSimilarity: whether captions are as near as they have things (2) and backgrounds (1) in common (Spearman's
  correlation with their cosine).
"""

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import OpenAIAPIEncodeWrapper

from lab.models.load import load
from lab.serve.app import create_app
from lab.serve.config import ServeConfig
from tests.serve.running import running

SAMPLES = Path(__file__).parents[1] / "lab" / "assets" / "samples"

ABOUT: dict[str, Any] = {
    "description": "Captions of the pictures that come with the lab.",
    "dataset": {"path": "lab/assets/samples", "revision": "1"},
    "category": "t2t",
    "modalities": ["text"],
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "date": ("2026-01-01", "2026-01-01"),
    "domains": ["Written"],
    "task_subtypes": [],
    "license": "apache-2.0",
    "annotations_creators": "derived",
    "dialect": [],
    "sample_creation": "created",
    "bibtex_citation": "",
}


def captions() -> list[tuple[str, str, str]]:
    """(thing, background, caption) of every picture of a thing."""
    found = []
    for path in sorted(SAMPLES.glob("*/*.txt")):
        thing = path.parent.name.replace("-", " ")
        text = path.read_text(encoding="utf-8").splitlines()[0]
        if not thing.endswith("style"):
            ground = text.rpartition(" on a ")[2]
            found.append((thing, ground, text.replace("{name}", thing)))
    return found


class CaptionRetrieval(AbsTaskRetrieval):
    """The captions of a thing's pictures, by its name."""

    metadata = TaskMetadata(name="CaptionRetrieval", type="Retrieval", main_score="ndcg_at_10", **ABOUT)

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Reads the captions."""
        found = captions()
        things = sorted({thing for thing, _, _ in found})
        split = RetrievalSplitData(
            queries=Dataset.from_list([{"id": thing, "text": f"a picture of a {thing}"} for thing in things]),
            corpus=Dataset.from_list(
                [{"id": str(place), "title": "", "text": text} for place, (_, _, text) in enumerate(found)]
            ),
            relevant_docs={
                thing: {str(place): 1 for place, (other, _, _) in enumerate(found) if other == thing}
                for thing in things
            },
            top_ranked=None,
        )
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class CaptionSimilarity(AbsTaskSTS):
    """How much two captions have in common."""

    metadata = TaskMetadata(name="CaptionSimilarity", type="STS", main_score="cosine_spearman", **ABOUT)
    min_score: ClassVar[int] = 0
    max_score: ClassVar[int] = 3

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Reads the captions, in pairs."""
        rows: dict[str, list[Any]] = {"sentence1": [], "sentence2": [], "score": []}
        for one, other in itertools.combinations(captions(), 2):
            rows["sentence1"].append(one[2])
            rows["sentence2"].append(other[2])
            rows["score"].append(2 * (one[0] == other[0]) + (one[1] == other[1]))
        self.dataset = DatasetDict({"test": Dataset.from_dict(rows)})
        self.data_loaded = True


@contextmanager
def served(endpoint: str | None) -> Iterator[str]:
    """The address that was given, or one at which the bundled model is served."""
    if endpoint:
        yield endpoint
        return
    with (
        tempfile.TemporaryDirectory() as out,
        running(create_app(ServeConfig(out=Path(out)), load("emoji", device="cpu"))) as address,
    ):
        yield address


def main() -> None:
    """Runs the tasks and prints MTEB's figures."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--endpoint", help="of a server that runs; by default one is started")
    options.add_argument("--api-key")
    options.add_argument("--model", nargs="+", default=["emoji", "emoji:mean"])
    options.add_argument("--task", nargs="+", help="names of MTEB's own tasks, which it downloads")
    arguments = options.parse_args()
    tasks = (
        mteb.get_tasks(tasks=arguments.task) if arguments.task else [CaptionRetrieval(), CaptionSimilarity()]
    )
    with served(arguments.endpoint) as address:
        for name in arguments.model:
            model = OpenAIAPIEncodeWrapper(
                address, name, arguments.api_key, modalities=["text"], use_chat_template=False
            )
            results = mteb.evaluate(model, tasks, cache=None, show_progress_bar=False)
            for result in results.task_results:
                print(f"{name}: {result.task_name} {result.get_score():.3f}")


if __name__ == "__main__":
    main()
