"""What users of transformers try, one check each: it returns `None` where it works, else the sentence that the user
reads. Any other outcome is an error of the check.

Nothing here imports `hf_emotion` but the checks of rows marked `package`: the others also run where it cannot be
imported, on a model's folder alone (`benchmarks/compatibility.py`).
"""

import copy
import importlib.util
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Thread

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TextIteratorStreamer,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

QUESTION = "How does she feel?"
ANSWERS = ("Sad.", "Happy: she smiles.")
SEARCH = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
LORA = {"r": 4, "target_modules": r"model\.language_model\..*\.(q_proj|v_proj)", "task_type": "CAUSAL_LM"}


@dataclass
class Cell:
    """One model, loaded from its folder, and a clip for it.

    Args:
        folder: of a model and its processor.
        clip: a short video with sound.
        work: a folder for what checks write.
        remote: run the folder's own code (`trust_remote_code`), where the package cannot be imported.
    """

    folder: Path
    clip: Path
    work: Path
    remote: bool = False
    made: dict = field(default_factory=dict)

    def load(self, auto=AutoModelForMultimodalLM, **options):
        return auto.from_pretrained(self.folder, trust_remote_code=self.remote, **options).eval()

    @cached_property
    def loaded(self):
        """The shared model, which checks must leave as it is."""
        return self.load()

    def model(self):
        """A model to change."""
        return copy.deepcopy(self.loaded)

    @cached_property
    def processor(self):
        return AutoProcessor.from_pretrained(self.folder, trust_remote_code=self.remote)

    def pipe(self, **options):
        return pipeline(
            "emotion-recognition", model=str(self.folder), trust_remote_code=self.remote, device=-1, **options
        )

    @cached_property
    def clips(self):
        """A clip with picture and sound and a subtitle, and a shorter one without sound."""
        frames = torch.randint(0, 255, (3, 48, 64, 3), generator=torch.Generator().manual_seed(0))
        return str(self.clip), {"frames": frames.to(torch.uint8).numpy(), "fps": 4}

    @cached_property
    def batch(self):
        utterances = [[(0.1, 0.9, "well, yes")], None]
        return dict(
            self.processor(videos=list(self.clips), utterances=utterances, text=[QUESTION] * 2, return_tensors="pt")
        )

    @cached_property
    def logits(self):
        return self.logits_of(self.loaded)

    @torch.no_grad()
    def logits_of(self, model):
        """Logits (n, vocabulary) at the places of the batch that are no padding."""
        model.eval()
        return model(**self.batch).logits[self.batch["attention_mask"].bool()].float()

    @cached_property
    def answer(self):
        return self.loaded.generate(**self.batch, **SEARCH)

    @property
    def new_tokens(self):
        return self.answer[:, self.batch["input_ids"].shape[1] :]

    def messages(self, answer=None, source=None):
        source = {"type": "video", "path": str(self.clip)} if source is None else source
        turns = [{"role": "user", "content": [source, {"type": "text", "text": QUESTION}]}]
        return (
            turns if answer is None else [*turns, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        )

    def encode(self, messages, **options):
        return dict(
            self.processor.apply_chat_template(
                messages, tokenize=True, return_dict=True, return_tensors="pt", **options
            )
        )

    @cached_property
    def samples(self):
        """Two encoded rows, as `Trainer` reads them from a list."""
        samples = []
        for answer in ANSWERS:
            sample = self.encode(self.messages(answer), return_assistant_tokens_mask=True)
            mask = torch.as_tensor(sample.pop("assistant_masks")).bool()
            sample["labels"] = sample["input_ids"].masked_fill(~mask, -100)
            samples.append({name: tensor[0] for name, tensor in sample.items()})
        return samples

    def collate(self, samples):
        return self.processor.pad(samples)

    def rows(self, **columns):
        """A `datasets.Dataset` of conversations, as trl reads it."""
        from datasets import Dataset

        parts = [{"type": "video", "path": str(self.clip), "text": None}]
        parts += [{"type": "text", "text": QUESTION, "path": None}]
        question = {"role": "user", "content": parts}
        return Dataset.from_list(
            [
                {
                    "messages": [
                        question,
                        {"role": "assistant", "content": [{"type": "text", "text": a, "path": None}]},
                    ],
                    **columns,
                }
                for a in ANSWERS
            ]
        )

    def arguments(self, kind=TrainingArguments, **options):
        options = {
            "max_steps": 1,
            "per_device_train_batch_size": 2,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_steps": 1,
            "learning_rate": 1e-3,
            **options,
        }
        return kind(output_dir=str(self.work / "trainer"), **options)

    def train(self, model=None, data=None, collate=None, **options):
        model = self.model().freeze() if model is None else model
        trainer = Trainer(
            model, self.arguments(**options), train_dataset=data or self.samples, data_collator=collate or self.collate
        )
        trainer.train()
        return trainer

    @cached_property
    def adapters(self):
        """Folders of two adapters with parts trained whole beside LoRA, and the logits of each."""
        trained = [name for name, _ in self.loaded.model.named_children() if name not in self.loaded.frozen_parts]
        whole = [name for name in trained if name != "language_model"][-1:]
        found = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = get_peft_model(self.model(), LoraConfig(**LORA, modules_to_save=whole, init_lora_weights=False))
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "modules_to_save" in name:
                        parameter.add_(0.05 * torch.randn_like(parameter))
            model.save_pretrained(self.work / f"adapter_{seed}")
            found.append((self.work / f"adapter_{seed}", self.logits_of(model)))
        return found


def close(found, expected, tolerance=1e-4):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def differ(found, expected):
    assert (found - expected).abs().max() > 1e-3 * expected.abs().max(), "nothing changed"


def refused(call: Callable, *kinds: type) -> str:
    """The sentence of the error that `call` must raise."""
    try:
        call()
    except kinds as error:
        return " ".join(str(error).split())
    raise AssertionError("nothing was refused")


# Load and save


def auto_classes(cell):
    for auto in (AutoModel, AutoModelForMultimodalLM, AutoModelForImageTextToText, AutoModelForCausalLM):
        model = cell.load(auto)
        assert type(model).__name__ == type(cell.loaded).__name__
        assert model.can_generate()


def auto_config_and_tokenizer(cell):
    config = AutoConfig.from_pretrained(cell.folder, trust_remote_code=cell.remote)
    tokenizer = AutoTokenizer.from_pretrained(cell.folder, trust_remote_code=cell.remote)
    assert tokenizer.convert_tokens_to_ids(cell.processor.video_token) == config.video_token_id


def in_bfloat16(cell):
    model = cell.load(dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    found = cell.logits_of(model)
    assert torch.nn.functional.cosine_similarity(found.flatten(), cell.logits.flatten(), dim=0) > 0.99


def device_map(cell):
    model = cell.load(device_map="auto")
    close(cell.logits_of(model), cell.logits, 0.01)


def in_shards(cell):
    cell.loaded.save_pretrained(cell.work / "shards", max_shard_size="1MB")
    assert len(list((cell.work / "shards").glob("model-*.safetensors"))) > 1
    model = AutoModelForMultimodalLM.from_pretrained(cell.work / "shards", trust_remote_code=cell.remote)
    close(cell.logits_of(model), cell.logits, 0.01)


def attention(name):
    def check(cell):
        model = cell.load(attn_implementation=name)
        assert model.config.text_config._attn_implementation == name
        close(cell.logits_of(model), cell.logits, 0.01)

    return check


def flex_attention(cell):
    # Its kernels are compiled for minutes on a CPU; masks and scaling are the same without.
    with torch.compiler.set_stance("force_eager"):
        try:
            attention("flex_attention")(cell)
        except ValueError as error:
            if "does not support an attention implementation through torch's flex_attention" not in str(error):
                raise
            return str(error).split(".")[0]
    return None


def flash_attention(cell):
    return refused(lambda: cell.load(attn_implementation="flash_attention_2"), ImportError, ValueError)


def similar_when_quantised(cell, config, at_least):
    model = cell.load(quantization_config=config)
    found = cell.logits_of(model)
    assert found.isfinite().all()
    similarity = float(torch.nn.functional.cosine_similarity(found.flatten(), cell.logits.flatten(), dim=0))
    assert similarity > at_least, similarity
    # The media's tokens by themselves: a projector in the wrong dtype shows here first.
    with torch.no_grad():
        media = [m.encode_media(**cell.batch) for m in (cell.loaded, model)]
    for name in ("video", "audio", "face"):
        plain, quantised = (getattr(tokens, name) for tokens in media)
        if plain is not None:
            plain, quantised = (torch.cat(list(tokens)).float().flatten() for tokens in (plain, quantised))
            assert torch.nn.functional.cosine_similarity(plain, quantised, dim=0) > at_least, name
    assert model.generate(**cell.batch, **SEARCH).shape == cell.answer.shape


def bitsandbytes_8_bit(cell):
    from transformers import BitsAndBytesConfig

    similar_when_quantised(cell, BitsAndBytesConfig(load_in_8bit=True), 0.9)


def bitsandbytes_4_bit(cell):
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    try:
        similar_when_quantised(cell, config, 0.8)
    except (RuntimeError, AssertionError) as error:
        # The second is of its kernel for CPUs, whose blocks are of rows.
        packed = "is invalid for input of size" in str(error) or "N must be divisible by block_n" in str(error)
        if not packed or all(
            module.in_features % 64 == 0 and module.out_features % 64 == 0
            for module in cell.loaded.modules()
            if isinstance(module, torch.nn.Linear)
        ):
            raise
        return f"bitsandbytes packs blocks of 64 weights, which some layers of this small model do not fill: {error}"
    return None


def bitsandbytes_skip_by_short_name(cell):
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "audio_projector", "vision_tower"])
    similar_when_quantised(cell, config, 0.9)
    model = cell.load(quantization_config=config)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and re.search("lm_head|audio_projector|vision_tower", name):
            assert type(module) is torch.nn.Linear, name


