"""The pipeline: its scores and answers against the plain way to each of them, and everything a clip may come as."""

import json
from base64 import b64encode
from collections import Counter

import pytest
import torch
from datasets import Dataset
from loopback_clips import serve_clips
from test_cli import write_clip
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset

import hf_emotion
from hf_emotion.answers.pipeline_emotion import ClipError, EmotionRecognitionPipeline, question_about, read_url
from hf_emotion.inference import describe
from hf_emotion.papers import PAPERS, build
from hf_emotion.processing import processing_emotion
from hf_emotion.processing.media import MediaError

SPOKEN = [(0.1, 0.9, "well, yes"), (1.0, 1.7)]
OPTIONS = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture(scope="module")
def server(clip):
    server = serve_clips(clip.read_bytes())
    yield server
    server.shutdown()


@pytest.fixture(scope="module", params=PAPERS)
def pipe(request):
    model, processor = build(request.param)
    return EmotionRecognitionPipeline(model=model, processor=processor, device=-1)


@pytest.fixture(scope="module")
def one_pipe():
    model, processor = build("microemo")
    return EmotionRecognitionPipeline(model=model, processor=processor, device=-1)


def without_name(result):
    return {name: value for name, value in result.items() if name != "clip"}


def rounded(value):
    """A result with scores to three digits: sums depend on the batch they are taken in."""
    if isinstance(value, dict):
        return {key: float(f"{item:.3g}") if key == "score" else rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


@torch.no_grad()
def plain_answer(pipe, clip, question, **options):
    """Text and tokens by the processor and `generate` alone."""
    batch = pipe.processor(videos=[str(clip)], utterances=[SPOKEN], text=[question], return_tensors="pt")
    generated = pipe.model.generate(**batch, do_sample=False, **options)
    tokens = generated[0, batch["input_ids"].shape[1] :]
    return pipe.processor.decode(tokens, skip_special_tokens=True).strip(), batch, tokens


@torch.no_grad()
def log_probabilities(pipe, batch, tokens):
    """Of tokens (S,) after the prompt of a batch of one clip, in one pass over both."""
    ids = torch.cat([batch["input_ids"], tokens[None]], dim=1)
    mask = torch.cat([batch["attention_mask"], torch.ones_like(tokens)[None]], dim=1)
    logits = pipe.model(**{**batch, "input_ids": ids, "attention_mask": mask}).logits[0]
    return logits[-len(tokens) - 1 : -1].log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def test_description_and_utterances_are_what_the_plain_way_answers(pipe, clip):
    result = pipe({"video": str(clip), "utterances": SPOKEN}, **OPTIONS)
    text, _, _ = plain_answer(pipe, clip, pipe.processor.default_question, **OPTIONS)
    assert result["description"] == text
    assert [(u["start"], u["end"], u["text"]) for u in result["utterances"]] == [
        (0.1, 0.9, "well, yes"),
        (1.0, 1.7, None),
    ]
    for utterance in result["utterances"]:
        told, _, _ = plain_answer(pipe, clip, question_about(utterance), **OPTIONS)
        assert utterance["description"] == told
    assert {"modalities", "frames", "duration", "notes", "labels"} <= set(result)
    json.dumps(result)


def test_the_score_of_a_word_is_the_geometric_mean_of_its_tokens_probabilities(one_pipe):
    text = "Her voice is shaking: in the end she is very lonely, and not angry. She looks disappointed."
    tokenizer = one_pipe.processor.tokenizer
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = torch.tensor([*encoded.input_ids, tokenizer.eos_token_id])
    scores = torch.rand(len(tokens)).log()
    found = {label["label"]: label["score"] for label in one_pipe.word_scores(text, tokens, scores)}
    assert set(found) == {"lonely", "disappointed"}
    for word, score in found.items():
        start = text.index(word)
        inside = [i for i, (low, high) in enumerate(encoded.offset_mapping) if low < start + len(word) and high > start]
        assert score == pytest.approx(float(scores[inside].mean().exp()), rel=1e-5)


def test_scores_taken_while_writing_are_those_of_one_pass_over_the_finished_text(pipe, clip):
    _, batch, tokens = plain_answer(pipe, clip, pipe.processor.default_question, max_new_tokens=24)
    found = pipe.word_scores(
        pipe.processor.decode(tokens, skip_special_tokens=True), tokens, log_probabilities(pipe, batch, tokens)
    )
    result = pipe({"video": str(clip), "utterances": SPOKEN}, per_utterance=False, max_new_tokens=24)
    expected = {label["label"]: label["score"] for label in found}
    assert {label["label"]: label["score"] for label in result["labels"]} == pytest.approx(expected, rel=1e-3)
    scores = [label["score"] for label in result["labels"]]
    assert scores == sorted(scores, reverse=True)


def test_closed_set_scores_are_the_likelihoods_of_the_labels_as_whole_answers(pipe, clip):
    labels = ["happy", "very sad", "angry"]
    result = pipe(str(clip), utterances=SPOKEN, candidate_labels=labels, per_utterance=False, max_new_tokens=1)
    _, batch, _ = plain_answer(pipe, clip, pipe.processor.default_question, max_new_tokens=1)
    tokenizer = pipe.processor.tokenizer
    sums = []
    for label in labels:
        answer = [*tokenizer(label, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        sums.append(log_probabilities(pipe, batch, torch.tensor(answer)).sum())
    expected = dict(zip(labels, torch.stack(sums).softmax(0).tolist(), strict=True))
    scores = [entry["score"] for entry in result["labels"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)
    for entry in result["labels"]:
        assert entry["score"] == pytest.approx(expected[entry["label"]], rel=1e-3, abs=1e-9)


def test_an_answer_by_letter_is_read_with_the_options_of_its_question(one_pipe, clip, monkeypatch):
    monkeypatch.setattr(one_pipe.processor, "decode", lambda ids, **options: "B, A")
    listed = one_pipe(str(clip), question="Which emotion? A. happy B. sad C. angry", **OPTIONS)
    assert {label["label"] for label in listed["labels"]} == {"happy", "sad"}
    assert one_pipe(str(clip), question="Which emotion?", **OPTIONS)["labels"] == []


def test_the_stream_is_the_description_piece_by_piece_and_ends_with_the_result(pipe, clip):
    pieces = []

    def collect():
        return (yield from pipe.stream(str(clip), utterances=SPOKEN, max_new_tokens=32))

    stream = collect()
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            result = end.value
            break
    assert len(pieces) > 1
    assert "".join(pieces).strip() == result["description"]
    assert result == pipe(str(clip), utterances=SPOKEN, max_new_tokens=32)


def test_a_list_is_answered_in_order_whatever_the_batch_size(pipe, clip, tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", sound=False)
    clips = [{"video": str(clip), "utterances": SPOKEN}, str(silent), str(clip)]
    one_by_one = pipe(clips, **OPTIONS)
    together = pipe(clips, batch_size=3, **OPTIONS)
    assert [result["clip"] for result in together] == [str(clip), str(silent), str(clip)]
    for alone, batched in zip(one_by_one, together, strict=True):
        assert alone["description"] == batched["description"]
        assert alone["modalities"] == batched["modalities"]
        assert [u.get("description") for u in alone["utterances"]] == [u["description"] for u in batched["utterances"]]
    assert "audio" not in together[1]["modalities"]


def test_paths_bytes_urls_and_dicts_give_the_same_answer(one_pipe, clip, server):
    data = clip.read_bytes()
    expected = without_name(one_pipe(str(clip), **OPTIONS))
    sources = [clip, data, f"{server.url}/clip.mp4", f"data:video/mp4;base64,{b64encode(data).decode()}"]
    sources += [{"video": data}, {"path": str(clip)}, {"clip": clip}, {"video": f"{server.url}/to?/clip.mp4"}]
    results = one_pipe(sources, allow_urls=True, **OPTIONS)
    assert [without_name(result) for result in results] == [expected] * len(sources)
    assert results[2]["clip"] == f"{server.url}/clip.mp4"
    assert results[3]["clip"] == "clip 3"


def test_one_bad_clip_raises_and_in_a_list_it_is_told_beside_the_others(one_pipe, clip, server, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError, match="no such file"):
        one_pipe(str(tmp_path / "nothing.mp4"))
    with pytest.raises(ClipError, match="404"):
        one_pipe(f"{server.url}/missing", allow_urls=True)
    with pytest.raises(MediaError, match="no such file"):
        next(one_pipe.stream("nothing.mp4"))
    bad = [str(tmp_path / "nothing.mp4"), str(tmp_path / "text.mp4"), "file:///etc/passwd", f"{server.url}/short"]
    results = one_pipe([*bad, str(clip)], batch_size=5, allow_urls=True, **OPTIONS)
    assert [set(result) == {"clip", "error"} for result in results] == [True] * 4 + [False]
    assert "URL" in results[2]["error"]
    assert "broke off" in results[3]["error"]
    json.dumps(results)


def test_questions_and_options_reach_the_model(one_pipe, clip):
    asked = one_pipe({"video": str(clip), "question": "Why so sad?"}, **OPTIONS)
    assert asked["description"] == one_pipe(str(clip), question="Why so sad?", **OPTIONS)["description"]
    assert asked["description"] != one_pipe(str(clip), **OPTIONS)["description"]
    assert len(one_pipe(str(clip), num_frames=2, **OPTIONS)["frames"]) == 2
    assert one_pipe(str(clip), modalities=["video"], **OPTIONS)["modalities"] == ["video"]
    assert one_pipe(str(clip), num_beams=2, **OPTIONS)["description"]
    with pytest.raises(ValueError, match="no_such_option"):
        one_pipe(str(clip), no_such_option=1)
    with pytest.raises(MediaError, match="max_pixels"):
        one_pipe(str(clip), max_pixels=100)


def test_the_task_is_found_without_remote_code_where_the_package_is_installed(tmp_path, clip):
    model, processor = build("microemo")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pipe = pipeline("emotion-recognition", model=str(tmp_path), device=-1)
    assert type(pipe) is EmotionRecognitionPipeline
    again = tmp_path / "again"
    pipe.save_pretrained(again)
    assert {file.name for file in again.iterdir()} == {file.name for file in tmp_path.iterdir() if file != again}
    assert "emotion-recognition" in json.loads((again / "config.json").read_text())["custom_pipelines"]
    reloaded = pipeline("emotion-recognition", model=str(again), device=-1)
    assert reloaded(str(clip), **OPTIONS) == pipe(str(clip), **OPTIONS)


def test_a_url_is_fetched_only_with_consent(one_pipe, server):
    before = len(server.seen)
    for source in (f"{server.url}/clip.mp4", {"video": f"{server.url}/clip.mp4"}, {"clip": f"{server.url}/clip.mp4"}):
        with pytest.raises(ClipError, match="only with allow_urls=True"):
            one_pipe(source, **OPTIONS)
    assert len(server.seen) == before


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/missing", "404"),
        ("/long", "broke off"),
        ("/endless", "more than the 1,000,000 bytes"),
        ("/slow", "timed out"),
    ],
)
def test_trouble_behind_a_url_is_one_sentence(server, path, sentence):
    with pytest.raises(ClipError, match=sentence):
        read_url(server.url + path, max_bytes=1_000_000, timeout=1.0)


def test_messages_show_no_secrets_of_a_url(server):
    with pytest.raises(ClipError) as refused:
        read_url(f"http://user:password@127.0.0.1:{server.server_port}/missing?token=secret")
    assert "password" not in str(refused.value)
    assert "secret" not in str(refused.value)


def rows_of_a_dataset(clip):
    rows = {"video": [str(clip)] * 3, "question": ["Why?", None, None], "label": ["sad"] * 3}
    return Dataset.from_dict(rows)


STREAMS = {
    "generator": lambda clip: (str(clip) for _ in range(3)),
    "iterator": lambda clip: iter([clip, clip, clip]),
    "column": lambda clip: rows_of_a_dataset(clip)["video"],
    "KeyDataset": lambda clip: KeyDataset(rows_of_a_dataset(clip), "video"),
    "dataset": lambda clip: rows_of_a_dataset(clip).remove_columns("question"),
    "streaming dataset": lambda clip: rows_of_a_dataset(clip).remove_columns("question").to_iterable_dataset(),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_is_answered_like_a_list(one_pipe, clip, kind):
    expected = rounded(without_name(one_pipe(str(clip), **OPTIONS)))
    results = one_pipe(STREAMS[kind](clip), batch_size=2, **OPTIONS)
    assert iter(results) is results
    assert [rounded(without_name(result)) for result in results] == [expected] * 3


def test_a_stream_is_read_only_as_far_as_results_are_asked_for(one_pipe, clip):
    read = []

    def clips():
        for place in range(1000):
            read.append(place)
            yield str(clip)

    results = one_pipe(clips(), **OPTIONS)
    assert next(results)["description"]
    assert len(read) <= 3


def test_rows_of_a_dataset_bring_their_questions(one_pipe, clip):
    first, second, _ = one_pipe(rows_of_a_dataset(clip), **OPTIONS)
    assert first["description"] == one_pipe(str(clip), question="Why?", **OPTIONS)["description"]
    assert second["description"] == one_pipe(str(clip), **OPTIONS)["description"]


def test_a_clip_that_fails_while_it_is_answered_does_not_stop_the_others(one_pipe, clip, monkeypatch):
    expected = one_pipe(str(clip), **OPTIONS)
    generate = one_pipe.model.generate

    def fail_where_asked_why(input_ids, **options):
        if any("Why?" in text for text in one_pipe.processor.batch_decode(input_ids)):
            raise RuntimeError("out of memory")
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(one_pipe.model, "generate", fail_where_asked_why)
    results = one_pipe([str(clip), {"clip": clip, "question": "Why?"}, str(clip)], batch_size=3, **OPTIONS)
    assert results == [expected, {"clip": str(clip), "error": "out of memory"}, expected]
    with pytest.raises(RuntimeError, match="out of memory"):
        one_pipe(clip, question="Why?", **OPTIONS)


def test_a_recogniser_fills_the_utterances_of_clips_that_bring_none(one_pipe, clip):
    calls = []

    def asr(sound, return_timestamps):
        calls.append(sound["sampling_rate"])
        return {"chunks": [{"timestamp": (0.1, 0.9), "text": "well, yes"}, {"timestamp": (1.0, 1.7), "text": "no"}]}

    brought = {"clip": clip, "utterances": SPOKEN}
    first, second = one_pipe([clip, brought], asr=asr, per_utterance=False, **OPTIONS)
    assert calls == [16000]
    assert [utterance["text"] for utterance in first["utterances"]] == ["well, yes", "no"]
    assert [utterance["text"] for utterance in second["utterances"]] == ["well, yes", None]


def test_describe_is_a_call_of_the_pipeline(one_pipe, clip, tmp_path):
    clips, sources = [clip, tmp_path / "nothing.mp4", str(clip)], [SPOKEN, None, None]
    results = describe(clips, one_pipe.model, one_pipe.processor, utterances=sources, batch_size=2, **OPTIONS)
    inputs = [{"clip": clip, "utterances": source} for clip, source in zip(clips, sources, strict=True)]
    assert results == one_pipe(inputs, batch_size=2, **OPTIONS)
    assert set(results[1]) == {"clip", "error"}
    with pytest.raises(ValueError, match="1 utterance sources came with 3 clips"):
        describe(clips, one_pipe.model, one_pipe.processor, utterances=[None])


def test_the_model_in_the_box_is_a_pipeline_by_itself(tmp_path, clip, monkeypatch):
    model, processor = build("microemo")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    monkeypatch.setattr(hf_emotion.starter, "FOLDER", tmp_path)
    pipe = hf_emotion.starter("cpu")
    assert type(pipe) is EmotionRecognitionPipeline
    [described] = describe([clip], model, processor, **OPTIONS)
    assert rounded(pipe(clip, **OPTIONS)) == rounded(described)
    task = PIPELINE_REGISTRY.supported_tasks["emotion-recognition"]
    monkeypatch.setitem(task, "default", {"model": (str(tmp_path), "main")})
    assert rounded(pipeline("emotion-recognition", device=-1)(clip, **OPTIONS)) == rounded(described)


def test_device_map_and_dtype_are_taken_as_in_every_pipeline(tmp_path, clip):
    model, processor = build("microemo")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pipe = pipeline("emotion-recognition", model=str(tmp_path), device_map="cpu", dtype=torch.bfloat16, batch_size=2)
    assert pipe.model.dtype == torch.bfloat16
    first, second = pipe([clip, clip], **OPTIONS)
    assert first == second
    assert describe([clip], pipe.model, pipe.processor, **OPTIONS) == [first]


def counted(calls, name, function):
    def call(*args, **options):
        calls[name] += 1
        return function(*args, **options)

    return call


def test_a_clip_is_decoded_measured_and_reported_once_however_many_questions_are_asked(one_pipe, clip, monkeypatch):
    calls = Counter()
    processor, model = one_pipe.processor, one_pipe.model
    monkeypatch.setattr(processing_emotion, "load_clip", counted(calls, "decoded", processing_emotion.load_clip))
    for name in ("measure", "report", "find_face"):
        monkeypatch.setattr(processor, name, counted(calls, name, getattr(processor, name)))
    monkeypatch.setattr(model, "encode_media", counted(calls, "encoded", model.encode_media))
    [result] = describe([clip], model, processor, utterances=[SPOKEN], **OPTIONS)
    assert len([utterance["description"] for utterance in result["utterances"]]) == 2
    assert calls == {"decoded": 1, "measure": 1, "report": 1, "find_face": 1, "encoded": 1}


def test_a_label_that_looks_like_a_special_token_is_only_a_word(one_pipe, clip):
    labels = ["happy", "</s>", "< /s>", "<video>", "< video>", "sad\x00\ud800"]
    result = one_pipe(clip, candidate_labels=labels, per_utterance=False, max_new_tokens=1)
    scores = {label["label"]: label["score"] for label in result["labels"]}
    assert set(scores) == set(labels)
    assert scores["</s>"] == scores["< /s>"]
    assert scores["<video>"] == scores["< video>"]
