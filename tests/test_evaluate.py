"""`hf-emotion score` and `evaluate`: official files, resuming, judges on the loopback, baselines, tables."""

import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from hf_emotion.cli import parser
from hf_emotion.evaluation import evaluate, judge, sets
from hf_emotion.evaluation.grouping import Embeddings, LanguageModelGroups
from hf_emotion.evaluation.score_files import ScoreFileError, read_cells

LABELS = {"00012": ["happy", "joyful"], "None": ["sad"], "c": ["angry"]}


class Judge:
    """A stand-in for a server with the OpenAI chat protocol, on the loopback interface. `reply(prompt)` answers."""

    def __init__(self, reply, failures=0):
        self.requests = []
        outer = self
        left = [failures]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, body, self.headers.get("Authorization")))
                if left[0]:
                    left[0] -= 1
                    self.send_response(503)
                    self.end_headers()
                    return
                content = json.dumps({"choices": [{"message": {"content": reply(body["messages"][0]["content"])}}]})
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content.encode())

            def log_message(self, *args):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


def run(*words) -> int:
    """A command, with its exceptions."""
    args = parser(words[0]).parse_args([str(word) for word in words])
    return args.func(args)


def write_csv(path, labels=LABELS, column="openset"):
    lines = [f'{name},"{words}"' for name, words in labels.items()]
    path.write_text("\n".join([f"name,{column}", *lines]) + "\n", encoding="utf-8")
    return path


def test_official_files_of_every_format_hold_the_same_cells(tmp_path):
    texts = {name: str(words) for name, words in LABELS.items()}
    write_csv(tmp_path / "a.csv")
    np.savez(tmp_path / "a.npz", filenames=list(texts), fileitems=list(texts.values()))
    (tmp_path / "npy").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, text in texts.items():
            np.save(tmp_path / "npy" / f"{name}.npy", text)
            archive.write(tmp_path / "npy" / f"{name}.npy", f"folder/{name}.npy")
    (tmp_path / "a.json").write_text(json.dumps(texts), encoding="utf-8")
    (tmp_path / "a.txt").write_text("".join(f"{name}.mp4 {text}\n" for name, text in texts.items()), encoding="utf-8")
    for name in ("a.csv", "a.npz", "a.zip", "npy", "a.json", "a.txt"):
        assert read_cells(tmp_path / name, ("openset",)) == texts, name
    rows = [{"id": name, "labels": words} for name, words in LABELS.items()]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_cells(tmp_path / "a.jsonl", ("openset", "labels")) == LABELS


def test_files_that_cannot_be_scored_say_what_is_wrong(tmp_path):
    write_csv(tmp_path / "a.csv")
    with pytest.raises(ScoreFileError, match="none of the columns valence; found name, openset"):
        read_cells(tmp_path / "a.csv", ("valence",))
    assert read_cells(tmp_path / "a.csv", ("valence",), optional=True) == {}
    with pytest.raises(ScoreFileError, match="does not exist"):
        read_cells(tmp_path / "b.csv", ("openset",))
    (tmp_path / "c.csv").write_text("clip,openset\na,b\n", encoding="utf-8")
    with pytest.raises(ScoreFileError, match="no column with clip names"):
        read_cells(tmp_path / "c.csv", ("openset",))
    np.savez(tmp_path / "p.npz", filenames=["a"], fileitems=np.array([["happy", "sad"], None], dtype=object)[:1])
    with pytest.raises(ScoreFileError, match="pickled objects, which are not read"):
        read_cells(tmp_path / "p.npz", ())
    (tmp_path / "m.tsv").write_text("a\tb\n", encoding="utf-8")
    with pytest.raises(ScoreFileError, match=r"suffix '\.tsv'"):
        read_cells(tmp_path / "m.tsv", ())


