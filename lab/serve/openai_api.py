"""OpenAI's API: models, and vectors of texts. Its images are in `openai_images.py`."""

import base64
import time
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, field_validator
from starlette.exceptions import HTTPException

from lab.condition.conditioning import Pool
from lab.config import Config, one_of
from lab.errors import InputError, did_you_mean
from lab.prompt.dialects import DIALECTS
from lab.serve.answers import client_of, wait_for
from lab.serve.service import CountedVector, Service

POOLINGS: dict[str, Pool] = {"" if how == "eos" else f":{how}": how for how in get_args(Pool)}
"""What stands behind the model's name, and what then stands for a text."""

OPENAIS = ("text-embedding-", "dall-e-", "gpt-image-", "chatgpt-image-")
"""How the names of OpenAI's own models begin, which programs ask for that were written for them."""


class EmbeddingsRequest(Config):
    """Texts to be turned into vectors: OpenAI's fields, and `dialect` and `normalize` beside them."""

    input: str | list[str] | list[int] | list[list[int]]
    """A text, or a list of them; token ids are refused."""

    model: str
    """The model's name for its end token's state (CLIP's text feature where it has one), `NAME:mean` for the mean of
    its words' states, `NAME:first` for its first word's. OpenAI's own names mean the first."""

    encoding_format: Literal["float", "base64"] = "float"
    """`base64` is of 32-bit floats, little-endian."""

    dimensions: int | None = Field(None, ge=1)
    """Keeps so many of the vector's numbers, the first."""

    dialect: Annotated[str, one_of(DIALECTS, "dialect")] = "plain"
    """The prompt syntax of the texts. Weights play no part; `<name>` is a served embedding in each."""

    normalize: bool = True
    """Makes vectors one long, as OpenAI's are."""

    user: str | None = None
    """Whom the request is for: users get their turns side by side."""

    @field_validator("input")
    @classmethod
    def _no_tokens(cls, value: Any) -> Any:
        if isinstance(value, list) and not all(isinstance(text, str) for text in value):
            raise ValueError(
                "token ids are of another tokenizer and would be other words here; send text "
                "(LangChain: check_embedding_ctx_length=False)"
            )
        return value

    @property
    def texts(self) -> list[str]:
        """The texts, also where there is one."""
        return [self.input] if isinstance(self.input, str) else [str(text) for text in self.input]


def openai_router(service: Service) -> APIRouter:
    """`/v1/models` and `/v1/embeddings`."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])
    started = int(time.time())

    def described(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "lab"}

    @router.get("/models")
    async def list_models() -> dict[str, Any]:
        """The model, and what of it makes vectors."""
        return {"object": "list", "data": [described(service.name + behind) for behind in POOLINGS]}

    @router.get("/models/{name:path}")
    async def show_model(name: str) -> dict[str, Any]:
        """One of them."""
        return described(service.name + _behind(service, name))

    @router.post("/embeddings")
    async def make_embeddings(asked: EmbeddingsRequest, request: Request) -> Response:
        """Vectors of texts."""
        behind = _behind(service, asked.model)
        order = service.order_vectors(
            client_of(request, asked.user), asked.texts, POOLINGS[behind], asked.dialect
        )
        counted: list[CountedVector] = await wait_for(request, order)
        vectors = _shaped(torch.stack([one.vector for one in counted]), asked)
        tokens = sum(one.tokens for one in counted)
        data = [
            {"object": "embedding", "index": index, "embedding": written}
            for index, written in enumerate(_written(vectors, asked.encoding_format))
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "model": service.name + behind, "data": data, "usage": usage})

    return router


def check_model(service: Service, name: str | None) -> None:
    """Refuses a model that is not the served one; what is OpenAI's own stands for it.

    Raises:
        HTTPException: 404, with the names that there are.
    """
    if name is not None:
        _behind(service, name)


def _behind(service: Service, name: str) -> str:
    """What stands behind the served model's name in the name of a model."""
    if name.startswith(OPENAIS):
        return ""
    known = {service.name + behind: behind for behind in POOLINGS}
    if name not in known:
        raise HTTPException(404, f"model: there is no '{name[:100]}'{did_you_mean(name[:100], known)}")
    return known[name]


def _shaped(vectors: torch.Tensor, asked: EmbeddingsRequest) -> np.ndarray:
    """(n, d) vectors as (n, dimensions), of unit length unless they shall be as they are."""
    width = vectors.shape[1]
    if asked.dimensions is not None and asked.dimensions > width:
        raise InputError(
            f"dimensions: {asked.dimensions} are more than the {width} that the model's vectors have"
        )
    kept = vectors[:, : asked.dimensions]
    return (F.normalize(kept, dim=1) if asked.normalize else kept).numpy()


def _written(vectors: np.ndarray, encoding_format: str) -> list[Any]:
    if encoding_format == "float":
        return vectors.tolist()
    return [base64.b64encode(row.tobytes()).decode() for row in vectors.astype("<f4")]
