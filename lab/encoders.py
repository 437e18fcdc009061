"""Names of text encoders: which of an embedding's vectors belong to which encoder of a model."""

ENCODER_BY_WIDTH = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}
"""SD 1.x's and SDXL's first encoder, SD 2.x's, and SDXL's second; any other width is plain `clip`."""


def encoder_key(width: int) -> str:
    """The name of the text encoder that has this width."""
    return ENCODER_BY_WIDTH.get(width, "clip")
