"""Language models as judges: who answers, a cache that makes a judged score repeatable, and the overlap scores of EMER.

A judge is any function prompt -> reply. Two are offered: `TransformersChat`, a model run here, and `ServerChat`, any
server that speaks the OpenAI chat protocol. Neither is ever used, and no server ever contacted, unless the caller names
it. `JudgeCache` keeps every reply in a JSON file with sorted keys; with that file a score comes out the same to the
last digit, without any model.

The overlap protocol (EMER; used by Emotion-LLaMA, Omni-Emotion, ESVA) asked the retired gpt-3.5-turbo-16k-0613 for a
score from 1 to 10 (not 0 to 10) on Chinese text and took the first number of the reply. Absolute values of the papers
cannot be reproduced any more; the protocol can, and its name, language and judge are part of every result. What differs
by default: an unreadable reply, or one outside
0 to 10, is asked for again, then counted as failed and left out; officially it ends the run.
"""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..data.files import write_whole
from .sets import check_lengths
from .statistics import Clips, mean, size

Chat = Callable[[str], str]

# The official EMER prompts (MERTools, Apache-2.0 part), word for word because the protocol is its prompts.
CLUE_PROMPT_ZH = (
    "下面给出人物的《真实描述》以及《预测描述》。请按照以下步骤计算《预测描述》的得分，得分范围为1-10。"
    "最终仅输出预测分数的数值大小，并给出原因。 "
    "1.请总结《真实描述》中有关人物的情感状态描述 "
    "2.请总结《预测描述》中有关人物的情感状态描述 "
    "3.计算《预测描述》与《真实描述》之间的重叠度，重叠度越高，返回的分数越高。 "
    "4.输出格式为: '预测分数'：预测分数；'原因'：原因 输入： "
    "《真实描述》：{reference} 《预测描述》：{prediction} 输出："
)
SUMMARY_PROMPT_ZH = (
    "请根据以下视频描述，推测视频中人物最有可能的情感状态，仅输出情感词： "
    "视频描述：他虽然看起来很高兴，但是实际上很焦虑 输出结果：焦虑 视频描述：{text} 输出结果："
)
LABEL_PROMPT_ZH = (
    "下面给出人物的《真实情感》以及《预测情感》。请计算《预测情感》与《真实情感》之间的重叠度，重叠度越高，返回的分数越高。"
    "得分范围为1-10。最终仅输出预测分数的数值大小，并给出原因。 输出格式为: '预测分数'：预测分数；'原因'：原因 输入： "
    "《真实情感》：{reference} 《预测情感》：{prediction} 输出："
)
# Our translation, for judges and texts in English; not an official protocol.
CLUE_PROMPT_EN = (
    "A true description and a predicted description of a person are given. Score the predicted description from 1 to "
    "10 in "
    "these steps. 1. Summarise what the true description says about the person's emotional state. 2. Summarise what "
    "the "
    "predicted description says about it. 3. Work out how far the two overlap; the more they overlap, the higher the "
    "score. "
    "Answer in this form: 'score': the score; 'reason': the reason.\n"
    "True description: {reference}\nPredicted description: {prediction}\nAnswer:"
)
SUMMARY_PROMPT_EN = (
    "From the description of a video, infer the most likely emotional state of the person in it; answer with emotion "
    "words only.\n"
    "Description: He looks happy, but in fact he is anxious. Answer: anxious\nDescription: {text} Answer:"
)
LABEL_PROMPT_EN = (
    "The true emotion and the predicted emotion of a person are given. Score from 1 to 10 how far the predicted "
    "emotion overlaps "
    "with the true one; the more they overlap, the higher the score. Answer in this form: 'score': the score; "
    "'reason': the "
    "reason.\nTrue emotion: {reference}\nPredicted emotion: {prediction}\nAnswer:"
)
PROMPTS = {
    "zh": {"clue": CLUE_PROMPT_ZH, "summary": SUMMARY_PROMPT_ZH, "label": LABEL_PROMPT_ZH},
    "en": {"clue": CLUE_PROMPT_EN, "summary": SUMMARY_PROMPT_EN, "label": LABEL_PROMPT_EN},
}
_OFFICIAL_NUMBER = re.compile(r"[\d][.]*[\d]*")
_NAMED_NUMBER = re.compile(r"(?:预测分数|score)\W{0,4}?(?:is|为|:|：)?\W{0,4}?(-?\d+(?:\.\d+)?)", re.IGNORECASE)


