"""Benchmarks: suites as data, one run each on small folders made here."""

import json

import numpy as np
import pytest
import yaml

from hf_emotion.cli import main
from hf_emotion.data.files import DataError, MediaFolder
from hf_emotion.data.readers.conversations import read_conversations, write_conversations
from hf_emotion.evaluation.evaluate import EvaluationError, Settings
from hf_emotion.evaluation.suite import (
    constant,
    load_suite,
    read_pair,
    run_suite,
    suites,
    task_rows,
)

EMOTIONS = {"neutral": "01", "calm": "02", "happy": "03", "sad": "04", "angry": "05"}


@pytest.fixture
def ravdess(tmp_path):
    """Recordings by name only: nobody reads the sound here."""
    for actor in (1, 2):
        folder = tmp_path / "data" / f"Actor_{actor:02d}"
        folder.mkdir(parents=True)
        for code in EMOTIONS.values():
            (folder / f"03-01-{code}-01-01-01-{actor:02d}.wav").touch()
    return tmp_path / "data"


def by_name(answers):
    """A model that knows each clip by the emotion in its file name."""

    def describe(clips, **options):
        return [{"clip": clip, "description": answers[clip.split("/")[-1].split("-")[2]]} for clip in clips]

    return describe


def test_every_shipped_suite_loads_and_says_where_its_protocol_comes_from():
    assert suites() == [
        "dfew", "emobench-m", "mafw", "mer-unibench", "mer2026", "mme-emotion", "mmeverse", "ravdess",
    ]  # fmt: skip
    for name in suites():
        suite = load_suite(name)
        assert suite.code
        assert suite.reference
        assert all(task.primary in task.shown for task in suite.tasks.values())
    assert len(load_suite("mer-unibench").tasks) == 9
    assert load_suite("dfew").tasks["faces"].folds == (1, 2, 3, 4, 5)


def test_a_suite_with_an_unknown_field_or_name_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="'ravdes' is not one of dfew"):
        load_suite("ravdes")
    content = yaml.safe_load((load_suite.__globals__["SUITES"] / "ravdess.yaml").read_text())
    content["tasks"]["speech"]["qestion"] = "?"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(EvaluationError, match="qestion"):
        load_suite(tmp_path / "mine.yaml")


def test_ravdess_gives_a_table_with_intervals_baselines_recall_and_refusals(ravdess, tmp_path):
    answers = {
        "01": "neutral",
        "02": "<think>sad?</think><answer>calm</answer>",
        "03": "{'emotion': 'happy'}",
        "04": "I'm sorry, but I can't identify emotions.",
        "05": "He shouts. Answer: furious",
    }
    output = tmp_path / "out"
    results = run_suite(load_suite("ravdess"), ravdess, output, by_name(answers), model="m", draws=50)
    scores = results["tasks"]["speech"]["scores"]
    assert (scores["war"], scores["uar"], scores["n"]) == (0.8, 0.8, 10)
    assert (scores["invalid_rate"], scores["refusal_rate"]) == (0.2, 0.2)
    assert results["tasks"]["speech"]["n_refused"] == 2
    assert scores["recall"]["sad"] == 0.0
    assert set(results["tasks"]["speech"]["baselines"]) == {"constant: neutral", "shuffled predictions"}
    assert results["skipped"] == {"song": "no clips of this task are in the data"}
    table = (output / "README.md").read_text(encoding="utf-8")
    assert "| speech | **uar** | 0.8000 |" in table
    assert "| speech | 10 | 0 | 2 | 20.0% |" in table
    assert not (output / ".eval_results").exists()  # RAVDESS has no page of its own on the Hub
    assert json.loads((output / "results.json").read_text())["tasks"]["speech"]["intervals"]["uar"]


def test_strict_compares_as_the_original_code_does(ravdess, tmp_path):
    answers = {"01": " neutral", "02": "calm", "03": "Happy", "04": "sad.", "05": "angry"}
    results = run_suite(
        load_suite("ravdess"), ravdess, tmp_path / "out", by_name(answers), settings=Settings(strict=True), draws=0
    )
    assert results["tasks"]["speech"]["scores"]["war"] == 0.6


