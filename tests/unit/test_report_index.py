"""Content, nesting and content security policy of the index page."""

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.experiments.overview import experiment_tree
from llava_av.report.run_index.index_page import render_index
from tests import index_sample
from tests.unit.test_report_page import Page


def test_shows_every_run_with_its_numbers() -> None:
    shown = Page(render_index(index_sample.inputs(12)))
    for text in (
        "s3://llava-av",
        "ada@workstation",
        "0b33ede0b3 + patch",
        "0.300 0.260 to 0.330 joint, n = 448",
        "video only",
        "champion",
        "3 of 5 met",
        "2026-11-01 00:00",
        "daily-omni",
        "not run",
        "trained",
    ):
        assert text in " ".join(shown.text.split()), text
    assert {f"reports/{number:016x}.html" for number in range(12) if number != 1} == set(shown.references)


def test_a_thousand_runs_are_a_table_of_as_many_rows() -> None:
    shown = Page(render_index(index_sample.inputs(1000)))
    assert shown.text.count("ada@workstation") == 1000


def test_the_tree_nests_as_the_records_do() -> None:
    html = render_index(index_sample.inputs(0))
    tree = html[html.index('<ul class="tree">') : html.index('<section id="runs">')]
    depth, found = 0, {}
    for tag, name in re.findall(r"(<ul|</ul>)|<b>(experiment-\d)</b>", tree):
        depth += {"<ul": 1, "</ul>": -1}.get(tag, 0)
        if name:
            found[name] = depth - 1
    assert depth == 0
    assert found == {f"experiment-{n}": level for n, level in enumerate((0, 1, 2, 2, 1, 0))}


@given(st.lists(st.integers(0, 5), max_size=12))
def test_any_tree_of_records_nests(parents: list[int]) -> None:
    records = [
        index_sample.record(number, parent if parent < number else None)
        for number, parent in enumerate(parents)
    ]
    shown = Page(render_index(index_sample.inputs(3, experiments=experiment_tree(records, {}))))
    assert sum(tag == "li" for tag, _ in shown.elements) == len(records)


def test_only_its_own_script_may_run_and_nothing_is_loaded() -> None:
    html = render_index(index_sample.inputs(3))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"https?://|@import|url\(", html)


@pytest.mark.parametrize("field", ["run", "experiment", "recipe", "dataset", "by", "commit", "version"])
def test_text_of_runs_never_becomes_markup(field: str) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    shown = Page(render_index(index_sample.inputs(3, runs=(index_sample.run(1, **{field: evil}),))))
    assert shown.elements.count(("script", {})) == 1
    assert not any(tag == "img" for tag, _ in shown.elements)


def test_an_empty_bucket_says_so() -> None:
    shown = Page(render_index(index_sample.inputs(0, runs=(), tasks=(), experiments=())))
    assert "There are no runs." in shown.text
    assert "There are no experiment records." in shown.text
    assert shown.count("script") == 0