def test_empty_cells_are_no_value_as_the_official_scripts_read_them(tmp_path):
    (tmp_path / "a.csv").write_text("name,openset\nNone,\nNA,nan\nc,None\nd,[]\n", encoding="utf-8")
    assert read_cells(tmp_path / "a.csv", ("openset",)) == {"None": None, "NA": None, "c": None, "d": "[]"}


def test_score_prints_intervals_and_trivial_baselines_and_writes_json(tmp_path, capsys):
    write_csv(tmp_path / "gt.csv")
    write_csv(tmp_path / "pred.csv", {"00012": ["glad"], "c": ["happy"], "extra": ["sad"]})
    arguments = ("--predictions", tmp_path / "pred.csv", "--references", tmp_path / "gt.csv", "--bootstrap", 50)
    assert run("score", "emotion_lexicon", *arguments, "--output", tmp_path / "out" / "report.json") == 0
    printed = capsys.readouterr().out
    for text in (
        "level1_f",
        "95 % interval",
        "constant: happy",
        "constant: five labels",
        "shuffled predictions",
        "missing 1",
    ):
        assert text in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["scores"]["level1_f"] == pytest.approx(1 / 3)
    assert (report["n_missing"], report["n_extra"]) == (1, 1)
    low, high = report["intervals"]["level1_f"]
    assert 0 <= low <= 1 / 3 <= high <= 1
    assert report["baselines"]["constant: five labels"]["level1_recall"] == 1.0
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "report.json"]


def test_a_missing_prediction_is_officially_an_error(tmp_path):
    write_csv(tmp_path / "gt.csv")
    write_csv(tmp_path / "pred.csv", {"c": ["happy"]})
    files = ("--predictions", tmp_path / "pred.csv", "--references", tmp_path / "gt.csv", "--grouper", "exact")
    assert run("score", "emotion_set", *files, "--json") == 0
    with pytest.raises(KeyError):
        run("score", "emotion_set", *files, "--strict")


def test_score_with_stored_groups_equals_the_function(tmp_path, capsys):
    write_csv(tmp_path / "gt.csv")
    write_csv(tmp_path / "pred.csv", {"00012": ["glad"], "None": ["sorrow"], "c": ["angry", "mad"]})
    groups = {"00012": "[['happy', 'glad'], ['joyful']]", "None": "[['sad'], ['sorrow']]", "c": "['angry', 'mad']"}
    (tmp_path / "groups.json").write_text(json.dumps(groups), encoding="utf-8")
    files = ("--predictions", tmp_path / "pred.csv", "--references", tmp_path / "gt.csv")
    assert run("score", "emotion_set", *files, "--groups", tmp_path / "groups.json", "--json", "--bootstrap", 0) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores["accuracy_s"] == pytest.approx((1 + 0 + 1) / 3)
    assert scores["recall_s"] == pytest.approx((0.5 + 0 + 1) / 3)
    del groups["None"]
    (tmp_path / "groups.json").write_text(json.dumps(groups), encoding="utf-8")
    with pytest.raises(evaluate.EvaluationError, match="no reply for 1 clips, the first is None"):
        run("score", "emotion_set", *files, "--groups", tmp_path / "groups.json")


def test_two_prediction_files_are_compared_on_the_same_clips(tmp_path, capsys):
    truth = {f"clip{i}": ["happy" if i % 2 else "sad"] for i in range(60)}
    write_csv(tmp_path / "gt.csv", truth)
    write_csv(
        tmp_path / "good.csv", {name: words if i % 6 else ["bored"] for i, (name, words) in enumerate(truth.items())}
    )
    write_csv(
        tmp_path / "bad.csv", {name: words if i % 3 else ["bored"] for i, (name, words) in enumerate(truth.items())}
    )
    files = (
        "--references",
        tmp_path / "gt.csv",
        "--predictions",
        tmp_path / "good.csv",
        "--against",
        tmp_path / "bad.csv",
    )
    assert run("score", "emotion_lexicon", *files, "--bootstrap", 200) == 0
    assert "paired comparison" in capsys.readouterr().out
    assert run("score", "emotion_lexicon", *files, "--bootstrap", 200, "--json") == 0
    found = json.loads(capsys.readouterr().out)["comparison"]["level1_f"]
    assert found["difference"] == pytest.approx(1 / 6)
    assert 0 < found["low"] < found["high"]


