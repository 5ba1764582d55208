"""A Ray cluster of two nodes on this machine does what one process does, though a worker and then a node is killed.

    python benchmarks/ray_cluster.py [--verbs predict cache review] [--rows 24]

Each verb runs on a small demo corpus in this process, then on the cluster. When a quarter of the results is there, a
worker that is busy is killed (SIGKILL); when half are there, the second node is. Compared with the single process: the
results (answers and their scores, cached tensors, records of stages); whether each row is there once. `evaluate` takes
the way of `predict`. Before that, `predict` runs undisturbed, and Ray's own timeline tells when tasks and actors were
busy: seconds in which both were, and a picture of it.

Result: benchmarks/results/ray_cluster.json and .png.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Else Ray's workers get what other programs of a busy machine leave.
os.environ.setdefault("RAY_worker_niceness", "0")

import psutil
from kill_and_resume import cached, records
from many_processes import HERE as PREPARE
from many_processes import described

RESULTS = Path(__file__).resolve().parent / "results" / "ray_cluster.json"
VERBS = ("predict", "cache", "review")
KINDS = {
    "task::Map(measure)": "decode and measure (tasks)",
    "task::MapWorker(MapBatches(Describe)).submit": "model (actors)",
}


def workers(kind: str) -> list[psutil.Process]:
    """Ray's worker processes that are running something of that name now."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(word.startswith("ray::") and kind in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def disturb(done, total: int, cluster, node, kind: str, events: list) -> None:
    """Kill a worker at a quarter of the results and a node at a half."""
    while done() < total / 4:
        time.sleep(0.02)
    while not (busy := workers(kind)):
        time.sleep(0.01)
    os.kill(busy[0].pid, signal.SIGKILL)
    events.append({"killed": " ".join(busy[0].name().split()) or "worker", "results_before": done()})
    while done() < total / 2:
        time.sleep(0.02)
    events.append({"killed": "node", "results_before": done()})
    cluster.remove_node(node, allow_graceful=False)


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def jobs(work: Path, rows: list[dict]) -> dict:
    """Verb -> (run(folder, on_cluster), what is compared of a folder, number of results in a folder, kind of task)."""
    from hf_emotion import cluster
    from hf_emotion.curation.reviewers import model_of
    from hf_emotion.curation.stages import review
    from hf_emotion.evaluation.evaluate import predict
    from hf_emotion.inference import describe, load
    from hf_emotion.training.cache import FeatureCache

    model = str(work / "model")
    options = {"max_new_tokens": 8, "per_utterance": False, "batch_size": 1}

    def run_predict(folder, on_cluster):
        folder.mkdir()
        engine = answer = None
        if on_cluster:
            engine = cluster.describing(model, actors=2, **options)
        else:
            answer = partial(describe, **dict(zip(("model", "processor"), load(model), strict=True)), **options)
        predict(rows, answer, folder / "results.jsonl", {"model": model}, 1, engine=engine)

    def run_cache(folder, on_cluster):
        if on_cluster:
            cluster.ROWS_OF_SHARD = 1  # a file for each clip, so that it can be seen how far the run is
            cluster.build_cache(folder, model, rows, batch_size=1, actors=2)
        else:
            FeatureCache.build(folder, *load(model), rows, batch_size=1)

    def run_review(folder, on_cluster):
        texts = dict.fromkeys(("describe", "listen", "judge"), "offline")
        models = {role: model_of(text) for role, text in texts.items()}
        review(rows, folder, models, progress=False, engine=cluster.reviewing(texts, actors=2) if on_cluster else None)

    return {
        "predict": (run_predict, described, lambda to: count_lines(to / "results.jsonl"), "measure"),
        "cache": (run_cache, cached, lambda to: len(list(to.glob("features-*.arrow"))), "measure_for_cache"),
        "review": (run_review, records, lambda to: count_lines(to / "outcomes.jsonl"), "prepare_review"),
    }


def on_two_nodes(work):
    """Call `work(cluster, second node)` on a cluster of two nodes."""
    import ray
    from ray.cluster_utils import Cluster

    from hf_emotion.cluster import connect

    cluster = Cluster(
        initialize_head=True,
        connect=False,
        head_node_args={"num_cpus": 3, "object_store_memory": 2**28, "include_dashboard": False},
    )
    try:
        node = cluster.add_node(num_cpus=2, object_store_memory=2**28)
        cluster.wait_for_nodes()
        connect(cluster.address)
        return work(cluster, node)
    finally:
        ray.shutdown()
        cluster.shutdown()


