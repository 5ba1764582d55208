"""Whole model folders from published parts: the model, and a processor that prepares clips as each part expects them.

`XForConditionalGeneration.from_pretrained_parts` (`modeling/parts.py`) joins the weights. What belongs beside them is
read here, from the same sources: pixels as the vision tower's `preprocessor_config.json` says, sound as the audio
tower's, and the language model's tokenizer, chat format and end-of-answer tokens. Nothing is guessed: what no source
says is taken from the paper and noted in the report.
"""

import inspect

from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, GenerationConfig, logging

from .modeling.parts import PartsError, find_file, read_config
from .papers import PAPERS, set_special_tokens
from .processing.chat_formats import end_of_turn, turns_of, write_template
from .processing.image_processing_emotion import EmotionImageProcessor
from .processing.sound_chunks import whole_sound_extractor

# Parts from which each thing is read, the first that is given.
TOKENIZER_PARTS = ("tokenizer", "text", "video_llm")
VISION_PARTS = ("vision", "video_llm")
# Parts that were trained with the paper's own prompt, so that the language model's chat format would be wrong.
TRAINED_PARTS = ("video_llm", "emotion_llama", "humanomni", "affectgpt", "emotion_llama_v2")
# Parts to start from, all under Apache-2.0, for the models that are assembled from single parts.
OPEN_AUDIO_AND_TEXT = {"audio": "openai/whisper-small", "text": "Qwen/Qwen3-0.6B"}
OPEN_PARTS = {
    "microemo": {
        "vision": "google/siglip-base-patch16-384",
        "qformer_tokenizer": "google-bert/bert-base-uncased",
        **OPEN_AUDIO_AND_TEXT,
    },
    "acoustemo": {"vision": "google/siglip-base-patch16-384", **OPEN_AUDIO_AND_TEXT},
    "esva": {"vision": "facebook/dinov2-base", **OPEN_AUDIO_AND_TEXT},
}
HUB_OPTIONS = ("cache_dir", "token", "local_files_only")
OPTIONS = ("config", "dtype", *HUB_OPTIONS)


def part_names(name: str) -> list[str]:
    """The parts that a model can be assembled from; `tokenizer` stands for one from elsewhere than the language model.

    Raises:
        PartsError: no such model.
    """
    if name not in PAPERS:
        raise PartsError(f"model {name!r} is not known; accepted are {', '.join(PAPERS)}")
    paper = PAPERS[name]
    parameters = inspect.signature(paper.model.assemble).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is None]
    return [*(part for part in names if part not in OPTIONS), *paper.tokenizers]


def from_pretrained_parts(name: str, *, processor_settings: dict | None = None, **parts):
    """A model and its processor from published checkpoints.

    Args:
        name: a key of `PAPERS`.
        processor_settings: settings of the model's processor, such as `num_frames`.
        parts: each part's folder or Hub repository (`part_names`); beside them fields of the configuration, and
            `config`, `dtype`, `cache_dir`, `token`, `local_files_only`, as for the model's `from_pretrained_parts`.

    Returns:
        the model, in eval mode, with its `parts_report`; and its processor.

    Raises:
        PartsError: a part cannot be read or does not fit, or nothing says which tokenizer the language model has.
        ChatFormatError: the language model's chat template cannot be taken apart into turns.
    """
    names = part_names(name)
    paper = PAPERS[name]
    hub = {option: parts[option] for option in HUB_OPTIONS if option in parts}
    sources = {part: source for part, source in parts.items() if part in names and source is not None}
    tokenizer_part = next((part for part in TOKENIZER_PARTS if part in sources), None)
    if tokenizer_part is None:
        raise PartsError(
            f"no part has the language model's tokenizer; give {' or '.join(p for p in TOKENIZER_PARTS if p in names)}"
        )
    tokenizers = {"tokenizer": read_tokenizer(sources[tokenizer_part], **hub)}
    for kind in paper.tokenizers[1:]:
        source = sources.get(kind) or sources.get(kind.removesuffix("_tokenizer"))
        if source is None:
            raise PartsError(f"no part has the {kind}; give {kind} (BERT's)")
        has_tokenizer = find_file(source, f"{kind}/tokenizer_config.json", **hub) is not None
        tokenizers[kind] = read_tokenizer(source, subfolder=kind if has_tokenizer else "", **hub)
    turns = None
    if not any(part in sources for part in TRAINED_PARTS):
        turns = turns_of(tokenizers["tokenizer"])

    weights = {part: source for part, source in parts.items() if part not in (*paper.tokenizers, "tokenizer")}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the report says what is new, module by module
    try:
        model = paper.model.from_pretrained_parts(**weights)
    finally:
        logging.set_verbosity(verbosity)
    notes, config = model.parts_report.notes, model.config
    # A converted checkpoint may say how its processor differs from the model's usual one.
    trained = next((sources[part] for part in TRAINED_PARTS if part in sources and part != "video_llm"), None)
    own_settings = {} if trained is None else read_config(trained, **hub).get("processor", {})
    settings = {**own_settings, **(processor_settings or {})}
    if turns is not None:
        settings.setdefault("chat_template", write_template(str(paper.processor.content), turns))
        notes.append(f"prompts are written in the chat format of {sources[tokenizer_part]!r}")
    else:
        notes.append("prompts are written in the paper's own chat format")
    if getattr(config, "audio_config", None) is not None:
        own_extractor = read_feature_extractor(sources.get("audio"), config, notes, **hub)
        if own_extractor is not None:
            settings.setdefault("feature_extractor", own_extractor)
    processor = paper.processor.from_config(config, **tokenizers, **settings)
    vision = next((sources[part] for part in VISION_PARTS if part in sources), None)
    if getattr(config, "vision_config", None) is not None:
        image_processor = read_image_processor(vision, config.vision_config.image_size, notes, **hub)
        if image_processor is not None:
            processor.image_processor = image_processor
    ending = None if turns is None else end_of_turn(processor.tokenizer, turns)
    if ending is not None:
        processor.tokenizer.eos_token = ending
    set_special_tokens(model, processor, endings_of(sources[tokenizer_part], **hub))
    return model, processor


