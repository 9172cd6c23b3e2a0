"""Pages for who comes from elsewhere: their code runs, and its numbers are those of the old equations in NumPy.

The old equations are derived here from what the other libraries document, in float64, without their code or ours.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

PAGES = Path(__file__).parents[1] / "docs" / "coming-from"
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def run(page):
    """The page's code as one program, in float64 so that 1e-6 has room; what it made, arrays for tensors."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", (PAGES / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE))
    scope = {"__name__": page}
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        exec(compile(code, f"{page}.md", "exec"), scope)
    finally:
        torch.set_default_dtype(torch.float32)
    return scope


def array(value):
    if isinstance(value, dict):
        return {name: array(tensor) for name, tensor in value.items()}
    return value.detach().numpy() if isinstance(value, torch.Tensor) else [array(tensor) for tensor in value]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, h, c, w, u, b):
    """(B, T, I), gates i, f, g, o side by side in w (I, 4H), u (H, 4H), b: all h, and the last h and c."""
    outputs = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ w + h @ u + b, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, 1), h, c


def weights(network, suffix="_l0"):
    w, u, b, d = (array(getattr(network, name + suffix)) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    return w.T, u.T, b + d


def test_cond_rnn():
    scope = run("cond_rnn")
    kernel, bias, condition = (array(scope[name]) for name in ("kernel", "bias", "condition"))
    start = condition @ kernel + bias
    output, h_n, c_n = lstm(array(scope["x"]), start, start, *weights(scope["lstm"]))
    np.testing.assert_allclose(array(scope["output"]), output, **CLOSE)
    np.testing.assert_allclose(array(scope["h_n"])[0], h_n, **CLOSE)
    np.testing.assert_allclose(array(scope["c_n"])[0], c_n, **CLOSE)
    second = array(scope["condition2"]) @ array(scope["kernel2"]) + array(scope["bias2"])
    mixed = np.stack([start, second], -1) @ array(scope["mix"]) + array(scope["mix_bias"])
    np.testing.assert_allclose(array(scope["mixed"])[0], mixed, **CLOSE)


def test_sonnet():
    scope = run("sonnet")
    rows = [np.repeat(array(scope[name])[None], 5, 0) for name in ("hidden", "cell")]
    output, _, c_n = lstm(array(scope["x"]).swapaxes(0, 1), *rows, *weights(scope["lstm"]))
    np.testing.assert_allclose(array(scope["output"]).swapaxes(0, 1), output, **CLOSE)
    np.testing.assert_allclose(array(scope["c_n"])[0], c_n, **CLOSE)
    assert len(scope["learned"]) == 1
    assert ".h." in scope["learned"][0]
    # A tiled variable's gradient is the sum over the batch.
    weight = torch.randn(5, 6, dtype=torch.float64)
    h, _ = scope["h0"](batch_size=5)
    (h[0] * weight).sum().backward()
    (parameter,) = scope["h0"].parameters()
    np.testing.assert_allclose(array(parameter.grad)[0], weight.numpy().sum(0), **CLOSE)


def test_texar():
    scope = run("texar")
    made = np.tanh(array(scope["encoded"]) @ array(scope["weight"]).T + array(scope["bias"]))
    h0, c0 = np.split(made, 2, axis=-1)
    _, h, c = lstm(array(scope["x"])[:, None], h0, c0, *weights(scope["cell"], ""))
    np.testing.assert_allclose(array(scope["h"]), h, **CLOSE)
    np.testing.assert_allclose(array(scope["c"]), c, **CLOSE)
    assert all((leaf == 0.5).all() and leaf.shape == (5, 6) for leaf in array(scope["constant"]))
    draws = array(scope["states"])
    epsilon = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    np.testing.assert_allclose(draws, array(scope["mean"]) + scope["deviation"] * epsilon, **CLOSE)


def test_flax():
    scope = run("flax")
    kernels, biases, x = array(scope["kernels"]), array(scope["biases"]), array(scope["x"])
    c, h = (np.repeat(leaf[None], 5, 0) for leaf in array(scope["carry"]))
    states = []
    for t in range(x.shape[1]):
        gates = {g: x[:, t] @ kernels[f"i{g}"] + h @ kernels[f"h{g}"] + biases[f"h{g}"] for g in "ifgo"}
        c = sigmoid(gates["f"]) * c + sigmoid(gates["i"]) * np.tanh(gates["g"])
        h = sigmoid(gates["o"]) * np.tanh(c)
        states.append((h, c))
    output, h_n, c_n = (array(scope[name]) for name in ("output", "h_n", "c_n"))
    for row, length in enumerate(scope["seq_lengths"]):
        wanted = np.stack([h[row] for h, _ in states])
        np.testing.assert_allclose(output[row, :length], wanted[:length], **CLOSE)
        assert not output[row, length:].any()
        np.testing.assert_allclose(h_n[0, row], states[length - 1][0][row], **CLOSE)
        np.testing.assert_allclose(c_n[0, row], states[length - 1][1][row], **CLOSE)


def test_s0_tuning():
    scope = run("s0-tuning")
    x, target, decay = array(scope["x"]), array(scope["target"]), scope["layer"].decay
    q, k, v = np.split(x @ array(scope["layer"].qkv.weight).T, 3, axis=-1)
    steps = x.shape[1]
    powers = decay ** np.arange(1, steps + 1)

    def outputs(s0):
        """Without a recurrence: the decayed sum over all writes, and what S(0) adds."""
        since = np.arange(steps)[:, None] - np.arange(steps)
        written = np.where(since >= 0, decay ** np.maximum(since, 0), 0) * (q @ k.swapaxes(1, 2))
        return written @ v + powers[None, :, None] * (q @ s0.T)

    before = outputs(np.zeros((6, 6)))
    np.testing.assert_allclose(array(scope["before"]), before, **CLOSE)
    gradient = np.einsum("bti,btj,t->ij", 2 * (before - target) / target.size, q, powers)
    (learned,) = [value for name, value in array(scope["state_dict"]).items() if name.startswith("values.")]
    np.testing.assert_allclose(learned, -0.1 * gradient, **CLOSE)
    np.testing.assert_allclose(array(scope["after"]), outputs(-0.1 * gradient), **CLOSE)
    assert all(parameter.grad is None for parameter in scope["layer"].parameters())


def test_s0_tuning_of_a_language_model(monkeypatch):
    """Beside S(0) handed to the kernel itself, with neither our states nor a cache."""
    from transformers.models.qwen3_5 import modeling_qwen3_5  # here, as it takes a second

    scope = run("s0-tuning")
    model, kernel = scope["model"], modeling_qwen3_5.torch_chunk_gated_delta_rule
    state = torch.zeros(2, 8, 8, requires_grad=True)

    def patched(*args, initial_state, **more):
        assert initial_state is None
        return kernel(*args, initial_state=state[None], **more)

    monkeypatch.setattr(modeling_qwen3_5, "torch_chunk_gated_delta_rule", patched)
    optimizer = torch.optim.Adam([state], lr=1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        loss = 5e-4 * state.square().sum()
        for ids, prompt in scope["examples"]:
            scores = model(ids).logits[0, prompt - 1 : -1]
            loss = loss + torch.nn.functional.cross_entropy(scores, ids[0, prompt:]) / 3
        (state.grad,) = torch.autograd.grad(loss, [state])
        state.grad *= min(1.0, 1.0 / state.grad.norm().item())
        optimizer.step()
    assert state.detach().abs().mean() > 0.005
    torch.testing.assert_close(scope["learned"]["layer0"], state.detach(), rtol=0, atol=1e-5)
    state.data *= 0.07
    with torch.no_grad():
        prompt = scope["examples"][0][0][:, :4]
        first = model(prompt).logits[0, -1].argmax()
    assert scope["new"][0, 4] == first
    assert scope["new"].shape == (1, 9)


def test_rwkv():
    scope = run("rwkv")
    x, target = array(scope["x"]), array(scope["target"])
    w, a, b, k, v, r = np.split(x @ array(scope["layer"].project.weight).T, 6, axis=-1)
    factors = sigmoid(w)[..., None, :] * np.eye(6) + a[..., :, None] * b[..., None, :]

    def forward(start):
        state, outputs, products = np.repeat(start[None], 5, 0), [], []
        product = np.repeat(np.eye(6)[None], 5, 0)
        for t in range(8):
            state = state @ factors[:, t] + v[:, t, :, None] * k[:, t, None, :]
            product = product @ factors[:, t]
            outputs.append(np.einsum("bij,bj->bi", state, r[:, t]))
            products.append(np.einsum("bij,bj->bi", product, r[:, t]))  # S(0) adds S(0) times these
        return np.stack(outputs, 1), np.stack(products, 1)

    # Adam by hand, with the schedule of the recipe.
    start, first, second, losses = np.zeros((6, 6)), np.zeros((6, 6)), np.zeros((6, 6)), []
    for step in range(50):
        output, read = forward(start)
        losses.append(((output - target) ** 2).mean())
        gradient = np.einsum("bti,btj->ij", 2 * (output - target) / target.size, read)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        rate = 0.1 + 0.9 * step / 10 if step < 10 else 0.01 ** ((step - 10) / 40)
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        start = start - rate * mean / (np.sqrt(square) + 1e-8)
    np.testing.assert_allclose(scope["losses"], losses, rtol=1e-5)
    np.testing.assert_allclose(array(scope["learned"]), start, rtol=1e-4, atol=1e-5)
    assert min(losses) < losses[0]


@pytest.mark.parametrize("page", sorted(path.stem for path in PAGES.iterdir() if path.stem != "index"))
def test_every_page_has_a_test(page):
    assert f"test_{page.replace('-', '_')}" in globals()
