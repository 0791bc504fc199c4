"""YAML and JSON bombs, through every entry point for users' documents."""

import contextlib
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llava_av.cli.options import parsed_overrides
from llava_av.documents import parse_json_object
from llava_av.errors import UserError
from llava_av.evaluation.tasks.task import load_task
from llava_av.experiments.records import read_record
from llava_av.launch.profile import load_profile
from llava_av.parsing import SyntaxProblemError, parse_json, parse_yaml
from llava_av.recipe import load_recipe
from llava_av.registry.gate import load_gate


def bomb(levels=9, width=9):
    lines = ["a0: &a0 lol"]
    for level in range(levels):
        row = ", ".join([f"*a{level}"] * width)
        lines.append(f"a{level + 1}: &a{level + 1} [{row}]")
    return "\n".join(lines)


MERGES = "a0: &a0 {x: 1}\n" + "\n".join(
    f"a{n + 1}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 9)}]}}" for n in range(9)
)
BAD = {
    "aliases of aliases": (bomb(), "more than 10000 values"),
    "merged aliases": (MERGES, "more than 10000 values"),
    "a long text by aliases": (
        f"a: &a {'x' * 50_000}\nb: [{', '.join(['*a'] * 99)}]",
        "more than 10000 values",
    ),
    "an alias in itself": ("a: &a [*a]", "more than 10000 values"),
    "deep lists": ("a: " + "[" * 5000 + "]" * 5000, "more than 50 levels"),
    "deep mappings": ("\n".join(" " * n + "a:" for n in range(300)), "more than 50 levels"),
    "a large file": ("a: 1\n#" + "x" * 300_000, "more than 131072"),
    "a key twice": ("seed: 1\nname: a\nseed: 2", "the key 'seed' appears twice"),
    "a key twice in a list": ("- {a: 1, a: 1}", "the key 'a' appears twice"),
    "a date that is none": ("a: 2026-13-01", "does not fit its type"),
    "a number of 5000 digits": ("a: " + "1" * 5000, "does not fit its type"),
    "a number in base 60": ("a: 1:30", "1:30 is a number in base 60"),
    "a fraction in base 60": ("a: 1:30.5", "1:30.5 is a number in base 60"),
    "an empty number": ("a: !!int ''", "does not fit its type"),
    "a time that is none": ("a: !!timestamp now", "does not fit its type"),
    "another object": ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "a control character": ("a: \x07", "special characters are not allowed"),
    "a list for a key": ("{[1]: 2}", "unhashable key"),
}
READERS = {
    "recipe": load_recipe,
    "gate": load_gate,
    "task": load_task,
    "profile": load_profile,
    "record": read_record,
}


@pytest.mark.parametrize("name", BAD)
def test_yaml_out_of_bounds_is_one_line(name):
    text, problem = BAD[name]
    with pytest.raises(SyntaxProblemError, match=problem) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", BAD)
def test_every_document_is_read_within_bounds(tmp_path, reader, name):
    text, problem = BAD[name]
    path = tmp_path / ("a.md" if reader == "record" else "a.yaml")
    path.write_text(f"---\n{text}\n---\n" if reader == "record" else text)
    with pytest.raises(UserError, match=f"{path.name}.*{problem}") as caught:
        READERS[reader](path if reader == "record" else str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_aliases_of_a_few_values_and_merges_are_kept():
    text = "base: &base {a: 1, b: [1, 2]}\nother: {<<: *base, a: 2}\nlist: [*base, *base]"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml(text)["other"] == {"a": 2, "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a":' * 300 + "1" + "}" * 300, "more than 50 levels"),
        ('{"a":' + "[" * 200_000 + "]" * 200_000 + "}", "characters, more than"),
        ('{"a":' + "[" * 60_000 + "]" * 60_000 + "}", "more than 50 levels"),
        ('{"a": 1, "a": 2}', "the key 'a' appears twice"),
        ('{"a": ' + "1" * 5000 + "}", "limit"),
        ("{", "Expecting property name"),
    ],
    ids=["deep objects", "large", "deep lists", "a key twice", "a long number", "no JSON"],
)
def test_json_out_of_bounds_is_one_line(text, problem):
    for read in (parse_json, load_recipe, lambda given: parse_json_object(given, what="overrides")):
        with pytest.raises((SyntaxProblemError, UserError), match=problem) as caught:
            read(text)
        assert "\n" not in str(caught.value)


def test_recipes_that_start_from_each_other_are_refused(tmp_path):
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"base: {tmp_path / base}.yaml\noverrides: {{seed: 1}}")
    with pytest.raises(UserError, match=r"a\.yaml starts from itself"):
        load_recipe(str(tmp_path / "a.yaml"))


def test_an_option_that_is_out_of_bounds_stays_a_text():
    deep = "[" * 5000
    given = [f"a={deep}", "b=[1]", "c=1:30"]
    assert parsed_overrides(given, "--set") == {"a": deep, "b": [1], "c": "1:30"}


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_what_is_within_bounds_is_read_as_it_is(value):
    assert parse_json(json.dumps(value)) == value
    assert parse_yaml(yaml.safe_dump(value)) == value


@given(st.text(alphabet="[]{}:-&*<!'\"ab1 \n,|>#%", max_size=60))
def test_any_text_is_a_value_or_a_syntax_problem(text):
    with contextlib.suppress(SyntaxProblemError):
        parse_yaml(text)