def test_a_run_that_stopped_goes_on_and_failed_clips_are_asked_again(ravdess, tmp_path):
    asked = []

    def stops(clips, **options):
        asked.extend(clips)
        if len(asked) > 4:
            raise KeyboardInterrupt
        return [{"clip": clip, "description": "calm"} for clip in clips]

    with pytest.raises(KeyboardInterrupt):
        run_suite(load_suite("ravdess"), ravdess, tmp_path / "out", stops, draws=0, batch_size=2)

    def fails(clips, **options):
        asked.extend(clips)
        return [{"clip": clip, "error": "broken"} for clip in clips]

    results = run_suite(load_suite("ravdess"), ravdess, tmp_path / "out", fails, draws=0, batch_size=2)
    assert results["tasks"]["speech"]["n_failed"] == 6
    assert results["tasks"]["speech"]["scores"]["invalid_rate"] == 0.6
    assert len(asked) == 4 + 2 + 6
    results = run_suite(load_suite("ravdess"), ravdess, tmp_path / "out", constant("calm"), draws=0)
    assert (results["tasks"]["speech"]["n_failed"], results["tasks"]["speech"]["scores"]["war"]) == (0, 0.2)


def test_shards_answer_every_clip_once_and_a_last_run_scores(ravdess, tmp_path, capsys):
    command = ["benchmark", "ravdess", "--answer", "calm", "--data", str(ravdess), "--bootstrap", "0"]
    command += ["--output", str(tmp_path / "out")]
    assert main([*command, "--shard", "1/3"]) == 0
    assert main([*command, "--shard", "3/3"]) == 0
    assert "speech: 7 of 10 clips are answered" in capsys.readouterr().err
    [unfinished] = (tmp_path / "out" / "speech").glob("predictions.3-of-3.*.jsonl")
    unfinished.write_bytes(unfinished.read_bytes()[:-5])  # as if the process were still writing its last line
    assert main([*command, "--shard", "2/3"]) == 0
    assert main(command) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["tasks"]["speech"]["scores"]["n"] == 10
    assert results["tasks"]["speech"]["n_failed"] == 0
    names = [
        json.loads(line)["id"]
        for file in (tmp_path / "out" / "speech").glob("predictions*.jsonl")
        for line in file.read_text().split("\n")
        if line.endswith("}")
    ]
    assert sorted(names) == sorted(set(names))
    assert len(names) == 10
    with pytest.raises(SystemExit):
        main([*command, "--shard", "4/3"])


def test_the_command_takes_a_constant_answer_and_one_fold(ravdess, tmp_path, capsys):
    arguments = ["benchmark", "ravdess", "--answer", "sad", "--data", str(ravdess), "--bootstrap", "20"]
    assert main([*arguments, "--output", str(tmp_path / "a"), "--reader", 'speakers={"test": [2]}']) == 0
    assert "| speech | war | 0.2000 |" in capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "results.json").read_text())["tasks"]["speech"]["scores"]["n"] == 5
    assert main([*arguments, "--output", str(tmp_path / "b"), "--dataset-id", "someone/ravdess"]) == 0
    [entry] = yaml.safe_load((tmp_path / "b" / ".eval_results" / "ravdess.yaml").read_text())
    assert entry["dataset"] == {"id": "someone/ravdess", "task_id": "speech"}
    assert entry["value"] == 20.0
    assert main(["benchmark", "ravdess", "--answer", "sad", "--output", str(tmp_path / "c")]) == 2
    assert "needs --data" in capsys.readouterr().err


def test_dfew_is_the_plain_mean_over_its_five_folds(tmp_path):
    data = tmp_path / "dfew"
    truths = {1: ["1", "1", "2"], 2: ["3"], 3: ["1"], 4: ["2", "2"], 5: ["1", "2"]}
    number = 0
    for fold, codes in truths.items():
        for split in ("train", "test"):
            folder = data / f"EmoLabel_DataSplit/{split}(single-labeled)"
            folder.mkdir(parents=True, exist_ok=True)
            lines = []
            if split == "test":
                for code in codes:
                    number += 1
                    (data / f"{number:05d}.mp4").touch()
                    lines.append(f"{number},{code}")
            (folder / f"set_{fold}.csv").write_text("video_name,label\n" + "".join(f"{line}\n" for line in lines))
    results = run_suite(load_suite("dfew"), data, tmp_path / "out", constant("happy"), draws=20)
    scores = results["tasks"]["faces"]["scores"]
    assert scores["war"] == pytest.approx((2 / 3 + 0 + 1 + 0 + 0.5) / 5)
    assert scores["uar"] == pytest.approx((0.5 + 0 + 1 + 0 + 0.5) / 5)
    assert len(scores["per_fold"]) == 5
    rows, folds = task_rows(load_suite("dfew").tasks["faces"], data, {"fold": 4})
    assert [folds[row["id"]] for row in rows] == [4, 4]