def test_valence_tracks_read_both_columns(tmp_path, capsys):
    (tmp_path / "gt.csv").write_text("name,discrete,valence\na,happy,1.0\nb,sad,-2\n", encoding="utf-8")
    (tmp_path / "pred.csv").write_text("name,discrete,valence\na,happy,2.0\nb,angry,-2\n", encoding="utf-8")
    files = ("--predictions", tmp_path / "pred.csv", "--references", tmp_path / "gt.csv")
    assert run("score", "mer_challenge", *files, "--track", "mer2023_multi", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["scores"]["valence_mse"] == 0.5
    assert report["scores"]["combined"] == pytest.approx(report["scores"]["weighted_f1"] - 0.125)
    assert report["baselines"]["constant: happy"]["valence_mse"] == pytest.approx(2.25)
    with pytest.raises(evaluate.EvaluationError, match="needs --track"):
        run("score", "mer_challenge", *files)


def test_dfew_numbers_become_its_labels_and_folds_are_read(tmp_path, capsys):
    (tmp_path / "gt.csv").write_text("video_name,label\n1,1\n2,2\n3,4\n", encoding="utf-8")
    (tmp_path / "pred.csv").write_text("name,label\n1,Happy.\n2,no idea\n3,He is furious\n", encoding="utf-8")
    (tmp_path / "folds.csv").write_text("name,fold\n1,1\n2,1\n3,2\n", encoding="utf-8")
    files = ("--predictions", tmp_path / "pred.csv", "--references", tmp_path / "gt.csv", "--labels", "dfew", "--json")
    assert run("score", "emotion_recognition", *files) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert (scores["war"], scores["invalid_rate"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert run("score", "emotion_recognition", *files, "--folds", tmp_path / "folds.csv") == 0
    assert json.loads(capsys.readouterr().out)["scores"]["war"] == pytest.approx((0.5 + 1) / 2)


def test_a_judged_score_repeats_from_its_cache_without_the_judge(tmp_path, capsys):
    write_csv(tmp_path / "gt.csv", {"a": ["happy"], "b": ["sad", "blue"]})
    write_csv(tmp_path / "pred.csv", {"a": ["glad"], "b": ["blue"]})
    files = (
        "--predictions",
        tmp_path / "pred.csv",
        "--references",
        tmp_path / "gt.csv",
        "--grouper",
        "judge",
        "--json",
    )
    cache = ("--judge-cache", tmp_path / "cache.json", "--no-baselines")

    def reply(prompt):
        words = prompt.rsplit("Input: ", 1)[1]
        assert words in ("['glad', 'happy'] Output:", "['blue', 'sad'] Output:")
        return "Output: [['glad', 'happy']]" if "glad" in words else "[['blue'],\n['sad']]"

    with Judge(reply, failures=1) as server:
        asked = ("--judge-url", server.url, "--judge-model", "stand-in")
        assert run("score", "emotion_set", *files, *asked, *cache) == 0
        first = json.loads(capsys.readouterr().out)
        assert len(server.requests) == 3  # one was refused with 503 and asked again
        path, body, key = server.requests[0]
        assert (path, body["model"], body["temperature"], key) == ("/v1/chat/completions", "stand-in", 0.0, None)
        assert run("score", "emotion_set", *files, *asked, *cache) == 0
        assert len(server.requests) == 3
    assert json.loads(capsys.readouterr().out) == first
    assert (first["scores"]["accuracy_s"], first["scores"]["recall_s"]) == (1.0, 0.75)
    before = (tmp_path / "cache.json").read_text(encoding="utf-8")
    # The server is gone and none is named: the stored replies are enough.
    assert run("score", "emotion_set", *files, *cache) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["avg"] == first["scores"]["avg"]
    assert (tmp_path / "cache.json").read_text(encoding="utf-8") == before
    keys = list(json.loads(before)["replies"])
    assert keys == sorted(keys)
    write_csv(tmp_path / "pred.csv", {"a": ["merry"], "b": ["blue"]})
    with pytest.raises(judge.JudgeError, match="no stored reply for groups"):
        run("score", "emotion_set", *files, *cache)


def test_stored_replies_of_two_judges_that_differ_are_not_chosen_between(tmp_path):
    cache = judge.JudgeCache()
    for name, reply in (("first", "8"), ("second", "8"), ("third", "9")):
        chat = lambda prompt, reply=reply: reply  # noqa: E731
        chat.__name__ = name
        if name == "third":
            assert cache.ask(None, "score", "", ("a",)) == "8"
        cache.ask(chat, "score", "how much?", ("a",))
    with pytest.raises(judge.JudgeError, match="differ between the judges first, second, third"):
        cache.ask(None, "score", "", ("a",))


def test_no_server_is_contacted_unless_named(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a server was contacted")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    write_csv(tmp_path / "gt.csv")
    files = ("--predictions", tmp_path / "gt.csv", "--references", tmp_path / "gt.csv")
    assert run("score", "emotion_lexicon", *files, "--json") == 0
    with pytest.raises(evaluate.EvaluationError, match="needs --judge-model"):
        run("score", "emotion_set", *files, "--grouper", "judge")
    with pytest.raises(judge.JudgeError, match="no judge named"):
        run("score", "emotion_overlap", *files, "--column", "openset", "--reference-column", "openset")


def test_a_broken_judge_is_one_clear_sentence():
    with (
        Judge(lambda prompt: "8", failures=9) as server,
        pytest.raises(judge.JudgeError, match="answered with status 503"),
    ):
        judge.ServerChat(server.url, "m", tries=1)("hello")
    with pytest.raises(judge.JudgeError, match="cannot be reached"):
        judge.ServerChat("http://127.0.0.1:9/v1", "m", tries=1, timeout=5)("hello")
    with pytest.raises(judge.JudgeError, match="accepted is a base address"):
        judge.ServerChat("localhost", "m")


def test_replies_already_paid_for_are_kept_when_the_judge_breaks_down(tmp_path):
    answers = iter(["8", "9"])

    def chat(prompt):
        try:
            return next(answers)
        except StopIteration:
            raise judge.JudgeError("gone") from None

    cache = judge.JudgeCache(tmp_path / "cache.json")
    with pytest.raises(judge.JudgeError, match="gone"):
        judge.overlap_clips(["a", "b", "c"], ["x", "y", "z"], chat, cache, kind="clue")
    assert sorted(judge.JudgeCache(tmp_path / "cache.json").replies.values()) == ["8", "9"]


def test_groups_already_paid_for_are_kept_when_the_judge_breaks_down(tmp_path):
    answers = iter(["[['calm', 'glad']]"])
    group = LanguageModelGroups(lambda prompt: next(answers), judge.JudgeCache(tmp_path / "cache.json"))
    with pytest.raises(StopIteration):
        sets.set_clips(["[calm]", "[sad]"], ["[glad]", "[angry]"], grouper=group)
    assert list(judge.JudgeCache(tmp_path / "cache.json").replies.values()) == ["[['calm', 'glad']]"]


def test_overlap_asks_again_and_counts_failures_instead_of_averaging_them():
    replies = {"good": ["'预测分数'：8；'原因'：…"], "late": ["none", "7"], "never": ["?", "99", "-2"]}

    def chat(prompt):
        name = next(name for name in replies if name in prompt)
        return replies[name].pop(0)

    clips = judge.overlap_clips(["good", "late", "never"], ["r"] * 3, chat, kind="clue", tries=3)
    scores = clips.scores()
    assert (scores["clue_overlap"], scores["n_clue"], scores["failed_clue"]) == (7.5, 2, 1)
    assert "label_overlap" not in scores
    with pytest.raises(AttributeError):
        judge.overlap_clips(["x"], ["r"], lambda prompt: "none", kind="clue", strict=True)


def test_label_overlap_sums_both_texts_up_first():
    asked = []

    def chat(prompt):
        asked.append(prompt)
        return "anxious" if "infer" in prompt else "score: 6"

    scores = judge.overlap_clips(["he is pale"], ["he trembles"], chat, kind="label", language="en").scores()
    assert scores["label_overlap"] == 6.0
    assert len(asked) == 3
    assert "True emotion: anxious\nPredicted emotion: anxious" in asked[2]


def test_the_judge_may_read_prose_for_the_word_metrics(tmp_path, capsys):
    write_csv(tmp_path / "gt.csv", {"a": ["melancholic"]})
    (tmp_path / "pred.csv").write_text(
        'name,description\na,"He stares at the rain for a long while."\n', encoding="utf-8"
    )
    files = ("--predictions", tmp_path / "pred.csv", "--references", tmp_path / "gt.csv", "--json", "--no-baselines")
    assert run("score", "emotion_lexicon", *files) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["f"] == 0.0
    with Judge(lambda prompt: "[melancholic]") as server:
        asked = ("--judge-url", server.url, "--judge-model", "m", "--judge-reads")
        assert run("score", "emotion_lexicon", *files, *asked) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["f"] == 1.0


def test_words_are_merged_by_their_embeddings():
    vectors = {"happy": [1, 0], "glad": [0.9, 0.1], "sad": [0, 1]}
    group = Embeddings(lambda words: np.array([vectors[word] for word in words], float), threshold=0.9)
    assert group(["glad", "happy", "sad"]) == [["glad", "happy"], ["sad"]]
    assert sets.set_clips(["['glad']"], ["['happy']"], grouper=group).scores()["avg"] == 1.0
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        Embeddings(str, threshold=0)


def test_an_empty_grouping_reply_is_asked_for_five_times_then_means_no_groups():
    asked = []

    def chat(prompt):
        asked.append(prompt)
        return ""

    group = LanguageModelGroups(chat)
    assert group(["sad", "happy"]) == []
    assert len(asked) == 5
    assert "Input: ['happy', 'sad'] Output:" in asked[0]


def test_a_language_model_run_here_answers_by_greedy_generation(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[UNK]", "[EOS]", "happy", "sad", "groups", ":"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[EOS]").save_pretrained(tmp_path)
    config = transformers.LlamaConfig(
        vocab_size=6, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, eos_token_id=1
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    chat = judge.TransformersChat(str(tmp_path), max_new_tokens=3)
    reply = chat("groups : happy sad")
    assert reply == chat("groups : happy sad")
    assert set(reply.split()) <= set(words)
    assert "max_new_tokens" in chat.name


ROWS = [
    {"id": "a", "video": "a.mp4", "question": "Q1", "utterances": [{"start": 0.0, "end": 1.0}], "labels": ["happy"]},
    {"id": "b", "video": None, "audio": "b.wav", "question": "Q1", "labels": ["sad"]},
    {"id": "c", "video": "c.mp4", "question": "Q2", "labels": ["angry"]},
    {"id": "d", "video": "d.mp4", "question": "Q2", "labels": ["afraid"]},
]


class Describer:
    """Stands in for a model: answers from a table, fails for clips named, dies after a number of batches."""

    def __init__(self, broken=(), batches=99):
        self.calls, self.broken, self.batches = [], broken, batches

    def __call__(self, clips, utterances, question):
        if len(self.calls) == self.batches:
            raise KeyboardInterrupt
        self.calls.append((clips, utterances, question))
        words = {"a.mp4": "glad", "b.wav": "sorrow", "c.mp4": "furious", "d.mp4": "calm"}
        return [
            {"clip": clip, "error": f"{clip}: no such file"}
            if clip in self.broken
            else {
                "clip": clip,
                "description": f"He is {words[clip]}.",
                "labels": [{"label": words[clip], "score": 0.9}],
                "time": np.float32(1),
            }
            for clip in clips
        ]


def test_predictions_are_written_row_by_row_and_a_run_goes_on_where_it_stopped(tmp_path):
    path, settings = tmp_path / "predictions.jsonl", {"model": "m", "question": None}
    stopped = Describer(batches=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate.predict(ROWS, stopped, path, settings, batch_size=2)
    assert stopped.calls == [(["a.mp4", "b.wav"], [ROWS[0]["utterances"], None], "Q1")]
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b"]
    with path.open("a") as file:
        file.write('{"id": "c", "descr')  # the machine went down in the middle of a line
    rest = Describer(broken=("d.mp4",))
    answers = list(evaluate.predict(ROWS, rest, path, settings, batch_size=1))
    assert [call[0] for call in rest.calls] == [["c.mp4"], ["d.mp4"]]
    assert [answer["id"] for answer in answers] == ["a", "b", "c", "d"]
    assert answers[3]["error"] == "d.mp4: no such file"
    again = Describer()
    answers = list(evaluate.predict(ROWS, again, path, settings))
    assert [call[0] for call in again.calls] == [["d.mp4"]]  # what failed is tried again, nothing else
    assert answers[3]["labels"] == [{"label": "calm", "score": 0.9}]
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b", "c", "d"]
    assert read_cells(path, ("labels",)) == {"a": ["glad"], "b": ["sorrow"], "c": ["furious"], "d": ["calm"]}


def test_predictions_of_another_run_are_never_mixed_in(tmp_path):
    path = tmp_path / "predictions.jsonl"
    evaluate.predict(ROWS, Describer(), path, {"model": "m", "max_new_tokens": 8})
    with pytest.raises(evaluate.EvaluationError, match="max_new_tokens was 8 and is now 9"):
        evaluate.predict(ROWS, Describer(), path, {"model": "m", "max_new_tokens": 9})


def test_evaluate_runs_a_model_scores_its_answers_and_reports_failures(tmp_path, monkeypatch, capsys):
    table = tmp_path / "data.jsonl"
    for name in ("a.mp4", "b.wav", "c.mp4", "d.mp4"):
        (tmp_path / name).write_bytes(b"x")
    rows = [{**row, "label": row["labels"][0], "video": row["video"]} for row in ROWS]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    describer = Describer(broken=("d.mp4",))

    def loaded(model, processor, *, batch_size, **options):
        assert (model, processor) == ("model", "processor")
        expected = {"num_frames": 4, "per_utterance": False, "max_new_tokens": 16, "num_beams": 1, "num_workers": None}
        assert options == expected
        return lambda clips, utterances, question: describer(
            [str(clip).rsplit("/", 1)[1] for clip in clips], utterances, question
        )

    monkeypatch.setattr("hf_emotion.inference.load", lambda source, **options: ("model", "processor"))
    monkeypatch.setattr("hf_emotion.inference.Describer", loaded)
    command = ("evaluate", "--model", "m", "--data", table, "--output", tmp_path / "out", "--bootstrap", 20)
    command += ("--num-frames", 4, "--max-new-tokens", 16)
    metrics = ("--metrics", "emotion_lexicon", "emotion_recognition", "--labels", "happy", "sad", "angry", "afraid")
    assert run(*command, *metrics) == evaluate.SOME_FAILED
    printed = capsys.readouterr().out
    assert "not described: d: d.mp4: no such file" in printed
    assert "failed 1" in printed
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))["metrics"]
    # The clip that could not be described scores 0; it is not left out.
    assert scores["emotion_lexicon"]["scores"]["level1_f"] == pytest.approx(3 / 4)
    assert scores["emotion_recognition"]["scores"]["war"] == pytest.approx(3 / 4)
    assert scores["emotion_recognition"]["scores"]["invalid_rate"] == pytest.approx(1 / 4)
    assert "constant: happy" in scores["emotion_lexicon"]["baselines"]
    with pytest.raises(evaluate.EvaluationError, match="no row of the data has description or answer"):
        run(*command, "--metrics", "emotion_overlap")
    with pytest.raises(SystemExit):
        run(*command, "--metrics", "emotion_sets")
    assert "did you mean 'emotion_set'" in capsys.readouterr().err


def test_the_shuffled_baseline_is_near_chance_and_the_constant_is_exact():
    truth = {str(i): [("happy", "sad", "angry", "afraid")[i % 4]] for i in range(400)}
    report = evaluate.score("emotion_lexicon", truth, truth, draws=0)
    assert report["scores"]["level1_f"] == 1.0
    assert report["baselines"]["constant: happy"]["level1_f"] == 0.25
    assert report["baselines"]["shuffled predictions"]["level1_f"] == pytest.approx(0.25, abs=0.05)


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(**members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


FALSE_HEADER = npy(np.zeros(3)).replace(b"(3,), }", b"(3000000000,), }")[: len(npy(np.zeros(3)))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"name,openset\na,\"['happy'\nb,x\n", ":2: not readable as comma-separated"),
        ("a.csv", b"name,openset\na," + b"x" * 140_000 + b"\n", ":2: not readable .*field larger"),
        ("a.csv", b"name,openset\na,x,y\n", ":2: 3 cells where the header has 2"),
        ("a.csv", b"name,openset\na,\xff\n", "byte 0xff is not UTF-8"),
        ("a.jsonl", b'{"id": "a", "openset": "x"}\n{"id": \n', "line 2 is not JSON"),
        ("a.json", b"[" * 100_000, "nested too deeply|not JSON"),
        ("a.json", b'[{"openset": "x"}]', "names no clip"),
        ("a.json", b'[{"error": "x"}]', "names no clip"),
        ("a.json", b'[{"id": "a", "openset": [["x"]]}]', "'a' is nested"),
        ("a.json", b'[{"id": "a", "openset": {"x": 1}}]', "'a' is nested"),
        ("a.json", b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        ("a.json", b'[{"id": "a"}, 3]', "neither an object of clips nor a list"),
        ("a.npz", b"PK not a zip", "not a zip archive"),
        ("a.npz", zipped(filenames=npy(np.array(["a", "b"])), fileitems=npy(np.array(["x"]))), "differ in length"),
        ("a.npz", zipped(filenames=npy(np.array(["a"])), fileitems=FALSE_HEADER), "claims .* bytes of data and holds"),
        ("a.zip", zipped(a=b"\x93NUMPY\x01\x00\x05\x00hello"), "no header that can be read"),
        ("a.zip", zipped(a=b"nothing"), "no header that can be read"),
    ],
)
def test_hostile_score_files_are_refused_in_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScoreFileError, match=message) as raised:
        read_cells(tmp_path / name, ("openset",))
    assert name in str(raised.value)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_emotion.evaluation.score_files.MAX_UNPACKED", 1000)
    (tmp_path / "a.zip").write_bytes(zipped(a=npy(np.zeros(1000))))
    with pytest.raises(ScoreFileError, match="unpacks to 8,128 bytes; 1,000 are accepted"):
        read_cells(tmp_path / "a.zip", ())


def test_line_separators_and_half_surrogates_inside_answers_are_kept_and_printable(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "a", "openset": "happy\u2028sad"}\n{"id": "b", "openset": "\\ud800"}\n')
    cells = read_cells(tmp_path / "a.jsonl", ("openset",))
    assert cells["a"] == "happy\u2028sad"
    cells["b"].encode("utf-8")
    (tmp_path / "a.txt").write_text("clip happy\u2028sad\n")
    assert read_cells(tmp_path / "a.txt", ()) == {"clip": "happy\u2028sad"}