class JudgeError(ValueError):
    """A judge cannot be reached, refuses, or answers in a form that cannot be read."""


class ServerChat:
    """A language model behind a server with the OpenAI chat protocol (vLLM, llama.cpp, Ollama, a paid service).

    Args:
        url: base address, for instance http://127.0.0.1:8000/v1. Nothing is contacted before the first call.
        model: name of the model on that server.
        api_key: sent as a bearer token, if set.
        temperature, max_tokens: temperature (0 = greedy) and maximum length of the reply.
        timeout: seconds for one request.
        tries: requests per prompt when the server is busy or broken (status 429 or 5xx, no connection).

    Raises:
        JudgeError: the address is not http(s); at a call, the server refuses or answers without a message.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None = None,
        temperature: float = 0.0,
        max_tokens: int = 1000,
        timeout: float = 120.0,
        tries: int = 3,
    ):
        if not re.match(r"https?://[^/]+", url):
            raise JudgeError(
                f"the judge's address is {url!r}; accepted is a base address such as http://127.0.0.1:8000/v1"
            )
        self.url, self.model, self.api_key = url.rstrip("/"), model, api_key
        self.temperature, self.max_tokens, self.timeout, self.tries = temperature, max_tokens, timeout, tries
        self.name = f"{model} (temperature {temperature:g})"

    def __call__(self, prompt: str | list[dict]) -> str:
        """The reply to a text, or to parts (text, pictures, sound) in the protocol's own form."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        address = f"{self.url}/chat/completions"
        for left in reversed(range(self.tries)):
            request = urllib.request.Request(address, json.dumps(body).encode("utf-8"), headers)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    reply = json.load(answer)
                return reply["choices"][0]["message"]["content"] or ""
            except urllib.error.HTTPError as error:
                if left and (error.code == 429 or error.code >= 500):
                    time.sleep(2.0 ** (self.tries - left - 1))
                    continue
                raise JudgeError(f"the judge at {address} answered with status {error.code}: {error.reason}") from error
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                if left:
                    time.sleep(2.0 ** (self.tries - left - 1))
                    continue
                raise JudgeError(f"the judge at {address} cannot be reached: {error}") from error
            except (KeyError, IndexError, TypeError, json.JSONDecodeError) as error:
                raise JudgeError(f"the judge at {address} answered without choices[0].message.content") from error
        raise JudgeError(f"tries is {self.tries}; at least 1 is needed to ask the judge at {address}")


class TransformersChat:
    """A language model run here through transformers, greedy by default.

    Args:
        model: Hub id or folder of a causal language model; loaded at the first call.
        max_new_tokens: longest reply.
        trust_remote_code: run the model's own code; off unless the caller turns it on.
        generate_kwargs: further arguments of `generate`.
    """

    def __init__(self, model: str, max_new_tokens: int = 512, trust_remote_code: bool = False, **generate_kwargs):
        self.model, self.trust_remote_code = model, trust_remote_code
        self.generate_kwargs = {"do_sample": False, "max_new_tokens": max_new_tokens, **generate_kwargs}
        self.name = f"{model} ({json.dumps(self.generate_kwargs, sort_keys=True)})"
        self._loaded = None

    def __call__(self, prompt: str) -> str:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if self._loaded is None:
            kwargs = {"trust_remote_code": self.trust_remote_code}
            device = "cuda" if torch.cuda.is_available() else "cpu"
            model = AutoModelForCausalLM.from_pretrained(self.model, dtype="auto", **kwargs).to(device).eval()
            self._loaded = AutoTokenizer.from_pretrained(self.model, **kwargs), model
        tokenizer, model = self._loaded
        if tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}]
            inputs = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            inputs = tokenizer(prompt, return_tensors="pt")
        inputs = inputs.to(model.device)
        with torch.inference_mode():
            tokens = model.generate(**inputs, **self.generate_kwargs)
        return tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


