"""Projectors: from a tower's features to the language model's width."""

from torch import Tensor, nn

from llava_av.model.connector.factory import ConnectorKinds

__all__ = [
    "ACTIVATIONS",
    "PROJECTORS",
    "LinearProjector",
    "MlpProjector",
    "ResidualProjector",
]

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}
"""Classes by their names in recipes and configs; `gelu` is the exact one."""


class LinearProjector(nn.Module):
    """One linear layer (LLaVA, arXiv 2304.08485, section 4.1)."""

    def __init__(self, width_in: int, width_out: int, norm: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width_in) if norm else nn.Identity()
        self.linear = nn.Linear(width_in, width_out, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Project `[…, width_in]` to `[…, width_out]`."""
        projected: Tensor = self.linear(self.norm(features))
        return projected


class MlpProjector(nn.Module):
    """MLP (LLaVA-1.5, arXiv 2310.03744, has two layers and no norm)."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        layers: int = 2,
        activation: str = "gelu",
        norm: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(
                f"layers={layers} of an MLP projector must be ≥ 2; use the linear projector for one layer"
            )
        self.norm = nn.LayerNorm(width_in) if norm else nn.Identity()
        self.activation = _activation(activation)
        self.layers = layers
        for number in range(1, layers + 1):
            width = width_in if number == 1 else width_out
            self.add_module(f"linear_{number}", nn.Linear(width, width_out, bias=bias))

    def forward(self, features: Tensor) -> Tensor:
        """Project `[…, width_in]` to `[…, width_out]`."""
        hidden: Tensor = self.get_submodule("linear_1")(self.norm(features))
        for number in range(2, self.layers + 1):
            hidden = self.get_submodule(f"linear_{number}")(self.activation(hidden))
        return hidden


class ResidualProjector(nn.Module):
    """Linear layer followed by pre-norm residual MLP blocks."""

    def __init__(
        self, width_in: int, width_out: int, blocks: int = 1, activation: str = "gelu", norm: bool = True
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"blocks={blocks} of a residual projector must be ≥ 1")
        self.norm = nn.LayerNorm(width_in) if norm else nn.Identity()
        self.linear = nn.Linear(width_in, width_out)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width_out),
                nn.Linear(width_out, width_out),
                _activation(activation),
                nn.Linear(width_out, width_out),
            )
            for _ in range(blocks)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Project `[…, width_in]` to `[…, width_out]`."""
        hidden: Tensor = self.linear(self.norm(features))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return hidden


PROJECTORS: ConnectorKinds[nn.Module] = ConnectorKinds(
    "projector",
    {
        "linear": LinearProjector,
        "mlp": MlpProjector,
        "residual_mlp": ResidualProjector,
    },
)
"""Classes by their names; the model gives `width_in` and `width_out`."""


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r} of a projector: one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
