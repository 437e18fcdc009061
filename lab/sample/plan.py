"""What is to be made: requests in, jobs out, one an image."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lab.condition.conditioning import Conditioning, Encoding
from lab.condition.config import TextOptions
from lab.condition.embeds_file import read_embeds
from lab.condition.prompt_encoder import PromptEncoder
from lab.embeddings.library import Sources
from lab.errors import InputError
from lab.images import fit, open_image, to_tensor
from lab.models.bundle import Bundle
from lab.models.controlnet import read_controlnet
from lab.models.device import to_device
from lab.models.unet import Control
from lab.prompt.dialects import find_dialect
from lab.prompt.syntax import is_negated
from lab.sample.config import Request
from lab.sample.negatives import NEGATIVE_METHODS, check_weights, weights_in
from lab.sample.pixels import encode_image
from lab.sample.settings import (
    Settings,
    make_by_key,
    offered_embeddings,
    reading_key,
    resolve_settings,
    sampling_key,
)
from lab.text import shortened


@dataclass(frozen=True)
class Job:
    """One image to make: everything is encoded, resolved and checked.

    Attributes:
        index: The image's place among the results.
        negative: What the image is to avoid; unused where `negative_acts` says so.
        request: What the job was planned from, of which the image's record tells.
        init_latents: (1, c, h, w) float32 for image-to-image, or None.
        control: A ControlNet with its image (1, 3, H, W), or None.
        empty: No prompt, for methods that go by it, and where the negative prompt's interval leaves that out; or None.
    """

    index: int
    positive: Conditioning
    negative: Conditioning
    seed: int
    settings: Settings
    request: Request
    init_latents: Tensor | None = None
    control: Control | None = None
    empty: Conditioning | None = None

    @property
    def negative_acts(self) -> bool:
        """Whether the negative side takes part, through guidance or without it."""
        return self.guided or self.settings.avoiding.attend is not None

    @property
    def guided(self) -> bool:
        """Whether guidance leads away from the negative side: as in diffusers above scale 1, and in compositions."""
        parts = self.positive.parts
        return self.settings.guidance > 1 or len(parts) > 1 or parts[0].weight != 1


def plan(
    bundle: Bundle,
    requests: Sequence[Request],
    embeddings: Sources = (),
) -> list[Job]:
    """The jobs of requests, in their order: settings that are equal are resolved once, each distinct text is encoded
    once for each way of reading it, and an init image is opened and encoded once for each size.

    Args:
        embeddings: What prompts may name beside what the requests' options offer; a mapping is all that they may
            name, and the options' files and folders are not read.

    Raises:
        InputError: settings that the model cannot serve, text that cannot be read or names an embedding which is
            not there, an init image or prompt embeddings that cannot be used.
    """
    settings = _settings(bundle, requests)
    init_latents = _all_init_latents(bundle, requests, settings)
    controls = _all_controls(bundle, requests, settings)
    sides: dict[int, tuple[Conditioning, Conditioning]] = {}
    empties: dict[int, Conditioning | None] = {}
    for places in _read_alike(requests, settings):
        alike = [requests[place] for place in places]
        pairs = _encode(bundle, alike, settings[places[0]].prompt_steps, embeddings)
        sides |= dict(zip(places, pairs, strict=True))
        needed = any(settings[place].needs_empty for place in places)
        empties |= dict.fromkeys(places, _encode_empty(bundle, alike[0].options) if needed else None)
    texts = (entry for pair in sides.values() for side in pair for entry in side.entries)
    if bundle.options.compile and any(entry.layers for entry in texts):
        raise InputError(
            "compile: an embedding has vectors for each of the U-Net's layers, which --compile closes; leave that out"
        )
    return [
        Job(
            request.index,
            *sides[place],
            request.seed,
            settings[place],
            request,
            init_latents[place],
            controls[place],
            empties[place],
        )
        for place, request in enumerate(requests)
    ]


def _encode_empty(bundle: Bundle, options: TextOptions) -> Conditioning:
    """What the model takes for no prompt at all: a negative prompt that is not given."""
    plain = TextOptions(dialect=options.dialect, clip_skip=options.clip_skip)
    return encode_pairs(bundle, [("", None)], (), plain, 1)[0][1]


def check_requests(bundle: Bundle, requests: Sequence[Request], embeddings: Sources = ()) -> list[Settings]:
    """Refuses what `plan` would refuse, and encodes only a few of the texts: for runs that are planned bit by bit.

    Returns:
        The settings of the requests, in their order.

    Raises:
        InputError: see `plan`.
    """
    settings = _settings(bundle, requests)
    _all_init_latents(bundle, requests, settings)
    for places in _read_alike(requests, settings):
        alike, steps = [requests[place] for place in places], settings[places[0]].prompt_steps
        _encode(bundle, alike[:1], steps, embeddings)
        options = alike[0].options
        encoder = PromptEncoder(bundle, offered_embeddings(options, embeddings), options, steps)
        texts = [(request.prompt, False) for request in alike]
        texts += [(request.negative_prompt or "", True) for request in alike]
        for text, negative in dict.fromkeys(texts):
            timelines = encoder.read(text, negative) if isinstance(text, str) else ()
            check_weights(weights_in(timelines), settings[places[0]].avoiding)
            for variant in (variant for timeline in timelines for variant in timeline.variants):
                encoder.chunks(variant)
    return settings


def _encode(
    bundle: Bundle,
    requests: Sequence[Request],
    steps: int,
    embeddings: Sources,
) -> list[tuple[Conditioning, Conditioning]]:
    """Prompts and negative prompts of requests that are read alike, encoded."""
    options = requests[0].options
    read = {
        path: read_embeds(path, bundle, steps) for path in (options.embeds, options.negative_embeds) if path
    }
    asked = [
        (
            read[options.embeds] if options.embeds else request.prompt,
            read[options.negative_embeds] if options.negative_embeds else request.negative_prompt,
        )
        for request in requests
    ]
    distinct, method = list(dict.fromkeys(asked)), NEGATIVE_METHODS[options.negative_method]
    pairs = encode_pairs(
        bundle, distinct, offered_embeddings(options, embeddings), options, steps, method.negates
    )
    for texts, pair in zip(distinct, pairs, strict=True):
        for text, side in zip(texts, pair, strict=True):
            said = [(span.text, span.weight) for entry in side.entries for span in entry.spans]
            if not isinstance(text, Conditioning):
                check_weights(said, method)
            elif method.negates and any(is_negated(*each) for each in said):
                raise InputError(
                    f"embeds: '{shortened(text.prompt)}' was encoded with its negative weights multiplied, which no "
                    "--negative-method undoes; give the prompt itself"
                )
    encoded = dict(zip(distinct, pairs, strict=True))
    return [encoded[pair] for pair in asked]


def encode_pairs(
    bundle: Bundle,
    pairs: Sequence[tuple[str | Conditioning, str | Conditioning | None]],
    embeddings: Sources,
    options: TextOptions,
    steps: int,
    negates: bool = False,
) -> list[tuple[Conditioning, Conditioning]]:
    """Encodes prompts with their negative prompts, each side as long as its own text.

    Each distinct text is encoded once. A negative of None is SDXL's convention: zeros where the model says so
    (`force_zeros_for_empty_prompt`), else the encoded empty text. A text that is empty at all steps is the same in the
    dialects of tools that take it so (`Dialect.empty_negative_is_none`), and is encoded in the others. A side that is
    encoded already (`read_embeds`) is taken as it is, but for what is knocked out of a prompt.

    Args:
        embeddings: All that the texts may name; of `options` neither `embedding` nor `embeddings` is looked at.
        steps: Calls of the U-Net, over which schedules are resolved.
        negates: As `PromptEncoder` takes it.

    Raises:
        InputError: see `PromptEncoder.encode`.
    """
    encoder = PromptEncoder(bundle, embeddings, options, steps, negates)
    positives = encoder.encode(prompt for prompt, _ in pairs if isinstance(prompt, str))
    negatives = encoder.encode(
        (avoided or "" for _, avoided in pairs if not isinstance(avoided, Conditioning)), negative=True
    )
    empty_is_none = find_dialect(options.dialect).empty_negative_is_none
    result = []
    for prompt, avoided in pairs:
        positive = positives[prompt] if isinstance(prompt, str) else encoder.knocked_out(prompt)
        negative = avoided if isinstance(avoided, Conditioning) else negatives[avoided or ""]
        none = avoided is None or (
            isinstance(avoided, str) and empty_is_none and not any(entry.text for entry in negative.entries)
        )
        if none and bundle.force_zeros_for_empty_prompt:
            negative = negative.map(Encoding.zeroed)
        result.append((positive, negative))
    return result


def _settings(bundle: Bundle, requests: Sequence[Request]) -> list[Settings]:
    settings = make_by_key(
        requests, sampling_key, lambda request: resolve_settings(bundle.facts, request.options)
    )
    if bundle.options.compile and any(each.avoiding.attend for each in settings):
        raise InputError(
            "negative_method: nag, negpip and vsf work in the U-Net's layers, which --compile closes; leave that out"
        )
    return settings


def _read_alike(requests: Sequence[Request], settings: Sequence[Settings]) -> Iterable[list[int]]:
    """The places of requests whose texts are read and encoded alike, group by group."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, request in enumerate(requests):
        groups[reading_key(request), settings[place].prompt_steps].append(place)
    return groups.values()