def torchao_int8(cell):
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    similar_when_quantised(cell, TorchAoConfig(Int8WeightOnlyConfig()), 0.9)


def quanto_int8(cell):
    from transformers import QuantoConfig

    similar_when_quantised(cell, QuantoConfig(weights="int8"), 0.9)


# Generate


def with_and_without_cache(cell):
    assert torch.equal(cell.loaded.generate(**cell.batch, **SEARCH, use_cache=False), cell.answer)


def sampling(cell):
    torch.manual_seed(0)
    found = cell.loaded.generate(
        **cell.batch, max_new_tokens=4, do_sample=True, top_p=0.9, temperature=0.7, num_return_sequences=2
    )
    assert len(found) == 4


def beams(cell):
    found = cell.loaded.generate(**cell.batch, **SEARCH, num_beams=3, num_return_sequences=2)
    assert len(found) == 4
    close(cell.loaded.generate(**cell.batch, **SEARCH, num_beams=1).float(), cell.answer.float())


def static_cache(cell):
    assert torch.equal(cell.loaded.generate(**cell.batch, **SEARCH, cache_implementation="static"), cell.answer)


def offloaded_cache(cell):
    if torch.cuda.is_available():
        model = cell.model().to("cuda")
        batch = {name: tensor.to("cuda") for name, tensor in cell.batch.items()}
        found = model.generate(**batch, **SEARCH, cache_implementation="offloaded")
        assert found.shape == cell.answer.shape
        return None
    return refused(lambda: cell.loaded.generate(**cell.batch, **SEARCH, cache_implementation="offloaded"), Exception)


