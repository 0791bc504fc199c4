"""Structure of a batch as values of the host.

`forward` needs to know where placeholder tokens and labels are, and how media are divided. Reading that from
tensors on a GPU waits for all work before. The loader of a training therefore derives it from the tensors of
a batch before they move to the device, and passes it along. All other callers leave it to `forward`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.device_waits import known_masks, on_device
from llava_av.model.media_inputs import MediaInputs, MediaInputSizes
from llava_av.model.sequence.packing import packed_sequences, restarted_positions, sequence_bounds

__all__ = ["IGNORE", "BatchLayout", "LabelledTokens", "MediaMismatchError", "PackedRows", "Placeholders"]

IGNORE = -100
"""Label of a position without a prediction target."""


class MediaMismatchError(ValueError):
    """Placeholder tokens in the text and features of the media differ in number."""


@dataclass(frozen=True, kw_only=True)
class Placeholders:
    """Placeholder tokens of a modality."""

    modality: str
    """`image`, `video` or `audio`."""
    per_row: list[int]
    """Number of each row."""
    places: Tensor
    """Index of each in the flattened rows."""

    @classmethod
    def of(cls, modality: str, input_ids: Tensor, token: int | None) -> Placeholders:
        """Find a token, which is None if the model lacks the modality."""
        found = torch.zeros_like(input_ids, dtype=torch.bool) if token is None else input_ids == token
        places = found.flatten().nonzero()[:, 0]
        return cls(modality=modality, per_row=found.sum(1).tolist(), places=places)

    def fill(self, embeddings: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Return embeddings `[rows, length, width]` with features in place of the placeholder tokens.

        Args:
            embeddings: Embeddings of all tokens.
            features: Features of each medium, `[tokens, width]`, in the order of their positions.

        Raises:
            MediaMismatchError: The numbers of placeholder tokens and features differ; names both.
        """
        _require_matching_rows(self.modality, self.per_row, [len(one) for one in features])
        if not features:
            return embeddings
        rows, places = embeddings.flatten(0, 1), on_device(self.places, embeddings.device)
        return rows.index_copy(0, places, torch.cat(list(features)).to(rows)).view_as(embeddings)


@dataclass(frozen=True, kw_only=True)
class LabelledTokens:
    """Positions with a prediction target; most positions of a sample with media have none."""

    places: Tensor
    """Index of each position in the flattened rows."""
    targets: Tensor
    """Token to predict at each position."""
    owners: Tensor
    """Row of each position; its sample in packed rows."""
    counts: Tensor
    """Number of positions of each row or sample."""

    @classmethod
    def of(cls, labels: Tensor, sample_of: Tensor | None) -> LabelledTokens:
        """Find the positions; arguments as those of `forward`."""
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
        found = targets != IGNORE
        owners = found.nonzero()[:, 0] if sample_of is None else sample_of[found]
        samples = len(labels) if sample_of is None else int(sample_of.max()) + 1
        return cls(
            places=found.flatten().nonzero()[:, 0],
            targets=targets[found],
            owners=owners,
            counts=owners.bincount(minlength=samples),
        )


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """Samples in packed rows."""

    positions: Tensor
    """Positions that restart with each sample, `[rows, length]`."""
    sequences: Tensor | None
    """Number of each token's sample in its row, `[rows, length]`; None if each row has a single one."""
    bounds: Mapping[str, Any]
    """Arguments of FlashAttention for all rows in one."""

    @classmethod
    def of(cls, sample_of: Tensor) -> PackedRows:
        """Return the rows of `forward`'s argument `sample_of`."""
        positions = restarted_positions(sample_of)
        return cls(
            positions=positions,
            sequences=packed_sequences(positions),
            bounds=sequence_bounds(positions.reshape(1, -1)),
        )


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """Structure of a batch; its tensors are on the CPU."""

    media: MediaInputSizes
    placeholders: Mapping[str, Placeholders]
    """Of each modality, `image`, `video` and `audio`; none without `input_ids`."""
    labelled: LabelledTokens | None
    packed: PackedRows | None
    has_padding: bool | None
    """True if the attention mask excludes a position; None without a mask."""

    @classmethod
    def of(cls, config: LlavaAvConfig, tensors: Mapping[str, Any]) -> BatchLayout:
        """Read the structure of a batch, which waits for its device.

        Args:
            config: Config of the model.
            tensors: Arguments of `forward`.
        """
        names = ("input_ids", "labels", "sample_of", "attention_mask")
        ids, labels, owners, mask = (_on_host(tensors.get(name)) for name in names)
        tokens = {name: getattr(config, f"{name}_token_id") for name in ("image", "video", "audio")}
        return cls(
            media=MediaInputs.from_arguments(tensors).sizes(),
            placeholders={}
            if ids is None
            else {name: Placeholders.of(name, ids, token) for name, token in tokens.items()},
            labelled=None if labels is None else LabelledTokens.of(labels, owners),
            packed=None if owners is None else PackedRows.of(owners),
            has_padding=None if mask is None else not bool(mask.all()),
        )

    def known_masks(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """Return a block in which transformers need not read padding and samples from the device."""
        sequences = None if self.packed is None else self.packed.sequences
        return known_masks(sequences=sequences, has_padding=bool(self.has_padding), device=device)


def _on_host(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.cpu()


def _require_matching_rows(modality: str, placeholders: Sequence[int], tokens: Sequence[int]) -> None:
    """Check that the media fill the rows one after the other, each medium within one row.

    Args:
        modality: `image`, `video` or `audio`.
        placeholders: Number of placeholder tokens of each row.
        tokens: Number of features of each medium, in the order of their positions.

    Raises:
        MediaMismatchError: Names both counts, and the row where media of several rows compensate each other.
    """
    if sum(placeholders) != sum(tokens):
        raise MediaMismatchError(
            f"{sum(placeholders)} {modality} placeholders but {sum(tokens)} {modality} tokens"
        )
    rest = iter(tokens)
    for row, wanted in enumerate(placeholders):
        filled = 0
        while filled < wanted:
            filled += next(rest)
        if filled != wanted:
            raise MediaMismatchError(
                f"row {row} has {wanted} {modality} placeholders but its media have {filled} {modality} "
                "tokens"
            )
