"""Which towers and language models work in which paper, each prepared as its own processor does: a table by running.

    python benchmarks/parts_table.py

For every paper that is assembled from parts, and every tower and language model below, a tiny checkpoint with its own
`preprocessor_config.json`, tokenizer and chat template is written and assembled by `from_pretrained_parts`. Then

- the tower's inputs are compared with what the part's own processor makes of the same frames or sound: for pixels once
  with frames of the tower's size, and once with frames that must be resized, in levels of 255 (frames are resized by
  torch's kernel, which keeps its weights in 16 bits where PIL's has 32: at most 2 levels, 1 or 2 % of the values);
- the prompt is compared with what the language model's own chat template writes for the same message;
- two clips are answered in one batch.

A part that a paper cannot take is refused at assembly, in one sentence that names what is accepted. Anything else is an
error, and the script's exit code is 1. The result is written to benchmarks/results/parts_table.json and parts_table.md.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    CLIPImageProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    SiglipImageProcessor,
    Wav2Vec2FeatureExtractor,
    logging,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from part_folders import CHATML, CONVOLUTIONS, LAYERS, audio_part, make_tokenizer, text_part, vision_part
from test_chat_formats import FORMATS
from test_parts import SMALL

from hf_emotion.modeling.parts import AUDIO_TOWERS, VISION_TOWERS, PartsError
from hf_emotion.parts import from_pretrained_parts

RESULTS = Path(__file__).with_name("results")
PAPERS = (*SMALL, "omni_emotion")
# Encoders that transformers has and that no paper takes: they must be refused by name.
OTHER_VISION = ("siglip2_vision_model", "swin", "convnextv2", "vit_mae")
OTHER_AUDIO = ("wav2vec2-bert", "sew", "audio-spectrogram-transformer")
OWN = ("imagebind_audio", "instructblip_vision_model")  # of a converter of this package: see compare_with_originals.py
# Type of language model -> the chat template that its published checkpoints have.
LANGUAGE_MODELS = {
    "llama (Llama-2)": "Llama-2",
    "llama (Llama-3)": "Llama-3",
    "mistral": "Mistral",
    "gemma": "Gemma",
    "gemma2": "Gemma",
    "qwen2": "Qwen2.5",
    "qwen3": "Qwen3",
    "phi3 (ChatML)": None,
    "olmo2 (ChatML)": None,
    "granite (ChatML)": None,
    "smollm3 (ChatML)": None,
}
QUESTION = "And what does he feel?"


def clip():
    noise = np.random.default_rng(0)
    return {
        "video": {"frames": noise.integers(0, 255, (4, 64, 64, 3), dtype=np.uint8), "fps": 2.0},
        "audio": {"waveform": noise.standard_normal(16000).astype(np.float32) * 0.1, "sampling_rate": 16000},
    }


def other_part(folder, kind, model_type):
    """A tiny encoder with a processor."""
    sizes = {"image_size": 56, "patch_size": 14} if kind == "vision" else {**CONVOLUTIONS}
    if model_type in ("swin", "convnextv2"):
        sizes, layers = {"image_size": 64}, {}
        if model_type == "swin":
            layers = {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2]}
        else:
            layers = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    elif model_type == "siglip2_vision_model":
        sizes, layers = {"patch_size": 14, "num_patches": 16}, LAYERS
    elif kind == "audio":
        sizes, layers = {}, LAYERS
    else:
        layers = LAYERS
    AutoModel.from_config(AutoConfig.for_model(model_type, **sizes, **layers)).save_pretrained(folder)
    (CLIPImageProcessor() if kind == "vision" else Wav2Vec2FeatureExtractor()).save_pretrained(folder)
    return str(folder)


def onevision(folder, text="qwen2"):
    """A tiny LLaVA-OneVision."""
    tokenizer = make_tokenizer(CHATML, ("<|im_start|>", "<|im_end|>", "<image>", "<video>"))
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14,
                       "vision_use_head": False, **LAYERS},
        text_config={"model_type": text, "vocab_size": 2112, "num_key_value_heads": 2, "head_dim": 8, **LAYERS},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )  # fmt: skip
    LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder)
    return str(folder)


class Parts:
    """Tiny checkpoints, each written once."""

    def __init__(self, folder):
        self.folder, self.made = folder, {}

    def get(self, kind, name):
        place = self.folder / f"{kind}-{name.replace(' ', '_')}"
        if (kind, name) not in self.made:
            if kind == "text":
                template = LANGUAGE_MODELS.get(name)
                source = text_part(place, name.split(" ")[0], CHATML if template is None else FORMATS[template])
            elif kind == "video_llm":
                source = onevision(place, name)
            elif name in (*OTHER_VISION, *OTHER_AUDIO):
                source = other_part(place, kind, name)
            else:
                source = vision_part(place, name) if kind == "vision" else audio_part(place, name)
            self.made[kind, name] = source
        return self.made[kind, name]


def assembled(parts, paper, vision=None, audio="whisper", text="qwen3"):
    # ESVA needs a class token, which SigLIP has not.
    vision = vision or ("vit" if paper == "esva" else "siglip_vision_model")
    if paper == "omni_emotion":
        sources = {"video_llm": parts.get("video_llm", "qwen2"), "audio": parts.get("audio", audio)}
        return from_pretrained_parts(paper, face_config=None, **sources)
    sources = {"vision": parts.get("vision", vision), "audio": parts.get("audio", audio)}
    sources["text"] = parts.get("text", text)
    if paper == "microemo":
        sources["qformer_tokenizer"] = sources["text"]
    return from_pretrained_parts(paper, config=SMALL[paper](), **sources)


def answers(model, processor) -> bool:
    batch = processor(videos=[clip(), clip()], text=["What does she feel?", QUESTION], return_tensors="pt")
    return model.generate(**batch, max_new_tokens=2, do_sample=False).shape[1] > batch["input_ids"].shape[1]


def pixel_difference(source, processor) -> dict[str, float]:
    """Largest differences to the part's own processor, in levels of 255, and the share of values that differ."""
    own, found = AutoImageProcessor.from_pretrained(source), {}
    frames = clip()["video"]["frames"]
    side = processor.image_processor.size["height"]
    for name, shown in (("difference", frames[:, :side, :side]), ("difference_where_resized", frames)):
        expected = torch.as_tensor(np.stack(own(list(shown))["pixel_values"]))
        pixels = processor.image_processor.frames_to_pixels(shown)
        levels = (pixels - expected).abs() * torch.tensor(own.image_std).view(-1, 1, 1) * 255
        found[name], found["share_that_differs"] = float(levels.max()), float((levels > 0.01).float().mean())
    return found


