"""Vision towers: patches at any resolution, and tokens of images of any shape."""

import pytest
import torch
from transformers import AutoModel

from llava_av.media.clip import Clip
from llava_av.model import LlavaAvConfig
from llava_av.model.vision.anyres import AnyRes
from llava_av.model.vision.tower import leading_tokens, patch_features
from tests.model_samples import clip, image, tiny_model

_SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8}
TOWERS = {
    "clip_vision_model": _SHAPE | {"intermediate_size": 48},
    "siglip_vision_model": _SHAPE | {"intermediate_size": 48, "vision_use_head": False},
    "siglip2_vision_model": _SHAPE
    | {"intermediate_size": 48, "num_patches": 16, "vision_use_head": False, "attention_dropout": 0.0},
    "dinov2": _SHAPE | {"mlp_ratio": 2},
    "dinov2_with_registers": _SHAPE | {"mlp_ratio": 2, "num_register_tokens": 3},
}
LEADING = {"clip_vision_model": 1, "dinov2": 1, "dinov2_with_registers": 4}
TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]


def config_of(tower: str, trained_at: int = 32, **options) -> LlavaAvConfig:
    vision = TOWERS[tower] | {"model_type": tower, "image_size": trained_at}
    return LlavaAvConfig(vision_config=vision, text_config={"model_type": "qwen2"}, **options)


def pixels(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def tower_of(config: LlavaAvConfig):
    torch.manual_seed(0)
    return AutoModel.from_config(config.vision_config).eval()


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("layer", [None, -2, [0, -1]])
def test_the_patches_are_those_of_the_chosen_layers(tower, layer):
    config = config_of(tower, vision_feature_layer=layer)
    model = tower_of(config)
    patches = patch_features(model, pixels(), config)
    assert patches.shape == (2, 16, 64 if isinstance(layer, list) else 32)
    whole = patch_features(
        model, pixels(), config_of(tower, vision_feature_layer=layer, vision_feature_select_strategy="full")
    )
    assert whole.shape[1] == 16 + LEADING.get(tower, 0)
    assert torch.equal(whole[:, LEADING.get(tower, 0) :], patches)


@pytest.mark.parametrize("tower", TOWERS)
def test_images_may_have_another_size_than_in_the_towers_training(tower):
    config = config_of(tower, trained_at=32, frame_size=48)
    assert patch_features(tower_of(config), pixels(size=48), config).shape == (2, 36, 32)


@pytest.mark.parametrize("tower", TOWERS)
def test_a_patch_keeps_its_position_in_the_image(tower):
    """A change in one corner of the image changes that corner's patch most."""
    config = config_of(tower)
    model = tower_of(config)
    one, other = pixels(1), pixels(1)
    other[:, :, :8, -8:] += 3.0
    moved = (patch_features(model, one, config) - patch_features(model, other, config)).norm(dim=-1)
    assert int(moved.argmax()) == 3


def test_pixels_of_another_size_and_unknown_towers_are_rejected_by_name():
    config = config_of("clip_vision_model")
    with pytest.raises(ValueError, match=r"\[2, 3, 48, 48\], must be \[n, 3, 32, 32\]"):
        patch_features(tower_of(config), pixels(size=48), config)
    unknown = LlavaAvConfig(vision_config={"model_type": "vit"}, text_config={"model_type": "qwen2"})
    with pytest.raises(ValueError, match="unknown vision tower 'vit': one of clip_vision_model"):
        leading_tokens(unknown.vision_config)


@pytest.mark.parametrize("tower", TOWERS)
def test_a_model_works_with_any_tower(tower):
    model, processor = tiny_model(model__vision=TOWERS[tower] | {"model_type": tower})
    batch = processor.collate([processor.encode(TURNS, clip(frames=2)), processor.encode(TURNS, Clip())])
    assert batch["attention_mask"].sum(1).tolist() == [
        processor.measure(TURNS, clip(frames=2)).tokens,
        processor.measure(TURNS, Clip()).tokens,
    ]
    first = model(**batch).loss_sums
    batch["pixel_values_videos"] = -batch["pixel_values_videos"]
    assert first[0] != model(**batch).loss_sums[0]


@pytest.mark.parametrize("newline", ["none", "one", "frame", "grid"])
def test_newlines_stand_at_their_configured_positions(newline):
    model, processor = tiny_model(model__video_newline=newline, model__resampler_options={"stride": 2})
    tokens = {"none": 8, "one": 9, "frame": 10, "grid": 12}[newline]
    encoded = processor.encode(TURNS, clip(frames=2, samples=None))
    assert encoded.input_ids.count(model.config.video_token_id) == tokens
    model.train()
    model(**processor.collate([encoded])).loss.backward()
    assert newline == "none" or model.newline.grad.any()


def test_an_image_is_split_into_tiles_and_joined_again():
    """Each patch has its position as value; padding is removed and newlines end the rows."""
    arithmetic = AnyRes(pinpoints=[[32, 64], [64, 64]], tile_size=32, side=4, max_tiles=None)
    size = (20, 64)
    assert (arithmetic.grid(size), arithmetic.tiles(size)) == ((1, 2), 3)
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(8), indexing="ij")
    places = torch.stack([rows, columns], -1).float()
    tiles = torch.stack([torch.full((16, 2), -1.0), *(part.reshape(16, 2) for part in places.split(4, 1))])
    packed = arithmetic.pack(tiles, size, newline=torch.full((2,), 99.0))
    assert len(packed) == arithmetic.tokens(size) == 16 + 2 * 9
    grid = packed[16:].view(2, 9, 2)
    assert torch.equal(grid[:, :8], places[1:3])
    assert (grid[:, 8] == 99).all()


def test_a_grid_that_is_too_large_is_scaled_down():
    bound = AnyRes(pinpoints=[[128, 128]], tile_size=32, side=4, max_tiles=4)
    assert bound.tokens((128, 128)) == 16 + 8 * 9
    assert len(bound.pack(torch.randn(17, 16, 2), (128, 128), torch.zeros(2))) == bound.tokens((128, 128))


def test_an_image_of_any_size_fits():
    _, processor = tiny_model()
    encoded = processor.encode(TURNS, Clip(images_nhwc=(image(size=48),)))
    assert processor.collate([encoded])["pixel_values"].shape == (1, 3, 32, 32)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("layer", [None, -2])
def test_trained_weights_of_a_tower_get_a_gradient(tower, layer):
    model, processor = tiny_model(
        model__vision=TOWERS[tower] | {"model_type": tower}, model__vision_feature_layer=layer
    )
    model.train()
    model(**processor.collate([processor.encode(TURNS, clip(frames=1))])).loss.backward()
    missing = [n for n, p in model.vision_tower.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen <= {"vision_tower", "audio_tower"}
    assert any(p.requires_grad for p in model.vision_tower.parameters())
