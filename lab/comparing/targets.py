"""What a heat map can be asked about: a word, an embedding, or a whole side of the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lab.condition.conditioning import Encoding, TokenSpan
from lab.errors import InputError, did_you_mean
from lab.sample.jobs import Job

Side = Literal["positive", "negative"]


@dataclass(frozen=True)
class Target:
    """A word, several words in a row, or an embedding by its name; None stands for all that the side says."""

    text: str | None = None
    side: Side = "positive"

    @property
    def label(self) -> str:
        """The target as captions name it."""
        named = self.text or "all words"
        return named if self.side == "positive" else f"{named} (negative)"


def find_rows(encoding: Encoding, text: str | None) -> list[int]:
    """The rows of an encoding that a target occupies, wherever the text has it; none if it is not there.

    An embedding's vectors and a word's tokens belong together, so all their rows count. Case does not matter, and
    an embedding's name may stand in `<>` or behind `embedding:` as prompts have it.
    """
    spans = encoding.spans if text is None else _find_spans(encoding.spans, text)
    return sorted({row for span in spans for row in range(span.start, span.end)})


def check_target(job: Job, target: Target) -> None:
    """Refuses, before anything is computed, what a job's prompt does not say.

    Raises:
        InputError: a word that is not in the prompt (with the nearest words), or the side of a negative prompt
            that takes no part.
    """
    if target.side == "negative" and not job.guided:
        raise InputError(
            f"heat map of '{target.label}': without guidance the negative prompt takes no part; "
            f"raise --guidance above 1"
        )
    prompt = getattr(job, target.side)
    entries = [encoding for part in prompt.parts for _, encoding in part.entries]
    if any(find_rows(encoding, target.text) for encoding in entries):
        return
    if target.text is None:
        raise InputError(f"heat map: the {target.side} prompt is empty, so there is nothing to map")
    words = {span.text for encoding in entries for span in encoding.spans}
    raise InputError(
        f"heat map: '{target.text}' is not in the {target.side} prompt '{prompt.prompt}'"
        f"{did_you_mean(target.text, words)}"
    )


def _find_spans(spans: Sequence[TokenSpan], text: str) -> list[TokenSpan]:
    name = text.removeprefix("embedding:").strip("<>")
    found = [span for span in spans if span.embedding == name]
    wanted = "".join(text.split()).casefold()
    for start in range(len(spans)):
        joined = ""
        for end in range(start, len(spans)):
            joined += spans[end].text.casefold()
            if joined == wanted:
                found.extend(spans[start : end + 1])
            if len(joined) >= len(wanted):
                break
    return found
