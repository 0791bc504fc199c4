"""Section `model.adapter`: low-rank adapters of parts whose own weights are frozen."""

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from llava_av.recipe.section import Section

__all__ = ["AdaptedPart", "AdapterRecipe"]

AdaptedPart = Literal["vision_tower", "audio_tower", "language"]
"""Parts with layers that an adapter can change; connectors and embeddings are trained fully."""


def _check_targets(names: Any) -> Any:
    is_list = isinstance(names, list | tuple) and names and all(isinstance(one, str) for one in names)
    if names != "all-linear" and not is_list:
        raise ValueError("use all-linear, or a list of names of layers such as [q_proj, v_proj]")
    return names


_Targets = Annotated[Literal["all-linear"] | tuple[str, ...], BeforeValidator(_check_targets)]


def _in_order(targets: dict[AdaptedPart, _Targets]) -> dict[AdaptedPart, _Targets]:
    """Return the targets by part in one order, so that equal trainings have equal recipes."""
    return {
        part: names if isinstance(names, str) else tuple(sorted(set(names)))
        for part in get_args(AdaptedPart)
        if (names := targets.get(part)) is not None
    }


class AdapterRecipe(Section):
    """LoRA or DoRA: small trained matrices beside frozen linear layers."""

    rank: int = Field(default=16, ge=1, le=16_384)
    """Rank of the two matrices of each layer."""
    alpha: float = Field(default=32.0, gt=0, le=1e6)
    """Scale: the product of the matrices is multiplied by `alpha / rank`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the input of the matrices."""
    dora: bool = False
    """Also train the magnitude of each output (DoRA, arXiv 2402.09353)."""
    targets: Annotated[dict[AdaptedPart, _Targets], Field(min_length=1), AfterValidator(_in_order)] = Field(
        default={"language": "all-linear"}
    )
    """Adapted layers by part (`vision_tower`, `audio_tower`, `language`): `all-linear` for the linear layers
    of all attention and MLP blocks, or names such as `[q_proj, v_proj]`."""
