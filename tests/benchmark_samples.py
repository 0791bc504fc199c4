"""Questions of each published benchmark in its own format, and folders with them."""

import json
from pathlib import Path
from typing import Any

from llava_av.datasets.schema import Sample
from llava_av.evaluation.tasks import Task, read_task_samples

DAILY_OMNI = [
    {
        "video_id": "v-1",
        "Type": "AV Event Alignment",
        "Question": "What is on screen when the whistle blows?",
        "Choice": ["A. A kettle.", "B. A train.", "C. A referee.", "D. A bird."],
        "Answer": "C",
        "content_parent_category": "Sports",
        "video_duration": "30s",
    },
    {
        "video_id": "v-1",
        "Type": "Event Sequence",
        "Question": "What comes last?",
        "Choice": ["Applause", "Silence", "A song", "Rain"],
        "Answer": "A",
        "content_parent_category": "Sports",
        "video_duration": "30s",
    },
]
WORLDSENSE = {
    "abc": {
        "video_id": "abc",
        "domain": "Music",
        "sub_category": "Band",
        "audio_class": ["Music"],
        "video_duration": "40s",
        "task0": {
            "task_domain": "Recognition",
            "task_type": "Audio Counting",
            "question": "How many drums are heard?",
            "answer": "B",
            "candidates": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
        },
        "task1": {
            "task_domain": "Reasoning",
            "task_type": "Human Emotions",
            "question": "How does the singer feel?",
            "answer": "A",
            "candidates": ["A. Glad.", "B. Sad."],
        },
    }
}
AVQA = [
    {
        "id": 7,
        "video_name": "-x_000030",
        "video_id": 3,
        "question_text": "What happened in the video?",
        "multi_choice": ["a boat", "a horse", "a saw", "a storm"],
        "answer": 2,
        "question_relation": "Sound",
        "question_type": "Happening",
    }
]
MUSIC_AVQA = [
    {
        "video_id": "00000001",
        "question_id": 11,
        "type": '["Audio-Visual", "Location"]',
        "question_content": "Where is the <FL> sounding <Object>?",
        "templ_values": '["first", "acoustic_guitar"]',
        "question_deleted": 0,
        "anser": "left",
    },
    {
        "video_id": "00000002",
        "question_id": 12,
        "type": '["Audio", "Counting"]',
        "question_content": "How many instruments sound?",
        "templ_values": "[]",
        "question_deleted": 0,
        "anser": "more than ten",
    },
]
CLOTHO_AQA = (
    """file_name,QuestionText,answer,confidence
rain, late.wav,Is it raining?,yes,yes
""".replace("rain, late.wav", '"rain, late.wav"')
    + "".join(
        f'"rain, late.wav",{question},{answer},maybe\n'
        for question, answer in (
            ("Is it raining?", "Yes"),
            ("Is it raining?", "no"),
            ("How many thunders?", "two"),
            ("How many thunders?", "2"),
            ("How many thunders?", "three"),
            ("What sings?", "bird"),
            ("What sings?", "frog"),
            ("What sings?", "nothing"),
        )
    )
)
FILES: dict[str, tuple[str, Any, list[str]]] = {
    "daily-omni": ("qa.json", DAILY_OMNI, ["Videos/v-1/v-1_video.mp4"]),
    "worldsense": ("worldsense_qa.json", WORLDSENSE, ["videos/abc.mp4"]),
    "avqa": ("val_qa.json", AVQA, ["videos/-x_000030.mp4"]),
    "music-avqa": (
        "avqa-test.json",
        MUSIC_AVQA,
        ["MUSIC-AVQA-videos-Real/00000001.mp4", "MUSIC-AVQA-videos-Synthetic/00000002.mp4"],
    ),
    "clotho-aqa": ("clotho_aqa_test.csv", CLOTHO_AQA, ["audio_files/rain, late.wav"]),
}


def write(folder: Path, task: str, content: Any = None, media: bool = True) -> Path:
    name, rows, files = FILES[task]
    value = rows if content is None else content
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    for file in files if media else ():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"read when it is decoded")
    return folder


OWN = {
    "id": "1",
    "question": "What rings?",
    "choices": ["a bell", "a phone"],
    "answer": "a phone",
    "family": "audio",
    "type": "Source",
}
OWN_TASK = {
    "name": "mine",
    "version": 1,
    "about": "mine",
    "reader": "questions",
    "files": "questions.jsonl",
    "rule": "letter",
    "prompt": "{question}\n{choices}",
}


def own_questions(folder: Path, text: str) -> tuple[Sample, ...]:
    """Return the samples of `questions.jsonl` with this text; media are in the folder."""
    (folder / "questions.jsonl").write_text(text, encoding="utf-8", newline="")
    return read_task_samples(Task.model_validate(OWN_TASK), folder)
