"""The agents of masked_cartpole.py: RecurrentPPO of stable-baselines3-contrib, with a state where episodes begin."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.ppo_recurrent import MlpLstmPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from torch import Tensor, nn

from contextual_rnn import ConstantState, ContextState, ContextualRNN, FreeState, InitialState, attach

POSITIONS, ALL = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.ones(4)  # of cart position and velocity, angle and its
AGENTS = 8  # environments that run side by side


def contextual(lstm: nn.LSTM) -> InitialState:
    return ContextState(lstm, nn.Sequential(nn.Linear(4, 16), nn.Tanh()), zero_init=True)


@dataclass(frozen=True)
class Arm:
    state: Callable[[nn.LSTM], InitialState]
    context: Tensor = POSITIONS
    first: Tensor = POSITIONS
    """What the first input shows; the context has it from the same observation."""
    later: Tensor = POSITIONS


ARMS = {
    "zeros": Arm(ConstantState),
    "learned": Arm(FreeState),
    "from the first positions": Arm(contextual),
    "from the first velocities too": Arm(contextual, context=ALL),
    "zeros, first velocities as input": Arm(ConstantState, first=ALL),
    "zeros, all velocities as input": Arm(ConstantState, first=ALL, later=ALL),
}


class Policy(MlpLstmPolicy):
    def __init__(self, observation_space, action_space, lr_schedule, *, arm: str, **options):
        super().__init__(observation_space, action_space, lr_schedule, **options)
        self.arm = ARMS[arm]
        self.models = {}  # beside the modules, which own the parameters; to build one in every call takes time
        for lstm in (self.lstm_actor, self.lstm_critic):
            attach(lstm, self.arm.state(lstm))
            self.models[id(lstm)] = ContextualRNN(lstm, lstm.initial_state)
        # Once more, for the new parameters.
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _process_sequence(self, features, lstm_states, episode_starts, lstm):
        rows = lstm_states[0].shape[1]
        observed = features.reshape(rows, -1, lstm.input_size).swapaxes(0, 1)
        starts = episode_starts.reshape(rows, -1).swapaxes(0, 1).bool()
        x = torch.where(starts[..., None], self.arm.first, self.arm.later) * observed
        context = self.arm.context * observed[starts]
        output, state = self.models[id(lstm)](x, lstm_states, reset=starts, reset_context=context)
        return output.swapaxes(0, 1).flatten(0, 1), state


class Returns(BaseCallback):
    """Step and return of every episode that ends in training."""

    def __init__(self):
        super().__init__()
        self.episodes: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        self.episodes += [(self.num_timesteps, info["episode"]["r"]) for info in infos if "episode" in info]
        return True


def train(
    arm: str, seed: int, steps: int, points: int, episodes: int, units: int, rate: float
) -> tuple[list[float], float]:
    """The mean return in each of `points` parts of `steps` of training, and after it, over `episodes`."""
    environments = make_vec_env("CartPole-v1", n_envs=AGENTS, seed=seed)
    agent = RecurrentPPO(
        Policy, environments, rate, n_steps=64, batch_size=256, n_epochs=10, gamma=0.98, gae_lambda=0.9,
        policy_kwargs={"arm": arm, "lstm_hidden_size": units, "net_arch": [units]}, seed=seed, device="cpu",
    )  # fmt: skip
    returns = Returns()
    agent.learn(steps, callback=returns)
    ends, values = numpy.array(returns.episodes).T
    part = numpy.minimum(ends * points // steps, points - 1)
    environments.seed(1000 + seed)
    after, _ = evaluate_policy(agent, environments, episodes)
    return [float(values[part == point].mean()) for point in range(points)], float(after)
