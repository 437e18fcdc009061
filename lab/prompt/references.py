"""Learned embeddings named in a prompt: `<name>` and `embedding:name`, in every dialect.

- A name is matched exactly, else regardless of case if that leaves one; `x-2000` never means `x-200`. Composed and
  decomposed letters (NFC, NFD) are the same.
- `<name>` has no space next to its brackets, so `a < b > c` and `<3` are text. So is `<|endoftext|>`.
- `embedding:name` takes the longest known name that ends where a word ends; a comma or any other punctuation may
  follow, and so may a file suffix, which is dropped as ComfyUI does. Spaces may stand before a known name.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable

from lab.errors import InputError, did_you_mean
from lab.prompt.syntax import Reference

_SUFFIXES = (".safetensors", ".pt", ".bin")
_MENTION = re.compile(r"<(?![|\s])([^<>\n]*[^<>\s])>|(?<!\w)embedding:(?P<gap>\s*)(?=\S)")
_EXTRA_NETWORK = re.compile(r"(lora|lyco):", re.IGNORECASE)
_START = re.compile(r"(?<!\w)(?<!\w[-.])")
_GOES_ON = re.compile(r"[\w\u0300-\u036f]|[-.]\w")
_WRITTEN = re.compile(r"\w[^\s,;|()\[\]<>\"]*")


def find_references(text: str, names: Iterable[str]) -> tuple[Reference, ...]:
    """Returns the embeddings that `text` names, in order.

    Args:
        names: The known names. If they can say which of them a file calls otherwise inside (`named_inside`, of
            a `Library`), a name that is not known is looked for there.

    Raises:
        InputError: a name that is not known, with the nearest ones; or the A1111 web UI's `<lora:...>`.
    """
    if "<" not in text and "embedding:" not in text:
        return ()
    book = _Names(names, getattr(names, "named_inside", None))
    references: list[Reference] = []
    for mention in _MENTION.finditer(text):
        if references and mention.start() < references[-1].span[1]:
            continue
        name, end = book.bracketed(mention[1], mention) if mention[1] else book.prefixed(text, mention)
        if name is not None:
            references.append(Reference(name, (mention.start(), end)))
    return tuple(references)


def find_bare_names(text: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names that `--bare-names` may find in a prompt: those that stand in it as words of their own.

    Encoding compares token ids. Without a tokenizer, case, spaces and escapes are passed over, so that no name is
    missed that encoding finds.
    """
    folded = _folded(text).replace("\\", "")
    return tuple(name for name in names if _stands_in(folded, name))


def _stands_in(folded: str, name: str) -> bool:
    characters = (re.escape(character) for character in _folded(name) if not character.isspace())
    return any(
        starts_word(folded, match.start()) and ends_word(folded, match.end())
        for match in re.finditer(r"\s*".join(characters), folded)
        if match[0]
    )


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


class _Names:
    """Known names, looked up exactly or, where that is unambiguous, regardless of case."""

    def __init__(self, names: Iterable[str], named_inside: Callable[[str], str | None] | None = None):
        self.names = list(names)
        self.named_inside = named_inside
        self.exact = {unicodedata.normalize("NFC", bare_name(name)): name for name in self.names}
        self.folded: dict[str, list[str]] = {}
        for bare, name in self.exact.items():
            self.folded.setdefault(bare.casefold(), []).append(name)

    def find(self, written: str) -> str | None:
        """The known name that `written` means, or None."""
        written = unicodedata.normalize("NFC", written)
        if written in self.exact:
            return self.exact[written]
        alike = self.folded.get(written.casefold(), [])
        return alike[0] if len(alike) == 1 else None

    def bracketed(self, written: str, mention: re.Match[str]) -> tuple[str, int]:
        name = self.find(written)
        if name is None and written.startswith("embedding:"):
            name = self.find(without_suffix(written.removeprefix("embedding:")))
        if name is None and written.lower().startswith("hypernet:"):
            raise InputError(f"{mention[0]} in the prompt: hypernetworks are not supported; leave it out")
        if name is None and _EXTRA_NETWORK.match(written):
            raise InputError(
                f"{mention[0]} in the prompt: a LoRA is loaded by --lora FILE=scale, not by the prompt"
            )
        if name is None and self.named_inside is not None:
            name = self.named_inside(written)
        if name is None:
            raise self._unknown(mention[0], written)
        return name, mention.end()

    def prefixed(self, text: str, mention: re.Match[str]) -> tuple[str | None, int]:
        start = mention.end()
        length, name = self._longest(text, start)
        if name is not None:
            return name, _after_suffix(text, start + length)
        written = _WRITTEN.match(text, start)
        if written is None or mention["gap"]:
            return None, start
        raise self._unknown(f"embedding:{written[0]}", without_suffix(written[0]))

    def _longest(self, text: str, start: int) -> tuple[int, str | None]:
        forms = {len(unicodedata.normalize(form, bare)) for bare in self.exact for form in ("NFC", "NFD")}
        for length in sorted(forms, reverse=True):
            end = _after_suffix(text, start + length)
            if ends_word(text, start + length) or end > start + length:
                name = self.find(text[start : start + length])
                if name is not None:
                    return length, name
        return 0, None

    def _unknown(self, shown: str, written: str) -> InputError:
        alike = self.folded.get(written.casefold(), [])
        if len(alike) > 1:
            return InputError(
                f"{shown} in the prompt: {' and '.join(sorted(alike))} differ in case alone; write one"
            )
        known = did_you_mean(written, self.exact) or "; load one with --embedding FILE or --embeddings DIR"
        return InputError(f"{shown} in the prompt: no embedding of that name{known}")


def starts_word(text: str, start: int) -> bool:
    """Whether a name that begins at `text[start]` begins there: no letter, digit, `x-` or `x.` comes before it."""
    return _START.match(text, start) is not None


def ends_word(text: str, end: int) -> bool:
    """Whether a name that ends before `text[end]` ends there: no letter, digit, `-x` or `.x` goes on with it."""
    return _GOES_ON.match(text, end) is None


def _after_suffix(text: str, end: int) -> int:
    for suffix in _SUFFIXES:
        if text.startswith(suffix, end) and ends_word(text, end + len(suffix)):
            return end + len(suffix)
    return end


def without_suffix(written: str) -> str:
    """A name as it is written in a prompt, without the suffix of a file."""
    for suffix in _SUFFIXES:
        written = written.removesuffix(suffix)
    return written


def bare_name(name: str) -> str:
    """A name without the angle brackets that its file may give it."""
    return name[1:-1] if len(name) > 2 and name[0] == "<" and name[-1] == ">" else name
