"""Rendering of chat templates: the text of transformers, within limits."""

import multiprocessing
import os
import signal
from collections.abc import Callable

import psutil
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from llava_av.model.files.reading import ModelFilesError
from llava_av.model.sequence.chat_template import ChatTemplate
from llava_av.model.sequence.template_rendering import TemplateRefusedError, render_chat_template
from tests.model_samples import tiny_model
from tests.server_processes import lives, wait_until

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Ünïcode <b> & 音\u2028?"}]},
    {"role": "assistant", "content": "yes"},
]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ bos_token }}",
        "{% for m in messages %}\n  {% if loop.last %}{% break %}{% endif %}\n{{ m | tojson }}{% endfor %}",
        "{%- set ns = namespace(n=0) -%}{%- for m in messages[::-1] -%}{%- set ns.n = ns.n + 1 -%}"
        "{%- if loop.first -%}{%- continue -%}{%- endif -%}{{ ns.n ~ m.role }}{%- endfor -%}",
        "{% macro say(m) %}{{ m.role | upper }}{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}",
        "{% for m in messages %}{% generation %}{% set a = m.role %}{{ a }}{% endgeneration %}{% endfor %}",
        "{{ strftime_now('%Y') }}{{ dict(a=[2]) | tojson(indent=2) }}{{ dict.fromkeys(['x']) }}{{ tools }}",
        "{{ add_generation_prompt }}{{ undefined }}{{ messages | length }}{{ messages[0].get('content') }}",
    ],
)
def test_a_template_gives_the_text_of_transformers(template):
    shared = {"bos_token": "<s>", "add_generation_prompt": True, "tools": None, "documents": None}
    (expected,), _ = render_jinja_template([MESSAGES], chat_template=template, **shared)
    assert render_chat_template(template, {"messages": MESSAGES, **shared}) == expected


LOOP = "{% for a in range(99999) %}"
BOMBS = {
    "nested loops": f"{LOOP * 3}{'{% endfor %}' * 3}",
    "macros that call each other twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "a macro without an end": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(0) }}",
    "a long text": "{{ 'a' * 10 ** 11 }}",
    "a long list": "{{ ([0] * 10 ** 10) | length }}",
    "a wide number": "{{ '%99999999999d' % 1 }}",
    "a doubled text": "{% set n = namespace(a='ab') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}"
    "{% endfor %}{{ n.a }}",
    "much output": LOOP + "{{ 'abcdefgh' * 99 }}{% endfor %}",
    "a filter": "{{ 'a' | center(10 ** 11) }}",
    "deep brackets": "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
    "a large template": "a" * 300_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_over_a_limit_is_stopped_with_one_line(name):
    with pytest.raises(
        ModelFilesError, match=r"^the tokenizer's chat template cannot be used: it \w+ .+; use "
    ):
        render_chat_template(BOMBS[name], {"messages": MESSAGES})
    assert render_chat_template("{{ messages | length }}", {"messages": MESSAGES}) == "3"


@pytest.mark.parametrize(
    ("template", "output"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% for %}", "Expected an expression"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|undefined"),
        ("{% set n = namespace(__class__=1) %}", "cannot hold"),
        ("{{ messages.append(1) }}", "is unsafe"),
    ],
)
def test_the_error_of_a_template_is_reported(template, output):
    with pytest.raises(TemplateRefusedError, match=output):
        render_chat_template(template, {"messages": MESSAGES})


def test_a_tokenizer_with_an_endless_template_is_rejected_when_it_is_loaded():
    tokenizer = tiny_model()[1].tokenizer
    tokenizer.chat_template = BOMBS["nested loops"]
    with pytest.raises(ModelFilesError, match="1 s of CPU time"):
        ChatTemplate(tokenizer, {})
    tokenizer.chat_template = "{% for %}"
    with pytest.raises(ValueError, match="Expected an expression"):
        ChatTemplate(tokenizer, {})


def test_a_renderer_that_was_killed_between_two_templates_is_replaced() -> None:
    assert render_chat_template("a", {}) == "a"
    renderers = [
        child for child in psutil.Process().children() if "template_worker.py" in " ".join(child.cmdline())
    ]
    assert renderers
    for renderer in renderers:
        renderer.kill()
    wait_until(lambda: not any(map(lives, renderers)), 30)
    assert render_chat_template("b", {}) == "b"


def in_fork(render: Callable[[], str]) -> str:
    """Return what a forked process renders."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            sender.send(render())
        finally:
            os._exit(0)
    sender.close()
    try:
        return receiver.recv()
    finally:
        os.waitpid(child, 0)


def test_a_forked_process_leaves_its_parents_renderer_alone():
    assert render_chat_template("a", {}) == "a"
    assert in_fork(lambda: render_chat_template("b", {})) == "b"
    assert render_chat_template("c", {}) == "c"


def test_a_signal_to_the_group_of_processes_does_not_end_rendering() -> None:
    def render() -> str:
        os.setsid()
        before = render_chat_template("{{ a }}", {"a": "before"})
        signal.signal(signal.SIGTERM, lambda *_: None)
        os.killpg(0, signal.SIGTERM)
        return before + render_chat_template(", {{ a }}", {"a": "after"})

    assert in_fork(render) == "before, after"
