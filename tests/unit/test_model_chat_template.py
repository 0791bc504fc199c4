"""Chat templates of any tokenizer: labelled tokens and positions of media."""

import pytest

from llava_av.model import IGNORE, LlavaAvProcessor
from llava_av.model.sequence.chat_template import ChatTemplate
from tests.model_samples import clip, tiny_model

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nKind<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "{% for m in messages %}{{ '<|begin|>' if loop.first }}<|head|>{{ m.role }}<|/head|>\n\n"
    "{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
LLAVA_1_5 = (
    "{% for m in messages %}{{ m.role | upper }}: "
    "{% for c in m.content if c.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m.content if c.type == 'text' %}{{ c.text + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
ONEVISION = (
    "{% for m in messages %}<|im_start|>{{ m.role }} "
    "{% for c in m.content if c.type == 'image' %}<image>{% endfor %}"
    "{% for c in m.content if c.type == 'video' %}<video>{% endfor %}"
    "{% for c in m.content if c.type == 'text' %}{{ '\n' + c.text }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS = [("user", "<video>\nWhich?"), ("assistant", "red"), ("user", "Sure?"), ("assistant", "green")]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = tiny_model()[1].tokenizer
    tokens = ["<s>", "</s>", "<|begin|>", "<|head|>", "<|/head|>", "<|eot|>", "<image>", "<video>", "<audio>"]
    tokenizer.add_tokens(tokens, special_tokens=True)
    return tokenizer


def template(tokenizer, text, **tokens):
    tokenizer.chat_template = text
    return ChatTemplate(tokenizer, tokens or {kind: f"<{kind}>" for kind in ("image", "video", "audio")})


@pytest.mark.parametrize(
    ("text", "output"),
    [
        (CHATML, ["red<|im_end|>", "green<|im_end|>"]),
        (LLAMA_3, ["red<|eot|>", "green<|eot|>"]),
        (MISTRAL, [" red</s>", " green</s>"]),
        (LLAVA_1_5, [" red<|im_end|>", " green<|im_end|>"]),
        (ONEVISION, ["red<|im_end|>", "green<|im_end|>"]),
    ],
    ids=["ChatML", "Llama 3", "Mistral", "LLaVA-1.5", "LLaVA-OneVision"],
)
def test_the_assistants_turns_and_their_ends_are_labelled(tokenizer, text, output):
    rendered = template(tokenizer, text).render(TURNS)
    assert [rendered.text[start:stop] for start, stop in rendered.spans] == output


@pytest.mark.parametrize("text", [CHATML, LLAMA_3, MISTRAL, LLAVA_1_5])
def test_an_answer_begins_where_a_reply_would(tokenizer, text):
    chat = template(tokenizer, text)
    asked = chat.render(TURNS[:1], reply=True).text
    answered = chat.render(TURNS[:2])
    assert answered.text.startswith(asked)
    assert answered.spans[0][0] == len(asked)


def test_a_template_without_an_end_of_turn_gets_the_end_of_text(tokenizer):
    assert template(tokenizer, LLAVA_1_5).render(TURNS).text.endswith(f"green{tokenizer.eos_token} ")


def test_the_template_places_leading_media(tokenizer):
    chat = template(tokenizer, ONEVISION)
    assert chat.render([("user", "<video>\n<image>\nWhich?")]).text.startswith(
        "<|im_start|>user <image><video>\nWhich?"
    )
    assert "first <image> then" in chat.render([("user", "first <image> then")]).text


def test_a_modality_that_the_template_lacks_stays_in_the_text(tokenizer):
    assert "\n<audio>\nWhich?" in template(tokenizer, ONEVISION).render([("user", "<audio>\nWhich?")]).text


@pytest.mark.parametrize("text", [CHATML, LLAVA_1_5, ONEVISION])
def test_messages_with_all_modalities_go_through_the_extended_template(tokenizer, text):
    tokenizer.chat_template = template(tokenizer, text).with_media()
    content = [{"type": kind} for kind in ("audio", "image", "video")] + [{"type": "text", "text": "Which?"}]
    shown = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    assert [shown.count(f"<{kind}>") for kind in ("image", "video", "audio")] == [1, 1, 1]
    assert shown.count("Which?") == 1


def test_a_template_that_drops_an_earlier_turn_is_rejected(tokenizer):
    forgetful = "{% for m in messages[-2:] %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(ValueError, match="renders turn 2 0 times"):
        template(tokenizer, forgetful).render(TURNS)


def test_a_template_that_drops_the_users_text_is_rejected(tokenizer):
    with pytest.raises(ValueError, match="drops the user's text"):
        template(tokenizer, "{{ 'hello' }}")


@pytest.mark.parametrize(
    ("text", "opening", "end"),
    [
        (CHATML, [], "<|im_end|>"),
        (LLAMA_3, [], "<|eot|>"),
        (MISTRAL, ["Ġ"], "</s>"),
        (LLAVA_1_5, ["Ġ"], "<|im_end|>"),
        (ONEVISION, [], "<|im_end|>"),
    ],
    ids=["ChatML", "Llama 3", "Mistral", "LLaVA-1.5", "LLaVA-OneVision"],
)
def test_labelled_tokens_are_the_assistants_own(tokenizer, text, opening, end):
    """The answer also occurs in the user's turns, where it has no label."""
    tokenizer.chat_template = text
    processor = LlavaAvProcessor(tokenizer, tiny_model()[1].config)
    replies = ["red", "green, 音! It is green."]
    turns = [("human", f"<video>\nIs it {replies[0]}?"), ("gpt", replies[0])]
    turns += [("human", f"Or {replies[1]}"), ("gpt", replies[1])]
    encoded = processor.encode(turns, clip())
    expected = []
    for reply in replies:
        expected += [*opening, *tokenizer.tokenize(reply), end]
    labelled = [label for label in encoded.labels if label != IGNORE]
    assert tokenizer.convert_ids_to_tokens(labelled) == expected
    pairs = zip(encoded.input_ids, encoded.labels, strict=True)
    assert all(label in (token, IGNORE) for token, label in pairs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% if", "rejects messages of user: unexpected 'end of template'"),
        ("{{ bos_token }}", "drops the user's text"),
        ("{{ messages[0].content }}", "drops the assistant's text"),
        (CHATML + "{% if messages | length > 1 %}{{ raise_exception('too long') }}{% endif %}", "too long"),
        (
            CHATML + "{{ messages[1].content + 1 if messages | length > 1 }}",
            "rejects messages of user, assist",
        ),
    ],
)
def test_a_template_that_cannot_be_used_is_rejected(tokenizer, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        template(tokenizer, text)
    assert "\n" not in str(caught.value)


def test_a_conversation_that_the_template_rejects_is_one_line(tokenizer):
    alone = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    chat = template(tokenizer, alone + CHATML)
    message = "rejects messages of system, user, assistant: no system role"
    with pytest.raises(ValueError, match=message):
        chat.render([("system", "Be kind."), *TURNS[:2]])
