"""The endpoint handler with many requests at once, against one lock around everything, as in 0.1.0.

    python benchmarks/serving.py [--requests 50] [--rounds 3] [--models starter microemo]

Both ways run behind the same HTTP server, each in a process of its own, and are asked in turn: 50 requests that arrive
together, each with its own clip, question and 32 tokens of answer. "lock" answers as 0.1.0 did: a request decodes its
clip, measures it and is answered while it holds the one lock. "batches" is today's handler. The models are the one in
the box and a tiny MicroEmo with random weights, on the CPU. Measured are the seconds from the first request to the last
answer, the latency of each request, the processor time of the server, and its peak memory. Each request must be
answered with 200, and both ways must give the same words. Result: benchmarks/results/serving.json and serving.png.
"""

import argparse
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from pathlib import Path

import matplotlib
import numpy as np

from hf_emotion import starter
from hf_emotion.data.build import card_template
from hf_emotion.data.demo import make_demo
from hf_emotion.papers import build

matplotlib.use("Agg")
RESULTS = Path(__file__).parent / "results" / "serving.json"
WAYS = ("lock", "batches")
QUESTIONS = ("What does the person feel?", "Which emotion is in the voice?", "Name the emotion and its cues.")


def handler_module():
    spec = importlib.util.spec_from_file_location("handler", card_template("handler.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def serve(way: str, model: str) -> None:
    """A server in this process; its port is the first line it prints."""
    module = handler_module()

    class OneAtATime(module.EndpointHandler):
        """The order of work of 0.1.0."""

        lock = threading.Lock()

        def events(self, data):
            data = data()
            inputs, options = data["inputs"], self.parameters(data.get("parameters"))
            clip = {"video": self.read(inputs["video"]), "question": inputs["text"]}
            limits = {"max_duration": module.MAX_SECONDS, "max_pixels": module.MAX_FRAME_PIXELS}
            with self.lock:
                result = self.pipe(clip, **limits, **options)
            yield "result", [{"generated_text": result["description"], **result}]

    handler = (OneAtATime if way == "lock" else module.EndpointHandler)(model)
    server = module.serve(handler, port=0)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print(server.server_port, flush=True)
    server.serve_forever()


def used(process: int) -> tuple[float, float]:
    """Processor time (s) and peak memory (MiB) of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    status = Path(f"/proc/{process}/status").read_text()
    return seconds, int(status.partition("VmHWM:")[2].split()[0]) / 1024


def ask(port: int, body: bytes) -> tuple[int, float, object]:
    """Status, latency in s, and answer."""
    begun = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=900)
    connection.request("POST", "/", body=body, headers={"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, time.monotonic() - begun, answer


def load(port: int, process: int, bodies: list[bytes]) -> tuple[dict, list]:
    """All requests at once: the figures, and the answers in the order of the requests."""
    answers: list = [None] * len(bodies)

    def request(place: int) -> None:
        answers[place] = ask(port, bodies[place])

    threads = [threading.Thread(target=request, args=[place]) for place in range(len(bodies))]
    before, begun = used(process)[0], time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, (spent, peak) = time.monotonic() - begun, used(process)
    latencies = [latency for _, latency, _ in answers]
    figures = {
        "seconds": round(seconds, 2),
        "requests_per_second": round(len(bodies) / seconds, 2),
        "processor_seconds": round(spent - before, 2),
        "peak_memory_MiB": round(peak),
        "latency_seconds": {f"p{p}": round(float(np.percentile(latencies, p)), 2) for p in (50, 90, 99, 100)},
        "statuses": {str(s): sum(status == s for status, *_ in answers) for s in {status for status, *_ in answers}},
        "latencies": sorted(round(latency, 2) for latency in latencies),
    }
    return figures, [answer[0]["generated_text"] if status == 200 else answer for status, _, answer in answers]


def compare(model: str, bodies: list[bytes], rounds: int) -> dict:
    servers = {
        way: subprocess.Popen([sys.executable, __file__, "--serve", way, model], stdout=subprocess.PIPE, text=True)
        for way in WAYS
    }
    try:
        ports = {way: int(server.stdout.readline()) for way, server in servers.items()}
        for port in ports.values():
            ask(port, bodies[0])  # what is built at the first request
        figures: dict = {way: [] for way in WAYS}
        same = 0
        for _ in range(rounds):
            answers = {}
            for way in WAYS:
                found, answers[way] = load(ports[way], servers[way].pid, bodies)
                figures[way].append(found)
                print(
                    way, json.dumps({name: value for name, value in found.items() if name != "latencies"}), flush=True
                )
            same += sum(one == other for one, other in zip(*answers.values(), strict=True))
    finally:
        for server in servers.values():
            server.terminate()
            server.wait()
    ratios = [one["seconds"] / other["seconds"] for one, other in zip(*figures.values(), strict=True)]
    spent = [
        one["processor_seconds"] / other["processor_seconds"] for one, other in zip(*figures.values(), strict=True)
    ]
    return {
        **figures,
        "throughput_of_batches_over_lock": [round(ratio, 2) for ratio in ratios],
        "processor_time_of_lock_over_batches": [round(ratio, 2) for ratio in spent],
        "answers_with_equal_words": f"{same} of {rounds * len(bodies)}",
    }


def plot(results: dict, path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results["models"]), figsize=(5 * len(results["models"]), 3.5), squeeze=False)
    for axis, (name, figures) in zip(axes[0], results["models"].items(), strict=True):
        for way in WAYS:
            for number, found in enumerate(figures[way]):
                share = np.arange(1, len(found["latencies"]) + 1) / len(found["latencies"])
                colour = "tab:blue" if way == "batches" else "tab:orange"
                axis.plot(found["latencies"], 100 * share, color=colour, label=None if number else way)
        axis.set(title=name, xlabel="latency (s)", ylabel="requests answered (%)", ylim=(0, 101))
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--models", nargs="+", default=["starter", "microemo"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
        return 0
    results: dict = {"requests": args.requests, "tokens": args.tokens, "cores": len(os.sched_getaffinity(0))}
    results["models"] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = make_demo(f"{folder}/media", 10, size=128, fps=12, num_workers=0, progress=False)
        clips = [b64encode(Path(row["video"]).read_bytes()).decode() for row in rows]
        bodies = []
        for place in range(args.requests):
            inputs = {"video": clips[place % len(clips)], "text": QUESTIONS[place % len(QUESTIONS)]}
            parameters = {"max_new_tokens": args.tokens, "per_utterance": False}
            bodies.append(json.dumps({"inputs": inputs, "parameters": parameters}).encode())
        for name in args.models:
            model, processor = starter.load() if name == "starter" else build(name)
            model.save_pretrained(f"{folder}/{name}")
            processor.save_pretrained(f"{folder}/{name}")
            print(name, flush=True)
            results["models"][name] = compare(f"{folder}/{name}", bodies, args.rounds)
    args.output.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    plot(results, args.output.with_suffix(".png"))
    rounds = [found for figures in results["models"].values() for way in WAYS for found in figures[way]]
    return int(any(found["statuses"] != {"200": args.requests} for found in rounds))


if __name__ == "__main__":
    sys.exit(main())
