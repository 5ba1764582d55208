"""The README's commands and programs run as they stand, in their order, where Hub ids and files are tiny stand-ins."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from test_cli import write_clip
from test_convert import folders  # noqa: F401  (tiny published parts of MicroEmo)

from hf_emotion.cli import main, parser

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import ablation_tables

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SUBTITLES = "1\n00:00:00,200 --> 00:00:01,100\nI'm fine.\n"
# Run here as well as parsed; the others need published weights, a corpus, or minutes.
RUN = ("hf-emotion init microemo --size tiny", "hf-emotion predict", "hf-emotion info", "hf-emotion inspect")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands():
    """Every `hf-emotion` line of the shell blocks and of the tables, without its comment."""
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    lines += [cell.strip("`") for cell in re.findall(r"`hf-emotion [^`]+`", README)]
    found = [part.strip() for line in lines for part in line.split("  #")[0].split("&&")]
    # Not those that stand for others: `hf-emotion benchmark SUITE`, `hf-emotion init MODEL --parts ...`.
    whole = [line for line in dict.fromkeys(found) if not re.search(r"\.\.\.|SOURCE|SUITE", line)]
    return [line for line in whole if re.match(r"hf-emotion \w+ ", line)]


@pytest.fixture(scope="module")
def place(folders, tmp_path_factory):  # noqa: F811
    """A working directory in which every name of the README exists."""
    root = tmp_path_factory.mktemp("readme")
    clip = write_clip(root / "clip.mp4")
    for name in ("a", "b", "my"):
        shutil.copyfile(clip, root / f"{name}.mp4")
    for name in ("a.srt", "clip.srt"):
        (root / name).write_text(SUBTITLES)
    stand_ins = {
        "Salesforce/instructblip-vicuna-7b": "instructblip",
        "imagebind_audio_folder": "imagebind",
        "meta-llama/Llama-2-7b-hf": "llama",
        "video_llama_folder": "timechat",
    }
    for name, folder in stand_ins.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(folders / folder)
    return root


def test_the_readmes_programs_and_commands_run_in_order(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    run = [line for line in commands() if line.startswith(RUN) and not re.search(r"--parts|Qwen|SUITE|\*|paper", line)]
    run.sort(key=lambda line: not line.startswith("hf-emotion init"))
    assert any(line.startswith("hf-emotion init") for line in run)
    for line in run:
        words = [str(place / word) if word.endswith((".mp4", ".srt")) else word for word in shlex.split(line)[1:]]
        more = ["--max-new-tokens", "4"] if words[0] == "predict" else []
        assert main([*words, *more]) == 0, (line, capsys.readouterr().err)
    (place / "name").mkdir()
    (place / "name" / "model").symlink_to(place / "my_model")
    names: dict = {}
    programs = blocks("python")
    assert len(programs) >= 5
    for program in programs:
        exec(compile(program, "README.md", "exec"), names)
    assert names["result"]["description"]
    assert (place / "clip.TextGrid").is_file()


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_is_accepted_by_the_command_line(line):
    words = shlex.split(line)[1:]
    parser(words[0]).parse_args(words)  # ends the process where it is refused


def test_the_tables_of_the_ablations_are_the_results():
    assert ablation_tables.with_tables(README) == README
