"""Where tests find files that are not part of the repository."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
CLIP_TOKENIZER = SHARED / "clip-tokenizer"
PUBLISHED_EMBEDDINGS = SHARED / "embeddings"

needs_clip_tokenizer = pytest.mark.skipif(not CLIP_TOKENIZER.is_dir(), reason=f"{CLIP_TOKENIZER} is absent")
needs_published_embeddings = pytest.mark.skipif(
    not PUBLISHED_EMBEDDINGS.is_dir(), reason=f"{PUBLISHED_EMBEDDINGS} is absent"
)
