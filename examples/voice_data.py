"""Clips for the voice example: spoken dates of espeak-ng in noise, labels of their frames, and scores.

A clip has one second that the detector misses, then three seconds. It is one of three kinds: speech that is cut in the
middle, speech that begins after 0.5 to 1.5 s, and noise alone.
"""

import subprocess
from random import Random
from typing import NamedTuple

import numpy
import torch
from date_texts import LAYOUTS, days, write_date
from scipy.signal import lfilter, resample_poly
from torch import Tensor

RATE, FRAME = 16_000, 512  # samples a second, and in one step of the detector: 32 ms
BEFORE, AFTER = 31, 94  # frames of a clip before and after the detector starts
TRAINED = 16  # the first of these, half a second, are trained on
SAMPLES = (BEFORE + AFTER) * FRAME
SPEECH, NOISE, PAUSE = 1, 0, -1  # labels of frames; pauses inside of speech are not scored
DAYS = days()
TIMES = {"1st frame": slice(0, 1), "to 0.5 s": slice(1, 16), "2 to 3 s": slice(62, AFTER)}  # that are scored
KINDS = ("cut", "cut", "late", "noise")  # so that half of the clips have speech in their first frame
# Languages and voices of espeak-ng, and kinds of noise: those of the test are not in training.
TRAINING = {"languages": ("en-US", "en-GB", "de-DE", "fr-FR"), "voices": ("m1", "m3", "f1", "f4")}
TEST = {"languages": ("es-ES", "it-IT", "nl-NL", "sv-SE"), "voices": ("m2", "m7", "f2", "f5")}


class Clips(NamedTuple):
    waves: Tensor  # (N, SAMPLES)
    labels: Tensor  # (N, AFTER)
    kinds: list[str]


def speak(rng: Random, speakers: dict, test: bool) -> numpy.ndarray:
    """Three dates, read aloud: samples at RATE."""
    language, voice = rng.choice(speakers["languages"]), rng.choice(speakers["voices"])
    dates = [write_date(rng.choice(DAYS[test]), language, rng.choice(LAYOUTS[language])) for _ in range(4)]
    options = ["-v", f"{language.lower()}+{voice}", "-s", str(rng.randint(130, 190)), "-p", str(rng.randint(30, 70))]
    program = subprocess.run(["espeak-ng", *options, "--stdout", ". ".join(dates)], capture_output=True, check=True)
    samples = numpy.frombuffer(program.stdout, "<i2", offset=44)  # behind the header, whose length is not filled in
    return resample_poly(samples / 32768, RATE, 22_050)


def noise_of(kind: str, rng: numpy.random.Generator) -> numpy.ndarray:
    """SAMPLES of noise with a mean square of one."""
    white, time = rng.normal(size=SAMPLES), numpy.arange(SAMPLES) / RATE
    match kind:
        case "white":
            samples = white
        case "rumble":
            samples = lfilter([1], [1, -0.98], white)
        case "flutter":
            samples = white * (1 + numpy.sin(2 * numpy.pi * rng.uniform(1, 8) * time))
        case "tones":
            samples = sum(numpy.sin(2 * numpy.pi * (rng.uniform(80, 2000) * time + rng.random())) for _ in range(3))
        case "pink":
            power = numpy.fft.rfft(white)
            samples = numpy.fft.irfft(power / numpy.sqrt(numpy.arange(len(power)) + 20), SAMPLES)
        case "hum":
            pitch = rng.uniform(90, 300)
            samples = sum(numpy.sin(2 * numpy.pi * pitch * n * time) / n for n in range(1, 8))
            samples = samples * (1 + 0.3 * numpy.sin(2 * numpy.pi * rng.uniform(2, 6) * time))
        case "clicks":
            samples = lfilter(numpy.exp(-numpy.arange(400) / 60), [1], white * (rng.random(SAMPLES) < 0.002))
            samples = samples + 0.02 * white
    return samples / numpy.sqrt(numpy.mean(samples**2))


NOISES = {False: ("white", "rumble", "flutter", "tones"), True: ("pink", "hum", "clicks")}


def loudness(samples: numpy.ndarray) -> numpy.ndarray:
    """The root mean square of each frame."""
    return numpy.sqrt(numpy.mean(samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME) ** 2, 1))


def clips(count: int, utterances: int, seed: int, test: bool) -> Clips:
    words, rng = Random(seed), numpy.random.default_rng([seed, test])
    spoken = [speak(words, TEST if test else TRAINING, test) for _ in range(utterances)]
    waves, labels, kinds = [], [], []
    for number in range(count):
        kind, noise = KINDS[number % len(KINDS)], noise_of(rng.choice(NOISES[test]), rng)
        speech, voice = numpy.zeros(SAMPLES), spoken[rng.integers(len(spoken))]
        loud = numpy.percentile(loudness(voice), 95)
        active = numpy.flatnonzero(loudness(voice) > 0.1 * loud)  # frames; 0.1: -20 dB
        if kind == "cut":  # a second of speech is missed
            first = rng.choice(active[(active > BEFORE) & (active < len(voice) // FRAME - AFTER)]) - BEFORE
            speech[:] = voice[first * FRAME :][:SAMPLES]
        elif kind == "late":
            begin = (BEFORE + rng.integers(16, 47)) * FRAME
            said = voice[active[0] * FRAME :][: SAMPLES - begin]
            speech[begin : begin + len(said)] = said
        has_speech = loudness(speech) > 0.1 * loud
        label = numpy.where(has_speech, SPEECH, NOISE)
        if has_speech.any():
            inside = numpy.arange(len(label)) > numpy.flatnonzero(has_speech)[0]
            label[inside & ~has_speech] = PAUSE
        mixed = speech / loud + noise * 10 ** -(rng.uniform(0, 20) / 20)
        mixed *= 10 ** rng.uniform(-3, -1) / numpy.sqrt(numpy.mean(mixed[BEFORE * FRAME :] ** 2))
        waves.append(torch.from_numpy(mixed).float().clamp(-1, 1))
        labels.append(torch.from_numpy(label[BEFORE:]))
        kinds.append(kind)
    return Clips(torch.stack(waves), torch.stack(labels), kinds)


def curves(logits: Tensor, labels: Tensor) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Balanced accuracy and AUC at each frame."""
    accuracies, areas = [], []
    for score, label in zip(logits.T, labels.T, strict=True):
        speech, noise = score[label == SPEECH], score[label == NOISE]
        accuracies.append(float((speech > 0).float().mean() + (noise <= 0).float().mean()) / 2)
        areas.append(float((speech[:, None] - noise).sign().mean() + 1) / 2)  # a tie counts as half a pair
    return numpy.array(accuracies), numpy.array(areas)


def judge(logits: Tensor, test: Clips) -> tuple[dict[str, float], numpy.ndarray]:
    accuracy, area = both = curves(logits, test.labels)
    late = torch.tensor([kind == "late" for kind in test.kinds])
    right, labels = (logits[late] > 0) == (test.labels[late] == SPEECH), test.labels[late]
    measures = {f"accuracy, {name}": float(accuracy[part].mean()) for name, part in TIMES.items()}
    measures |= {f"AUC, {name}": float(area[part].mean()) for name, part in TIMES.items()}
    return measures | {
        "late speech, noise before it": float(right[labels == NOISE].float().mean()),
        "late speech, recognised": float(right[labels == SPEECH].float().mean()),
    }, numpy.stack(both)
