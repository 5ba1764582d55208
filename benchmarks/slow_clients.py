"""The endpoint under load: 50 requests at once while 10 clients send a byte now and then.

    python benchmarks/slow_clients.py [--requests 50] [--slow 10]

A tiny model with random weights stands behind the real server of `handler.py`, on the loopback interface. Every
request must be answered (with 503 where the queue takes longer than its limit), the slow clients too (with 408, at the
deadline), and the memory must stay bounded. The exit code is 1 where that fails. Result:
benchmarks/results/slow_clients.json.
"""

import argparse
import http.client
import importlib.util
import json
import resource
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from hf_emotion.data.build import card_template
from hf_emotion.data.demo import make_demo
from hf_emotion.papers import build

RESULTS = Path(__file__).parent / "results" / "slow_clients.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--slow", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("handler", card_template("handler.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory() as folder:
        model, processor = build("microemo")
        model.save_pretrained(f"{folder}/model")
        processor.save_pretrained(f"{folder}/model")
        rows = make_demo(f"{folder}/media", 1, size=64, fps=6, num_workers=0, progress=False)
        clip = Path(rows[0]["video"]).read_bytes()
        server = module.serve(module.EndpointHandler(f"{folder}/model"), port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers, slow, lock = [], [], threading.Lock()

    def request() -> None:
        begun = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=600)
        connection.request("POST", "/", body=clip, headers={"Content-Type": "video/mp4"})
        status = connection.getresponse().status
        with lock:
            answers.append((status, time.monotonic() - begun))

    def drip() -> None:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=0.5) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Type: video/mp4\r\nContent-Length: 60000000\r\n\r\n")
            received, begun = b"", time.monotonic()
            while not received and time.monotonic() < begun + 2 * module.READ_SECONDS:
                try:
                    connection.sendall(b"x")
                    received = connection.recv(1000)
                except TimeoutError:
                    pass
                except OSError:
                    break
        with lock:
            slow.append(received.split(b"\r\n")[0].decode())

    threads = [threading.Thread(target=drip) for _ in range(args.slow)]
    threads += [threading.Thread(target=request) for _ in range(args.requests)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = sorted(duration for _, duration in answers)
    result = {
        "requests": args.requests,
        "slow_clients": args.slow,
        "statuses": {str(status): sum(s == status for s, _ in answers) for status in {s for s, _ in answers}},
        "slow_clients_answered": {line: slow.count(line) for line in set(slow)},
        "seconds": {name: round(float(np.percentile(seconds, p)), 1) for name, p in (("median", 50), ("slowest", 100))},
        "all_done_after_seconds": round(time.monotonic() - begun, 1),
        "memory_before_MiB": before // 1024,
        "peak_memory_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(result, indent=2))
    args.output.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return int(len(answers) != args.requests or not all(slow) or len(slow) != args.slow)


if __name__ == "__main__":
    sys.exit(main())
