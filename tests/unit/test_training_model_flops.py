"""FLOPs of a model, against numbers computed by hand and against torch's own count of a real batch."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llava_av.media.clip import Clip
from llava_av.training.model_flops import BatchCounts, ModelFlops, trained_shares
from tests.model_samples import clip, image, tiny_model, waveform

TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]
AUDIOS = tuple(Clip(audios=(waveform(samples=samples),)) for samples in (9_000, 16_000))
CLIPS = {
    "text": (Clip(),),
    "image": (Clip(images_nhwc=(image(),)),),
    "video": (clip(0, samples=None), clip(1, samples=None, frames=2)),
    "audio": AUDIOS,
    "everything": (clip(1), Clip(images_nhwc=(image(),)), *AUDIOS, Clip()),
}


@pytest.fixture(scope="module")
def model_and_processor():
    model, processor = tiny_model()
    for part in (model.language_model, model.vision_tower, model.audio_tower.model):
        # torch does not count the fused attention of CPUs
        part.set_attn_implementation("eager")
    return model.train(), processor


@pytest.fixture(scope="module")
def flops(model_and_processor) -> ModelFlops:
    return ModelFlops(model_and_processor[0].config)


@pytest.mark.parametrize("name", CLIPS)
def test_forward_and_backward_pass_are_what_torch_counts(name: str, model_and_processor, flops) -> None:
    """The audio tower rounds lengths down, by up to 0.5 %; first layers need no gradient of their input."""
    model, processor = model_and_processor
    model.eval()
    batch = dict(processor.collate([processor.encode(TURNS, one) for one in CLIPS[name]]))
    rows, length = batch["input_ids"].shape
    counts = BatchCounts.of(batch)
    # The model computes padding too.
    padded = BatchCounts(**{**vars(counts), "tokens": (length,) * rows})
    with FlopCounterMode(display=False) as counter:
        loss = model(**batch).loss
        forward = counter.get_total_flops()
        loss.backward()
    assert sum(flops.forward(padded).values()) == pytest.approx(forward, rel=0.005)
    total = flops.training(padded, trained_shares(model))
    assert total == pytest.approx(counter.get_total_flops(), rel=0.06)
    # Weights without use, such as those of masks, are frozen.
    assert total == pytest.approx(3 * sum(flops.forward(padded).values()), rel=1e-3)


def test_language_model_head_and_vision_tower_are_what_a_hand_computes(flops: ModelFlops) -> None:
    counts = BatchCounts(tokens=(10, 30), labelled=7, frames=(2,), tiles=3)
    found = flops.forward(counts)
    # recipes/dryrun.yaml: 4 layers of width 128, 4 heads of 32 for queries, keys and values, MLP of 256.
    weights = 4 * (4 * 128 * 128 + 3 * 128 * 256)
    attention = 4 * 4 * 128 * (10**2 + 30**2)
    assert found["language"] == 2 * weights * 40 + attention
    assert found["embeddings"] == 2 * 128 * 316 * 7
    # 2 layers of width 64 over the 16 patches of 8 x 8 pixels of each of 2 frames and 3 tiles.
    tower = 2 * (4 * 64 * 64 + 2 * 64 * 128) + 3 * 8 * 8 * 64
    assert found["vision_tower"] == 5 * (2 * tower * 16 + 2 * 4 * 64 * 16**2)
    assert found["audio_tower"] == found["audio_connector"] == 0


def test_frozen_parts_count_forward_only(flops: ModelFlops) -> None:
    counts = BatchCounts(tokens=(10,), labelled=3, audios=(16_000,))
    forward = flops.forward(counts)
    connector = flops.training(counts, {"audio_connector": 1.0, "language": 0.0})
    assert connector == pytest.approx(sum(forward.values()) + 2 * forward["audio_connector"])
    assert flops.training(counts, {"language": 0.5}) == pytest.approx(
        sum(forward.values()) + forward["language"]
    )


def test_shares_of_trained_weights_follow_what_is_frozen() -> None:
    model, _ = tiny_model(model__trainable_parts=["audio_connector", "language"])
    shares = trained_shares(model)
    assert (shares["audio_connector"], shares["language"]) == (1.0, 1.0)
    assert (shares["vision_tower"], shares["embeddings"]) == (0.0, 0.0)


def test_counts_of_a_batch_leave_padding_out_packed_or_not(model_and_processor) -> None:
    _, processor = model_and_processor
    encoded = [processor.encode(TURNS, one) for one in CLIPS["everything"]]
    lengths = [len(one.input_ids) for one in encoded]
    apart = BatchCounts.of(processor.collate(encoded))
    packed = BatchCounts.of(processor.collate_packed([encoded[:2], encoded[2:]]))
    assert apart == packed
    assert list(apart.tokens) == lengths
    assert (apart.frames, apart.tiles, apart.audios) == ((4,), 1, (32_000, 9_000, 16_000))
    assert apart.labelled == sum(int((torch.tensor(one.labels)[1:] >= 0).sum()) for one in encoded)


@pytest.mark.parametrize("attention", ["flex_attention", "flash_attention_2"])
def test_attention_of_packed_rows_on_gpus_does_not_prevent_the_count(attention: str) -> None:
    model, _ = tiny_model()
    counts = BatchCounts(tokens=(10, 30), labelled=7)
    expected = ModelFlops(model.config).forward(counts)
    model.config.text_config._attn_implementation = attention
    assert ModelFlops(model.config).forward(counts) == expected
    assert model.config.text_config._attn_implementation == attention
