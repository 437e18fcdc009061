"""What the rows of the prompt embeddings stand for."""

from collections.abc import Mapping, Sequence

from lab.condition.conditioning import AppliedEmbedding, TokenSpan
from lab.condition.layout import Chunk
from lab.embeddings.embedding import Embedding


def token_spans(chunks: Sequence[Chunk], context: int, first_row: int = 0) -> tuple[TokenSpan, ...]:
    """The spans of a text's pieces; its chunks take `context` rows each, from `first_row` on.

    Rows are the first encoder's where SDXL's second one sees another number of tokens.
    """
    spans = []
    for index, chunk in enumerate(chunks):
        row = first_row + index * context + 1  # after the start token
        for piece in chunk:
            end = row + len(piece.ids[0])
            spans.append(TokenSpan(piece.text, row, end, piece.source, piece.weight, piece.embedding))
            row = end
    return tuple(spans)


def applied_embeddings(
    spans: Sequence[TokenSpan], embeddings: Mapping[str, Embedding]
) -> tuple[AppliedEmbedding, ...]:
    """Each use of a learned embedding, in order."""
    return tuple(
        AppliedEmbedding(
            name=span.embedding,
            vectors=span.end - span.start,
            positions=tuple(range(span.start, span.end)),
            weight=span.weight,
            sha256=embeddings[span.embedding].provenance.sha256,
        )
        for span in spans
        if span.embedding is not None
    )
