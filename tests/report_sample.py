"""A sample run with all parts of a report; equal arguments give equal inputs.

To look at it: `python -c "from tests.report_sample import write; write('/tmp/sample')"`.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from llava_av.datasets.demo_scenes import FPS, SAMPLE_RATE_HZ, Scene, render_scene, scene_blocks
from llava_av.files import write_json
from llava_av.media.encode import write_clip
from llava_av.recipe import load_recipe
from llava_av.report import ReportInputs, build_summary, write_report
from llava_av.runs import EvaluationResult, GateDecision, QuarantinedFile, Registration
from llava_av.vocabulary import Ablation

FAMILIES = ("visual", "audio", "joint")
_DIGEST = "5b1f6c0f4a7d1c3b9e8d27a6f0c4b1e2d3a49586778695a4b3c2d1e0f1a2b3c4"
_NEEDS = {"visual": {"video"}, "audio": {"audio"}, "joint": {"video", "audio"}}
_HAS = {"av": {"video", "audio"}, "video_only": {"video"}, "audio_only": {"audio"}, "text_only": set(),
        "shuffled_audio": {"video"}}  # fmt: skip


def scenes(count: int) -> list[Scene]:
    return [scene for block in scene_blocks(0, -(-count // 16)) for scene in block][:count]


def make_clips(folder: Path, count: int = 16) -> dict[str, Path]:
    """Write MP4 files of the demonstration's scenes, and return them by media path."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for index, scene in enumerate(scenes(count)):
        name = f"clips/held-out-{index:04d}.mp4"
        frames, audio = render_scene(scene, index)
        write_clip(folder / Path(name).name, frames, FPS, audio, SAMPLE_RATE_HZ)
        files[name] = folder / Path(name).name
    return files


