"""Linear cosine decay (paper, section 2.2.2): data, model, task. Sequences from an initial value and a period."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextual_rnn import ContextualRNN, NormalState, generate, state_spec
from contextual_rnn.diagnostics import Diagnosis, diagnose
from contextual_rnn.experiments.config import DecayConfig
from contextual_rnn.experiments.tasks.coverage import coverage
from contextual_rnn.experiments.tasks.states import initial_state
from contextual_rnn.experiments.training.data_parallel import states_of_share
from contextual_rnn.experiments.training.seeding import generator_for
from contextual_rnn.experiments.training.task import Task, Tested
from contextual_rnn.states import InitialState

ALPHA, BETA, TOTAL_TIME = 0.0, 0.001, 25.0
STEPS = 25
INITIAL_RANGE = (2.0, 4.0)
TRAINING_PERIODS = (0.5, 1.5, 2.5, 3.5, 4.5)
VALIDATION_PERIODS = (1.0, 2.0, 3.0, 4.0)
LARGEST_VALUE = INITIAL_RANGE[1] * (1 + ALPHA + BETA)
LARGEST_PERIOD = 5.0
# For the coverage that is watched every epoch: validation sequences of a period, and samples of each.
WATCHED_SEQUENCES, WATCHED_SAMPLES = 20, 20
DIAGNOSED = 200  # sequences of a diagnosis


def linear_cosine_decay(initial: Tensor, period: Tensor) -> Tensor:
    """x(t) = x(0) [(alpha + (t_f - t) / t_f) (1 + cos(2 T pi t / t_f)) / 2 + beta], t = 0 .. 25 (Eq. 3).

    initial x(0) and period T are (N,), the result (N, 26). Raises ValueError where they are not finite.
    """
    for name, value in (("initial", initial), ("period", period)):
        if not torch.isfinite(value).all():
            raise ValueError(f"{name}: expected finite numbers, got {value.tolist()}")
    t = torch.arange(STEPS + 1, dtype=initial.dtype, device=initial.device)
    decay = ALPHA + (TOTAL_TIME - t) / TOTAL_TIME
    wave = (1 + torch.cos(2 * math.pi * period[:, None] * t / TOTAL_TIME)) / 2
    return initial[:, None] * (decay * wave + BETA)


def drawn_curves(period: Tensor, generator: torch.Generator) -> Tensor:
    """Curves (N, 26) of these periods (N,), each from an initial value that is drawn from `INITIAL_RANGE`."""
    low, high = INITIAL_RANGE
    draws = torch.rand(len(period), generator=generator, device="cpu")
    return linear_cosine_decay(low + (high - low) * draws, period)  # x(0) is 1 + beta times the drawn value


def scaled_value(x: Tensor) -> Tensor:
    """x in [0, 4.004] to [-1, 1]."""
    return 2 * x / LARGEST_VALUE - 1


def scaled_period(period: Tensor) -> Tensor:
    """Periods in [0, 5] to [-1, 1]."""
    return 2 * period / LARGEST_PERIOD - 1


class DecayModel(nn.Module):
    """An LSTM and one linear unit that predicts the next change of x, scaled to [-1, 1] by `largest_step`.

    The context is (x(0), T), both scaled, g 50 ReLU units, or none, and a linear layer for h and c. States without a
    context (zero, free) get the period appended to every step instead, as in the paper's baseline.
    """

    largest_step: Tensor

    def __init__(self, config: DecayConfig, largest_step: float = 1.0):
        super().__init__()
        self.period_in_input = config.state in ("zero", "free") or config.period_input
        lstm = nn.LSTM(2 if self.period_in_input else 1, config.units, batch_first=True)
        self.rnn = ContextualRNN(lstm, _initial_state(config, lstm))
        self.readout = nn.Linear(config.units, 1)
        self.register_buffer("largest_step", torch.tensor(largest_step, device=next(lstm.parameters()).device))

    def forward(
        self, x: Tensor, period: Tensor, generator: torch.Generator | None = None, rows: slice | None = None
    ) -> Tensor:
        """Scaled changes x(t+1) - x(t), (B, T), for x (B, T) and period (B,), both in their own units; or some rows."""
        context, inputs, hx = self.context_of(x[:, 0], period), self.input_of(x, period), None
        if rows is not None:
            inputs, hx = inputs[rows], states_of_share(self.rnn.initial_state, context, rows, generator)
        output, _ = self.rnn(inputs, hx, context=context, generator=generator)
        return self.readout(output)[..., 0]

    def free_run(
        self,
        initial: Tensor,
        period: Tensor,
        *,
        num_samples: int = 1,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Trajectories from x(0) alone, each prediction fed back: (B, num_samples, 26), in the units of x."""
        periods = period.repeat_interleave(num_samples)

        def step(output: Tensor, x: Tensor) -> Tensor:
            return x + self.readout(output)[..., 0] * self.largest_step

        paths = generate(
            self.rnn,
            step,
            initial,
            num_steps=STEPS,
            context=self.context_of(initial, period),
            num_samples=num_samples,
            sample=sample,
            embed=lambda x: self.input_of(x[:, None], periods)[:, 0],
            generator=generator,
        )
        return torch.cat([initial[:, None, None].expand(-1, num_samples, 1), paths], dim=2)

    def context_of(self, initial: Tensor, period: Tensor) -> Tensor:
        return torch.stack([scaled_value(initial), scaled_period(period)], dim=1)

    def input_of(self, x: Tensor, period: Tensor) -> Tensor:
        features = [scaled_value(x)]
        if self.period_in_input:
            features.append(scaled_period(period)[:, None].expand_as(x))
        return torch.stack(features, dim=2)