def _all_init_latents(
    bundle: Bundle, requests: Sequence[Request], settings: Sequence[Settings]
) -> list[Tensor | None]:
    return make_by_key(
        list(zip(requests, settings, strict=True)),
        lambda pair: (pair[0].options.init_image, pair[1].width, pair[1].height),
        lambda pair: _init_latents(bundle, *pair),
    )


def _init_latents(bundle: Bundle, request: Request, settings: Settings) -> Tensor | None:
    path = request.options.init_image
    if path is None:
        return None
    return encode_image(bundle, fit(open_image(path), (settings.width, settings.height)))


def _all_controls(
    bundle: Bundle, requests: Sequence[Request], settings: Sequence[Settings]
) -> list[Control | None]:
    """Each control image is opened once for each size and ControlNet."""
    return make_by_key(
        list(zip(requests, settings, strict=True)),
        lambda pair: (
            *(pair[0].options.controlnet, pair[0].options.control_image, pair[1].control_scale),
            *(pair[1].width, pair[1].height),
        ),
        lambda pair: _control(bundle, *pair),
    )


def _control(bundle: Bundle, request: Request, settings: Settings) -> Control | None:
    source, path = request.options.controlnet, request.options.control_image
    if source is None or path is None or settings.control_scale is None:
        return None
    model = read_controlnet(source, bundle.facts, bundle.dtype, bundle.device)
    image = to_tensor([fit(open_image(path), (settings.width, settings.height))])
    return Control(model, to_device(image, bundle.device), settings.control_scale)
