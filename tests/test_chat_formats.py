"""The turns of other language models: read off their own chat templates, written around a paper's content."""

from importlib.resources import files

import pytest
from transformers import PreTrainedTokenizerFast

from hf_emotion.processing.chat_formats import ChatFormatError, end_of_turn, marks_in, turns_of, write_template
from hf_emotion.processing.processing_microemo import CONTENT

# The published templates, without their branches for tools.
QWEN = (
    "{%- for m in messages -%}{%- if loop.first and m.role != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' -}}{%- endif -%}"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
QWEN_3 = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' -}}"
    "{%- if m.role == 'assistant' and loop.last -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    "{{- m.content + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    "{%- endif -%}"
)
LLAMA_2 = (
    "{%- if messages[0].role == 'system' -%}"
    "{%- set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' -%}"
    "{%- set messages = messages[1:] -%}{%- else -%}{%- set system = '' -%}{%- endif -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{{- bos_token + '[INST] ' + (system if loop.first else '') + m.content + ' [/INST]' -}}"
    "{%- else -%}{{- ' ' + m.content + ' ' + eos_token -}}{%- endif -%}{%- endfor -%}"
)
LLAMA_3 = (
    "{{- bos_token -}}{%- for m in messages -%}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' -}}"
    "{{- m.content | trim + '<|eot_id|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
FORMATS = {
    "Qwen2.5": QWEN,
    "Qwen3": QWEN_3,
    "Llama-2": LLAMA_2,
    "Llama-3": LLAMA_3,
    "Gemma": GEMMA,
    "Mistral": MISTRAL,
}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Which emotion?"}
ANSWER = {"role": "assistant", "content": "Joy."}


def tokenizer_with(template):
    return PreTrainedTokenizerFast(
        tokenizer_file=str(files("hf_emotion.processing") / "tiny_tokenizer.json"),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=template,
    )


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("messages", "answer_next"),
    [([USER], True), ([USER], False), ([USER, ANSWER], False), ([USER, ANSWER, USER], True), ([SYSTEM, USER], True)],
    ids=["question", "no answer asked", "answered", "second question", "system message"],
)
def test_a_prompt_is_what_the_language_models_own_template_writes(name, messages, answer_next):
    tokenizer = tokenizer_with(FORMATS[name])
    ours = write_template("{{- text -}}", turns_of(tokenizer))
    found = tokenizer.apply_chat_template(
        messages, chat_template=ours, tokenize=False, add_generation_prompt=answer_next
    )
    if SYSTEM in messages and name in ("Gemma", "Mistral"):  # they refuse the role
        messages = [{"role": "user", "content": f"{SYSTEM['content']}\n\n{USER['content']}"}]
    expected = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=answer_next, enable_thinking=False
    )
    assert found == expected


@pytest.mark.parametrize("name", FORMATS)
def test_the_answer_and_its_end_are_what_is_learned(name):
    tokenizer = tokenizer_with(FORMATS[name])
    turns = turns_of(tokenizer)
    encoded = tokenizer.apply_chat_template(
        [USER, ANSWER],
        chat_template=write_template("{{- text -}}", turns),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    learned = tokenizer.decode([token for token, answered in pairs if answered])
    ends = {"Llama-2": "</s>", "Mistral": "</s>", "Llama-3": "<|eot_id|>", "Gemma": "<end_of_turn>"}
    assert "".join(learned.split()) == "Joy." + ends.get(name, "<|im_end|>")
    assert end_of_turn(tokenizer, turns) == ("</s>" if name in ("Llama-2", "Mistral") else None)


def test_media_stand_inside_the_language_models_user_turn():
    tokenizer = tokenizer_with(QWEN)
    template = write_template(CONTENT, turns_of(tokenizer))
    message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Which emotion?"}]}
    prompt = tokenizer.apply_chat_template(
        [message], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert prompt == (
        "<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\n"
        "The video content is as follows: <Video><video></Video>. Now answer my question based on all of this. "
        "Which emotion?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert {"<|im_start|>", "<|im_end|>", "<Video>", "</Video>"} <= marks_in(template)


def test_a_template_that_drops_a_message_is_refused():
    with pytest.raises(ChatFormatError, match="once each and in order"):
        turns_of(tokenizer_with("{{ messages[-1].content }}"))


def test_a_tokenizer_without_a_template_has_no_turns():
    assert turns_of(tokenizer_with(None)) is None
