"""Describe the emotions in a clip, with nothing but transformers: the model folder brings its own code.

hf-emotion init microemo --output my_model        # or make quickstart, and quickstart_output/model
python examples/01_describe_a_clip.py my_model clip.mp4 [clip.srt]
"""

import sys

from transformers import AutoModelForMultimodalLM, AutoProcessor

if len(sys.argv) < 3:
    sys.exit(__doc__)
folder, clip, *utterances = sys.argv[1:]
model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

batch = processor(videos=[clip], utterances=[utterances[0] if utterances else None], return_tensors="pt")
generated = model.generate(**batch, max_new_tokens=64, do_sample=False)
print(processor.batch_decode(generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)[0])
