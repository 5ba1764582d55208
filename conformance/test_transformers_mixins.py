"""The tests that transformers runs on its own models, run on ours: `make test-transformers` fetches them and runs this.

They are only in the source distribution of transformers, under `tests/`. Each paper uses the model and the batch of its
contract case (`tests/test_modeling_common.py`). Skipped tests are listed with their reasons.
"""

import importlib.util
import os
import sys
import types
import unittest
from pathlib import Path

SOURCES = Path(os.environ["TRANSFORMERS_SOURCES"]).resolve()
ROOT = Path(__file__).parents[1]


def stand_in(name: str, **names) -> None:
    """A stub for a module that the mixins import and the source distribution does not include."""
    sys.modules[name] = module = types.ModuleType(name)
    module.__dict__.update(names)


stand_in("tests.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
stand_in("tests.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
stand_in("tests.exporters")
stand_in("tests.generation")
sys.path.insert(0, str(SOURCES))

from tests.test_modeling_common import ModelTesterMixin  # noqa: E402

specification = importlib.util.spec_from_file_location("contract", ROOT / "tests" / "test_modeling_common.py")
contract = importlib.util.module_from_spec(specification)
specification.loader.exec_module(contract)

SKIPPED = {
    "test_eager_matches_sdpa_inference": "it leaves the media out of a prompt that contains their placeholders; "
    "the contract compares eager and sdpa on whole batches",
    "test_generation_tester_mixin_inheritance": "GenerationTesterMixin is not in the source distribution",
    "test_get_audio_features_output": "one row for each real chunk of the batch, not for each clip",
    "test_get_video_features_output": "one row for each real frame of the batch, not for each clip",
    "test_model_is_small": "the tiny sizes are those that users get; somewhat above the million allowed there",
    "test_model_outputs_equivalence": "it subtracts outputs, and `modalities` is bool",
}


class CaseTester:
    """What the mixins ask of a model's tester, from a case of our contract."""

    batch_size = 2
    is_training = True

    def __init__(self, case):
        self.case = case
        config = case.config()
        self.seq_length = case.batch(config)["input_ids"].shape[1]
        self.hidden_size = config.text_config.hidden_size
        self.num_hidden_layers = config.text_config.num_hidden_layers
        self.num_attention_heads = config.text_config.num_attention_heads

    def prepare_config_and_inputs_for_common(self):
        # Placeholders inside the vocabulary, where the mixins' resizing and clamping of ids leave them alone.
        names = self.case.model_class.media_names
        config = self.case.config(**{f"{name}_token_id": place for place, name in enumerate(names, 1)})
        return config, self.case.batch(config)


class CaseTests(ModelTesterMixin):
    case = None
    _is_composite = True

    def setUp(self):
        self.all_model_classes = (self.case.model_class,)
        self.model_tester = CaseTester(self.case)
        for name, reason in SKIPPED.items():
            if self._testMethodName.startswith(name):
                self.skipTest(reason)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        # The mixin knows by class names, those of transformers, which models take labels.
        return {**inputs, "labels": inputs["input_ids"]} if return_labels else inputs


for name, case in contract.CASES.items():
    title = f"Test{name.title().replace('_', '')}"
    globals()[title] = type(title, (CaseTests, unittest.TestCase), {"case": case, "__module__": __name__})