def _initial_state(config: DecayConfig, lstm: nn.LSTM) -> InitialState:
    units = config.context_units

    def g() -> nn.Module:
        return nn.Sequential(nn.Linear(2, units), nn.ReLU()) if units else nn.Identity()

    features = units or 2  # the context itself
    scales = {"scale": config.scale, "min_scale": config.min_scale}
    return initial_state(config.state, state_spec(lstm), g, features=features, **scales)


class DecayTask(Task[DecayModel]):
    """Mean squared error of the scaled change, each value of x given; free-running error in the units of x squared.

    The normal state adds `kl_weight` times KL(h(0) || N(0, 1)), a mean over sequences in nats.
    """

    draws_globally = False

    def __init__(self, config: DecayConfig):
        def data(split: str, periods: tuple[float, ...], samples: int) -> tuple[Tensor, Tensor]:
            period = torch.tensor(periods, device="cpu").repeat_interleave(samples)
            return drawn_curves(period, generator_for("decay", split, config.data_seed)), period

        self.training = data("training", TRAINING_PERIODS, config.samples_per_period)
        self.validation = data("validation", VALIDATION_PERIODS, config.samples_per_period // 2)
        self._samples = config.samples_per_period // 2
        self.clip_norm, self.kl_weight = config.clip_norm, config.kl_weight
        self.model = DecayModel(config, largest_step=self.training[0].diff().abs().max().item())

    def loss(self, batch: tuple[Tensor, ...], generator: torch.Generator, rows: slice | None = None) -> Tensor:
        x, period = batch
        loss = self._squared_error(x, period, generator, rows)
        if not self.kl_weight:
            return loss
        state = self.model.rnn.initial_state
        assert isinstance(state, NormalState)
        return loss + self.kl_weight * state.kl(self.model.context_of(x[:, 0], period))[rows or slice(None)].mean()

    @torch.inference_mode()
    def evaluate(self, final: bool) -> dict[str, float]:
        x, period = self.validation
        self.model.eval()
        metrics = {"validation_squared_error": self._squared_error(x, period, None).item()}
        if final:
            paths = self.model.free_run(x[:, 0], period)[:, 0]
            metrics["free_running_squared_error"] = functional.mse_loss(paths[:, 1:], x[:, 1:]).item()
        state = self.model.rnn.initial_state
        if isinstance(state, NormalState) and math.isfinite(metrics["validation_squared_error"]):  # has a distribution
            metrics |= self._spread(state)
        self.model.train()
        return metrics

    @torch.no_grad()
    def test(self) -> Tested:
        """Squared error of every scaled step, of fresh sequences of the validation periods."""
        period = torch.tensor(VALIDATION_PERIODS, device="cpu").repeat(self._samples)
        self.model.eval()
        errors = self._errors(drawn_curves(period, generator_for("decay", "test")), period)
        return Tested(errors, [str(index) for index in range(len(errors))])

    def diagnose(self) -> Diagnosis:
        """Of the squared error of every scaled step."""
        period = torch.tensor(VALIDATION_PERIODS, device="cpu").repeat(DIAGNOSED // len(VALIDATION_PERIODS))
        x = drawn_curves(period, generator_for("diagnostics", "decay"))
        return diagnose(self.model, lambda: self._errors(x, period))

    def _errors(self, x: Tensor, period: Tensor) -> Tensor:
        return (self.model(x[:, :-1], period) - x.diff() / self.model.largest_step).square()

    def _spread(self, state: NormalState) -> dict[str, float]:
        """Sigma, and its effect on x: the samples' own spread, and the share of truth within two of it."""
        every = max(len(self.validation[0]) // (len(VALIDATION_PERIODS) * WATCHED_SEQUENCES), 1)
        x, period = (tensor[::every] for tensor in self.validation)
        moments = state.moments(self.model.context_of(x[:, 0], period), None, None).values()
        scales = torch.cat(
            [torch.as_tensor(leaf.scale, device=leaf.mean.device).expand_as(leaf.mean).flatten(1) for leaf in moments],
            1,
        )
        means = torch.cat([leaf.mean.flatten(1) for leaf in moments], 1)
        generator = generator_for("coverage", 0, device=x.device)  # the same draws after every epoch
        paths = self.model.free_run(x[:, 0], period, num_samples=WATCHED_SAMPLES, sample=True, generator=generator)
        return {
            "mean_scale": scales.mean().item(),
            "smallest_scale": scales.min().item(),
            "largest_scale": scales.max().item(),
            "mean_spread_over_contexts": means.std(0).mean().item(),
            "trajectory_spread": paths[..., 1:].std(1).mean().item(),
            "coverage_two_deviations": coverage(paths[..., 1:], x[:, 1:], [2.0]).mean().item(),
        }

    def _squared_error(
        self, x: Tensor, period: Tensor, generator: torch.Generator | None, rows: slice | None = None
    ) -> Tensor:
        changes = x.diff() / self.model.largest_step
        return functional.mse_loss(self.model(x[:, :-1], period, generator, rows), changes[rows or slice(None)])