def sound_difference(source, processor) -> float:
    """Largest difference to the part's own feature extractor."""
    own, sound = AutoFeatureExtractor.from_pretrained(source), clip()
    expected = own(sound["audio"]["waveform"], sampling_rate=16000, return_tensors="pt")
    name = own.model_input_names[0]
    found = processor(videos=[sound], text=[QUESTION], return_tensors="pt")[name]
    found = found[0, 0] if name == "input_features" else found[0]
    return float((found - expected[name][0]).abs().max())


def prompt_is_own(source, processor) -> bool:
    """The prompt is what the language model's own chat template writes for a message with the paper's content."""
    batch = processor(videos=[clip()], text=[QUESTION], return_tensors="pt")
    prompt = processor.decode(batch["input_ids"][0])
    own = AutoTokenizer.from_pretrained(source)
    marked = own.apply_chat_template(
        [{"role": "user", "content": "\N{SNOWMAN}"}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    before, after = marked.split("\N{SNOWMAN}")
    plain = "".join(prompt.split())
    return plain.startswith("".join(before.split())) and plain.endswith("".join((QUESTION + after).split()))


def row(parts, paper, kind, name) -> dict:
    try:
        model, processor = assembled(parts, paper, **{kind: name})
    except PartsError as error:
        return {"refused": str(error).replace(str(parts.folder) + "/", "")}
    found = {"answers": answers(model, processor)}
    source = parts.get(kind, name)
    if kind == "vision":
        found |= pixel_difference(source, processor)
    elif kind == "audio":
        found["difference"] = sound_difference(source, processor)
    else:
        found["own_chat_format"] = prompt_is_own(source, processor)
    return found


def cell(found) -> str:
    if "refused" in found:
        return "refused"
    if "error" in found:
        return "ERROR"
    if "difference" in found:
        return "equal" if found["difference"] < 1e-4 else f"{found['difference']:.1g}"
    return "own chat format" if found["own_chat_format"] else "OTHER FORMAT"


def markdown(table) -> str:
    lines = []
    for kind, title in (("vision", "Vision tower"), ("audio", "Audio tower"), ("text", "Language model")):
        papers = [paper for paper in PAPERS if any(paper in rows for rows in table[kind].values())]
        lines += [f"| {title} | {' | '.join(papers)} |", "|---" * (len(papers) + 1) + "|"]
        lines += [
            f"| {name} | {' | '.join(cell(rows[paper]) if paper in rows else '-' for paper in papers)} |"
            for name, rows in table[kind].items()
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kinds = {
        "vision": ([n for n in (*VISION_TOWERS, *OTHER_VISION) if n not in OWN], tuple(SMALL)),
        "audio": ([n for n in (*AUDIO_TOWERS, *OTHER_AUDIO) if n not in OWN], PAPERS),
        "text": (list(LANGUAGE_MODELS), tuple(SMALL)),
    }
    table, wrong = {kind: {} for kind in kinds}, 0
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(Path(folder))
        for kind, (names, papers) in kinds.items():
            for name in names:
                began = time.perf_counter()
                for paper in papers:
                    try:
                        found = row(parts, paper, kind, name)
                    except Exception as error:  # the table says what failed
                        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
                    table[kind].setdefault(name, {})[paper] = found
                    own = found.get("own_chat_format", True) and found.get("answers", True)
                    within = found.get("difference", 0) <= 1e-4 and found.get("difference_where_resized", 0) <= 2.01
                    wrong += "error" in found or not own or not within
                cells = {paper: cell(found) for paper, found in table[kind][name].items()}
                print(f"{kind} {name}: {cells} {time.perf_counter() - began:.0f} s", flush=True)
                for found in table[kind][name].values():
                    if "error" in found:
                        print(f"  {found['error']}")
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "parts_table.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    (args.output / "parts_table.md").write_text(markdown(table), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
