"""Model card: what a version was trained from."""

from llava_av.recipe import load_recipe
from llava_av.report.model_card.card import CardExperiment, render_model_card
from llava_av.runs import EvaluationResult, GateDecision, Lineage, Registration, TrainingResult
from tests.artifacts import sample

BASE = {"base": "s3://llava-av/checkpoints/base-onevision/step-00000000", "base_digest": "b" * 64}


def card(**model: object) -> str:
    """Return the card of a model that is trained from a base model."""
    recipe = load_recipe("dryrun").model_dump(mode="json") | {"model": BASE | model}
    lineage = sample(Lineage, recipe=recipe)
    return render_model_card(
        registered=sample(Registration, lineage=lineage.model_dump(mode="json", by_alias=True)),
        train=sample(TrainingResult),
        evaluation=sample(EvaluationResult),
        gate=sample(GateDecision),
        experiment=CardExperiment(id="e", title="Title", hypothesis="", incomplete=(), outcomes=()),
        splits={"train": 8},
        quarantined=0,
        moves="s3://llava-av/models/m/aliases/",
    )


def lineage_rows(text: str) -> dict[str, str]:
    """Return the rows of the card's last table."""
    lines = text.split("## Lineage")[1].splitlines()
    rows = [line.split("|")[1:3] for line in lines if line.startswith("| ") and "`" in line]
    return {key.strip(): value.strip(" `") for key, value in rows}


def test_an_adapter_is_named_with_its_base_rank_and_targets() -> None:
    adapter = {
        "rank": 24,
        "alpha": 48,
        "dora": True,
        "targets": {"language": "all-linear", "vision_tower": ["q_proj"]},
    }
    text = card(trainable_parts=["audio_connector"], adapter=adapter)
    rows = lineage_rows(text)
    assert rows["base model"] == BASE["base"]
    assert rows["base model digest"] == BASE["base_digest"]
    assert rows["adapter"] == "DoRA of vision_tower, language, rank 24, alpha 48"
    assert f"an adapter ({rows['adapter']}) of the base model `{BASE['base']}`." in text


def test_a_model_trained_from_a_base_has_no_adapter() -> None:
    text = card(trainable_parts=["audio_connector"])
    rows = lineage_rows(text)
    assert (rows["base model"], "adapter" in rows) == (BASE["base"], False)
    assert f"trained from the base model `{BASE['base']}`." in text