def read_tokenizer(source: str, **options):
    """The tokenizer of a published checkpoint.

    Raises:
        PartsError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise PartsError(f"{source!r} has no tokenizer that can be read: {first_line(error)}") from error


def read_image_processor(source: str | None, size: int, notes: list[str], **hub) -> EmotionImageProcessor | None:
    """A vision tower's own preprocessing, without the crop that its own processor may make.

    The whole picture is resized, so that a landmark of the frame keeps its place (see `image_processing_emotion.py`).

    Args:
        source: the vision tower's; `None` keeps the paper's preprocessing, as does a source without any.
        size: pixels of the side of a picture, as the assembled tower takes it.
        notes: of the report; what was read, or not, is appended.
    """
    image_processor = None
    if source is not None and has_preprocessing(source, **hub):
        try:
            image_processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False, **hub)
        except (OSError, ValueError) as error:
            raise PartsError(f"the preprocessing of {source!r} cannot be read: {first_line(error)}") from error
    if image_processor is None:
        notes.append(f"{source or 'no vision part'} has no preprocessor_config.json: pixels are the paper's")
        return None
    names = ("resample", "rescale_factor", "do_rescale", "do_normalize", "image_mean", "image_std")
    notes.append(f"pixels are prepared as {source!r} says, the whole picture resized to {size} x {size}")
    if getattr(image_processor, "do_center_crop", False):
        notes.append(f"{source!r} crops the middle of a picture; nothing is cropped here, so faces keep their place")
    return EmotionImageProcessor(
        size={"height": size, "width": size},
        **{name: getattr(image_processor, name) for name in names if getattr(image_processor, name, None) is not None},
    )


def read_feature_extractor(source: str | None, config, notes: list[str], **hub):
    """An audio tower's own feature extractor; `None` where the source has none, so that the paper's usual one serves.

    Raises:
        PartsError: it makes another spectrum than the tower reads.
    """
    tower = config.audio_config
    usual = whole_sound_extractor(tower)
    if source is None or not has_preprocessing(source, **hub):
        notes.append(f"{source or 'no audio part'} has no preprocessor_config.json: sound is prepared as usual for it")
        return None
    try:
        extractor = AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False, **hub)
    except (OSError, ValueError) as error:
        raise PartsError(f"the preprocessing of {source!r} cannot be read: {first_line(error)}") from error
    if type(extractor) is not type(usual):
        raise PartsError(
            f"{source!r} prepares sound by a {type(extractor).__name__}; accepted for a tower of type "
            f"{tower.model_type!r} is a {type(usual).__name__}"
        )
    if tower.model_type == "whisper":
        sizes, needed = (
            (extractor.feature_size, extractor.nb_max_frames),
            (tower.num_mel_bins, 2 * tower.max_source_positions),
        )
        if sizes != needed:
            raise PartsError(
                f"{source!r} prepares sound as {sizes[0]} mel bands x {sizes[1]} frames; its tower reads "
                f"{needed[0]} x {needed[1]}"
            )
    # The model must know where a sound ends.
    extractor.return_attention_mask = True
    notes.append(f"sound is prepared as {source!r} says")
    return extractor


def has_preprocessing(source: str, **hub) -> bool:
    files = ("preprocessor_config.json", "processor_config.json")
    return any(find_file(source, name, **hub) is not None for name in files)


def endings_of(source: str, **hub) -> list[int]:
    """Ids at which a published language model stops, by its `generation_config.json`."""
    if find_file(source, "generation_config.json", **hub) is None:
        return []
    ending = GenerationConfig.from_pretrained(source, **hub).eos_token_id
    return ending if isinstance(ending, list) else [] if ending is None else [ending]


def first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
