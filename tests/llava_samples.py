"""Tiny models of released families with random weights, in folders written by transformers."""

from pathlib import Path

import numpy as np
import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    Qwen2Config,
    SiglipVisionConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from llava_av.model.sequence.tokenizer import train_tokenizer

FAMILIES = ("llava", "llava_next", "llava_next_video", "llava_onevision")
SIZE = 32
PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
LLAVA_TEMPLATE = (
    "{% for m in messages %}{{ m.role | upper }}: "
    "{% for c in m.content if c.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m.content if c.type == 'video' %}{{ '<video>\n' }}{% endfor %}"
    "{% for c in m.content if c.type == 'text' %}{{ c.text + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
ONEVISION_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }} "
    "{% for c in m.content if c.type == 'image' %}<image>{% endfor %}"
    "{% for c in m.content if c.type == 'video' %}<video>{% endfor %}"
    "{% for c in m.content if c.type == 'text' %}{{ '\n' + c.text }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}


def noise_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def noise_frames(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 40, 56, 3), dtype=np.uint8)


def write_llava(family: str, folder: Path, **options) -> Path:
    """Write a model folder of a family; `options` go to the `save_pretrained` of transformers."""
    tokenizer = train_tokenizer(["What is shown here? A cat sits on the mat.", "USER: ASSISTANT:"], 400)
    tokenizer.add_tokens(["<image>", "<video>"], special_tokens=True)
    torch.manual_seed(0)
    model, processor = _BUILDERS[family](tokenizer)
    for parameter in model.parameters():
        # Fresh weights are so small that all logits would be near zero.
        parameter.data.mul_(3.0 if parameter.ndim > 1 else 1.0)
    model.eval().save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    return folder


def write_audio_tower(folder: Path) -> Path:
    torch.manual_seed(1)
    config = Wav2Vec2Config(
        **_TINY,
        conv_dim=[16, 16],
        conv_kernel=[40, 8],
        conv_stride=[40, 8],
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return folder


def _clip_llama(tokenizer):
    vision = CLIPVisionConfig(**_TINY, image_size=SIZE, patch_size=8)
    text = LlamaConfig(**_TINY, vocab_size=len(tokenizer) + 8, pad_token_id=tokenizer.pad_token_id)
    ids = {"image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
    return vision, text, ids


def _llava(tokenizer):
    vision, text, ids = _clip_llama(tokenizer)
    crop = {"height": SIZE, "width": SIZE}
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=crop),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=LLAVA_TEMPLATE,
        num_additional_image_tokens=1,
    )
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, **ids)
    ), processor


def _next(tokenizer):
    vision, text, ids = _clip_llama(tokenizer)
    config = LlavaNextConfig(vision_config=vision, text_config=text, image_grid_pinpoints=PINPOINTS, **ids)
    processor = LlavaNextProcessor(_next_images(), tokenizer, **_next_settings())
    return LlavaNextForConditionalGeneration(config), processor


def _next_video(tokenizer):
    vision, text, ids = _clip_llama(tokenizer)
    ids["video_token_index"] = tokenizer.convert_tokens_to_ids("<video>")
    config = LlavaNextVideoConfig(
        vision_config=vision, text_config=text, image_grid_pinpoints=PINPOINTS, **ids
    )
    crop = {"height": SIZE, "width": SIZE}
    processor = LlavaNextVideoProcessor(
        LlavaNextVideoVideoProcessor(size={"shortest_edge": SIZE}, crop_size=crop, do_sample_frames=False),
        _next_images(),
        tokenizer,
        **_next_settings(),
    )
    return LlavaNextVideoForConditionalGeneration(config), processor


def _next_images():
    crop = {"height": SIZE, "width": SIZE}
    return LlavaNextImageProcessor(
        size={"shortest_edge": SIZE}, crop_size=crop, image_grid_pinpoints=PINPOINTS
    )


def _next_settings():
    return {
        "patch_size": 8,
        "vision_feature_select_strategy": "default",
        "chat_template": LLAVA_TEMPLATE,
        "num_additional_image_tokens": 1,
    }


def _onevision(tokenizer):
    pinpoints = [[a, b] for a in (32, 64, 96, 128) for b in (32, 64, 96, 128)]
    vision = SiglipVisionConfig(**_TINY, image_size=SIZE, patch_size=10, vision_use_head=False)
    text = Qwen2Config(
        **_TINY,
        num_key_value_heads=2,
        vocab_size=len(tokenizer) + 8,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_4",
    )
    square = {"height": SIZE, "width": SIZE}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=pinpoints),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=square, do_sample_frames=False),
        num_image_tokens=9,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION_TEMPLATE,
        vision_aspect_ratio="anyres_max_4",
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


_BUILDERS = {
    "llava": _llava,
    "llava_next": _next,
    "llava_next_video": _next_video,
    "llava_onevision": _onevision,
}
