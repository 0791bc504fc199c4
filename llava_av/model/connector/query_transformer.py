"""Transformer of the Q-Former: learned queries that read features."""

from torch import Tensor, nn, randn

__all__ = ["QueryTransformer"]


class QueryTransformer(nn.Module):
    """Queries that attend to each other and to features, block by block (BLIP-2, arXiv 2301.12597, 3.1).

    The blocks are BERT's, with a norm after each residual sum. Every block has cross-attention to the
    features, which are normalised first as BLIP-2 normalises those of its tower; there is no text branch.
    """

    def __init__(self, width: int, queries: int, heads: int, layers: int) -> None:
        super().__init__()
        _require(width=width, queries=queries, heads=heads, layers=layers)
        self.count = queries
        """Number of queries; under ZeRO-3 the weight itself is empty while the module does not run."""
        self.queries = nn.Parameter(randn(queries, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.feature_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))

    def forward(self, features: Tensor, absent: Tensor | None = None) -> Tensor:
        """Read each row of features with all queries.

        Args:
            features: `[n, length, width]`.
            absent: `[n, length]`, true for padding.

        Returns:
            `[n, queries, width]`.
        """
        hidden: Tensor = self.norm(self.queries).expand(len(features), -1, -1)
        features = self.feature_norm(features)
        for block in self.blocks:
            hidden = block(hidden, features, absent)
        return hidden


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, features: Tensor, absent: Tensor | None) -> Tensor:
        mixed = self.self_attention(queries, queries, queries, need_weights=False)[0]
        queries = self.self_norm(queries + mixed)
        read = self.cross_attention(queries, features, features, key_padding_mask=absent, need_weights=False)[
            0
        ]
        queries = self.cross_norm(queries + read)
        updated: Tensor = self.feed_forward_norm(queries + self.feed_forward(queries))
        return updated


def _require(*, width: int, queries: int, heads: int, layers: int) -> None:
    for name, value in (("queries", queries), ("layers", layers)):
        if value < 1:
            raise ValueError(f"{name}={value} of a query transformer must be ≥ 1")
    if width % heads:
        raise ValueError(f"heads={heads} of a query transformer must divide its {width} features")
