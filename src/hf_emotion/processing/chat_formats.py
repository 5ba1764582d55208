"""Chat formats: what a paper says about a clip, in the turns of whichever language model reads it.

A prompt has two halves. The *content* is the paper's: how media, utterances and the question follow each other in a
user's message. The *turns* are the language model's: the marks around messages. `write_template` joins the two into
one Jinja template; `turns_of` reads the turns off a tokenizer's own chat template (ChatML, Llama 2 and 3, Gemma,
Mistral and others), by rendering it on a few known messages.
"""

import json
import re
from dataclasses import dataclass

from jinja2.exceptions import TemplateError

# A mark that a text written by somebody else must not contain: `<|im_start|>`, `</s>`, `[INST]`.
MARK = re.compile(r"<[^<>\s'\"]+>|\[/?[A-Z_]+\]")

TEMPLATE = """\
{{%- set state = namespace(system='', media=false) -%}}
{{%- for message in messages -%}}
    {{%- set content = message['content'] -%}}
    {{%- set parts = [{{'type': 'text', 'text': content}}] if content is string else content -%}}
    {{%- set text = parts | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') | trim -%}}
    {{%- if message['role'] == 'system' -%}}
        {{%- set state.system = {system_open} ~ text ~ {system_close} -%}}
    {{%- elif message['role'] == 'user' -%}}
        {{{{- state.system or ({first} if loop.first else {following}) -}}}}
        {{%- set state.system = '' -%}}
        {{%- set state.media = false -%}}
{content}
        {{%- if loop.last and add_generation_prompt -%}}
            {{{{- {answer} -}}}}
        {{%- elif loop.last or messages[loop.index]['role'] != 'assistant' -%}}
            {{{{- {close} -}}}}
        {{%- endif -%}}
    {{%- else -%}}
        {{{{- {answer} if loop.last else {earlier_answer} -}}}}
        {{%- generation -%}}
        {{{{- {lead} ~ text ~ {end} -}}}}
        {{%- endgeneration -%}}
        {{{{- {after} -}}}}
    {{%- endif -%}}
{{%- endfor -%}}
"""


class ChatFormatError(ValueError):
    """A tokenizer whose chat template cannot be taken apart into turns."""


@dataclass(frozen=True)
class Turns:
    """The marks of a chat format, each a Jinja expression.

    Args:
        first, following: before a user's first message without a system message, and before later ones.
        system_open, system_close: around a system message; the second leads to the user's text.
        close: after a user's message that no answer follows.
        answer, earlier_answer: from the end of a user's message to the start of the last answer, and of earlier ones.
        lead: text that belongs to the answer itself, at its start.
        end: what ends an answer; the model learns to write it.
        after: what follows the end of an answer.
    """

    first: str
    following: str
    system_open: str
    system_close: str
    close: str
    answer: str
    earlier_answer: str
    lead: str = "''"
    end: str = "eos_token"
    after: str = "''"


LLAMA_2 = Turns(
    first="bos_token ~ '[INST] '",
    following="bos_token ~ '[INST] '",
    system_open="bos_token ~ '[INST] <<SYS>>\\n'",
    system_close="'\\n<</SYS>>\\n\\n'",
    close="' [/INST]'",
    answer="' [/INST]'",
    earlier_answer="' [/INST]'",
    lead="' '",
)
CHATML = Turns(
    first="'<|im_start|>system\\nYou are a helpful assistant.' ~ eos_token ~ '\\n<|im_start|>user\\n'",
    following="'<|im_start|>user\\n'",
    system_open="'<|im_start|>system\\n'",
    system_close="eos_token ~ '\\n<|im_start|>user\\n'",
    close="eos_token ~ '\\n'",
    answer="eos_token ~ '\\n<|im_start|>assistant\\n'",
    earlier_answer="eos_token ~ '\\n<|im_start|>assistant\\n'",
    after="'\\n'",
)


def write_template(content: str, turns: Turns) -> str:
    """A chat template: a paper's content in a language model's turns.

    Args:
        content: Jinja that writes a user's message from `parts` and `text`; `state.media` is free for its use.
        turns: see `Turns`.
    """
    return TEMPLATE.format(content=content, **vars(turns))


def marks_in(template: str) -> set[str]:
    """The marks that a chat template writes, which foreign text must not contain."""
    return set(MARK.findall(template))


def turns_of(tokenizer) -> Turns | None:
    """The turns of a tokenizer's own chat template; `None` where it has none.

    A template that knows a mode without visible reasoning (`enable_thinking=False`) is read in that mode. Where a
    system message is refused (Gemma), its text stands before the user's.

    Raises:
        ChatFormatError: the template does not write every message once, in order.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None

    def render(*messages, answer_next=False):
        names = ("system", "user", "assistant")
        rows = [{"role": name, "content": text} for text in messages for name in names if text.startswith(name)]
        text = tokenizer.apply_chat_template(
            rows, tokenize=False, add_generation_prompt=answer_next, enable_thinking=False
        )
        pieces = re.split("|".join(map(re.escape, messages)), text)
        if len(pieces) != len(messages) + 1 or re.findall("|".join(messages), text) != list(messages):
            raise ChatFormatError(
                f"the chat template of {type(tokenizer).__name__} does not write the messages "
                f"{', '.join(messages)} once each and in order; a template that does is accepted"
            )
        return pieces

    first, close = render("user-one")
    _, answer = render("user-one", answer_next=True)
    _, earlier, between, _, tail = render("user-one", "assistant-one", "user-two", "assistant-two")
    end = between[: common_prefix(between, tail)]
    try:
        system_open, system_close, _ = render("system-one", "user-one")
    except TemplateError:
        system_open, system_close = first, "\n\n"
    lead = ""
    if earlier.startswith(answer):
        lead, earlier = earlier[len(answer) :], answer
    written = end.rstrip()
    if not written:
        raise ChatFormatError(
            f"the chat template of {type(tokenizer).__name__} has no mark at the end of an answer; one that the model "
            f"can learn to stop at is needed"
        )
    marks = {
        "first": first,
        "following": between[len(end) :],
        "system_open": system_open,
        "system_close": system_close,
        "close": close,
        "answer": answer,
        "earlier_answer": earlier,
        "lead": lead,
        "end": written,
        "after": end[len(written) :],
    }
    return Turns(**{name: json.dumps(text, ensure_ascii=False) for name, text in marks.items()})


def end_of_turn(tokenizer, turns: Turns) -> str | None:
    """The token of the vocabulary that ends an answer, at which generation stops; `None` if the mark is plain text."""
    written = json.loads(turns.end).strip() if turns.end.startswith('"') else None
    return written if written in tokenizer.get_vocab() else None


def common_prefix(left: str, right: str) -> int:
    """Number of characters that two strings begin with alike."""
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


__all__ = ["CHATML", "LLAMA_2", "ChatFormatError", "Turns", "end_of_turn", "marks_in", "turns_of", "write_template"]