def prompt_lookup(cell):
    one = cell.encode(cell.messages(), add_generation_prompt=True)
    expected = cell.loaded.generate(**one, **SEARCH)
    assert torch.equal(cell.loaded.generate(**one, **SEARCH, prompt_lookup_num_tokens=2), expected)


def assistant_model(cell):
    one = cell.encode(cell.messages(), add_generation_prompt=True)
    return refused(lambda: cell.loaded.generate(**one, **SEARCH, assistant_model=cell.loaded), ValueError)


def streamer(cell):
    one = cell.encode(cell.messages(), add_generation_prompt=True)
    found = TextIteratorStreamer(cell.processor, skip_prompt=True, skip_special_tokens=True)
    thread = Thread(target=cell.loaded.generate, kwargs={**one, **SEARCH, "streamer": found})
    thread.start()
    text = "".join(found)
    thread.join()
    new = cell.loaded.generate(**one, **SEARCH)[0, one["input_ids"].shape[1] :]
    assert text == cell.processor.decode(new, skip_special_tokens=True)


def stop_strings(cell):
    one = cell.encode(cell.messages(), add_generation_prompt=True)
    length = one["input_ids"].shape[1]
    written = cell.loaded.generate(**one, **SEARCH)[0, length:]
    first = cell.processor.tokenizer.decode(written[:1]).strip()
    found = cell.loaded.generate(**one, max_new_tokens=6, stop_strings=[first], tokenizer=cell.processor.tokenizer)
    assert found.shape[1] == length + 1


def batched_like_single(cell):
    for row, clip in enumerate(cell.clips):
        spoken = [[(0.1, 0.9, "well, yes")], None][row]
        alone = dict(cell.processor(videos=[clip], utterances=[spoken], text=[QUESTION], return_tensors="pt"))
        assert torch.equal(cell.loaded.generate(**alone, **SEARCH)[0, -6:], cell.new_tokens[row])


