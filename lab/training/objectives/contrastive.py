"""The contrastive objective: vectors whose text is nearer to the images, by CLIP's features, than other words are.

    pos  exp(s cos(text with the vectors, image))
    neg  sum of exp(s cos(word, image)) over words of the vocabulary, or of exp(s cos(text, other)) over given images;
         and with `in_batch` of exp(s cos(text, other)) over the other images of the step
    loss = -log(pos / (pos + neg)), s CLIP's own scale (Radford et al. 2103.00020; InfoNCE, 1807.03748, equation 4)

Neither U-Net nor VAE take part, so that it takes seconds.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.condition.towers import Vectors, encode_chunks
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.images import images_in
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.vocabulary import embedding_rms, whole_words
from lab.score.clip import MAX_IMAGES, Clip, Shown, image_features, open_clip
from lab.text import counted
from lab.training.config import TrainConfig
from lab.training.data.caption_encoder import CaptionChunker
from lab.training.data.captions import fill_template, image_captions, placeholder, read_templates
from lab.training.learned import Initial, Learned
from lab.training.objectives.objective import Cost, Objective, split_evenly

RIVALS = 1024
"""Words of the vocabulary that the text has to be nearer to the images than."""

INIT_CONTEXTS = 4
"""Of the usual contexts, those that `--init contrastive` takes."""

INIT_STEPS = 60
"""Steps of `--init contrastive`, of AdamW at the usual learning rate, each over all images."""

_NAME = "sought"


class Pick(NamedTuple):
    """An example: an image, a context and the images to be far from, all by number."""

    image: int
    context: int
    others: tuple[int, ...] = ()


class TextsOfImages:
    """What texts with learned vectors are to images, by a CLIP whose text encoder is the model's own."""

    def __init__(self, bundle: Bundle, clip: Clip, images: Tensor, contexts: Sequence[str], rivals: Tensor):
        """Takes what is compared.

        Args:
            images: (n, p) features of unit length of the images to be near.
            contexts: Texts that name the embedding.
            rivals: (m, p) features of other words.
        """
        self._bundle, self._clip = bundle, clip
        self._images, self._contexts, self._rivals = images, contexts, rivals

    def cosines(self, vectors: Vectors, picks: Sequence[Pick]) -> tuple[Tensor, Tensor]:
        """(b, p) features of the texts, and (b,) their cosines to the images, differentiable in the vectors."""
        counts = {name: len(next(iter(encoders.values()))) for name, encoders in vectors.items()}
        chunker = CaptionChunker(self._bundle, counts)
        chunks = [chunker(self._contexts[pick.context]) for pick in picks]
        states = encode_chunks(self._bundle, chunks, vectors, padded=False).states
        ends = torch.stack([states[row, chunk.length + 1] for row, chunk in enumerate(chunks)])
        texts = F.normalize(self._clip.model.text_projection(ends.float()).float(), dim=1)
        return texts, (texts * self._images[[pick.image for pick in picks]]).sum(dim=1)

    def losses(self, vectors: Vectors, picks: Sequence[Pick], others: Tensor | None) -> tuple[Tensor, Tensor]:
        """(b,) losses, and (b,) cosines of text and image.

        Args:
            others: (k, p) features of other images in the place of other words, or None.
        """
        texts, cosines = self.cosines(vectors, picks)
        images = self._images[[pick.image for pick in picks]]
        against = [images @ self._rivals.T if others is None else texts @ others.T]
        if any(pick.others for pick in picks):
            near = torch.zeros(len(picks), len(self._images), dtype=torch.bool)
            for row, pick in enumerate(picks):
                near[row, list(pick.others)] = True
            against.append((texts @ self._images.T).masked_fill(~near.to(texts.device), -torch.inf))
        logits = self._clip.scale * torch.cat([cosines[:, None], *against], dim=1)
        return -logits.log_softmax(dim=1)[:, 0], cosines