def questions(scene: Scene) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Return kind, question, answer and choices of each question."""
    colours = ("red", "green", "blue", "yellow")
    shapes = ("circle", "square", "triangle", "cross")
    return [
        ("visual", f"Which shape is it? Answer with one of: {', '.join(shapes)}.", scene.shape, shapes),
        (
            "audio",
            "Which tone sounds first?",
            "high" if scene.high < scene.low else "low",
            ("high", "low"),
        ),
        (
            "joint_colour",
            "<video>\nWhich colour was on screen while the high tone sounded?",
            scene.colours[scene.high],
            colours,
        ),
        (
            "joint_tone",
            f"Which tone sounded while {scene.colours[scene.low]} was shown?",
            "low",
            ("high", "low"),
        ),
    ]


def predictions(count: int = 160, wrong_every: int = 23) -> list[dict[str, Any]]:
    generator = np.random.default_rng(7)
    rows = []
    for index, scene in enumerate(scenes(count)):
        for kind, question, answer, choices in questions(scene):
            for ablation, has in _HAS.items():
                knows = _NEEDS[kind.split("_")[0]] <= has and (index + len(rows)) % wrong_every
                reply = answer if knows else str(generator.choice(choices))
                parsed: str | None = reply
                if ablation == "text_only" and index % 19 == 0:
                    reply, parsed = "the the", None
                rows.append(
                    {
                        "id": f"held-out-{index:04d}-{kind}",
                        "ablation": ablation,
                        "kind": kind,
                        "question": question,
                        "choices": list(choices),
                        "answer": answer,
                        "reply": reply,
                        "parsed": parsed,
                        "correct": parsed == answer,
                        "loss": 0.02 if knows else 1.4,
                        "clip": f"clips/held-out-{index:04d}.mp4",
                    }
                )
    return rows


def evaluation(rows: list[dict[str, Any]]) -> dict[str, Any]:
    accuracy: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    for ablation in map(str, Ablation):
        accuracy[ablation], loss[ablation] = {}, {}
        for family, chance in zip(FAMILIES, (0.25, 0.5, 0.375), strict=True):
            mine = [row for row in rows if row["ablation"] == ablation and row["kind"].startswith(family)]
            share = sum(row["correct"] for row in mine) / len(mine)
            half = 1.96 * math.sqrt(max(share * (1 - share), 0.004) / len(mine))
            accuracy[ablation][family] = {
                "value": share,
                "low": max(0.0, share - half),
                "high": min(1.0, share + half),
                "chance": chance,
                "n": len(mine),
                "unparsed": sum(row["parsed"] is None for row in mine),
            }
            loss[ablation][family] = sum(row["loss"] for row in mine) / len(mine)
    kinds: dict[str, Any] = {name: {} for name in accuracy}
    for name, row in kinds.items():
        for kind, choices in dict.fromkeys((each["kind"], len(each["choices"])) for each in rows):
            mine = [each for each in rows if (each["ablation"], each["kind"]) == (name, kind)]
            share = sum(each["correct"] for each in mine) / len(mine)
            row[kind] = {**accuracy[name][kind.split("_")[0]], "value": share, "low": max(0.0, share - 0.1),
                         "high": min(1.0, share + 0.1), "chance": 1 / choices, "n": len(mine),
                         "loss": sum(each["loss"] for each in mine) / len(mine)}  # fmt: skip
    full = accuracy["av"]["joint"]["value"]
    differences = {
        name: {"joint": {"value": full - value, "low": full - value - 0.06, "high": full - value + 0.06}}
        for name in list(accuracy)[1:]
        for value in [accuracy[name]["joint"]["value"]]
    }
    return {
        "dataset": {"name": "demo", "commit": "c" * 64},
        "checkpoint": {"uri": "s3://llava-av/checkpoints/0f1e2d3c4b5a6978/step-00000300", "digest": _DIGEST},
        "accuracy": accuracy,
        "kinds": kinds,
        "loss": loss,
        "differences": differences,
        "modalities": {
            name: {**accuracy["av"]["joint"], "n": n, "loss": 0.02 * n / 40}
            for name, n in (("audio", 24), ("video_audio", 40))
        },
        "seconds": 21.4,
        "cost": {"seconds": 17.2, "prompt_tokens": 482_113, "new_tokens": 9_120, "tokens_per_s": 28560.1,
                 "processes": 1},
    }  # fmt: skip


def task(evaluated: dict[str, Any]) -> dict[str, Any]:
    """Return a benchmark with two kinds of joint questions and without losses of the families."""
    return {
        "task": {
            "name": "daily-omni",
            "version": 1,
            "rule": "letter",
            "rule_version": 1,
            "prompt": "",
        },
        "dataset": {"name": "task-daily-omni", "commit": "b" * 64},
        "checkpoint": evaluated["checkpoint"],
        "accuracy": {name: {"joint": row["joint"]} for name, row in evaluated["accuracy"].items()},
        "kinds": {
            name: {kind: cell for kind, cell in row.items() if kind.startswith("joint")}
            for name, row in evaluated["kinds"].items()
        },
    }


def metrics(steps: int = 300) -> list[dict[str, Any]]:
    generator = np.random.default_rng(3)
    rows = []
    for step in range(1, steps + 1):
        noise = generator.lognormal(0, 0.25, 4)
        visual = 3.2 * math.exp(-step / 40) + 0.01
        audio = 2.9 * math.exp(-step / 90) + 0.012
        joint = 1.1 / (1 + math.exp((step - 140) / 30)) + 2.2 * math.exp(-step / 30) + 0.02
        warm = min(1.0, step / 50)
        rows.append(
            {
                "step": step,
                "time_s": 0.22 * step,
                "loss": (visual + audio + 2 * joint) / 4 * noise[0],
                "loss/visual": visual * noise[1],
                "loss/audio": audio * noise[2],
                "loss/joint": joint * noise[3],
                "loss/kind/visual": visual * noise[1],
                "loss/kind/audio": audio * noise[2],
                "loss/kind/joint_colour": 1.2 * joint * noise[3],
                "loss/kind/joint_tone": 0.8 * joint * noise[3],
                "loss/modality/video_audio": (visual + audio + 2 * joint) / 4 * noise[0],
                "learning_rate": 1e-3 * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps))),
                "grad_norm": 0.4 + 2 * math.exp(-step / 60) * noise[1] + 0.15 * noise[2],
                "tokens_per_s": 6200 + 400 * float(generator.normal()),
                "step_s": 0.22,
                "data_wait_s": 0.004,
                "checkpoint_stall_s": 0.03 if step and step % 50 == 0 else 0.0,
                "memory_mib": 1180 + 20 * min(1.0, step / 30),
            }
        )
    return rows


def experiment() -> dict[str, Any]:
    row = {"comparison": ">=", "met": True}
    return {
        "id": "0001-dry-run",
        "title": "A tiny model learns to use audio and video together",
        "hypothesis": "A model of a million parameters answers questions that need audio and video at the "
        "same moment, when tokens of both alternate in time.",
        "rationale": "Wrong results in audio-visual training mostly come from misaligned modalities. A task "
        "that one modality cannot solve shows whether they are aligned.\n\n"
        "- each answer is balanced given the question\n- and given either modality alone",
        "expected": [
            {**row, "metric": "accuracy.av.joint", "expected": 0.9, "seen": 0.953, "low": 0.924,
             "high": 0.971},
            {**row, "metric": "difference.video_only.joint", "expected": 0.0, "comparison": ">", "seen": 0.58,
             "low": 0.52, "high": 0.64},
            {**row, "metric": "accuracy.av.audio", "expected": 0.99, "seen": 0.956, "low": 0.92, "high": 0.98,
             "met": False},
            {**row, "metric": "accuracy.av.far", "expected": 0.5, "met": None},
        ],
        "next_steps": "- the same on eight GPUs\n- released towers instead of the tiny ones",
        "lessons": ["The joint loss falls after both single ones have.", "Three convolutions are enough."],
    }  # fmt: skip


def comparisons() -> list[dict[str, Any]]:
    """Return comparisons with the parent on the same questions and with a champion on other questions."""

    def row(
        ablation: str, family: str, first: float, second: float, half: float, paired: bool
    ) -> dict[str, Any]:
        value = second - first
        return {"ablation": ablation, "family": family, "first": first, "second": second, "value": value,
                "low": value - half, "high": value + half, "paired": paired}  # fmt: skip

    return [
        {"over": "parent", "label": "run 9a8b7c6d5e4f3a2b of longer-clips",
         "rows": [row("av", "visual", 0.95, 0.96, 0.03, True), row("av", "joint", 0.71, 0.95, 0.05, True),
                  row("text_only", "joint", 0.38, 0.31, 0.04, True)]},
        {"over": "champion", "label": "version 2", "rows": [row("av", "joint", 0.93, 0.95, 0.06, False)]},
    ]  # fmt: skip


def quarantined() -> list[QuarantinedFile]:
    return [
        QuarantinedFile(
            file="clips/train-0117.mp4", reason="truncated: the file ends 3,214 bytes before its index says"
        ),
        QuarantinedFile(file="notes.txt", reason="is no media file"),
    ]


def lineage() -> dict[str, Any]:
    return {
        "dataset": {"name": "demo", "commit": "c" * 64},
        "git": {
            "commit": "3f9d2a1b7c8e4d5f6a7b8c9d0e1f2a3b4c5d6e7f",
            "dirty": True,
            "patch_sha256": "a" * 64,
        },
        "recipe": load_recipe("dryrun").model_dump(mode="json"),
        "seed": 0,
        "checkpoint": {"uri": "s3://llava-av/checkpoints/0f1e2d3c4b5a6978/step-00000300", "digest": _DIGEST},
        "experiment": {"id": "0001-dry-run", "sha256": "e" * 64},
        "code_digest": "d" * 64,
        "environment": {
            "python": "3.11.7",
            "platform": "Linux x86_64",
            "packages": {f"package-{letter}": f"1.{i}.0" for i, letter in enumerate("abcdefghijklmnop")},
            "image": None,
        },
    }


def inputs(clips: dict[str, Path], **changes: Any) -> ReportInputs:
    """Return the sample; `changes` replace fields of `ReportInputs` or, by the same name, of the summary.

    An evaluation may lack its dataset and checkpoint.
    """
    rows = predictions(16)
    evaluated = evaluation(rows)
    evaluated["tasks"] = {"daily-omni": task(evaluated)}
    gate = GateDecision(passed=True, reasons=("Joint accuracy 0.953 reaches 0.9 and beats each ablation.",))
    about = {name: evaluated[name] for name in ("dataset", "checkpoint")}
    result = EvaluationResult.model_validate({**about, **changes.pop("evaluation", evaluated)})
    summary = build_summary(
        dataset_commit="c" * 64,
        checkpoint=result.checkpoint,
        registered=Registration(name="dryrun", version="3", aliases=("champion",), lineage=lineage()),
        evaluation=result,
        gate=changes.pop("gate", gate),
        seconds={"data": 31.2, "train": 128.9, "register": 1.3, "evaluate": 21.4, "promote": 0.4},
        quarantined=changes.pop("quarantined", quarantined()),
    )
    fields: dict[str, Any] = {
        "title": "Dry run",
        "summary": summary,
        "evaluation": result,
        "predictions": rows,
        "metrics": metrics(),
        "train": {"run": "0f1e2d3c4b5a6978", "checkpoint": {**evaluated["checkpoint"], "step": 300},
                   "steps": 300, "seconds": 128.9, "engine": "deepspeed",
                  "processes": 2, "resumed_from": 100, "mlflow_run_id": "9" * 32},
        "lineage": lineage(),
        "moved": ["champion"],
        "experiment": experiment(),
        "comparisons": comparisons(),
        "clips": clips,
        "reproduce": ["git checkout 3f9d2a1b7c8e", "make dryrun"],
        "chat": ['llava-av chat s3://llava-av/checkpoints/0f1e2d3c4b5a6978/step-00000300 --video clip.mp4 '
                 '"Which colour was on screen while the high tone sounded?"'],
    }  # fmt: skip
    return ReportInputs.model_validate({**fields, **changes})


def write(folder: str) -> None:
    sample = inputs(make_clips(Path(folder) / "clips", 16))
    write_report(Path(folder) / "report.html", sample)
    write_json(Path(folder) / "summary.json", sample.summary.to_json())