class JudgeCache:
    """Replies of judges in a JSON file with sorted keys, so that a judged score can be repeated, compared and put under
    version control.

    Args:
        path: the file; None keeps the replies in memory only. It is written through a temporary file, every
            `save_every` new replies and by `save`; scoring functions call `save` when they end, also by an exception.

    Raises:
        JudgeError: the file is not a cache.
    """

    def __init__(self, path: str | Path | None = None, save_every: int = 20):
        self.path = None if path is None else Path(path)
        self.save_every = save_every
        self.replies: dict[str, str] = {}
        self._unsaved = 0
        self._by_question: dict[tuple[str, ...], set[str]] | None = None
        if self.path is not None and self.path.exists():
            try:
                self.replies = json.loads(self.path.read_text(encoding="utf-8"))["replies"]
            except (ValueError, KeyError, TypeError) as error:
                raise JudgeError(f'{self.path} is not a judge cache: expected a JSON object with "replies"') from error

    def ask(self, chat: Chat | None, task: str, prompt: str, key: Sequence[str], attempt: int = 0) -> str:
        """The stored reply for this judge, task and key, else the judge's, which is then stored.

        Args:
            chat: the judge; None = only stored replies, of any judge.
            task: what is asked, for instance "groups".
            prompt: sent when nothing is stored.
            key: what the prompt was made from, in a fixed order (sorted where order has no meaning).
            attempt: number of the try; a second try has a separate entry.

        Raises:
            JudgeError: there is no judge, and nothing is stored or the stored replies of several judges differ.
        """
        wanted = [task, *key, *([f"attempt {attempt}"] if attempt else [])]
        if chat is None:
            return self._stored(wanted)
        full = json.dumps([judge_name(chat), *wanted], ensure_ascii=False)
        if full not in self.replies:
            self.replies[full] = chat(prompt)
            self._by_question = None
            self._unsaved += 1
            if self._unsaved >= self.save_every:
                self.save()
        return self.replies[full]

    def _stored(self, wanted: list[str]) -> str:
        if self._by_question is None:
            self._by_question = {}
            for full, reply in self.replies.items():
                question = tuple(json.loads(full)[1:])
                self._by_question.setdefault(question, set()).add(reply)
        replies = self._by_question.get(tuple(wanted), set())
        if not replies:
            raise JudgeError(f"no stored reply for {wanted[0]} of {wanted[1:]} and no judge named to ask")
        if len(replies) > 1:
            raise JudgeError(
                f"the stored replies for {wanted[0]} of {wanted[1:]} differ between the judges "
                f"{', '.join(self.judges)}; name one"
            )
        return next(iter(replies))

    @property
    def judges(self) -> list[str]:
        """Names of the judges whose replies are stored."""
        return sorted({json.loads(full)[0] for full in self.replies})

    def save(self) -> None:
        """Write the file, if there is one and anything is new."""
        if self.path is None or not self._unsaved:
            return
        text = json.dumps({"replies": self.replies}, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
        write_whole(self.path, text)
        self._unsaved = 0


def judge_name(chat: Chat) -> str:
    """Name of a judge in caches and reports."""
    return getattr(chat, "name", getattr(chat, "__name__", type(chat).__name__))


def clean_reply(reply: str) -> str:
    """A reply without the words judges put in front of it: 输入, 输出, Output ..., and colons.

    As `func_postprocess_chatgpt` of MERTools does it.
    """
    reply = reply.strip()
    for lead in ("输入", "输出", "翻译", "让我们来翻译一下：", "output", "Output", "input", "Input"):
        if reply.startswith(lead):
            reply = reply[len(lead) :]
            break
    return reply.strip().lstrip(":：").replace("\n", "").strip()


def parse_score(reply: str, strict: bool = False) -> float | None:
    """The score in a judge's reply.

    Strict is the official rule: the first match of `[\\d][.]*[\\d]*` as a float, nothing clipped, so "1-10: 6" is 1 and
    "-2" is 2. Raises AttributeError for a reply without a digit and ValueError for "3..5". By default the number after
    "score" or 预测分数 counts, else the first number; None where there is none or it lies outside 0 to 10.
    """
    if strict:
        return float(_OFFICIAL_NUMBER.search(reply).group())
    match = _NAMED_NUMBER.search(reply)
    text = match.group(1) if match else None
    if text is None:
        match = re.search(r"-?\d+(?:\.\d+)?", reply)
        text = match.group() if match else None
    if text is None:
        return None
    value = float(text)
    return value if 0 <= value <= 10 else None


def overlap_clips(
    predictions: Sequence[str],
    references: Sequence[str],
    chat: Chat | None = None,
    cache: JudgeCache | None = None,
    kind: str = "both",
    language: str = "zh",
    tries: int = 3,
    strict: bool = False,
) -> Clips:
    """Clue overlap and label overlap of descriptions by a judge (EMER protocol).

    Clue: one question per clip (reference description, predicted description). Label: two questions that sum both
        descriptions up in
    emotion words, and one that scores these.

    Args:
        predictions, references: one description per clip.
        chat: the judge. None = answers come from `cache` only.
        cache: stored replies (default: none).
        kind: "clue", "label" or "both".
        language: "zh", the official prompts (they expect Chinese text), or "en", our translation.
        tries: questions per score; the next is asked when a reply holds no number from 0 to 10.
        strict: official parsing, one try; an unreadable reply ends the run (AttributeError, ValueError).

    Returns:
        Clips with scores `clue_overlap` and `label_overlap`: mean over the clips whose reply could be read, on the
        judge's scale;
        `n_clue`, `failed_clue`, `n_label`, `failed_label`; `judge`, `protocol`. An empty prediction is asked about like
        any other. No clip: 0.0.

    Raises:
        ValueError: an unknown kind or language. JudgeError: no judge and no stored reply.
    """
    if kind not in ("clue", "label", "both"):
        raise ValueError(f"kind is {kind!r}; accepted are clue, label, both")
    if language not in PROMPTS:
        raise ValueError(f"language is {language!r}; accepted are {', '.join(PROMPTS)}")
    check_lengths(predictions=predictions, references=references)
    prompts, cache = PROMPTS[language], cache or JudgeCache()
    tries = 1 if strict else max(tries, 1)
    columns = np.full((len(predictions), 2), np.nan)

    def scored(task: str, reference: str, prediction: str) -> float:
        for attempt in range(tries):
            prompt = prompts[task].format(reference=reference, prediction=prediction)
            reply = cache.ask(chat, f"{task} overlap {language}", prompt, (reference, prediction), attempt)
            value = parse_score(clean_reply(reply), strict)
            if value is not None:
                return value
        return np.nan

    def summed_up(text: str) -> str:
        return clean_reply(
            cache.ask(chat, f"emotion summary {language}", prompts["summary"].format(text=text), (text,))
        )

    try:
        for i, pair in enumerate(zip(references, predictions, strict=True)):
            reference, prediction = ("" if text is None else str(text) for text in pair)
            if kind in ("clue", "both"):
                columns[i, 0] = scored("clue", reference, prediction)
            if kind in ("label", "both"):
                columns[i, 1] = scored("label", summed_up(reference), summed_up(prediction))
    finally:
        cache.save()
    kinds = ("clue", "label") if kind == "both" else (kind,)

    def score(rows: np.ndarray, counts: np.ndarray | None) -> dict:
        result = {}
        for name in kinds:
            values = rows[:, ("clue", "label").index(name)]
            failed = size(np.isnan(values), counts)
            result[f"{name}_overlap"] = mean(values, counts)
            result |= {f"n_{name}": size(rows, counts) - failed, f"failed_{name}": failed}
        return result

    judge = f"stored replies of {', '.join(cache.judges)}" if chat is None else judge_name(chat)
    protocol = "EMER, official prompts" if language == "zh" else "EMER, prompts translated to English"
    return Clips(columns, score, {"judge": judge, "protocol": protocol, "strict": strict})
