"""Choices when embeddings are written and mixed, apart from all that needs torch."""

from typing import Literal

Layout = Literal["diffusers", "kohya", "a1111", "sdxl"]
"""File layouts that can be written."""

Method = Literal["average", "concat"]
"""Ways to make one embedding of several."""
