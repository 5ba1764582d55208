"""Make the tokenizer of the tiny models: byte-level BPE over text that this script writes itself.

It is the language model's tokenizer and, at tiny size, the Q-Former's for timestamps. No paper uses it: the papers'
models use LLaMA's and BERT's tokenizers. As in LLaMA's, `<s>` begins a text and `</s>` ends an answer; every byte is in
the vocabulary, so every text can be encoded. Digits are single tokens, so that all times are spelt the same way.

    python scripts/make_tiny_tokenizer.py
"""

import argparse
import itertools
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from hf_emotion.data.files import write_whole

OUTPUT = Path(__file__).parents[1] / "src" / "hf_emotion" / "processing" / "tiny_tokenizer.json"
VOCABULARY = 2048
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<video>", "<audio>", "<face>"]

EMOTIONS = """
happy happiness joyful joy cheerful delighted delight pleased pleasure glad content contentment satisfied satisfaction
excited excitement enthusiastic enthusiasm eager thrilled elated ecstatic amused amusement playful proud pride grateful
gratitude thankful hopeful hope optimistic relieved relief relaxed calm calmness peaceful serene tranquil at-ease loving
love affectionate affection tender caring warm friendly sympathetic sympathy compassionate compassion empathetic
admiring admiration respectful trusting trust confident confidence determined determination curious curiosity interested
interest fascinated inspired surprised surprise astonished astonishment amazed amazement shocked shock startled stunned
puzzled confused confusion bewildered doubtful doubt sceptical suspicious suspicion uncertain uncertainty hesitant
hesitation indecisive thoughtful pensive serious concentrated focused attentive neutral indifferent indifference bored
boredom tired fatigued exhausted weary sleepy sad sadness sorrowful sorrow unhappy miserable gloomy melancholy depressed
depression dejected despondent disappointed disappointment disheartened discouraged hurt heartbroken grief grieving
mournful lonely loneliness nostalgic regretful regret remorseful guilty guilt ashamed shame embarrassed embarrassment
humiliated shy timid insecure helpless helplessness hopeless despair desperate anxious anxiety worried worry nervous
nervousness uneasy uneasiness tense tension stressed stress apprehensive fearful fear afraid scared frightened terrified
terror panicked panic horrified alarmed angry anger annoyed annoyance irritated irritation impatient impatience
frustrated frustration resentful resentment indignant indignation furious fury rage outraged hostile hostility
aggressive bitter jealous jealousy envious envy disgusted disgust repulsed contemptuous contempt disdainful disdain
scornful mocking sarcastic sarcasm smug arrogant defiant stubborn defensive offended insulted betrayed aggrieved
disapproving dissatisfied dissatisfaction discontented reluctant resigned resignation wronged sincere earnest
"""
DEGREES = "slightly somewhat quite clearly deeply mildly strongly briefly suddenly gradually very rather"
FACE = {
    "brows": "raised lowered furrowed drawn together knitted arched relaxed",
    "inner brows": "raised drawn together lifted pinched",
    "eyes": "wide open narrowed closed squinting downcast tearful fixed averted bright",
    "eyelids": "raised tightened drooping fluttering",
    "glabella": "wrinkled smooth tense",
    "forehead": "wrinkled creased smooth tense",
    "nose": "wrinkled flared still",
    "nasolabial folds": "deepened smooth visible",
    "cheeks": "raised lifted flat puffed flushed",
    "mouth": "open closed tight trembling smiling pursed downturned curved upward twisted",
    "lips": "pressed together parted pursed trembling stretched tightened",
    "lip corners": "raised pulled down pulled back lowered uneven",
    "chin": "raised wrinkled trembling lifted tucked",
    "jaw": "clenched dropped tight relaxed",
    "head": "tilted lowered raised turned away shaking nodding still",
    "gaze": "steady lowered averted wandering direct",
}
VOICE = """
high low loud soft quiet trembling shaky steady calm flat monotonous rising falling fast slow hurried hesitant breathy
hoarse sharp harsh warm gentle bright dull tense relaxed weak strong choked broken firm lively sarcastic cold
"""
VOICE_PARTS = ["tone", "voice", "pitch", "speech", "speaking rate", "intonation", "volume", "breathing"]
SAYINGS = """
I am fine. | I do not know what to do. | Why did you do that? | This is wonderful! | Leave me alone. | I am so sorry.
| What happened? | Thank you very much. | I cannot believe it. | Are you serious? | Please don't go. | It's my fault.
| Kids are talking by the door. | Dogs are sitting by the door. | We won! | I miss you. | Stop it! | Let's go home.
| You never listen to me. | That is not fair. | I'm really happy for you. | I was so worried about you. | How dare you?
| I told you so. | Nobody told me anything. | We have to leave right now. | Everything will be all right. | Yes. | No.
| Okay. | Well, maybe next time. | I didn't mean to hurt you. | It is what it is. | Who are you? | Come on, hurry up!
| He said that she would come. | They were there yesterday. | There is nothing we can do about it. | I think so, too.
"""
COMMON = """
about after again all almost already also always and another any anything are around ask away back bad because been
before began being better between big both bring but call came can change clear close come could day did different
does done down during each early easy either else end enough even ever every everyone everything expression fact family
far feel feeling few find first follow found friend from full gave get give going good got great had half hand happen
hard has have hear heard heart help here high himself herself hold hope house how however idea if important indicate
instead into its just keep kind knew know large last late laugh less let life light like likely little live long look
made make many maybe mean might mind minute moment more morning most mother father move movement much must myself name
near need never new next night nothing now number often old once one only open or other our out over own part people
perhaps picture place point possible present probably problem question quick quiet reason remain rest result right room
said same saw say second see seem seen sense set several should show shown side sign simple since sit situation small
smile so some someone something soon sound speak spoke stand start state stay still story strong such sure take talk
tears tell than that their them then there these they thing think those though thought three through time today together
told tomorrow tonight too took toward true try turn two under until use usual wait walk want was watch way week well
went were what when where whether while whole whose why will wish with without woman word work world would write wrong
year yet young yourself conversation emotional evidence gesture inferred inner micro subtle whisper sigh sob shout
"""
PROMPTS = """
[INST] [/INST] <<SYS>> <</SYS>> <Video> </Video> <Audio> </Audio> <Face> </Face>
The frames of the video are: <Video></Video>. The sound of the video is: <Audio></Audio>. The utterances are:
Utterance 1 (0.0s - 1.2s): Utterance 12 (10.5s - 14.8s, speaker A): Now answer my question based on all of the above.
This frame is sampled at 0.0s. This frame is sampled at 12.5s. This frame is sampled at 0.0 second.
Please recognize all possible emotional states of the character. The character's emotional state is
Please infer the person's emotional state and provide your reasoning process.
Which emotions does the person in this video show, and what are the clues? How does the person feel?
In the video, the person in the frames says. In the audio, the subtitle of this video is. In the text, it reads.
Therefore, it can be inferred that overall the emotional state of the person is likely to be. These clues suggest.
The first utterance, the second utterance, the third utterance, the last utterance; at the beginning, in the middle, at
the end of the video. Happy, sad, neutral, angry, worried, surprise, fear, contempt, doubt, other.
A man, a woman, a boy, a girl, the character, the speaker, he, she, they, his, her, their. No face is visible. No sound.
"""


