"""Importing the package costs next to nothing, and yet the Auto classes of transformers know its models."""

import json
import subprocess
import sys

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import hf_emotion
from hf_emotion.auto import MAPPINGS, MODEL_TYPES
from hf_emotion.cli import parser
from hf_emotion.papers import PAPERS, build

HEAVY = ("accelerate", "av", "cv2", "datasets", "evaluate", "mediapipe", "numpy", "peft", "torch", "transformers")
SECONDS_TO_IMPORT = ("accelerate", "datasets", "evaluate", "mediapipe", "peft", "torch", "transformers")


def run_python(*lines: str, **values) -> dict:
    """What a fresh process leaves in its variable `found`."""
    program = "\n".join(["import json, sys", *lines, "print(json.dumps(found))"])
    arguments = [sys.executable, "-c", program, *map(str, values.values())]
    child = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout.splitlines()[-1])


def test_importing_the_package_imports_nothing_heavy():
    loaded = run_python("import hf_emotion", "found = sorted(sys.modules)")
    assert [name for name in HEAVY if name in loaded] == []
    assert "hf_emotion.registration" not in loaded


def test_help_and_wrong_arguments_of_every_command_need_neither_torch_nor_transformers():
    loaded = run_python(
        "from hf_emotion.cli import VERBS, main",
        "found = {}",
        "for verb in (None, *VERBS):",
        "    for arguments in (['--help'], ['--no-such-option']):",
        "        try:",
        "            main([verb, *arguments] if verb else arguments)",
        "        except SystemExit:",
        "            pass",
        "    found[verb or ''] = sorted(sys.modules)",
    )
    assert [name for name in HEAVY if name in loaded[""]] == []
    for verb, modules in loaded.items():
        assert [name for name in SECONDS_TO_IMPORT if name in modules] == [], verb


def test_the_summaries_of_all_commands_are_those_of_their_own_parsers():
    def summaries(root):
        [commands] = [action for action in root._actions if action.dest == "command"]
        return {choice.dest: choice.help for choice in commands._choices_actions}

    assert summaries(parser("")) == summaries(parser())


def test_every_public_name_is_found_and_a_wrong_one_is_an_attribute_error():
    assert set(hf_emotion.__all__) <= set(dir(hf_emotion))
    for name in hf_emotion.__all__:
        assert getattr(hf_emotion, name).__name__.removeprefix("hf_emotion.") == name
    with pytest.raises(AttributeError, match="MacroEmo"):
        hf_emotion.MacroEmo  # noqa: B018


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model, processor = build("microemo")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


HERE = "import hf_emotion"
THERE = "import transformers"
FURTHER = "from transformers import AutoModel, AutoProcessor, Trainer"


@pytest.mark.parametrize(
    ("imports", "autos"),
    [
        ([HERE, THERE, FURTHER], ["AutoModel", "AutoModelForCausalLM"]),
        ([THERE, FURTHER, HERE], ["AutoProcessor", "AutoConfig"]),
        ([THERE, HERE, FURTHER], ["AutoImageProcessor", "AutoModelForMultimodalLM"]),
    ],
)
def test_an_auto_class_finds_the_package_whatever_was_imported_first(imports, autos, folder):
    found = run_python(
        *imports,
        "found = ['hf_emotion.registration' in sys.modules]",
        f"for auto in {autos}:",
        "    loaded = getattr(transformers, auto).from_pretrained(sys.argv[1], trust_remote_code=False)",
        "    found.append([type(loaded).__module__.partition('.')[0], type(loaded).__name__])",
        folder=folder,
    )
    names = {
        "AutoConfig": "MicroEmoConfig",
        "AutoProcessor": "MicroEmoProcessor",
        "AutoImageProcessor": "EmotionImageProcessor",
    }
    assert found == [False, *(["hf_emotion", names.get(auto, "MicroEmoForConditionalGeneration")] for auto in autos)]


def test_the_models_of_transformers_are_used_without_importing_ours():
    """transformers looks for its own models while their modules are being imported: ours cannot be imported then."""
    found = run_python(
        "import hf_emotion, transformers",
        "from transformers.models.instructblip import modeling_instructblip",
        "config = transformers.AutoConfig.for_model('gpt2', n_layer=1, n_embd=8, n_head=1, vocab_size=9)",
        "transformers.AutoModelForCausalLM.from_config(config)",
        "found = 'hf_emotion.registration' in sys.modules",
    )
    assert found is False


def test_all_that_is_registered_is_listed_by_the_mappings():
    found = run_python(
        "import hf_emotion",
        "from importlib import import_module",
        "from hf_emotion.auto import MAPPINGS",
        "found = {}",
        "for module, names in MAPPINGS.items():",
        "    for name in names:",
        "        mapping = getattr(import_module(f'transformers.models.auto.{module}'), name)",
        "        keys = [getattr(key, '__name__', key) for key in mapping._extra_content]",
        "        found[name] = sorted(keys)",
    )
    assert sorted(MODEL_TYPES) == sorted([*PAPERS, "face_motion", "facexformer", "imagebind_audio", "voice_prosody"])
    configs = sorted(CONFIG_MAPPING[name].__name__ for name in PAPERS)
    encoders = ["FaceMotionConfig", "FaceXFormerConfig", "ImageBindAudioConfig", "VoiceProsodyConfig"]
    assert found == {
        "CONFIG_MAPPING": sorted(MODEL_TYPES),
        "FEATURE_EXTRACTOR_MAPPING": ["ImageBindAudioConfig", "VoiceProsodyConfig"],
        "IMAGE_PROCESSOR_MAPPING": configs,
        "MODEL_MAPPING": sorted(configs + encoders),
        "MODEL_FOR_MULTIMODAL_LM_MAPPING": configs,
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING": configs,
        "MODEL_FOR_CAUSAL_LM_MAPPING": configs,
        "PROCESSOR_MAPPING": configs,
    }
    assert sorted(name for names in MAPPINGS.values() for name in names) == sorted(found)


def test_what_others_register_is_kept_and_what_comes_later_is_found():
    found = run_python(
        "from transformers import AutoConfig, PreTrainedConfig",
        "from transformers.models.auto.configuration_auto import CONFIG_MAPPING",
        "class Early(PreTrainedConfig): model_type = 'early'",
        "class Late(PreTrainedConfig): model_type = 'late'",
        "AutoConfig.register('early', Early)",
        "import hf_emotion",
        "AutoConfig.register('late', Late)",
        "found = [CONFIG_MAPPING['early'] is Early, CONFIG_MAPPING['late'] is Late, 'never' in CONFIG_MAPPING]",
        "found.append('hf_emotion.registration' in sys.modules)",
    )
    assert found == [True, True, False, False]
