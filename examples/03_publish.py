"""Publish a model folder with its card, load it back by its id, and write a Space for it.

hf auth login                                     # or HF_TOKEN; your own model, from init, quickstart or train
python examples/03_publish.py my_model name/model clip.mp4 [scores.json]

To rehearse without the Hub: python tests/fake_hub.py 8765 & then HF_ENDPOINT=http://127.0.0.1:8765 HF_TOKEN=hf_loopback
"""

import sys

from transformers import pipeline

from hf_emotion.hub import push, write_space

if len(sys.argv) < 4:
    sys.exit(__doc__)
folder, repository, clip, *results = sys.argv[1:]

# Private by default if the licences of the source weights require it; with private=False you take responsibility.
print("published:", push(folder, repository, results=results))

pipe = pipeline("emotion-recognition", model=repository)  # trust_remote_code=True where hf_emotion is not installed
answer = pipe(clip, max_new_tokens=32)
print("description:", answer["description"])
print("labels:", answer["labels"])

print("a Space to try it:", write_space(repository, f"{repository.split('/')[1]}_space"))
