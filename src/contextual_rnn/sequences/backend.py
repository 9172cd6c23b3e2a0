"""What runs nn.RNN, nn.LSTM and nn.GRU on sequences: torch's own code, or ours over segments."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextual_rnn._autocast import in_autocast
from contextual_rnn._numbers import shortened
from contextual_rnn._tensors import PLAIN_TENSORS, described
from contextual_rnn._torch_internals import dispatch_mode, in_forward_ad, is_plain_call, is_tracing, transforms
from contextual_rnn.ops._gated.layers import Stack, supports

SequenceBackend = Literal["auto", "torch", "native", "reference"]
BACKENDS: tuple[SequenceBackend, ...] = get_args(SequenceBackend)
ENVIRONMENT = "CONTEXTUAL_RNN_SEQUENCES_BACKEND"
KINDS = (nn.RNN, nn.LSTM, nn.GRU)  # not their subclasses, which may do more
FEW = 256  # hidden units times steps times rows: an example whose numbers are looked at beside those of a plain call


def check_backend(backend: object, network: nn.Module) -> None:
    """Refuse a backend that there is not, and ours for a network that they do not know."""
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {shortened(backend)}")
    if backend in ("native", "reference") and type(network) not in KINDS:
        kind = type(network).__name__
        raise ValueError(
            f"backend: expected auto or torch but for nn.RNN, nn.LSTM and nn.GRU, got {backend} for {kind}"
        )


def choose(
    backend: str,
    network: nn.Module,
    tensors: Sequence[Tensor],
    like_torch: bool = False,
    kinds: Collection[type[nn.Module]] = KINDS,
) -> str:
    """torch, native or reference, for an input and states; `auto` is native wherever that serves.

    `kinds` are the classes that we know. With `like_torch`, of a dense or very small batch, `auto` is torch.

    Raises ValueError where native or reference is asked for and cannot serve.
    """
    asked = backend
    if backend not in BACKENDS:  # the attribute of a model may be set to anything
        check_backend(backend, network)
    if backend == "auto":
        asked = os.environ.get(ENVIRONMENT) or "auto"
        if asked not in BACKENDS:
            raise ValueError(f"{ENVIRONMENT}: expected one of {', '.join(BACKENDS)}, got {shortened(asked)}")
    if asked == "torch" or (asked == "auto" and like_torch):
        return "torch"
    name = "native" if asked == "auto" else asked
    obstacle = _obstacle(network, tensors, name == "native", kinds)
    if obstacle is None:
        return name
    if backend == name:
        raise ValueError(f"backend: expected auto or torch here, as there {obstacle}, got {backend}")
    # Neither has a rule for torch's code over packed rows, and torch.func in some modes none for the kernel.
    unseen = in_forward_ad() or (transforms() is not None and dispatch_mode() is not None)
    if unseen and _obstacle(network, tensors, False, kinds) is None:
        return "reference"
    return "torch"


def is_small(network: nn.RNNBase, input: Tensor) -> bool:
    """Whether a batch has so few numbers that the rounding of torch's own code is worth more than time.

    Not in torch.func nor where derivatives are carried forward, which have no rule for torch's code over packed rows,
    nor in torch.compile, which refuses it.
    """
    if torch.compiler.is_compiling():
        return False
    few = input.shape[0] * input.shape[1] * network.hidden_size <= FEW
    return few and transforms() is None and not in_forward_ad()


def _obstacle(
    network: nn.Module, tensors: Sequence[Tensor], native: bool, kinds: Collection[type[nn.Module]]
) -> str | None:
    """Why the network must run as torch runs it: somebody watches or changes how it does, or there is no kernel."""
    if type(network) not in kinds:
        return "is a network of another class"
    if not is_plain_call(network):
        return "are hooks or a forward method of its own"
    compiling = torch.compiler.is_compiling()
    if is_tracing() or (compiling and (not native or torch.compiler.is_exporting())):
        return "is a program being traced"
    if in_autocast(tensors[0].device):
        return "is autocast"
    if native and not compiling and (dispatch_mode() is not None or in_forward_ad()):
        return "is a mode that the kernel does not see"
    every = [*tensors, *weights_of(network)]
    if not PLAIN_TENSORS.issuperset(map(type, every)):
        return "are tensors of other classes"
    return _no_kernel(every) if native else None


def weights_of(network: nn.Module) -> list[Tensor]:
    """The weights of a network of which only the forward method of its class is run."""
    if isinstance(network, nn.RNNBase):
        return [weight for weights in network.all_weights for weight in weights]
    return [weight for weight in network._parameters.values() if weight is not None]  # pyright: ignore[reportPrivateUsage]


def _no_kernel(tensors: Sequence[Tensor]) -> str | None:
    like = tensors[0]
    if not supports(like):
        return f"is no kernel for {described(like)}"
    for tensor in tensors:
        if tensor.dtype != like.dtype or tensor.device != like.device or tensor.layout != torch.strided:
            return "are tensors of several dtypes, devices or layouts"
    return None


def whole_rows(batch: int, steps: int, lengths: Tensor | None) -> Tensor:
    """The table of segments, as `ops._gated` has it, where each row is one from its first step."""
    table = _dense(batch, steps)
    if lengths is not None:
        table = table.clone()
        table[2] = lengths
    return table


@functools.lru_cache(maxsize=16)
def _dense(batch: int, steps: int) -> Tensor:
    with torch.inference_mode(False):
        rows = torch.arange(batch, device="cpu")
        return torch.stack([rows, torch.zeros_like(rows), torch.full_like(rows, steps), torch.ones_like(rows)])


def run(backend: str, network: nn.RNNBase, input: Tensor, state: Any, table: Tensor) -> tuple[Tensor, Any]:
    """Output in the layout of `input`, zero where no segment is, and the state after each row's last segment.

    `state` has a row for each segment of `table`; backend is native or reference.
    """
    network.check_input(input, None)
    if input.stride(0) < input.stride(1):
        input = input.contiguous()  # the output is laid out in memory as the input is
    h0, c0 = (state, None) if isinstance(state, Tensor) else state
    between = functools.partial(functional.dropout, p=network.dropout) if network.training and network.dropout else None
    stack = Stack(network.mode, network.all_weights, 2 if network.bidirectional else 1, between)
    inputs = input if network.batch_first else input.transpose(0, 1)
    output, h_n, c_n = stack.run(inputs, h0, c0, table, backend)
    output = output if network.batch_first else output.transpose(0, 1)
    return output, h_n if c_n is None else (h_n, c_n)
