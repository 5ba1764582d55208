"""Open the Space in a headless Chromium, upload a clip, and look: labels, description and timeline must be there.

    pip install playwright                     # and a Chromium: playwright install chromium, or the system's
    python -m venv space && space/bin/pip install gradio -r SPACE/requirements.txt       # SPACE: of `hf-emotion space`
    python benchmarks/space_page.py --space-python space/bin/python --chromium /usr/bin/chromium

The Space holds the model in the box, or with `--model` one that is published to a loopback Hub; its `app.py` then runs
as on the Hub, in an environment with its requirements and without this package, on the model's own code. Without
`--clip` a clip of the demo corpus is made: a warped photograph and a synthetic voice.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fake_hub import environment, start

RESULTS = Path(__file__).with_name("results")

PUBLISH = """
import sys
from pathlib import Path
from hf_emotion.data.demo import make_demo
from hf_emotion.hub import push, write_space

work, model, clip = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if model:
    push(model, "me/emotion")
write_space("me/emotion" if model else None, work / "space")
if not clip:
    [row] = make_demo(work / "demo", 1, seed=3)
    (work / "clip.txt").write_text(row["video"])
    cues = [
        f"00:{u['start']:06.3f} --> 00:{u['end']:06.3f}\\n{u['text']}\\n" for u in row["utterances"]
    ]
    (work / "clip.vtt").write_text("\\n".join(["WEBVTT\\n", *cues]))
"""


def wait_for(url: str, process, seconds: float = 180) -> None:
    """Until the page answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"app.py ended with exit code {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"app.py did not answer within {seconds:g} s")


def look(url: str, clip: str, subtitles: str | None, chromium: str | None, picture: Path) -> dict:
    """What a visitor sees after uploading a clip."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1250})
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_selector("#run")
        page.set_input_files("#clip input[type=file]", clip)
        page.wait_for_selector("#clip video")
        if subtitles:
            page.set_input_files("#subtitles input[type=file]", subtitles)
            page.wait_for_selector(f"text={Path(subtitles).stem}")
        page.click("#run")
        began = time.perf_counter()
        page.wait_for_selector("#timeline .timeline svg", timeout=300_000)
        page_content = {
            "seconds": round(time.perf_counter() - began, 1),
            "labels": page.locator("#labels .confidence-set").all_inner_texts(),
            "description": page.input_value("#description textarea"),
            "frames": page.locator("#timeline .face, #timeline .noface").count(),
            "utterances": page.locator("#timeline .spoken").count(),
            "timeline": page.locator("#timeline svg text").all_text_contents(),
            "notes": page.inner_text("#notes"),
        }
        page.wait_for_timeout(500)
        page.screenshot(path=picture, full_page=True)
        browser.close()
    return page_content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="folder of a model (default: the one in the box)")
    parser.add_argument("--clip", default="", help="a video (default: one of the demo corpus)")
    parser.add_argument("--utterances", help="its subtitles")
    parser.add_argument("--space-python", default=sys.executable, help="python that has the Space's requirements")
    parser.add_argument("--chromium", help="the browser's program (default: playwright's own)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for space_page.png and space_page.json")
    args = parser.parse_args()
    server, _, url = start()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        here = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "GRADIO_ANALYTICS_ENABLED": "False"}
        publishing = environment(url, work / "home", **here, PYTHONPATH=str(Path(__file__).parents[1] / "src"))
        subprocess.run([sys.executable, "-c", PUBLISH, work, args.model, args.clip], env=publishing, check=True)
        clip = args.clip or (work / "clip.txt").read_text()
        subtitles = args.utterances or (None if args.clip else str(work / "clip.vtt"))
        # The Space has the model's code and not this package.
        there = environment(url, work / "there", **here, GRADIO_SERVER_PORT="7871", HF_MODULES_CACHE=str(work / "code"))
        app = subprocess.Popen([args.space_python, "app.py"], cwd=work / "space", env=there)
        try:
            wait_for("http://127.0.0.1:7871", app)
            page_content = look("http://127.0.0.1:7871", clip, subtitles, args.chromium, args.output / "space_page.png")
        finally:
            app.terminate()
            app.wait()
    server.shutdown()
    print(json.dumps(page_content, indent=2, ensure_ascii=False))
    partial = args.output / f".space_page.json.{os.getpid()}"
    partial.write_text(json.dumps(page_content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, args.output / "space_page.json")
    return (
        0
        if page_content["description"] and page_content["frames"] and (page_content["utterances"] or not subtitles)
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
