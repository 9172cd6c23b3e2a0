"""A language model of transformers and its initial state as one module."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_utils import PreTrainedModel

from contextual_rnn._numbers import check_size
from contextual_rnn._tensors import check_dense
from contextual_rnn.language.calls import check_tokens, has_cache
from contextual_rnn.language.spec import initial_cache, language_model_spec
from contextual_rnn.rnn import ContextualRNN
from contextual_rnn.spec.tree import State, fits
from contextual_rnn.states import InitialState

# What ContextualRNN takes, and the models of transformers would ignore.
_OF_SEQUENCES = inspect.signature(ContextualRNN.forward).parameters.keys() - {"self", "context", "generator", "more"}


class ContextualLanguageModel(nn.Module):
    """A language model of transformers that starts from `initial_state` instead of zeros.

        S(0) ~ initial state given the context        logits, loss = model(ids, S(0))

    `initial_state` is one for `language_model_spec(model)`, with or without the convolutions. Calls return what the
    model returns, so the module takes the model's place in a Trainer, a Lightning module or a loop; freeze the model to
    train the state alone. A cache that is passed wins over the initial state.

    Raises what `language_model_spec` raises, TypeError for an initial state that is none, ValueError for one made for
    another model.
    """

    def __init__(self, model: PreTrainedModel, initial_state: InitialState):
        super().__init__()
        if not isinstance(initial_state, InitialState):
            raise TypeError(f"initial_state: expected an InitialState, got {type(initial_state).__name__}")
        own = initial_state.spec.tree
        specs = [language_model_spec(model, convolutions=convolutions) for convolutions in (False, True)]
        if not any(fits(spec.tree, own) for spec in specs):
            raise ValueError(
                f"initial_state: expected one for {specs[0].describe()}, with convolutions or without, got one for "
                f"{initial_state.spec.describe()}"
            )
        self.model = model
        self.initial_state = initial_state

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        context: Any = None,
        inputs_embeds: Tensor | None = None,
        generator: torch.Generator | None = None,
        **arguments: Any,
    ) -> Any:
        """Run the model on tokens (B, T) from the initial state for `context`; further arguments go to the model.

        `generator` makes a random initial state repeatable. Raises TypeError for arguments of `ContextualRNN` that have
        no meaning here, what a call with `initial_cache` raises, and what the initial state raises for its context.
        """
        if wrong := sorted(_OF_SEQUENCES & arguments.keys()):
            raise TypeError(f"{wrong[0]}: expected an argument of the model, got one of ContextualRNN")
        if not has_cache(arguments):
            name, tokens = ("input_ids", input_ids) if inputs_embeds is None else ("inputs_embeds", inputs_embeds)
            check_dense(name, tokens)
            assert tokens is not None
            state = self.initial_state(context, tokens.shape[0], generator=generator)
            arguments["cache"] = initial_cache(self.model, state)
        given = {"attention_mask": attention_mask, "labels": labels, "inputs_embeds": inputs_embeds}
        arguments |= {name: value for name, value in given.items() if value is not None}
        return self.model(input_ids, **arguments)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        *,
        context: Any = None,
        num_return_sequences: int = 1,
        num_beams: int = 1,
        generator: torch.Generator | None = None,
        **arguments: Any,
    ) -> Any:
        """The model's own `generate` from the initial state: prompts (B, T), all of one length.

        Each of `num_return_sequences` begins from a draw of its own where the state is random; beams share one state.
        A cache that is passed wins over the initial state here too.
        """
        check_dense("input_ids", input_ids)
        check_tokens("input_ids", input_ids)
        samples, beams = check_size("num_return_sequences", num_return_sequences), check_size("num_beams", num_beams)
        batch = input_ids.shape[0]
        if not has_cache(arguments):
            if beams == 1 and samples > 1:
                state = self.initial_state.sample(context, samples, batch_size=batch, generator=generator)
            else:
                state = self._repeated(self.initial_state(context, batch, generator=generator), beams)
            arguments["cache"] = initial_cache(self.model, state)
        generation: Any = self.model
        return generation.generate(input_ids, num_return_sequences=samples, num_beams=beams, **arguments)

    def _repeated(self, state: State, times: int) -> State:
        spec = self.initial_state.spec
        return spec.pack({name: leaf.repeat_interleave(times, 0) for name, leaf in spec.unpack(state).items()})