def one_clip_many_questions(cell):
    media = cell.loaded.encode_media(**cell.batch)
    text = {name: cell.batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(cell.loaded.generate(**text, media=media, **SEARCH), cell.answer)


def scores_and_states(cell):
    found = cell.loaded.generate(
        **cell.batch, **SEARCH, return_dict_in_generate=True, output_scores=True, output_hidden_states=True
    )
    assert torch.equal(found.sequences, cell.answer)
    assert len(found.scores) == len(found.hidden_states) == 6


# Compile and export


def compiled(cell):
    # The default backend compiles for minutes on a CPU; the graphs are captured and differentiated alike.
    model = torch.compile(cell.model(), backend="aot_eager")
    close(cell.logits_of(model), cell.logits, 0.01)


def compiled_language_model(cell):
    torch.compiler.reset()  # the models checked before count towards the limit of recompilations
    model = cell.model()
    model.model.language_model.compile(fullgraph=True, backend="aot_eager")
    close(cell.logits_of(model), cell.logits, 0.01)
    assert torch.equal(model.generate(**cell.batch, **SEARCH), cell.answer)


def calls_of(model, batch):
    """Each part of the model but the language model, with the arguments of its first call on the batch."""
    calls, hooks = {}, []
    for name, part in model.model.named_children():
        if name != "language_model":

            def keep(module, args, kwargs, name=name):
                calls.setdefault(name, (module, args, kwargs))

            hooks.append(part.register_forward_pre_hook(keep, with_kwargs=True))
    with torch.no_grad():
        model(**batch)
    for hook in hooks:
        hook.remove()
    return calls


def tensors_in(value):
    leaves, _ = torch.utils._pytree.tree_flatten(value)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def exported(pattern):
    def check(cell):
        model = cell.model()
        calls = {name: call for name, call in calls_of(model, cell.batch).items() if re.search(pattern, name)}
        by_data = []
        if not calls:
            return "this model has no such part"
        for name, (module, args, kwargs) in calls.items():
            with torch.no_grad():
                try:
                    program = torch.export.export(module, args, kwargs, strict=False)
                except torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode:
                    if type(module).__name__ != "UtteranceQFormer":
                        raise
                    by_data.append(name)
                    continue
                found, expected = tensors_in(program.module()(*args, **kwargs)), tensors_in(module(*args, **kwargs))
            assert len(found) == len(expected), name
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(
                    one, other, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
                )
        if by_data:
            return (
                f"works, but for {' and '.join(by_data)}: how many windows a clip has depends on its utterances, and "
                f"torch.export takes no sizes that depend on data"
            )
        return None

    return check


# Processor


def messages_with_a_path(cell):
    found = cell.encode(cell.messages(), add_generation_prompt=True)
    expected = cell.processor(videos=[str(cell.clip)], text=[QUESTION], return_tensors="pt")
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def messages_with_a_picture(cell):
    from PIL import Image

    picture = {"type": "image", "image": Image.fromarray(cell.clips[1]["frames"][0])}
    batch = cell.encode(cell.messages(source=picture), add_generation_prompt=True)
    assert int((batch["input_ids"] == cell.loaded.config.video_token_id).sum()) > 0
    assert cell.loaded.generate(**batch, **SEARCH).shape[1] == batch["input_ids"].shape[1] + 6


def messages_with_sound_alone(cell):
    batch = cell.encode(cell.messages(source={"type": "audio", "path": str(cell.clip)}), add_generation_prompt=True)
    assert cell.loaded.generate(**batch, **SEARCH).shape[1] == batch["input_ids"].shape[1] + 6


def several_turns(cell):
    messages = [*cell.messages(ANSWERS[0]), {"role": "user", "content": "Why?"}]
    batch = cell.encode(messages, add_generation_prompt=True)
    assert ANSWERS[0].strip(".").lower() in cell.processor.decode(batch["input_ids"][0]).lower()
    assert cell.loaded.generate(**batch, **SEARCH).shape[1] == batch["input_ids"].shape[1] + 6


def a_batch_of_conversations(cell):
    batch = cell.encode([cell.messages(), cell.messages()], add_generation_prompt=True)
    assert len(cell.loaded.generate(**batch, **SEARCH)) == 2


def two_clips(cell):
    part = cell.messages()[0]["content"][0]
    messages = [{"role": "user", "content": [part, part, {"type": "text", "text": QUESTION}]}]
    return refused(lambda: cell.encode(messages), ValueError)


def a_part_of_unknown_type(cell):
    messages = cell.messages(source={"type": "point_cloud", "path": "a.ply"})
    return refused(lambda: cell.encode(messages), ValueError)


def saved_processor(cell):
    cell.processor.save_pretrained(cell.work / "processor")
    again = AutoProcessor.from_pretrained(cell.work / "processor", trust_remote_code=cell.remote)
    found = again(videos=[str(cell.clip)], text=[QUESTION], return_tensors="pt")
    for name, tensor in cell.processor(videos=[str(cell.clip)], text=[QUESTION], return_tensors="pt").items():
        assert torch.equal(found[name], tensor), name


# Pipeline


def emotion_pipeline(cell):
    pipe = cell.pipe(batch_size=2)
    found = list(pipe((str(cell.clip) for _ in range(3)), max_new_tokens=4))
    rows = [{"video": str(cell.clip)}] * 3
    assert [row["description"] for row in pipe(KeyDataset(rows, "video"), max_new_tokens=4)] == [
        row["description"] for row in found
    ]


def pipeline_dtype(cell):
    pipe = pipeline(
        "emotion-recognition",
        model=str(cell.folder),
        trust_remote_code=cell.remote,
        dtype=torch.bfloat16,
        device_map="cpu",
    )
    assert pipe.model.dtype == torch.bfloat16
    assert "description" in pipe(str(cell.clip), max_new_tokens=4)


def closed_set(cell):
    labels = cell.pipe()(str(cell.clip), candidate_labels=["happy", "sad"], max_new_tokens=1)["labels"]
    assert abs(sum(label["score"] for label in labels) - 1) < 1e-4


def url_without_consent(cell):
    return refused(lambda: cell.pipe()("http://127.0.0.1:9/clip.mp4"), ValueError)


def other_task(task):
    def check(cell):
        if task == "any-to-any" and importlib.util.find_spec("torchvision") is None:
            return refused(lambda: pipeline(task, model=str(cell.folder), trust_remote_code=cell.remote), ImportError)
        pipe = pipeline(task, model=str(cell.folder), trust_remote_code=cell.remote, device=-1)
        [found] = pipe(text=cell.messages(), max_new_tokens=4, return_full_text=False)
        assert isinstance(found["generated_text"], str)
        return None

    return check


# Trainer


def trainer(cell):
    cell.train()


def trainer_with_evaluation(cell):
    trainer = Trainer(
        cell.model().freeze(),
        cell.arguments(
            eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True
        ),
        train_dataset=cell.samples,
        eval_dataset=cell.samples,
        data_collator=cell.collate,
    )
    trainer.train()
    assert any("eval_loss" in entry for entry in trainer.state.log_history)


def collator_of_rows(cell):
    from hf_emotion.training.collator import EmotionCollator

    rows = [{"video": str(cell.clip), "question": QUESTION, "answer": answer} for answer in ANSWERS]
    cell.train(data=rows, collate=EmotionCollator(cell.processor), remove_unused_columns=False)


def forgotten_option(cell):
    from hf_emotion.training.collator import EmotionCollator

    rows = [{"video": str(cell.clip), "question": QUESTION, "answer": answer} for answer in ANSWERS]
    return refused(lambda: cell.train(data=rows, collate=EmotionCollator(cell.processor)), ValueError)


def losses(trainer):
    return torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    return model


def gradient_checkpointing(cell):
    plain, saving = (
        losses(cell.train(without_dropout(cell.model().freeze()), gradient_checkpointing=option))
        for option in (False, True)
    )
    close(saving, plain, 1e-3)


def gradient_accumulation(cell):
    plain = losses(cell.train(without_dropout(cell.model().freeze()), max_steps=1))
    in_two = losses(
        cell.train(
            without_dropout(cell.model().freeze()),
            max_steps=1,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
        )
    )
    close(in_two, plain, 0.2)


def mixed_precision(cell):
    close(losses(cell.train(bf16=True, max_steps=1)), losses(cell.train(max_steps=1)), 0.2)


def auto_find_batch_size(cell):
    forward = type(cell.loaded).forward
    model = cell.model().freeze()
    sizes = []

    def short_of_memory(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 1:
            raise RuntimeError("CUDA out of memory.")
        return forward(model, *args, **kwargs)

    model.forward = short_of_memory
    short_of_memory.__signature__ = inspect.signature(forward)
    trainer = cell.train(model, auto_find_batch_size=True, remove_unused_columns=False)
    assert trainer.state.train_batch_size == 1
    assert sizes[0] == 2


def grouped_by_length(cell):
    cell.train(train_sampling_strategy="group_by_length")


def resumed(cell):
    weights = []
    for steps in (None, 1):
        options = {"max_steps": 2, "per_device_train_batch_size": 1, "save_strategy": "steps", "save_steps": 1}
        run = Trainer(
            without_dropout(cell.model().freeze()),
            cell.arguments(**options),
            train_dataset=cell.samples,
            data_collator=cell.collate,
        )
        run.train(resume_from_checkpoint=str(cell.work / "trainer" / "checkpoint-1") if steps else None)
        weights.append({name: tensor.clone() for name, tensor in run.model.state_dict().items()})
    assert run.state.global_step == 2
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def reported_to_tensorboard(cell):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return refused(lambda: cell.train(report_to="tensorboard"), RuntimeError)
    cell.train(report_to="tensorboard")
    return None


def predict_with_generate(cell):
    arguments = cell.arguments(
        Seq2SeqTrainingArguments, predict_with_generate=True, generation_max_length=None, per_device_eval_batch_size=2
    )
    trainer = Seq2SeqTrainer(
        cell.model(),
        arguments,
        eval_dataset=cell.samples,
        data_collator=cell.collate,
        processing_class=cell.processor.tokenizer,
    )
    found = trainer.predict(cell.samples, max_new_tokens=6, min_new_tokens=6, do_sample=False).predictions
    prompts = cell.encode([cell.messages(), cell.messages()], add_generation_prompt=True)
    length = prompts["input_ids"].shape[1]
    expected = cell.loaded.generate(**prompts, **SEARCH)[:, length:]
    if torch.equal(torch.as_tensor(found)[:, :6], expected):
        return None
    assert not cell.processor.tokenizer.decode(prompts["input_ids"][0, -1:]).strip()
    prompts |= {name: prompts[name][:, :-1] for name in ("input_ids", "attention_mask")}
    expected = cell.loaded.generate(**prompts, **SEARCH)[:, length - 1 :]
    assert torch.equal(torch.as_tensor(found)[:, :6], expected)
    return "works; the space at the end of the prompt is left to the answer, to whose first word the tokenizer joins it"


def noisy_embeddings(cell):
    cell.train(neftune_noise_alpha=5.0)


# PEFT


def lora(cell):
    model = get_peft_model(cell.model(), LoraConfig(**LORA))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    cell.train(model, learning_rate=1e-2)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora_" in name and ".language_model." in name for name in moved)
    model.save_pretrained(cell.work / "lora")
    again = PeftModel.from_pretrained(cell.model(), cell.work / "lora")
    close(cell.logits_of(again), cell.logits_of(model))


def dora(cell):
    model = get_peft_model(cell.model(), LoraConfig(**LORA, use_dora=True))
    cell.train(model, learning_rate=1e-2)
    differ(cell.logits_of(model), cell.logits)
    model.save_pretrained(cell.work / "dora")
    close(cell.logits_of(PeftModel.from_pretrained(cell.model(), cell.work / "dora")), cell.logits_of(model))


def modules_to_save(cell):
    folder, expected = cell.adapters[0]
    differ(expected, cell.logits)
    close(cell.logits_of(PeftModel.from_pretrained(cell.model(), folder)), expected)


def adapter_by_load_adapter(cell):
    folder, expected = cell.adapters[0]
    model = cell.model()
    model.load_adapter(str(folder))
    close(cell.logits_of(model), expected)


def merged(cell):
    folder, expected = cell.adapters[0]
    model = PeftModel.from_pretrained(cell.model(), folder).merge_and_unload()
    assert not any("lora_" in name for name, _ in model.named_parameters())
    close(cell.logits_of(model), expected, 1e-3)
    model.save_pretrained(cell.work / "merged")
    again = AutoModelForMultimodalLM.from_pretrained(cell.work / "merged", trust_remote_code=cell.remote)
    close(cell.logits_of(again), expected, 0.01)


def switched(cell):
    (one, first), (two, second) = cell.adapters
    model = PeftModel.from_pretrained(cell.model(), one, adapter_name="one")
    model.load_adapter(two, adapter_name="two")
    for name, expected in (("two", second), ("one", first), ("two", second)):
        model.set_adapter(name)
        close(cell.logits_of(model), expected)
    with model.disable_adapter():
        close(cell.logits_of(model), cell.logits)


def weighted(cell):
    torch.manual_seed(0)
    model = get_peft_model(cell.model(), LoraConfig(**LORA, init_lora_weights=False), adapter_name="one")
    model.add_adapter("two", LoraConfig(**LORA, init_lora_weights=False))
    model.add_weighted_adapter(["one", "two"], [0.5, 0.5], "both", combination_type="linear")
    model.set_adapter("both")
    differ(cell.logits_of(model), cell.logits)


def hot_swapped_in_the_pipeline(cell):
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = get_peft_model(cell.model(), LoraConfig(**LORA, init_lora_weights=False))
        model.save_pretrained(cell.work / f"swap_{seed}")
        folders.append(cell.work / f"swap_{seed}")
    pipe = cell.pipe()
    pipe.model = PeftModel.from_pretrained(pipe.model, folders[0])

    def score(pipe):
        labels = ["happy", "sad"]
        found = pipe(str(cell.clip), candidate_labels=labels, max_new_tokens=1, per_utterance=False)["labels"]
        return next(label["score"] for label in found if label["label"] == "happy")

    first = score(pipe)
    hotswap_adapter(pipe.model, folders[1], adapter_name="default")
    second = score(pipe)
    plain = cell.pipe()
    plain.model.load_adapter(str(folders[1]))
    assert abs(second - score(plain)) < 1e-5
    assert abs(first - second) > 1e-5


def adapter_all_linear(cell):
    model = get_peft_model(cell.model(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    cell.train(model, max_steps=1)


# trl


def sft_trainer(cell, **columns):
    from trl import SFTConfig, SFTTrainer

    options = {"max_length": None, "assistant_only_loss": True, "bf16": False, "gradient_checkpointing": False}
    return SFTTrainer(
        without_dropout(cell.model()).freeze(),
        cell.arguments(SFTConfig, **options),
        train_dataset=cell.rows(**columns),
        processing_class=cell.processor,
    )


def sft_without_our_collator(cell):
    trainer = sft_trainer(cell, images=[])
    [batch] = list(trainer.get_train_dataloader())
    output = trainer.model.eval()(**batch)
    expected = (output.loss_terms["emotion"] if output.get("loss_terms") else output.loss).item()
    trainer.model.train()
    trainer.train()
    found = losses(trainer)[0].item()
    assert abs(found - expected) < 2e-3 * expected, (found, expected)
    if output.get("loss_terms"):
        return "works; trl makes the loss of the answer alone, so the model's other loss terms are not trained"
    return None


def sft_without_images(cell):
    return refused(lambda: sft_trainer(cell).train(), ValueError)


def dpo(cell):
    from trl import DPOConfig, DPOTrainer

    from hf_emotion.training.collator import EmotionCollator

    rows = cell.rows(images=[]).to_list()
    data = [
        {
            "prompt": row["messages"][:1],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "Happy: she smiles."}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A car."}]}],
            "images": [],
        }
        for row in rows
    ]
    from datasets import Dataset

    options = {
        "max_length": None,
        "bf16": False,
        "gradient_checkpointing": False,
        "learning_rate": 1e-2,
        "max_steps": 3,
    }
    torch.manual_seed(0)
    trainer = DPOTrainer(
        get_peft_model(without_dropout(cell.model()), LoraConfig(**LORA)),
        args=cell.arguments(DPOConfig, **options),
        train_dataset=Dataset.from_list(data),
        processing_class=cell.processor,
        data_collator=EmotionCollator(cell.processor),
    )
    trainer.train()
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert abs(history[0] - 0.6931) < 1e-2, history
    assert history[-1] < history[0], history


def grpo(cell):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model = cell.model().freeze()
    # trl keeps the token of pictures from being generated, and reads its id here.
    model.config.image_token_id = model.config.video_token_id
    trainer = GRPOTrainer(
        model,
        reward_funcs=lambda completions, **columns: [float(len(str(text))) for text in completions],
        args=cell.arguments(
            GRPOConfig, num_generations=2, max_completion_length=4, bf16=False, gradient_checkpointing=False
        ),
        train_dataset=Dataset.from_list([{"prompt": row["messages"][:1]} for row in cell.rows().to_list()]),
        processing_class=cell.processor,
    )
    return refused(trainer.train, ValueError)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        group, name: as printed.
        check: see the head of this file.
        fast: it runs in `make test`.
        package: it needs `hf_emotion`; the others are checked where that cannot be imported.
    """

    group: str
    name: str
    check: Callable[[Cell], str | None]
    fast: bool = False
    package: bool = False


ROWS = [
    Row("Load and save", "`AutoModel`, `AutoModelForMultimodalLM`, `...ImageTextToText`, `...CausalLM`", auto_classes),
    Row("Load and save", "`AutoConfig`, `AutoTokenizer`", auto_config_and_tokenizer),
    Row("Load and save", '`dtype="bfloat16"`', in_bfloat16),
    Row("Load and save", '`device_map="auto"`', device_map),
    Row("Load and save", "`max_shard_size`", in_shards),
    Row("Load and save", '`attn_implementation="eager"`', attention("eager")),
    Row("Load and save", '`attn_implementation="sdpa"`', attention("sdpa")),
    Row("Load and save", '`attn_implementation="flex_attention"`', flex_attention),
    Row("Load and save", '`attn_implementation="flash_attention_2"`, on a CPU', flash_attention),
    Row("Load and save", "bitsandbytes, 8 bit, default settings", bitsandbytes_8_bit),
    Row("Load and save", "bitsandbytes, 4 bit (nf4), default settings", bitsandbytes_4_bit),
    Row("Load and save", "`llm_int8_skip_modules` by short name", bitsandbytes_skip_by_short_name),
    Row("Load and save", "torchao, int8 weights", torchao_int8),
    Row("Load and save", "quanto, int8 weights", quanto_int8),
    Row("Generate", "`use_cache=False` gives the same answer", with_and_without_cache),
    Row("Generate", "sampling, `num_return_sequences`", sampling),
    Row("Generate", "beams", beams),
    Row("Generate", '`cache_implementation="static"`', static_cache),
    Row("Generate", '`cache_implementation="offloaded"`, on a CPU', offloaded_cache),
    Row("Generate", "`prompt_lookup_num_tokens`", prompt_lookup, fast=True),
    Row("Generate", "`assistant_model=`", assistant_model),
    Row("Generate", "`TextIteratorStreamer`", streamer),
    Row("Generate", "`stop_strings`", stop_strings),
    Row("Generate", "a padded batch answers like each clip alone", batched_like_single),
    Row("Generate", "`encode_media` once, `generate(media=)`", one_clip_many_questions),
    Row("Generate", "`output_scores`, `output_hidden_states`", scores_and_states),
    Row("Processor", "messages with the path of a clip", messages_with_a_path, fast=True),
    Row("Processor", "messages with a picture", messages_with_a_picture, fast=True),
    Row("Processor", "messages with sound alone", messages_with_sound_alone),
    Row("Processor", "several turns", several_turns),
    Row("Processor", "a batch of conversations", a_batch_of_conversations),
    Row("Processor", "two clips in one conversation", two_clips, fast=True),
    Row("Processor", "a message part of an unknown type", a_part_of_unknown_type, fast=True),
    Row("Processor", "`save_pretrained`, `from_pretrained`", saved_processor),
    Row("Pipeline", '`pipeline("emotion-recognition")`: generator, `KeyDataset`, `batch_size`', emotion_pipeline),
    Row("Pipeline", "`dtype`, `device_map`", pipeline_dtype),
    Row("Pipeline", "`candidate_labels`", closed_set),
    Row("Pipeline", "an http URL without `allow_urls=True`", url_without_consent),
    Row("Pipeline", '`pipeline("image-text-to-text")`', other_task("image-text-to-text")),
    Row("Pipeline", '`pipeline("any-to-any")`', other_task("any-to-any")),
    Row("Trainer", "encoded samples, the processor's `pad` as collator", trainer),
    Row("Trainer", "rows, `EmotionCollator`, `remove_unused_columns=False`", collator_of_rows, package=True),
    Row("Trainer", "the same without `remove_unused_columns=False`", forgotten_option, fast=True, package=True),
    Row("Trainer", "evaluation, `load_best_model_at_end`", trainer_with_evaluation),
    Row("Trainer", "`Seq2SeqTrainer`, `predict_with_generate`", predict_with_generate, fast=True),
    Row("Trainer", "`gradient_checkpointing`: equal losses", gradient_checkpointing),
    Row("Trainer", "`gradient_accumulation_steps`", gradient_accumulation),
    Row("Trainer", "`bf16`", mixed_precision),
    Row("Trainer", "`auto_find_batch_size`", auto_find_batch_size),
    Row("Trainer", '`train_sampling_strategy="group_by_length"`', grouped_by_length),
    Row("Trainer", "`resume_from_checkpoint`: equal weights", resumed),
    Row("Trainer", '`report_to="tensorboard"`', reported_to_tensorboard),
    Row("Trainer", "`neftune_noise_alpha`", noisy_embeddings),
    Row("PEFT", "LoRA: train, save, load", lora),
    Row("PEFT", "DoRA: train, save, load", dora),
    Row("PEFT", "`modules_to_save`", modules_to_save),
    Row("PEFT", "`model.load_adapter`", adapter_by_load_adapter),
    Row("PEFT", "`merge_and_unload`, saved and loaded", merged),
    Row("PEFT", "several adapters: switch, disable", switched),
    Row("PEFT", "`add_weighted_adapter`", weighted),
    Row("PEFT", "hot swap in the pipeline", hot_swapped_in_the_pipeline),
    Row("PEFT", '`target_modules="all-linear"`', adapter_all_linear),
    Row("trl", "`SFTTrainer`, messages with a clip's path, `images=[]`, no collator of ours", sft_without_our_collator),
    Row("trl", "the same without `images=[]`", sft_without_images),
    Row("trl", "`DPOTrainer`, `EmotionCollator`", dpo, package=True),
    Row("trl", "`GRPOTrainer`", grpo),
    Row("Compile and export", "`torch.compile(model)`", compiled),
    Row("Compile and export", "`language_model.compile(fullgraph=True)`, then `generate`", compiled_language_model),
    Row("Compile and export", "`torch.export` of each tower", exported(r"_tower$")),
    Row("Compile and export", "`torch.export` of Q-Formers and projectors", exported(r"qformer|projector")),
]
