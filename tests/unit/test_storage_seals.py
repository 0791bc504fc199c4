"""Seals of objects: every changed byte is detected, and objects without a seal stay readable."""

import json

import pytest

from llava_av.storage.seals import SealBroken, json_bytes, seal, unseal

CONTENTS = {
    "runs/r/train.json": json_bytes({"steps": 8, "checkpoint": {"digest": "ab" * 32}}),
    "datasets/d/refs/main": json_bytes({"commit": "c" * 64}),
    "runs/r/metrics.jsonl": b'{"step": 1, "loss": 0.5}\n',
    "runs/r/experiment.md": b"---\nid: root\n---\n## Lessons\n\nNone.\n",
    "runs/r/report.html": "<!doctype html><p>ü</p>".encode(),
}


@pytest.mark.parametrize("key", CONTENTS)
def test_a_sealed_object_gives_its_content_back(key: str) -> None:
    found = unseal(key, seal(key, CONTENTS[key]))
    assert (found.content, found.verified) == (CONTENTS[key], True)


@pytest.mark.parametrize("key", CONTENTS)
@pytest.mark.parametrize("change", [0x01, 0x20, 0xFF])
def test_a_change_of_any_one_byte_is_noticed(key: str, change: int) -> None:
    sealed = seal(key, CONTENTS[key])
    for place in range(len(sealed)):
        altered = bytearray(sealed)
        altered[place] ^= change
        with pytest.raises(SealBroken):
            unseal(key, bytes(altered))


@pytest.mark.parametrize("key", CONTENTS)
def test_an_unsealed_object_is_readable_but_unverified(key: str) -> None:
    found = unseal(key, CONTENTS[key])
    assert (found.content, found.verified) == (CONTENTS[key], False)


def test_sealed_json_is_json_for_other_programs() -> None:
    sealed = seal("a.json", json_bytes({"b": 1, "z": [2]}))
    value = json.loads(sealed)
    assert {name: value[name] for name in ("b", "z")} == {"b": 1, "z": [2]}


def test_sealed_json_that_another_program_wrote_anew_is_noticed() -> None:
    value = json.loads(seal("a.json", json_bytes({"b": 1})))
    with pytest.raises(SealBroken):
        unseal("a.json", json.dumps(value | {"b": 2}).encode())


@pytest.mark.parametrize("value", [{}, [], [1], "text", None])
def test_json_without_fields_has_no_seal(value: object) -> None:
    content = json_bytes(value)
    assert seal("a.json", content) == content
    assert unseal("a.json", content).content == content
