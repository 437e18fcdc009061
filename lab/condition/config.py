"""The options that say how prompt text becomes prompt embeddings."""

from typing import Annotated

from pydantic import AfterValidator, Field

from lab.condition.weighting import WEIGHTINGS
from lab.config import Config, ExistingPath, one_of
from lab.embeddings.library import check_embedding_source
from lab.prompt.dialects import DIALECTS, find_dialect


class TextOptions(Config):
    """How prompts are read and which learned embeddings they can name."""

    dialect: Annotated[str, one_of(DIALECTS, "dialect")] = "a1111"
    """The prompt syntax: of the A1111 web UI, ComfyUI, the compel library, or none."""

    weighting: Annotated[str, one_of(WEIGHTINGS, "weighting")] | None = None
    """The arithmetic for weighted words; by default the dialect's own."""

    clip_skip: int = Field(0, ge=0, le=11)
    """Leaves out this many of the text encoder's last layers (as in diffusers; A1111 shows one more, and on SD 2.x and
    SDXL leaves out none, so that the a1111 dialect does not either)."""

    embedding: list[Annotated[str, AfterValidator(check_embedding_source)]] = Field(default_factory=list)
    """A learned embedding: FILE or FILE=name, repeatable."""

    embeddings: list[ExistingPath] = Field(default_factory=list)
    """A file or folder of learned embeddings that prompts may name, repeatable."""

    bare_names: bool = False
    """Also finds embeddings by their bare name in the text, as A1111 does."""

    comma_backtrack: int = Field(20, ge=0)
    """A full chunk ends at a comma at most this many tokens back (tokens; 0 turns it off)."""

    keep_words: bool = False
    """Cuts no word between two chunks, where A1111 and ComfyUI would."""

    knock_out: str | None = None
    """What of the prompt is replaced by clean padding once it is encoded: a word, `<name>` or its second vector
    `<name>:2`, `[end]`, `[padding]`, or SDXL's `[pooled]`; `lab compare` takes `prompt` for each of them in turn."""

    def clip_skip_on(self, family: str) -> int:
        """The layers that are left out on a model of a family: in the a1111 dialect none but on SD 1.x."""
        families = find_dialect(self.dialect).clip_skip_families
        return self.clip_skip if families is None or family in families else 0

    @property
    def weighting_used(self) -> str:
        """The arithmetic in force: what was asked for, else the dialect's own."""
        return self.weighting or find_dialect(self.dialect).weighting