def spans_of(events: list[dict]) -> list[dict]:
    """Ray's timeline: for each task or call of an actor its kind, worker, begin and end in seconds."""
    spans = []
    for event in events:
        if kind := KINDS.get(event.get("cat")):
            begin, where = event["ts"] / 1e6, f"{event['pid']} {event['tid']}"
            spans.append({"kind": kind, "worker": where, "begin": begin, "end": begin + event["dur"] / 1e6})
    return spans


def busy(spans: list[dict], kind: str, step: float, begin: float, end: float) -> list[bool]:
    times = [begin + step * n for n in range(int((end - begin) / step))]
    mine = [span for span in spans if span["kind"] == kind]
    return [any(span["begin"] <= now < span["end"] for span in mine) for now in times]


def draw(spans: list[dict], path: Path) -> dict:
    """The picture, and the seconds in which tasks, actors and both were busy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    begin, end = min(span["begin"] for span in spans), max(span["end"] for span in spans)
    names = sorted({(span["kind"], span["worker"]) for span in spans})
    figure, axes = pyplot.subplots(figsize=(10, 0.5 * len(names) + 1.5))
    colors = dict(zip(KINDS.values(), ("tab:blue", "tab:orange"), strict=True))
    for place, (kind, worker) in enumerate(names):
        bars = [
            (s["begin"] - begin, s["end"] - s["begin"]) for s in spans if (s["kind"], s["worker"]) == (kind, worker)
        ]
        axes.broken_barh(bars, (place - 0.4, 0.8), color=colors[kind])
    axes.set_yticks(range(len(names)), [f"{kind}, worker {i}" for i, (kind, _) in enumerate(names, 1)])
    axes.set_xlabel("seconds")
    axes.set_title("predict on two Ray nodes of one machine")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    step = 0.01
    tasks, actors = (busy(spans, kind, step, begin, end) for kind in KINDS.values())
    both = sum(map(all, zip(tasks, actors, strict=True)))
    seconds = {"tasks_busy": sum(tasks), "actors_busy": sum(actors), "both_busy": both}
    return {name: round(step * count, 2) for name, count in seconds.items()} | {"seconds": round(end - begin, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verbs", nargs="*", choices=VERBS, default=VERBS)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--no-timeline", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    results = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        subprocess.run([sys.executable, PREPARE, "--prepare", work, "6"], check=True)
        lines = (work / "rows.jsonl").read_text(encoding="utf-8").splitlines()
        clips = [json.loads(line) for line in lines]
        # Clips occur more than once, each time with other utterances, so that no row can take another's features.
        rows = []
        for number in range(args.rows):
            said = [{"start": 0.0, "end": 0.1 + 0.01 * number, "text": None, "speaker": None}]
            rows.append({**clips[number % len(clips)], "id": f"row {number:03d}", "split": "train", "utterances": said})
        if not args.no_timeline:
            import ray

            def timed(cluster, node):
                run, *_ = jobs(work, rows)["predict"]
                run(work / "timed", True)
                time.sleep(3)  # until the workers have reported
                return ray.timeline()

            spans = spans_of(on_two_nodes(timed))
            results["timeline"] = draw(spans, args.output.with_suffix(".png"))
            print(json.dumps(results["timeline"]), flush=True)
            args.output.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for verb in args.verbs:
            run, compare, done, kind = jobs(work, rows)[verb]
            one, many = work / f"{verb}-one", work / f"{verb}-many"
            run(one, False)
            events = []

            def disturbed(cluster, node, run=run, done=done, many=many, kind=kind, events=events):
                arguments = (lambda: done(many), len(rows), cluster, node, kind, events)
                killer = threading.Thread(target=disturb, args=arguments, daemon=True)
                killer.start()
                run(many, True)
                killer.join(10)

            on_two_nodes(disturbed)
            first, second = compare(one), compare(many)
            differing = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
            results[verb] = {"rows": len(rows), "compared": len(first), "differing": differing, "events": events}
            print(verb, json.dumps(results[verb]), flush=True)
            args.output.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    args.output.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return int(any(results[verb]["differing"] or len(results[verb]["events"]) < 2 for verb in args.verbs))


if __name__ == "__main__":
    sys.exit(main())
