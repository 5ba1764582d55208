"""The teacher's voices: a source and a filter, speaking syllables that mean nothing, with the prosody of an emotion.

Nothing here was measured on anybody. How an emotion changes a voice follows published tables of acoustic cues: Scherer
(2003, table 1), Juslin & Laukka (2003, table 7), Murray & Arnott (1993, table 1), and the settings with which
Burkhardt & Sendlmeier (2000) made synthetic speech sound angry, happy, sad, afraid and bored, as Schroeder (2001)
collects them. They give directions and rough sizes; the numbers of `CUES` are our reading of them. Vocal effort makes a
voice brighter (a flatter source spectrum and a weaker first harmonic: Hanson 1997; Traunmueller & Eriksson 2000).
Speakers, microphones, rooms, telephones and noise vary at random, more than recordings do.
"""

from dataclasses import dataclass

import numpy as np

RATE = 16000
COURSE = 100  # Hz, at which a voice's parameters are drawn
SAMPLES = RATE // COURSE


@dataclass(frozen=True)
class Prosody:
    """How an emotion differs from the same speaker's neutral voice.

    Args:
        pitch: semitones of mean F0.
        spread: factor of the F0 range.
        pace: factor of syllables a second.
        effort: dB an octave by which the source spectrum is flatter.
        breath: share of noise added.
        shake: added irregularity of F0.
        ending: semitones by which the last syllable rises.
        stress: factor of the level differences between syllables.
        creak: chance that a phrase ends in creaky voice.
    """

    pitch: float = 0.0
    spread: float = 1.0
    pace: float = 1.0
    effort: float = 0.0
    breath: float = 0.0
    shake: float = 0.0
    ending: float = -1.0
    stress: float = 1.0
    creak: float = 0.15


CUES = {
    "neutral": Prosody(),
    "calm": Prosody(pitch=-1, spread=0.85, pace=0.9, effort=-1.5, breath=0.4, ending=-1.5, stress=0.85, creak=0.25),
    "happy": Prosody(pitch=7, spread=1.7, pace=1.1, effort=3.5, ending=0.5, stress=1.2, creak=0.05),
    "sad": Prosody(spread=0.6, pace=0.8, effort=-2.5, breath=0.6, shake=0.4, ending=-2, stress=0.75, creak=0.4),
    "angry": Prosody(7, 1.4, 1.1, effort=5.5, breath=-0.2, shake=0.4, ending=-1.5, stress=1.4, creak=0),
    "afraid": Prosody(8, 1.0, 1.2, effort=1.5, breath=0.3, shake=0.5, ending=0.5, stress=1.1, creak=0),
    "disgusted": Prosody(0, 1.2, 0.8, effort=0.5, breath=0.2, shake=0.5, ending=-2, stress=1.2, creak=0.4),
    "surprised": Prosody(pitch=8, spread=2.0, effort=2, breath=0.2, ending=4, stress=1.2, creak=0),
    "bored": Prosody(pitch=-1, spread=0.6, pace=0.75, effort=-1.2, breath=0.1, ending=-1.5, stress=0.8, creak=0.4),
}

VOWELS = np.array([(730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240)])


@dataclass
class Speaker:
    """A random speaker before a random microphone."""

    pitch: float  # Hz
    tract: float  # factor of the formants
    tilt: float  # dB an octave of the source
    pace: float  # syllables a second
    spread: float  # semitones
    microphone: np.ndarray  # coarse shape of its response

    @classmethod
    def draw(cls, rng) -> "Speaker":
        low = rng.random() < 0.5
        return cls(
            pitch=float(np.exp(rng.normal(np.log(115 if low else 205), 0.14))),
            tract=float(rng.normal(1.0 if low else 1.16, 0.05)),
            tilt=float(rng.normal(-10.5, 1.3)),
            pace=float(rng.normal(5.0, 0.5)),
            spread=float(np.exp(rng.normal(np.log(2.6), 0.25))),
            microphone=rng.normal(0, 1, 3),
        )


