"""The example runs as a user runs it, in its small setting; its ODE is solved at every row's own times, both ways."""

import importlib
import math
import sys

import pytest
import torch
from tests.examples.running import EXAMPLES, run


def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("latent_ode", tmp_path)
    zero = "ODE from zero, encoder at every time"
    assert set(figures) == {"latent ODE", zero, "GRU that reads time gaps", "no samples: the centre"}
    ours, theirs = (figures[name]["backward"]["seeds"] for name in ("latent ODE", zero))
    ratio = figures[zero]["backward / latent ODE's"]["seeds"]
    assert ratio == pytest.approx([b / a for a, b in zip(ours, theirs, strict=True)])
    assert all(len(each["seeds"]) == 2 for variant in figures.values() for each in variant.values())
    assert figures["latent ODE"]["KL, nats"]["mean"] > 0


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    data, model = (importlib.import_module(f"latent_ode_{name}") for name in ("data", "model"))
    generator = torch.Generator().manual_seed(0)
    spirals = data.Spirals.drawn(5, generator)
    yield data, model, spirals, data.sampled(spirals, 20, generator)
    for name in ("latent_ode_data", "latent_ode_model"):
        sys.modules.pop(name)


def test_samples_are_noisy_spirals_at_times_of_their_own(parts):
    data, _, _, _ = parts
    generator = torch.Generator().manual_seed(1)
    spirals = data.Spirals.drawn(500, generator)
    samples = data.sampled(spirals, 20, generator)
    assert (samples.times.diff(dim=1) >= 0).all()
    assert not torch.equal(samples.times[0], samples.times[1])
    assert (samples.x - spirals.at(samples.times)).std() == pytest.approx(data.NOISE, rel=0.05)
    assert samples.seen.sum(1).float().mean() == pytest.approx(10, rel=0.05)
    radius = spirals.at(samples.times).norm(dim=-1)
    growing = radius[:, -1] > radius[:, 0]
    assert 0.4 < growing.float().mean() < 0.6
    assert torch.equal(growing, spirals.growth > 0)
    quarter = spirals.at(torch.tensor([[0.0, data.TURN / 4]]).expand(500, -1))
    cross = quarter[:, 0, 0] * quarter[:, 1, 1] - quarter[:, 0, 1] * quarter[:, 1, 0]
    assert torch.equal(cross.sign(), spirals.direction)


def test_errors_are_distances_of_their_part(parts):
    data, _, _, _ = parts
    times = torch.tensor([[-1.0, 1.0, data.TURN / 2, 0.9 * data.TURN, 1.2 * data.TURN]])
    path = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [0.0, 6.0], [7.0, 0.0]]])
    by_part = data.errors(path, torch.zeros(1, 5, 2), times)
    assert by_part == {
        "backward, beyond training": 1, "backward": 2, "inside": 5, "forward": 6, "forward, beyond training": 7,
    }  # fmt: skip


@pytest.mark.parametrize("told", [False, True])
def test_the_path_is_that_of_an_adaptive_solver(parts, told):
    """Of each row alone, to its own times after and before the start, from a random state."""
    from torchdiffeq import odeint

    _, module, _, samples = parts
    torch.manual_seed(0)
    model, z, times = module.LatentODE(16, told), torch.randn(5, module.LATENT), samples.times - module.START

    def slope(z):
        return model.linear(z) + model.field(z)

    with torch.no_grad():
        path = model.run(z, times, samples)
        constant = torch.zeros(5, 0) if model.encoder is None else model.encoder(samples)
        for row in range(5):
            for side in (times[row] > 0, times[row] < 0):
                ends = times[row][side] if times[row][side][0] > 0 else times[row][side].flip(0)
                points = torch.cat([torch.zeros(1), ends]).double()
                solved = odeint(
                    lambda t, z, row=row: slope(torch.cat([z.float(), constant[row]])).double(),
                    z[row].double(), points, rtol=1e-7, atol=1e-7,
                )[1:].float()  # fmt: skip
                expected = model.readout(torch.cat([solved, constant[row].expand(len(solved), -1)], 1))
                found = path[row][side] if ends[0] > 0 else path[row][side].flip(0)
                # The error of the fourth order with steps of 0.5.
                torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


def test_an_ode_is_asked_at_any_times_and_a_gru_depends_on_them(parts):
    _, module, _, samples = parts
    torch.manual_seed(0)
    for model, same in ((module.LatentODE(16).eval(), True), (module.GapGRU(16).eval(), False)):
        with torch.no_grad():
            every, _ = module.predict(model, samples, samples.times)
            some, _ = module.predict(model, samples, samples.times[:, ::2])
        assert torch.allclose(every[:, ::2], some, atol=1e-5) == same


def test_a_gru_runs_from_the_start_to_each_side_alone(parts):
    _, module, _, samples = parts
    torch.manual_seed(0)
    model, times = module.GapGRU(16), torch.tensor([[-3.0, -1.0, 0.5, 2.0]]).expand(5, -1)
    h = torch.randn(1, 5, 16)
    path = model.run(h, times, samples)
    torch.testing.assert_close(path[:, 2:], model.run(h, times[:, 2:], samples))
    torch.testing.assert_close(path[:, :2], model.run(h, times[:, :2], samples))
    output, _ = model.rnn.network(torch.tensor([-1.0, -2.0]).view(1, 2, 1).expand(5, -1, -1).contiguous(), h)
    torch.testing.assert_close(path[:, :2], model.readout(output.flip(1)))


def test_a_gru_takes_equal_times(parts):
    _, module, _, samples = parts
    torch.manual_seed(0)
    model, times = module.GapGRU(16), torch.tensor([[-1.0, -1.0, 0.5, 1.5, 1.5, 2.0]]).expand(5, -1)
    h = torch.randn(1, 5, 16)
    path = model.run(h, times, samples)
    forward = torch.tensor([0.5, 1.0, 0.0, 0.5]).view(1, 4, 1).expand(5, -1, -1).contiguous()
    torch.testing.assert_close(path[:, 2:], model.readout(model.rnn.network(forward, h)[0]))


def test_only_what_the_window_has_sets_the_state(parts):
    _, module, _, samples = parts
    torch.manual_seed(0)
    model = module.LatentODE(16)
    mean = model.initial_state.posterior(samples).mean
    outside = samples._replace(x=torch.where(samples.seen[..., None], samples.x, 9.0))
    torch.testing.assert_close(model.initial_state.posterior(outside).mean, mean)
    for change in ({"x": samples.x + 0.1}, {"times": samples.times + 0.1}):
        assert not torch.allclose(model.initial_state.posterior(samples._replace(**change)).mean, mean)
    # Read backwards: row by row, the samples of the window alone, the first of them last.
    encoder = module.Encoder(16)
    for row, features in enumerate(encoder(samples)):
        seen = samples.seen[row]
        read = torch.cat([samples.x[row][seen], (samples.times[row][seen] - module.START)[:, None]], 1).flip(0)
        _, last = encoder.rnn.network(read, encoder.rnn.initial_state())
        torch.testing.assert_close(features, last[0])


def test_the_bound_is_that_of_normal_noise(parts):
    data, module, _, samples = parts
    model = module.LatentODE(16).eval()
    path, posterior = module.predict(model, samples, samples.times)
    exact = -torch.distributions.Normal(path, data.NOISE).log_prob(samples.x).sum((1, 2)) + posterior.kl()
    constant = samples.x[0].numel() * math.log(data.NOISE * math.sqrt(2 * math.pi))
    torch.testing.assert_close(module.bound(model, samples, 1.0), (exact - constant).mean(), rtol=1e-4, atol=1e-3)
