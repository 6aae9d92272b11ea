"""Section [model]: the shape of the model. A version is tied to it."""

from typing import Literal

from pydantic import Field, model_validator

from service.settings import Section

Dense = Literal["auto", "fp32", "bf16", "int8"]
"""How a server computes matrix products: auto is what measures fastest on its
machine, of those that are exact enough."""


class ModelSettings(Section):
    """The shape of the model: section [model]. A version is tied to it."""

    dim: int = Field(64, ge=4, le=1024)
    layers: int = Field(2, ge=1, le=32)
    heads: int = Field(2, ge=1, le=32)
    qk_width: int = Field(32, ge=4, le=256)
    v_width: int = Field(32, ge=4, le=256)
    window: int = Field(256, ge=4, le=8192, description="events a row can see; divisible by 4")
    temperature: float = Field(0.15, gt=0, le=1)
    priors: tuple[float, ...] = Field(
        (1_800.0, 14_400.0, 86_400.0), description="half-lives of the item prior, seconds"
    )
    next_item_from: str = Field("query", pattern="^(query|history)$")
    layer: Literal["freshet", "research", "production"] = Field(
        "freshet", description="form of a layer: see service.model.layer.FORMS"
    )
    weights: Literal["silu", "softmax"] = Field("silu", description="what logits become")
    relative_bias: bool = Field(True, description="whether distance and time speak in the logits")
    categories: int = Field(
        256, ge=0, le=4_096, description="categories with a vector of their own; 0: none speak"
    )

    @model_validator(mode="after")
    def _window_moves_by_quarters(self) -> "ModelSettings":
        if self.window % 4:
            raise ValueError("window must be divisible by 4")
        return self
