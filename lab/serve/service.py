"""What every API of the server is thin over: one model, the embeddings it serves, and the lanes where work is done."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lab.condition.account import Account, account
from lab.condition.conditioning import Pool
from lab.condition.prompt_encoder import PromptEncoder
from lab.embeddings.embedding import Embedding
from lab.embeddings.library import collect
from lab.errors import InputError, did_you_mean
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.prompt.parse import references_in
from lab.sample.config import GenerateConfig, Request, requests
from lab.sample.denoise import Step, clean_estimate
from lab.sample.engine import automatic_batch, run_jobs
from lab.sample.pixels import decode_images
from lab.sample.plan import Job, plan
from lab.sample.record import make_record
from lab.sample.settings import (
    Settings,
    check_requests_by_configs,
    reading_key,
    resolve_settings,
    sampling_key,
)
from lab.search.features import BLOCK, BundleFeatures
from lab.search.search import names_as_words
from lab.serve.bounds import MOST_TEXTS_WAITING, check_bounds, check_readings, check_texts
from lab.serve.config import ServeConfig
from lab.serve.kept import KeptImages
from lab.serve.lane import Lane, Order, Piece, Tell, UnwantedError, unwanted


@dataclass(frozen=True)
class Picture:
    """A finished image with its record, and how many tokens and learned vectors its prompt has."""

    image: Image.Image
    record: dict[str, Any]
    tokens: int


@dataclass(frozen=True)
class Progress:
    """How far an order is: images done, with the share of those under way, and of how many."""

    done: float
    total: int


@dataclass(frozen=True)
class Preview:
    """What an unfinished image will be like: of which piece of the order, and its which preview from 0."""

    place: int
    number: int
    image: Image.Image


@dataclass(frozen=True)
class Finished:
    """A piece of the order is done."""

    place: int
    picture: Picture


@dataclass(frozen=True)
class CountedVector:
    """A text's vector (d,), float32 on the CPU, and how many tokens and learned vectors the text has."""

    vector: torch.Tensor
    tokens: int


class PictureOrder(Order):
    """An order for images, a `Request` a piece; its results are `Picture`s, and it hears of `Progress`, `Preview` and
    `Finished`.

    Attributes:
        settings: With which its images are sampled.
        previews: How many previews of each image are told, at even distances.
        look: Whether one of the image under way is wanted after the next step; it then stands in `preview`.
    """

    def __init__(
        self,
        client: Hashable,
        pieces: Sequence[Request],
        settings: Settings,
        tell: Tell,
        previews: int,
    ):
        super().__init__(client, (sampling_key(pieces[0]), reading_key(pieces[0])), pieces, tell)
        self.settings = settings
        self.previews = previews
        self.look = False
        self.preview: Image.Image | None = None


class _WhileWanted(Listener):
    """Breaks off what it listens to when nobody waits for it any more."""

    def __init__(self, pieces: Sequence[Piece]):
        self._pieces = pieces

    def progress(self, done: float, total: int, things: str = "images") -> None:
        if unwanted(self._pieces):
            raise UnwantedError