def check_clip(bundle: Bundle, clip: Clip | None) -> Clip:
    """The CLIP, if its text encoder can be the model's: it takes vectors as wide.

    Raises:
        InputError: there is none, or it cannot.
    """
    towers = bundle.towers
    if clip is None:
        raise InputError(
            "clip: what images show is told by CLIP, and this model has none; give --clip FOLDER"
        )
    if len(towers) > 1 or clip.model.config.text_config.hidden_size != towers[0].width:
        raise InputError(f"clip: its text encoder has to be the one of {bundle.source}, and it is another")
    return clip


class Contrastive(Objective[Pick]):
    """Vectors for what images show, found by CLIP alone."""

    watched = ("likeness",)

    def __init__(self, bundle: Bundle, config: TrainConfig, embeddings: Mapping[str, Embedding]):
        super().__init__(bundle, config, embeddings)
        if config.images is None:
            raise InputError("images: there are none; give a folder with --images")
        self._clip = check_clip(bundle, open_clip(bundle, config.clip))
        self.images = images_in(config.images)
        self._others = images_in(config.against) if config.against is not None else []
        name = config.subjects()[0].name
        self._captions = _captions(self.images, config, name) if config.in_batch else []
        self._contexts = list(
            dict.fromkeys(caption for captions in self._captions for caption in captions)
        ) or _contexts(config.templates, name)

    @classmethod
    def cost(cls, bundle: Bundle, config: TrainConfig) -> Cost:
        """The U-Net takes no part."""
        return Cost(0, 0, 0)

    def fingerprint(self) -> dict[str, str]:
        """The images by their bytes, and the contexts by number."""
        files = {f"image {path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in self.images}
        others = {
            f"against {path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in self._others
        }
        captions = zip(self.images, self._captions, strict=False)  # there are none without `in_batch`
        own = {f"captions {path.name}": "\n".join(texts) for path, texts in captions}
        return (
            files
            | others
            | own
            | {f"context {number}": text for number, text in enumerate(self._contexts, 1)}
        )

    def describe(self) -> Iterator[str]:
        """Yields how many images there are, what they are told from, and the contexts."""
        against = counted(len(self._others), "other image") if self._others else f"{RIVALS} words"
        images, contexts = counted(len(self.images), "image"), counted(len(self._contexts), "context")
        too = " and each other" * self.config.in_batch
        yield f"{images}, told from {against}{too}, in {contexts}:"
        yield from (f"  {context}" for context in self._contexts)

    def start(self, learned: Learned, listener: Listener = Listener()) -> None:
        """Looks at the images once."""
        self._vectors: Vectors = learned.rows
        self._negatives = image_features(self._clip, self._others, most=None) if self._others else None
        rivals = _rivals(self.bundle, self._clip, self.config.generator("rivals"))
        features = image_features(self._clip, self.images, most=None)
        self._texts = TextsOfImages(self.bundle, self._clip, features, self._contexts, rivals)

    def batch(self, step: int) -> Sequence[Pick]:
        """Images and contexts at random."""
        generator = self.config.generator("picks", step)
        return self._drawn(generator, self.config.batch_size)

    def fixed(self) -> Sequence[Sequence[Pick]]:
        """Images and contexts that stay the same."""
        return split_evenly(self._drawn(self.config.generator("fixed"), self.config.evaluate_on), 1)

    def losses(self, examples: Sequence[Pick]) -> Tensor:
        """(b,) losses; see the module."""
        return self._texts.losses(self._vectors, examples, self._negatives)[0]

    def watch(self, examples: Sequence[Pick]) -> Tensor:
        """(b, 2): the losses, and the cosines of text and image."""
        return torch.stack(self._texts.losses(self._vectors, examples, self._negatives), dim=1)

    def verdict(self, found: Mapping[str, float], kept: Sequence[Embedding]) -> str:
        """How near the text is to the images."""
        return f"The text's CLIP cosine to the images is {found['likeness']:.2f}."

    def _drawn(self, generator: torch.Generator, count: int) -> list[Pick]:
        images = torch.randint(len(self.images), (count,), generator=generator).tolist()
        contexts = torch.randint(len(self._contexts), (count,), generator=generator).tolist()
        if not self._captions:
            return [Pick(*each) for each in zip(images, contexts, strict=True)]
        picks = []
        for image, number in zip(images, contexts, strict=True):
            own = self._captions[image]
            caption = own[number % len(own)]
            others = tuple(other for other in {*images} if caption not in self._captions[other])
            picks.append(Pick(image, self._contexts.index(caption), others))
        return picks


def contrastive_initial(
    bundle: Bundle,
    clip: Clip | None,
    images: Sequence[Shown],
    begin: Initial,
    generator: torch.Generator,
) -> Initial:
    """First vectors for other objectives: those of an initial text, brought nearer to what images show.

    Args:
        images: Of which the first count, see `image_features`.
        begin: Where they begin.
        generator: Chooses the words that the text is held against.

    Raises:
        InputError: no images, or no CLIP with the model's own text encoder.
    """
    if not images:
        raise InputError("init: contrastive looks at the images that are learned from, and there are none")
    own = check_clip(bundle, clip)
    contexts = _contexts([], _NAME)[:INIT_CONTEXTS]
    texts = TextsOfImages(bundle, own, image_features(own, images), contexts, _rivals(bundle, own, generator))
    rows = {key: each.clone().to(bundle.device).requires_grad_() for key, each in begin.vectors.items()}
    rate = Contrastive.rate * embedding_rms(bundle.towers[0].encoder)
    optimizer = torch.optim.AdamW(list(rows.values()), lr=rate, weight_decay=0)
    for step in range(INIT_STEPS):
        picks = [
            Pick(number, (step + number) % len(contexts)) for number in range(min(len(images), MAX_IMAGES))
        ]
        with torch.enable_grad():
            loss = texts.losses({_NAME: rows}, picks, None)[0].mean()
            gradients = torch.autograd.grad(loss, list(rows.values()))
        for each, gradient in zip(rows.values(), gradients, strict=True):
            each.grad = gradient
        optimizer.step()
    vectors = {key: each.detach().cpu() for key, each in rows.items()}
    return Initial(
        vectors, tuple(f"{origin}, by its images" for origin in begin.origins), f"contrastive:{begin.text}"
    )


def _contexts(templates: Sequence[str], name: str) -> list[str]:
    lines = [line for line in read_templates(templates or ["object"]) if "{words}" not in line]
    if not lines or not all("{name}" in line for line in lines):
        raise InputError(
            "templates: CLIP compares the embedding alone; give lines with {name} and without {words}"
        )
    return [fill_template(line, "", [name]) for line in lines]


def _captions(images: Sequence[Path], config: TrainConfig, name: str) -> list[tuple[str, ...]]:
    """What each image is told by, beside the others of a step."""
    templates = read_templates(config.templates or ["object"])
    found = [image_captions(path, config, templates, [name]) for path in images]
    if len({*found}) == 1:
        raise InputError(
            f"in_batch: the images of {config.images} are told apart by captions of their own, and have none; write "
            "some beside them (NAME.txt), take --captions filename, or leave it out"
        )
    for path, captions in zip(images, found, strict=True):
        if not all(placeholder(name) in caption for caption in captions):
            raise InputError(f"{path}: a caption of it does not name {placeholder(name)}")
    return found


def _rivals(bundle: Bundle, clip: Clip, generator: torch.Generator) -> Tensor:
    """(m, p) features of words drawn from the vocabulary."""
    words = whole_words(bundle.towers[0].tokenizer)
    chosen = torch.randperm(len(words), generator=generator)[:RIVALS].tolist()
    return clip.texts([words[place] for place in chosen])
