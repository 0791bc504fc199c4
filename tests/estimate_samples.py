"""Recipes for estimates: parts of a model with seven billion parameters, and of tiny ones."""

from llava_av.recipe import Recipe
from tests.model_samples import tiny_recipe

CONNECTORS = ["vision_connector", "audio_connector"]
LANGUAGE = tiny_recipe().model.language
SEVEN_B = {
    "vision": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "num_hidden_layers": 27,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
    "audio": {
        "model_type": "wav2vec2",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
    },
    "language": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "vocabulary_size": 152_064,
}


def seven_b(**training) -> Recipe:
    training = {"steps": 1, "global_batch_size": 8, "num_processes": 8} | training
    return Recipe.model_validate(
        {"name": "seven-b", "model": SEVEN_B, "media": {"frame_size": 384}, "training": training}
    )


def with_vocabulary(recipe: Recipe, processor) -> Recipe:
    """Return the recipe with as many entries as the trained tokenizer has, which may be fewer."""
    return recipe.with_overrides({"model.vocabulary_size": len(processor.tokenizer)})
