"""The agents of the masked CartPole see what their arm says, and the example runs in its small setting."""

import importlib

import numpy
import pytest
import torch
from tests.examples.running import EXAMPLES, run

pytest.importorskip("sb3_contrib", reason="`make integrations`")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def agents(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("masked_cartpole_agents")


def policy_of(agents, arm, trained=True):
    """Of an untrained agent, or one whose state has moved from where it starts."""
    spaces = importlib.import_module("gymnasium").spaces
    torch.manual_seed(0)
    observed = spaces.Box(-10.0, 10.0, (4,), numpy.float32)
    policy = agents.Policy(observed, spaces.Discrete(2), lambda _: 1e-3, arm=arm, lstm_hidden_size=8, net_arch=[8])
    torch.manual_seed(1)
    for parameter in [*policy.lstm_actor.initial_state.parameters(), *policy.lstm_critic.initial_state.parameters()]:
        parameter.data += trained * 0.5 * torch.randn_like(parameter)
    return policy


STARTS = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0]], dtype=torch.float32)
OBSERVED, STATE = torch.randn(2, 5, 4), tuple(torch.randn(1, 2, 8) for _ in range(2))
POSITIONS, VELOCITIES = [0, 2], [1, 3]


def outputs(policy, observed):
    """(rows, steps, units) of the actor, for episodes that begin where STARTS says."""
    output, _ = policy._process_sequence(observed.flatten(0, 1), STATE, STARTS.flatten(), policy.lstm_actor)
    return output.view(2, 5, 8)


def test_it_ends_with_figures_and_a_picture(tmp_path):
    figures = run("masked_cartpole", tmp_path)
    assert list(figures) == [*importlib.import_module("masked_cartpole_agents").ARMS]
    for arm, found in figures.items():
        assert all(1 <= value <= 500 for value in found["return after it"]["seeds"])
        if arm != "zeros":
            for measure in ("return in training", "return after it"):
                pairs = zip(found[measure]["seeds"], figures["zeros"][measure]["seeds"], strict=True)
                gains = [ours - zeros for ours, zeros in pairs]
                assert found[f"{measure}, above zeros"]["seeds"] == pytest.approx(gains)
    returns = {tuple(found["return in training"]["seeds"]) for found in figures.values()}
    assert len(returns) >= 3, "arms of other inputs act differently"


def test_untrained_agents_that_see_positions_are_the_same(agents):
    plain = policy_of(agents, "zeros")
    hidden = OBSERVED * agents.POSITIONS
    wanted = super(agents.Policy, plain)._process_sequence(
        hidden.flatten(0, 1), STATE, STARTS.flatten(), plain.lstm_actor
    )[0]
    for arm in ("zeros", "learned", "from the first positions", "from the first velocities too"):
        torch.testing.assert_close(outputs(policy_of(agents, arm, trained=False), OBSERVED).flatten(0, 1), wanted)


SEEN = {  # steps whose velocities change the outputs from there on
    "zeros": [],
    "learned": [],
    "from the first positions": [],
    "from the first velocities too": STARTS.nonzero().tolist(),
    "zeros, first velocities as input": STARTS.nonzero().tolist(),
    "zeros, all velocities as input": [[row, step] for row in range(2) for step in range(5)],
}


@pytest.mark.parametrize("arm", SEEN)
def test_an_agent_sees_what_its_arm_says(agents, arm):
    policy = policy_of(agents, arm)
    before = outputs(policy, OBSERVED)
    for row in range(2):
        for step in range(5):
            for columns, seen in ((VELOCITIES, [row, step] in SEEN[arm]), (POSITIONS, True)):
                changed = OBSERVED.clone()
                changed[row, step, columns] += 1.0
                assert (not torch.equal(outputs(policy, changed)[row, step], before[row, step])) == seen


@pytest.mark.parametrize("arm", ["learned", "from the first positions", "from the first velocities too"])
def test_an_episode_begins_from_the_state_of_its_arm(agents, arm):
    policy = policy_of(agents, arm)
    context = OBSERVED[1, 1] * (1 if "velocities" in arm else agents.POSITIONS)
    state = policy.lstm_actor.initial_state(context[None])
    first, _ = policy.lstm_actor((OBSERVED[1, 1] * agents.POSITIONS)[None, None], state)
    torch.testing.assert_close(outputs(policy, OBSERVED)[1, 1], first[0, 0])
    assert {id(p) for p in policy.parameters()} == {
        id(p) for group in policy.optimizer.param_groups for p in group["params"]
    }, "all are trained"
