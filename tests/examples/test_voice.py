"""The voice example in its small setting; its detector is the published one; its clips and scores are what they say."""

import importlib
import importlib.util
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from tests.examples.running import EXAMPLES, run
from tests.pages import ROOT, blocks
from torch.nn import functional

from contextual_rnn import FreeState, attach, remove_initial_state

PACKAGE = importlib.util.find_spec("silero_vad")
needs_detector = pytest.mark.skipif(PACKAGE is None, reason="needs pip install --no-deps silero-vad")
needs_voices = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs apt-get install espeak-ng")


@pytest.fixture
def data(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("voice_data")


@pytest.fixture
def model(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("voice_model")


@needs_detector
@needs_voices
def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("voice", tmp_path)
    methods = {name: found for name, found in figures.items() if "numbers" in found}
    assert len(methods) == 14
    for found in methods.values():
        assert all(0 <= value <= 1 for value in found["AUC, 1st frame"]["seeds"] + found["accuracy, 2 to 3 s"]["seeds"])
    sizes = {name: found["numbers"] for name, found in methods.items()}
    assert sizes["free state"] == sizes["LoRA, candidate gate"] == 256
    assert sizes["nothing"] == sizes["warmed up"] == 0
    gains = methods["nothing"]["accuracy, 1st frame, below the free state"]["seeds"]
    both = [methods[name]["accuracy, 1st frame"]["seeds"] for name in ("free state", "nothing")]
    assert gains == pytest.approx([free - nothing for free, nothing in zip(*both, strict=True)])
    assert len({tuple(found["accuracy, to 0.5 s"]["seeds"]) for found in methods.values()}) > 10, "each is another"


@needs_detector
@torch.no_grad()
def test_the_detector_is_the_published_one_from_any_state(model):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = Path(PACKAGE.origin).parent / "data"
    shipped = torch.jit.load(folder / "silero_vad.jit")._model
    session = onnxruntime.InferenceSession(folder / "silero_vad_16k_op15.onnx")
    waves, detector = 0.1 * torch.randn(3, 6 * 512), model.Detector()
    start = torch.randn(2, 3, 128)
    features, spectrum = detector.front_end(waves)
    probabilities = detector(features, tuple(start[:, None])).sigmoid()
    frames = functional.pad(waves, (64, 0)).unfold(1, 512 + 64, 512)
    of_jit, of_onnx = start, start.numpy()
    for number in range(6):
        wanted, of_jit = shipped(frames[:, number], of_jit)
        torch.testing.assert_close(probabilities[:, number, None], wanted, rtol=0, atol=1e-5)
        inputs = {"input": frames[:, number].numpy(), "state": of_onnx, "sr": torch.tensor(16000).numpy()}
        wanted, of_onnx = session.run(None, inputs)
        torch.testing.assert_close(probabilities[:, number, None], torch.tensor(wanted), rtol=0, atol=1e-5)
    assert (probabilities - detector(features).sigmoid()).abs().max() > 0.01, "the state matters"
    first, window = functional.pad(frames[:, 0], (0, 64), mode="reflect"), torch.hann_window(256)
    magnitudes = torch.stft(first, 256, 128, window=window, center=False, return_complex=True).abs()
    torch.testing.assert_close(spectrum, magnitudes.mean(-1).add(1e-4).log(), rtol=1e-3, atol=1e-3)


@needs_detector
@torch.no_grad()
def test_the_code_of_the_page_starts_the_published_detector(model):
    onnxruntime = pytest.importorskip("onnxruntime")
    page, detector = ROOT / "docs" / "gallery" / "voice.md", model.Detector()
    (code,) = blocks(page, "py")
    h0 = FreeState(detector.lstm)
    for value in h0.parameters():
        value.normal_()
    start, wave = h0(batch_size=1), 0.1 * torch.randn(1, 512)
    scope = {
        **{"torch": torch, "numpy": numpy, "h0": h0, "samples": functional.pad(wave, (64, 0)).numpy()},
        "session": onnxruntime.InferenceSession(Path(PACKAGE.origin).parent / "data" / "silero_vad_16k_op15.onnx"),
    }
    exec(compile(code, str(page), "exec"), scope)
    wanted = detector(detector.front_end(wave)[0], start).sigmoid()
    torch.testing.assert_close(torch.tensor(scope["probability"]), wanted, rtol=0, atol=1e-5)
    _, (h_n, c_n) = detector.lstm(detector.front_end(wave)[0], start)
    torch.testing.assert_close(torch.tensor(scope["state"]), torch.cat([h_n, c_n]), rtol=0, atol=1e-5)


@needs_detector
def test_what_is_added_changes_nothing_before_it_is_trained(model):
    torch.manual_seed(0)
    detector = model.Detector()
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    features, spectrum = detector.front_end(0.1 * torch.randn(2, 20 * 512))
    wanted = detector(features)
    mean = torch.randn(1, 128), torch.randn(1, 128)
    for name, (extra, _) in model.methods(detector, mean).items():
        if isinstance(extra, model.Bias | model.RankOne | model.Offsets):
            logits = model.run(detector, extra, features, spectrum)
        else:
            logits = attach(detector.lstm, extra) and model.run(detector, extra, features, spectrum)
            remove_initial_state(detector)
        if "mean" in name:
            assert (logits - wanted).abs().max() > 0.01
        else:
            torch.testing.assert_close(logits, wanted)
        loss = logits.square().sum()
        if list(extra.parameters()):
            loss.backward()
            assert any(parameter.grad.any() for parameter in extra.parameters()), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


@needs_detector
@torch.no_grad()
def test_an_update_of_some_rows_is_the_product_of_its_vectors(model):
    detector = model.Detector()
    update = model.RankOne(detector, ["lstm.weight_ih_l0"], slice(256, 384))
    update.b[0].normal_()
    weight = update()["lstm.weight_ih_l0"] - detector.lstm.weight_ih_l0
    torch.testing.assert_close(weight[256:384], torch.outer(update.b[0], update.a[0]), rtol=1e-3, atol=1e-6)
    assert not weight[:256].any()
    assert not weight[384:].any()
    offsets = model.Offsets(3)
    offsets.head.bias.fill_(2.0)
    assert offsets(torch.randn(2, 129), 5).tolist() == [[2.0] * 3 + [0.0] * 2] * 2


@needs_voices
@pytest.mark.parametrize("test", [False, True])
def test_clips_begin_as_their_kind_says(data, test):
    sample = data.clips(16, 3, 0, test)
    assert sample.waves.shape == (16, data.SAMPLES)
    assert sample.kinds == [*data.KINDS] * 4
    for wave, label, kind in zip(sample.waves, sample.labels, sample.kinds, strict=True):
        assert 1e-3 <= wave[data.BEFORE * 512 :].square().mean().sqrt() <= 0.1
        assert label[0] == (data.SPEECH if kind == "cut" else data.NOISE)
        first = (label == data.SPEECH).nonzero()[:, 0].tolist()[:1]
        assert kind != "late" or 16 <= first[0] <= 48
        assert kind != "noise" or (label == data.NOISE).all()
        assert kind == "noise" or not (label[first[0] :] == data.NOISE).any()
    again = data.clips(16, 3, 0, test)
    assert torch.equal(again.waves, sample.waves)


def test_the_test_shares_no_voice_and_no_noise_with_training(data):
    for kind in ("languages", "voices"):
        assert not set(data.TRAINING[kind]) & set(data.TEST[kind])
    assert not set(data.NOISES[False]) & set(data.NOISES[True])


def test_noise_of_every_kind_has_a_mean_square_of_one(data):
    rng = data.numpy.random.default_rng(0)
    for kind in data.NOISES[False] + data.NOISES[True]:
        samples = data.noise_of(kind, rng)
        assert samples.shape == (data.SAMPLES,)
        assert (samples**2).mean() == pytest.approx(1)


def test_scores(data):
    labels = torch.tensor([[1, 1, -1], [1, 1, 1], [0, 0, 0], [0, 0, 0]])
    logits = torch.tensor([[1.0, -1.0, 9.0], [2.0, 0.5, 1.0], [-1.0, 0.5, 2.0], [-2.0, -3.0, 3.0]])
    accuracy, area = data.curves(logits, labels)
    assert accuracy.tolist() == [1.0, 0.5, 0.5]
    assert area.tolist() == [1.0, (0 + 1 + 0.5 + 1) / 4, 0.0]
