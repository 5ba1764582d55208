"""Fine-tune with trl's SFTTrainer from messages that name a clip, with nothing of this package but a model's folder.

    python examples/04_trl.py clip.mp4 out [my_model]    # by default the model in the box

Two things differ from a text model. Each row has `images=[]`: trl then hands its messages to the processor, which
reads the clip, instead of tokenising the text alone. And `max_length=None`: a cut prompt would lose parts of its clip.
`assistant_only_loss=True` trains the answers, not the questions. Preference rows (`prompt`, `chosen`, `rejected`,
`images=[]`) train with `DPOTrainer` and `data_collator=hf_emotion.training.collator.EmotionCollator(processor)`.
"""

import sys

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForMultimodalLM, AutoProcessor
from trl import SFTConfig, SFTTrainer

if len(sys.argv) < 3:
    sys.exit(__doc__)
clip, output, *rest = sys.argv[1:]
if rest:
    [folder] = rest
else:
    import hf_emotion.starter

    folder = hf_emotion.starter.FOLDER

model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
question = [{"type": "video", "path": clip}, {"type": "text", "text": "How does she feel?"}]
answer = [{"type": "text", "text": "Relieved: she smiles and her voice is soft."}]
messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

trainer = SFTTrainer(
    model,
    args=SFTConfig(
        output_dir=output,
        assistant_only_loss=True,
        max_length=None,
        max_steps=4,
        per_device_train_batch_size=1,
        save_strategy="no",
        report_to="none",
        bf16=False,  # True on a GPU
    ),
    train_dataset=Dataset.from_list([{"messages": messages, "images": []}] * 4),
    processing_class=processor,
    peft_config=LoraConfig(r=8, target_modules=r"model\.language_model\..*\.(q_proj|v_proj)", task_type="CAUSAL_LM"),
)
trainer.train()
trainer.save_model()
