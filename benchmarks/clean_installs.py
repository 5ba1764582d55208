"""The wheel, installed in new environments: one a Python, with MediaPipe and without it.

    python benchmarks/clean_installs.py --clip CLIP.mp4 --python python3.11 python3.12 python3.13 [--tests FILE ...]

Builds the wheel from a copy of the checkout, installs it with the versions of constraints.txt and runs the commands
that a new user tries, in a folder from which the checkout cannot be imported. `--tests` also runs these test files
against the installed package. An interpreter in the results file that is not asked for now keeps its figures.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("hf_emotion", "mediapipe", "numpy", "pyarrow", "torch", "transformers")
VERSIONS = f"""
import importlib.metadata as m, json
installed = {{name: None for name in {PACKAGES}}}
for name in installed:
    try:
        installed[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps(installed))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, required=True, help="a clip with a face")
    parser.add_argument("--python", nargs="+", required=True, help="interpreters")
    parser.add_argument("--tests", nargs="*", default=[], help="test files to run against the installed package")
    parser.add_argument("--work", type=Path, help="folder for the environments, kept (default: a temporary one)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "clean_installs.json")
    arguments = parser.parse_args()
    report = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        wheel = build(work)
        for python in arguments.python:
            version, result = check(python, wheel, arguments.clip.resolve(), arguments.tests, work)
            report[version] = result
            ordered = dict(sorted(report.items()))
            arguments.output.write_text(json.dumps(ordered, indent=1) + "\n")
    failed = [f"{version}, {step}" for version, result in report.items() for step in result["failed"]]
    print(json.dumps({version: result["failed"] for version, result in report.items()}))
    return 1 if failed else 0


def build(work):
    """The wheel, from a copy: setuptools leaves folders in the tree that it builds."""
    source = work / "source"
    shutil.rmtree(source, ignore_errors=True)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(work), str(source)]
    subprocess.run(pip, check=True)
    return max(work.glob("hf_emotion-*.whl"), key=lambda path: path.stat().st_mtime)


def check(python, wheel, clip, tests, work):
    version = output([python, "-c", "import platform; print(platform.python_version())"])
    print(f"Python {version}", flush=True)
    folder = work / f"environment_{version}"
    if not folder.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    binaries = folder / "bin"
    pip = [str(binaries / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    constraint = ["--constraint", str(ROOT / "constraints.txt")]
    start = time.perf_counter()
    for packages in (["torch"], ["--force-reinstall", "--no-deps", str(wheel)], [f"{wheel}[demo]"]):
        subprocess.run([*pip, "install", *constraint, *packages], check=True)
    result = {"install_seconds": round(time.perf_counter() - start), "wheel_bytes": wheel.stat().st_size}
    result["packages"] = json.loads(output([str(binaries / "python"), "-c", VERSIONS], cwd=work))
    result["pip_check"] = (
        subprocess.run([*pip, "check"], capture_output=True, text=True).stdout.strip() or "no conflict"
    )
    if tests:
        development = ["pytest", "pytest-xdist", "scikit-learn", "librosa", "openpyxl"]
        subprocess.run([*pip, "install", *constraint, *development], check=True)
        result["tests"] = run_tests(binaries / "python", tests, work)
    result["with mediapipe"] = commands(binaries, clip, work)
    subprocess.run([*pip, "uninstall", "--yes", "mediapipe"], check=True)
    result["without mediapipe"] = commands(binaries, clip, work)
    subprocess.run([*pip, "install", *constraint, str(wheel)], check=True)
    result["failed"] = [
        f"{state}: {name}"
        for state in ("with mediapipe", "without mediapipe")
        for name, run in result[state].items()
        if run["exit_code"] != 0
    ]
    if tests and result["tests"]["exit_code"] != 0:
        result["failed"].append("tests")
    return version, result


def output(command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout.strip()


def commands(binaries, clip, work):
    """What a new user tries: the exit code, the seconds and the last lines of each command."""
    folder = work / "user"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    runs = {}
    for command in (
        "--version",
        "predict clip.mp4 --output result.jsonl",
        "init microemo --size tiny --output tiny",
        "info tiny",
        "predict clip.mp4 --model tiny --max-new-tokens 8",
    ):
        shutil.copyfile(clip, folder / "clip.mp4")
        start = time.perf_counter()
        done = subprocess.run(
            [str(binaries / "hf-emotion"), *command.split()],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        lines = [line.rstrip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        runs[command] = {
            "exit_code": done.returncode,
            "seconds": round(time.perf_counter() - start, 1),
            "last_lines": lines[-4:],
        }
        if (folder / "result.jsonl").is_file():
            answer = json.loads((folder / "result.jsonl").read_text().splitlines()[0])
            (folder / "result.jsonl").unlink()
            runs[command]["answer"] = {key: answer[key] for key in ("text", "modalities", "notes") if key in answer}
    return runs


def run_tests(python, tests, work):
    """The tests in a copy of their folder, so that the installed package is the one tested."""
    folder = work / "checkout"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("tests", "benchmarks", "hub_cards", "examples", "scripts"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copyfile(ROOT / name, folder / name)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    start = time.perf_counter()
    done = subprocess.run(
        [str(python), "-m", "pytest", "-q", *tests], cwd=folder, env=environment, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR")) or " passed" in line]
    (work / "tests.log").write_text(done.stdout + done.stderr)
    return {
        "exit_code": done.returncode,
        "seconds": round(time.perf_counter() - start),
        "files": list(tests),
        "last_lines": lines[-12:],
    }


if __name__ == "__main__":
    sys.exit(main())