def test_mer2026_writes_submissions_where_there_are_no_labels(tmp_path):
    data = tmp_path / "mer2026"
    (data / "video").mkdir(parents=True)
    for name in ("a", "b"):
        (data / "video" / f"{name}.mp4").touch()
    (data / "track1_track2_candidate.csv").write_text("name\na\nb\n")
    (data / "track3_candidate.csv").write_text("name,a1,a2\na,he smiles,he cries\na,x,y\n")

    def describe(clips, question=None, **options):
        reply = {"P": "happy and calm", "T": "a2"}[question[0]]
        return [{"clip": clip, "description": reply} for clip in clips]

    (data / "track1_train.csv").write_text("name,discrete\na,happy\n")
    results = run_suite(
        load_suite("mer2026"), data, tmp_path / "out", describe, draws=0, tasks=["track1", "track3"], say=lambda _: None
    )
    assert set(results["unscored"]) == {"track1", "track3"}
    assert (tmp_path / "out" / "track1.csv").read_text() == "name,discrete\na,happy\nb,happy\n"
    assert (tmp_path / "out" / "track3.csv").read_text() == "name,preference\na/1,a2\na/2,a2\n"
    assert not (tmp_path / "out" / ".eval_results").exists()


def test_a_wheel_submission_holds_words_as_the_original_code_writes_them(tmp_path):
    suite = load_suite("mer2026")
    path = tmp_path / "track2-openset.npz"
    unusable = run_suite.__globals__["write_submission"](
        path, ["a", "b"], {"a": "<answer>happy, calm</answer>", "b": ""}, suite.tasks["track2"]
    )
    content = np.load(path)
    assert (content["filenames"].tolist(), content["fileitems"].tolist()) == (["a", "b"], ["['happy', 'calm']", "[]"])
    assert unusable == 1