class Service:
    """A model that many clients use at once.

    Attributes:
        bundle: The model.
        images: Those that clients sent or asked for as URLs.
        learned: Files of embeddings that were learned here, which are served as well.
        library: The embeddings that texts may name, by name.
        pictures: The lane of images.
        vectors: The lane of texts' vectors, which need not wait for images.
    """

    def __init__(self, bundle: Bundle, config: ServeConfig):
        self.bundle = bundle
        self.config = config
        self.images = KeptImages(config)
        self.learned: Sequence[Path] = ()
        self.library: Mapping[str, Embedding] = {}
        self.refresh_embeddings()
        self.pictures = Lane("images", self._make_pictures, self._together, config.max_waiting)
        self.vectors = Lane("texts", self._encode, lambda _: BLOCK, MOST_TEXTS_WAITING)
        self._features = cache(lambda pooling: BundleFeatures(bundle, pooling))

    @property
    def name(self) -> str:
        """What clients call the model: its name, or the last part of its folder or file."""
        source = self.bundle.source.removeprefix("hub:")
        return Path(source.removeprefix("file:")).stem if source.startswith("file:") else Path(source).name

    def refresh_embeddings(self) -> None:
        """Looks anew into the served folders. What was learned here takes no served embedding's name.

        Raises:
            InputError: see `collect`.
        """
        served = collect(self.config.embeddings)
        learned = [file for file in self.learned if file.stem not in served]
        self.library = collect(self.config.embeddings, learned)

    def close(self) -> None:
        """Cancels what waits, and waits for what is under way to break off."""
        for lane in (self.pictures, self.vectors):
            lane.close()

    def order_pictures(
        self,
        client: Hashable,
        settings: Mapping[str, Any],
        embeddings: Collection[str] | None = None,
        tell: Tell = lambda event: None,
        previews: int = 0,
    ) -> PictureOrder:
        """Queues images: prompts x seeds of a `GenerateConfig`.

        Args:
            settings: Fields of `GenerateConfig`. Files among them must be the server's own, such as of `images`.
            embeddings: Names of served embeddings, of which texts may name no others; by default all.
            tell: Hears of progress, in another thread.
            previews: How many previews of each image are told.

        Raises:
            InputError: what `plan` would refuse, or more than the server's bounds allow.
            BusyError: too many images wait.
        """
        _, asked, sampled = self._checked(settings, self._offered(embeddings))
        order = PictureOrder(client, asked, sampled, tell, previews)
        self.pictures.put(order)
        return order

    def account(self, text: str, settings: Mapping[str, Any], negative: bool = False) -> Account:
        """What a prompt, or a negative one, becomes under fields of `GenerateConfig`; it is encoded in the caller's
        thread.

        Raises:
            InputError: what `order_pictures` would refuse.
        """
        prompts = {"prompt": "", "negative_prompt": text} if negative else {"prompt": text}
        config, _, sampled = self._checked(dict(settings) | prompts, self.library)
        encoder = PromptEncoder(self.bundle, self.library, config, sampled.prompt_steps)
        return account(self.bundle, encoder, encoder.encode([text], negative)[text], config, negative)

    def _checked(
        self, settings: Mapping[str, Any], library: Mapping[str, Embedding]
    ) -> tuple[GenerateConfig, list[Request], Settings]:
        """What is asked for, when nothing of it would be refused later."""
        config = GenerateConfig.build(settings)
        asked, sampled = requests(config), resolve_settings(self.bundle.facts, config)
        check_bounds(self.config, sampled, asked)
        check_requests_by_configs(self.bundle.facts, asked, library)
        check_readings(asked, sampled.prompt_steps, library)
        return config, asked, sampled

    def order_vectors(
        self, client: Hashable, texts: Sequence[str], pooling: Pool = "eos", dialect: str = "plain"
    ) -> Order:
        """Queues texts; the order's results are their `CountedVector`s. Names that no served embedding has are words.

        Raises:
            InputError: no text, or too much of it.
            BusyError: too many texts wait.
        """
        check_texts(texts)
        readable = [self._with_known_names(text, dialect) for text in texts]
        return self.vectors.put(Order(client, (pooling, dialect), readable))

    def _with_known_names(self, text: str, dialect: str) -> str:
        try:
            references_in(text, self.library, dialect)
        except InputError:
            return names_as_words(text)
        return text

    def _offered(self, names: Collection[str] | None) -> Mapping[str, Embedding]:
        if names is None:
            return self.library
        for name in names:
            if name not in self.library:
                raise InputError(f"embeddings: '{name}' is not served{did_you_mean(name, self.library)}")
        return {name: self.library[name] for name in names}

    def _together(self, piece: Piece) -> int:
        settings = piece.order.settings  # type: ignore[attr-defined]
        return automatic_batch(self.bundle, settings.width * settings.height)

    def _make_pictures(self, pieces: Sequence[Piece]) -> None:
        """Makes images whose settings are equal, and tells how far each order is."""
        asked = [replace(piece.what, index=index) for index, piece in enumerate(pieces)]
        library = self.library  # of which meanwhile some may be removed, or learned anew
        jobs = plan(self.bundle, asked, library)

        def watch(step: Step) -> None:
            running = [pieces[job.index] for job in step.jobs]
            if unwanted(running):
                raise UnwantedError
            for row, piece in enumerate(running):
                self._show(step, row, piece)
            for order in dict.fromkeys(piece.order for piece in running):
                share = (step.index + 1) / (step.count + 1) * sum(piece.order is order for piece in running)
                order.done = len(order.results) + share
                order.tell(Progress(order.done, len(order.pieces)))

        for sample in run_jobs(self.bundle, jobs, observer=watch):
            piece = pieces[sample.job.index]
            words = sum(span.end - span.start for span in sample.job.positive.spans)
            picture = Picture(sample.image, self._record(sample.job, library), words)
            piece.order.done = len(piece.order.results) + 1.0
            piece.order.tell(Finished(piece.place, picture))
            piece.order.finish(piece.place, picture)

    def _record(self, job: Job, library: Mapping[str, Embedding]) -> dict[str, Any]:
        """What made an image, with the files of its embeddings, where `lab rerun` finds them from any folder."""
        request = job.request
        names = {use.name for side in (job.positive, job.negative) for use in side.applied}
        for text in filter(None, (request.prompt, request.negative_prompt)):  # also what is never in force
            names |= {each.name for each in references_in(str(text), library, request.options.dialect)}
        used = (library[name] for name in sorted(names))
        files = [f"{one.provenance.path.absolute()}={one.name}" for one in used if one.provenance.path]
        return make_record(self.bundle, job) | ({"embedding": files} if files else {})

    def _show(self, step: Step, row: int, piece: Piece) -> None:
        """Tells the preview that is due after a step, if one is."""
        order: PictureOrder = piece.order  # type: ignore[assignment]
        due = [round((number + 1) * step.count / (order.previews + 1)) for number in range(order.previews)]
        if not (order.look or step.index + 1 in due):
            return
        latents = clean_estimate(self.bundle, step)[row : row + 1]
        order.preview = next(decode_images(self.bundle, latents))
        order.look = False
        if step.index + 1 in due:
            order.tell(Preview(piece.place, due.index(step.index + 1), order.preview))

    def _encode(self, pieces: Sequence[Piece]) -> None:
        pooling, dialect = pieces[0].order.key
        features = self._features(pooling).in_dialect(dialect)
        texts = [piece.what for piece in pieces]
        vectors, counts = features.counted_texts(texts, self.library, _WhileWanted(pieces))
        for row, (piece, count) in enumerate(zip(pieces, counts, strict=True)):
            piece.order.finish(piece.place, CountedVector(vectors[row], count))