def smoothed(values, width=5):
    return np.convolve(np.pad(values, width // 2, "edge"), np.ones(width) / width, "valid")


def speak(rng, speaker: Speaker, emotion: str, strength=1.0, seconds=None) -> np.ndarray:
    """One utterance: (samples,) float32 at 16 kHz, of no particular level.

    Args:
        emotion: a key of `CUES`.
        strength: 0 is neutral, 1 the published change; people stray around it.
        seconds: about how long; at random if `None`.
    """
    change, plain, stray = CUES[emotion], Prosody(), rng.normal(0, 1, 8)

    def of(name, deviation=0.0, chance=0.0):
        value = getattr(plain, name) + (getattr(change, name) - getattr(plain, name)) * strength
        return value + deviation * chance

    pitch = of("pitch", stray[0], 1.5)
    spread = max(of("spread"), 0.2) * np.exp(0.2 * stray[1])
    pace = max(of("pace"), 0.4) * np.exp(0.1 * stray[2])
    effort = of("effort", stray[3], 1.0)
    breath = max(of("breath", stray[4], 0.2), 0.0)
    shake = max(of("shake", stray[5], 0.1), 0.0)
    ending = of("ending", stray[6], 1.0)
    stress = max(of("stress"), 0.2) * np.exp(0.12 * stray[7])

    a_second = speaker.pace * pace
    count = int(rng.integers(5, 16)) if seconds is None else max(int(seconds * a_second), 2)
    lengths = rng.gamma(9, 1 / 9, count) / a_second
    lengths[-1] *= rng.uniform(1.1, 1.7)
    accents = rng.random(count) < 0.4
    accents[rng.integers(count)] = True
    loud, semitones, hiss, vowels = [], [], [], []
    begun, total = 0.0, lengths.sum()
    for i, length in enumerate(lengths):
        x = np.arange(max(int(length * COURSE), 6)) / max(int(length * COURSE), 6)
        onset, voiceless = rng.uniform(0.1, 0.35), rng.random() < 0.5
        shape = np.sin(np.pi * ((x - onset) / (1 - onset)).clip(0, 1)) ** 0.6
        shape = shape * 10 ** ((5 * stress * accents[i] + rng.normal(0, 2)) / 20)
        murmur = (x < onset) * (not voiceless) * rng.uniform(0.1, 0.5)
        rise = 1.6 * accents[i] * np.sin(np.pi * (0.9 * x + 0.05)) + rng.normal(0, 0.35) - 0.6
        fall = 1.0 * np.sqrt(spread) * ((begun + length * x) / total - 0.5)
        line = speaker.spread * (spread * rise - fall)
        if i == count - 1:
            line = line + ending * x
        vowel = VOWELS[rng.integers(len(VOWELS))] * speaker.tract
        if i and rng.random() < 0.07:  # a pause
            gap = int(rng.uniform(0.1, 0.4) * COURSE)
            loud.append(np.zeros(gap))
            semitones.append(np.full(gap, line[0]))
            hiss.append(np.zeros(gap))
            vowels.append(np.tile(vowel, (gap, 1)))
        loud.append(np.maximum(shape, murmur))
        semitones.append(line)
        hiss.append((x < onset) * voiceless * rng.uniform(0.05, 0.4))
        vowels.append(np.tile(vowel, (len(x), 1)))
        begun += length
    loud, hiss = np.concatenate(loud), np.concatenate(hiss)
    loud = loud * np.linspace(1.15, 0.7, len(loud))
    semitones = smoothed(np.concatenate(semitones))
    formants = np.stack([smoothed(row) for row in np.concatenate(vowels).T], 1)
    if rng.random() < of("creak"):
        semitones[-int(len(semitones) * rng.uniform(0.08, 0.25)) :] -= 12
    hertz = speaker.pitch * 2 ** ((pitch + semitones) / 12) * (1 + 0.04 * (shake + 0.5) * rng.normal(size=len(loud)))
    hertz = hertz.clip(60, 580)

    # Harmonics: source, radiation at the lips, three formants; louder syllables and more effort are brighter.
    number = np.arange(1, int(min(5000 / hertz.min(), 45)) + 1)
    frequency = hertz[:, None] * number  # (frames, harmonics)
    slope = speaker.tilt + 6 + effort + 2.5 * np.log10(loud + 1e-3)[:, None]
    gain = slope * np.log2(frequency / 150)
    gain[:, 0] += float(np.clip(5 + 5 * breath - 1.2 * effort, -4, 12))
    for band, (formant, width) in enumerate(zip(formants.T, (110, 150, 200), strict=True)):
        centre = formant[:, None] * (1 + 0.015 * effort * (band == 0))
        ratio = frequency / centre
        gain -= 10 * np.log10((1 - ratio**2) ** 2 + (width / centre * ratio) ** 2 + 1e-6)
    size = 10 ** (gain.clip(-60, 60) / 20) * (frequency < 5500)
    size = size * loud[:, None] / (np.sqrt((size**2).sum(1)).mean() + 1e-9)
    at, frames = np.arange(len(loud) * SAMPLES) / SAMPLES, np.arange(len(loud))
    phase = (2 * np.pi * np.cumsum(np.interp(at, frames, hertz)) / RATE).astype(np.float32)
    twice = 2 * np.cos(phase)
    voice = np.zeros(len(phase), np.float32)
    before, harmonic = np.ones(len(phase), np.float32), twice / 2
    for k in range(len(number)):  # cosines of multiples, by Chebyshev's recurrence
        voice += np.interp(at, frames, size[:, k]).astype(np.float32) * harmonic
        before, harmonic = harmonic, twice * harmonic - before
    level = np.sqrt((voice**2).mean())
    noise = rng.normal(size=len(phase)).astype(np.float32)
    sharp = np.diff(noise, prepend=np.float32(0))
    voice += 0.8 * level * sharp * np.interp(at, frames, hiss).astype(np.float32)
    # Breath passes the same mouth as the voice, so it is no brighter: a quiet, breathy voice stays soft.
    dull = np.convolve(noise, np.hanning(10)[1:-1] / 4.5, "same").astype(np.float32)
    voice += (0.07 + 0.12 * breath) * level * dull * np.interp(at, frames, loud).astype(np.float32)
    return voice


def record(rng, speaker: Speaker, sound: np.ndarray) -> np.ndarray:
    """The sound as a microphone, a room, a line and a file pass it on: (samples,) float32 in [-1, 1]."""
    spectrum = np.fft.rfft(sound)
    frequency = np.fft.rfftfreq(len(sound), 1 / RATE)
    octave = np.log2(np.maximum(frequency, 50) / 800)
    shape = speaker.microphone * [1.2, 2.0, 2.0]
    response = shape[0] * octave + shape[1] * np.cos(octave) + shape[2] * np.sin(2 * octave)
    spectrum = spectrum * 10 ** (response / 20)
    if rng.random() < 0.3:
        spectrum = spectrum / (1 + (rng.uniform(60, 200) / np.maximum(frequency, 1)) ** 4)
    if rng.random() < 0.25:  # telephones and codecs
        spectrum = spectrum / (1 + (frequency / rng.uniform(3400, 6500)) ** 8)
    sound = np.fft.irfft(spectrum, len(sound))
    if rng.random() < 0.4:
        length = int(rng.uniform(0.1, 0.5) * RATE)
        room = rng.normal(size=length) * np.exp(-6.9 * np.arange(length) / length) * rng.uniform(0.005, 0.05)
        room[0] = 1
        size = len(sound) + length
        sound = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(room, size), size)[: len(sound)]
    sound = sound / (np.abs(sound).max() + 1e-9) * rng.uniform(0.1, 0.9)
    if rng.random() < 0.8:
        sound = sound + background(rng, len(sound)) * np.sqrt((sound**2).mean()) * 10 ** (-rng.uniform(20, 50) / 20)
    return sound.astype(np.float32).clip(-1, 1)


def background(rng, samples: int) -> np.ndarray:
    """Noise of unit RMS between white and pink."""
    frequency = np.fft.rfftfreq(samples, 1 / RATE)
    noise = np.fft.irfft(np.fft.rfft(rng.normal(size=samples)) / np.maximum(frequency, 100) ** rng.uniform(0, 0.5))
    noise = np.resize(noise, samples)
    return noise / (noise.std() + 1e-9)
