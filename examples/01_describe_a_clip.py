"""Describe the emotions in a clip.

python examples/01_describe_a_clip.py clip.mp4                        # with the small model in the box
python examples/01_describe_a_clip.py clip.mp4 my_model [clip.srt]    # with nothing but transformers: the folder (of
                                                                      # init, train or the Hub) brings its own code
"""

import sys

if len(sys.argv) < 2:
    sys.exit(__doc__)
clip, *rest = sys.argv[1:]

if not rest:
    import hf_emotion

    pipe = hf_emotion.starter()
else:
    from transformers import pipeline

    pipe = pipeline("emotion-recognition", model=rest[0], trust_remote_code=True)

result = pipe(clip, utterances=rest[1] if len(rest) > 1 else None)
print(result["description"])
for label in result["labels"]:
    print(f"{label['label']} {label['score']:.2f}")