def sentences():
    """Text of the kind that the tiny models read and write: prompts, descriptions, sayings, times, punctuation."""
    emotions, degrees, voices, common = (words.split() for words in (EMOTIONS, DEGREES, VOICE, COMMON))
    sayings = [saying.strip() for saying in SAYINGS.replace("\n", " ").split("|")]
    face = list(FACE.items())
    yield from itertools.repeat(PROMPTS, 40)
    for i, emotion in enumerate(emotions):
        degree, voice, saying = degrees[i % len(degrees)], voices[i % len(voices)], sayings[i % len(sayings)]
        (part, states), sound = face[i % len(face)], VOICE_PARTS[i % len(VOICE_PARTS)]
        other, third = emotions[(7 * i + 3) % len(emotions)], emotions[(11 * i + 5) % len(emotions)]
        yield f"The person is {degree} {emotion}. {emotion.capitalize()}, {other}."
        yield f"The {part} of the person are {states}, which shows {emotion} and {other}."
        yield f"In the audio, the {sound} is {voice}; it sounds {emotion}, {degree} {other}."
        yield f'The person says "{saying}" and looks {emotion}, not {other}.'
        yield f"The character's emotional state is {emotion}, {other}, {third}."
        yield f"Utterance {i} ({i % 60}.{i % 10}s - {i % 60 + 2}.{(3 * i) % 10}s): {saying}"
    for part, states in face:
        for state, degree in itertools.product(states.split(), degrees):
            yield f"The {part} are {degree} {state}. {part.capitalize()}: {state}."
    for voice, part in itertools.product(voices, VOICE_PARTS):
        yield f"The {part} is {voice}. A {voice} {part}."
    yield from sayings * 3
    for i, word in enumerate(common):
        yield f"{word.capitalize()} {common[(5 * i + 2) % len(common)]} {word}, {emotions[i % len(emotions)]} {word}."


def build() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        sentences(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            min_frequency=1,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT, help="file to write")
    output = parser.parse_args().output
    tokenizer = build()
    write_whole(output, tokenizer.to_str(pretty=False) + "\n")
    print(f"{output}: {tokenizer.get_vocab_size()} tokens, {output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
