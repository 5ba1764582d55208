"""Run the examples as they stand, on the model in the box: the scripts, and the notebook cell by cell.

    python benchmarks/run_examples.py

`03_publish.py` needs a Hub and runs in `tests/test_hub.py`. Writes `results/run_examples.json`; exit code 1 if one
fails.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
RESULTS = Path(__file__).with_name("results") / "run_examples.json"


def run_notebook(path: Path) -> None:
    """Run the code cells of a notebook in one namespace."""
    names = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)


def main() -> int:
    if len(sys.argv) > 1:  # in a process of its own
        path, *arguments = sys.argv[1:]
        sys.argv = [path, *arguments]
        if path.endswith(".ipynb"):
            run_notebook(Path(path))
        else:
            runpy.run_path(path, run_name="__main__")
        return 0

    sys.path.insert(0, str(ROOT / "tests"))
    from test_cli import write_clip

    results = {}
    with tempfile.TemporaryDirectory() as work:
        clip = write_clip(Path(work, "clip.mp4"))
        row = {"id": "a", "video": str(clip), "question": "How does she feel?", "answer": "Relieved."}
        Path(work, "rows.jsonl").write_text(json.dumps(row) + "\n")
        training = ["--use_cpu", "--max_steps", "2", "--report_to", "none", "--save_strategy", "no"]
        runs = {
            "01_describe_a_clip.py": ["clip.mp4"],
            "02_fine_tune.py": ["--data", "rows.jsonl", "--output_dir", "two", *training],
            "04_trl.py": ["clip.mp4", "four"],
            "05_notebook.ipynb": [],
        }
        for name, arguments in runs.items():
            began = time.perf_counter()
            command = [sys.executable, __file__, str(EXAMPLES / name), *arguments]
            done = subprocess.run(
                command,
                cwd=work,
                capture_output=True,
                text=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                check=False,
            )
            results[name] = {"exit_code": done.returncode, "seconds": round(time.perf_counter() - began)}
            print(name, results[name], done.stderr.strip().splitlines()[-1:] if done.returncode else "", flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if any(result["exit_code"] for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