def test_unibench_says_that_it_needs_the_official_word_tables(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_EMOTION_WHEEL_DIR", raising=False)
    with pytest.raises(ValueError, match="zeroQiaoba/MERTools"):
        run_suite(load_suite("mer-unibench"), tmp_path, tmp_path / "out", constant("happy"))


def conversation(name, question, answer):
    turns = [{"from": "human", "value": f"<video>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": name, "video": f"videos/{name}.mp4", "conversations": turns}


def test_emobench_reads_questions_options_and_pairs_from_its_files(tmp_path):
    data = tmp_path / "EmoBench-M"
    (data / "benchmark_json").mkdir(parents=True)
    for folder, names in (("MUSTARD", "ab"), ("MC-EIU", "c")):
        (data / "dataset" / folder / "videos").mkdir(parents=True)
        for name in names:
            (data / "dataset" / folder / "videos" / f"{name}.mp4").touch()
    sarcasm = [conversation("a", "Sarcasm? A. true B. false", "true"), conversation("b", "Sarcasm?", "false")]
    (data / "benchmark_json" / "MUSTARD.json").write_text(json.dumps(sarcasm))
    intent = [conversation("c", "Emotion and intent?", "{'emotion label': 'happy', 'intent label': 'wishing'}")]
    (data / "benchmark_json" / "MC-EIU.json").write_text(json.dumps(intent))

    def describe(clips, question=None, **options):
        known = {"Sarcasm? A. true B. false": "A", "Sarcasm?": "It is true."}
        reply = known.get(question, "happy; it is a wish: wishing")
        return [{"clip": clip, "description": reply} for clip in clips]

    results = run_suite(load_suite("emobench-m"), data, tmp_path / "out", describe, draws=0, say=lambda _: None)
    scores = {name: report["scores"]["war"] for name, report in results["tasks"].items()}
    assert scores == {"mustard": 0.5, "mc-eiu": 1.0}
    assert results["summary"]["value"] == 0.75
    assert "MELD.json" in results["skipped"]["meld"]


def test_a_pair_needs_both_of_its_answers():
    emotions, intents = ("happy", "sad", "neutral"), ("questioning", "wishing", "neutral")
    assert read_pair("{'emotion label': 'sad', 'intent label': 'neutral'}", emotions, intents) == "sad_neutral"
    assert read_pair("{'emotion': 'sad', 'intent': 'shouting'}", emotions, intents) is None
    assert read_pair(None, emotions, intents) is None


def test_finished_answers_are_scored_without_the_data(tmp_path, capsys):
    answers = tmp_path / "mer2023.jsonl"
    lines = [("x", "happy", "Happy "), ("y", "sad", "<answer>sad</answer>")]
    answers.write_text("".join(json.dumps({"video_id": n, "answer": a, "response": r}) + "\n" for n, a, r in lines))
    command = ["benchmark", "mmeverse", "--predictions", f"mer2023={answers}", "--bootstrap", "0"]
    assert main([*command, "--output", str(tmp_path / "read")]) == 0
    assert main([*command, "--strict", "--output", str(tmp_path / "strict")]) == 0
    scores = [json.loads((tmp_path / name / "results.json").read_text())["tasks"]["mer2023"]["scores"]
              for name in ("read", "strict")]  # fmt: skip
    assert (scores[0]["war"], scores[1]["accuracy"]) == (1.0, 0.5)
    judged = tmp_path / "judged.json"
    rows = [("a", "happy", "<score>Step 1: 1/1, Step 2: 1/1</score>"), ("b", "sad", "<score>Step 1: 0/1</score>")]
    judged.write_text(json.dumps([{"video_id": n, "ground_truth": t, "score": s} for n, t, s in rows]))
    command = ["benchmark", "mme-emotion", "--predictions", f"SA={judged}", "--bootstrap", "0"]
    assert main([*command, "--output", str(tmp_path / "mme")]) == 0
    scores = json.loads((tmp_path / "mme" / "results.json").read_text())["tasks"]["SA"]["scores"]
    assert (scores["recognition"], scores["reasoning"], scores["cot"]) == (0.5, 0.5, 0.5)
    [entry] = yaml.safe_load((tmp_path / "mme" / ".eval_results" / "mme-emotion.yaml").read_text())
    assert entry["dataset"]["id"] == "Karl28/MME-Emotion"


@pytest.mark.parametrize(("form", "suffix"), [("llama-factory", "json"), ("ms-swift", "jsonl")])
def test_rows_come_back_from_the_files_of_other_trainers(tmp_path, form, suffix):
    clips = [tmp_path / "a.mp4", tmp_path / "b.wav"]
    for clip in clips:
        clip.touch()
    rows = [
        {"id": "a", "video": str(clips[0]), "audio": None, "question": "How does he <video> feel?", "answer": "sad"},
        {"id": "b", "video": None, "audio": str(clips[1]), "question": "And she?", "answer": "She is\nhappy."},
        {"id": "c", "video": str(clips[0]), "audio": None, "question": "Unanswered?", "answer": None},
    ]
    path = tmp_path / f"out.{suffix}"
    assert write_conversations(rows, path, form) == 2
    found = read_conversations(path, MediaFolder(tmp_path)).splits["all"]
    assert [(row["id"], row["video"], row["audio"]) for row in found] == [
        ("a", str(clips[0]), None),
        ("b", None, str(clips[1])),
    ]
    assert [row["question"] for row in found] == ["How does he feel?", "And she?"]
    assert [row["answer"] for row in found] == ["sad", "She is\nhappy."]
    assert [row["label"] for row in found] == ["sad", None]
    text = path.read_text(encoding="utf-8")
    first = json.loads(text)[0] if suffix == "json" else json.loads(text.split("\n")[0])
    assert first["messages"][0]["content"] == "<video>How does he feel?"
    if form == "llama-factory":
        entry = json.loads((tmp_path / "dataset_info.json").read_text())["out"]
        assert entry["columns"] == {"messages": "messages", "videos": "videos", "audios": "audios"}
        assert first["audios"] == []


def test_export_writes_what_build_reads_again(tmp_path, capsys):
    (tmp_path / "a.mp4").touch()
    table = tmp_path / "rows.jsonl"
    row = {"id": "a", "video": "a.mp4", "question": "What does he feel?", "answer": "sad"}
    table.write_text(json.dumps(row) + "\n" + json.dumps({"id": "b", "video": "a.mp4"}) + "\n")
    output = tmp_path / "swift.jsonl"
    assert main(["export", "ms-swift", "--data", str(table), "--output", str(output)]) == 0
    assert "1 conversations of 2 rows" in capsys.readouterr().out
    [found] = read_conversations(output, MediaFolder(None)).splits["all"]
    assert (found["id"], found["video"], found["answer"]) == ("a", str(tmp_path / "a.mp4"), "sad")
    assert main(["export", "llama-factory", "--data", str(table), "--output", str(output)]) == 2
    assert "llama-factory reads .json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "a list of objects"),
        ("[1]", "a list of objects"),
        ('[{"video": "a.mp4"}]', "neither 'conversations' nor 'messages'"),
        ('[{"conversations": [{"from": "gpt", "value": "x"}], "video": "a"}]', "no turn of human or user"),
        ('[{"conversations": [{"from": "human", "value": "x"}]}]', "neither a video nor an audio file"),
        ('[{"conversations": [{"from": "human", "value": "x"}], "videos": ["a", "b"]}]', "names 2 files"),
        ("[", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_conversation_file_that_cannot_be_read_says_why(tmp_path, content, message):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_conversations(tmp_path / "rows.json", MediaFolder(tmp_path))
