"""Tiny audio towers of every family, built with the classes of transformers."""

import torch
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

RATE_HZ = 16_000
_WAVEFORM = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "hubert": (HubertConfig, HubertModel),
    "wavlm": (WavLMConfig, WavLMModel),
}
FAMILIES = (*_WAVEFORM, "whisper")


def tiny_audio_model(family: str = "wav2vec2", *, norm: str = "layer", **options):
    """Return a model in eval mode and its feature extractor; `norm` is `feat_extract_norm`."""
    torch.manual_seed(0)
    if family == "whisper":
        config = WhisperConfig(
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_mel_bins=8,
            max_source_positions=50,
            max_target_positions=8,
            vocab_size=64,
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
            **options,
        )
        extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
        return WhisperModel(config).eval(), extractor
    config_class, model_class = _WAVEFORM[family]
    config = config_class(
        **{
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "conv_dim": [8, 8, 8],
            "conv_kernel": [10, 8, 4],
            "conv_stride": [5, 8, 8],
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
            "feat_extract_norm": norm,
            "do_stable_layer_norm": norm == "layer",
        }
        | options
    )
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer", do_normalize=True)
    return model_class(config).eval(), extractor
