"""Options of connectors by kind, checked when a recipe is read: the classes need torch and a whole model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from llava_av.frozen import FrozenModel

__all__ = ["CONNECTOR_OPTIONS", "ConnectorRole", "check_connector"]

ConnectorRole = Literal["resampler", "vision_projector", "audio_downsampler", "audio_projector"]

_Activation = Literal["gelu", "relu", "silu"]


class _SpatialPool(FrozenModel):
    stride: int = Field(ge=1)
    mode: Literal["average", "max", "bilinear"] = "average"
    rounding: Literal["floor", "ceil"] = "floor"


class _Perceiver(FrozenModel):
    queries: int = Field(ge=1)
    layers: int = Field(default=1, ge=1)


class _QFormer(FrozenModel):
    queries: int = Field(ge=1)
    layers: int = Field(default=2, ge=1)


class _MaskedDrop(FrozenModel):
    drop_share: float = Field(gt=0, lt=1)


class _Identity(FrozenModel):
    pass


class _Group(FrozenModel):
    size: int = Field(ge=1)


class _Convolution(FrozenModel):
    kernel: int = Field(ge=1)
    stride: int = Field(ge=1)

    @model_validator(mode="after")
    def _covers_all_features(self) -> Self:
        if self.kernel < self.stride:
            raise ValueError(f"kernel={self.kernel} must be ≥ stride={self.stride}")
        return self


class _WindowedQFormer(FrozenModel):
    window: int = Field(ge=1)
    queries: int = Field(default=1, ge=1)
    layers: int = Field(default=2, ge=1)


class _Linear(FrozenModel):
    norm: bool = True
    bias: bool = True


class _Mlp(_Linear):
    layers: int = Field(default=2, ge=2)
    activation: _Activation = "gelu"


class _ResidualMlp(FrozenModel):
    blocks: int = Field(default=1, ge=1)
    activation: _Activation = "gelu"
    norm: bool = True


_PROJECTORS: Mapping[str, type[FrozenModel]] = MappingProxyType(
    {"linear": _Linear, "mlp": _Mlp, "residual_mlp": _ResidualMlp}
)
CONNECTOR_OPTIONS: Mapping[ConnectorRole, Mapping[str, type[FrozenModel]]] = MappingProxyType(
    {
        "resampler": MappingProxyType(
            {
                "spatial_pool": _SpatialPool,
                "perceiver": _Perceiver,
                "qformer": _QFormer,
                "masked_drop": _MaskedDrop,
                "identity": _Identity,
            }
        ),
        "vision_projector": _PROJECTORS,
        "audio_downsampler": MappingProxyType(
            {
                "stack": _Group,
                "convolution": _Convolution,
                "average": _Group,
                "qformer": _WindowedQFormer,
            }
        ),
        "audio_projector": _PROJECTORS,
    }
)
"""Options by role and kind."""


def check_connector(role: ConnectorRole, kind: str, options: Mapping[str, object]) -> None:
    """Check the kind of a connector and its options.

    Raises:
        ValueError: The kind or an option is unknown, an option is missing, or a value is not allowed; names
            it in one line.
    """
    kinds = CONNECTOR_OPTIONS[role]
    if kind not in kinds:
        raise ValueError(f"{role}={kind!r} is unknown: use one of {', '.join(kinds)}")
    try:
        kinds[kind].model_validate(options, strict=True)
    except ValidationError as error:
        found = error.errors()
        # A misspelt option also makes the right one missing.
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            taken = ", ".join(kinds[kind].model_fields) or "none"
            raise ValueError(f"{role}_options: {kind} has no option {name!r}: it takes {taken}") from None
        said = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{role}_options of {kind}: {f'{name}: ' if name else ''}{said}") from None
