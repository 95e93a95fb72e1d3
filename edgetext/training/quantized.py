"""Quantisation-aware training: a generator run through the export's own 8-bit arithmetic.

Forwards use the levels and scales that `edgetext.quantization` defines, for weights and for activations;
backwards take rounding for the identity (straight-through, Bengio et al. 2013; for networks as here, Jacob
et al. 2018). So what is trained is what the exported graph computes.

Weights and embeddings are those of the kernels bit for bit, and so are the levels of activations whose values
are. The order of summation and the approximations of sigmoid, tanh and exp are not: a relative difference
around 1e-7, until it meets a tie of the rounding. Then one activation moves by one level, and what comes
after differs by up to what quantising activations costs, just as two runs of the exported graph do that cut
a prompt differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from edgetext.errors import ConfigError
from edgetext.models.base import GeneratorModel, Output, State
from edgetext.quantization import activation_block_levels, activation_byte_levels, block_levels, row_levels


class QuantizedGenerator(GeneratorModel):
    """A generator over the same parameters as `model`, whose forwards are those of its exported int8 graph.

    Train and validate this one; save `model`. Runs in float32 whatever the autocast. Activations are
    quantised per row, as in decoding one token of one sequence at a time (see `activation_byte_levels`).

    Raises:
        ConfigError: for a generator of another make than those that can be exported.
    """

    def __init__(self, model: GeneratorModel) -> None:
        from edgetext.models.recurrent import RecurrentGenerator
        from edgetext.models.transformer import TransformerGenerator

        super().__init__()
        if not isinstance(model, RecurrentGenerator | TransformerGenerator):
            raise ConfigError(
                f"{type(model).__name__} cannot be trained through the int8 arithmetic of the export; "
                f"leave out --quantized-steps, or give a student of kind lstm, gru or transformer"
            )
        self.config = model.config
        self.model: GeneratorModel = model

    @property
    def embedding(self) -> nn.Embedding:  # type: ignore[override]
        """The model's embedding table, not quantised."""
        return self.model.embedding

    def forward(
        self,
        tokens: Tensor | None,
        state: State | None = None,
        *,
        embeddings: Tensor | None = None,
        condition: Tensor | None = None,
        internals: bool = False,
    ) -> Output:
        """See `GeneratorModel.forward`."""
        soft = None if embeddings is None else embeddings.float()
        with _full_precision(self.embedding.weight), Int8Arithmetic():
            return self.model(tokens, state, embeddings=soft, condition=condition, internals=internals)

    def embed_distribution(self, probabilities: Tensor) -> Tensor:
        """See `GeneratorModel.embed_distribution`; over the quantised table."""
        with _full_precision(self.embedding.weight):
            return probabilities.float() @ _quantised_blocks(self.embedding.weight)


class Int8Arithmetic(TorchFunctionMode):
    """Context in which linear layers, embeddings and recurrent layers compute as their int8 kernels do.

    For float32 modules without dropout inside `nn.LSTM` and `nn.GRU`; everything else runs as it is.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func`, or its int8 counterpart."""
        return _COUNTERPARTS.get(func, func)(*args, **(kwargs or {}))


def quantised_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """MatMulNBits with accuracy level 4: x [..., K] times weight [N, K] transposed, plus bias [N]."""
    return F.linear(_quantised_activations(x), _quantised_blocks(weight), bias)


def quantised_embedding(ids: Tensor, weight: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """GatherBlockQuantized: rows of a table [V, E]; quantised after they are gathered, which is the same."""
    return _quantised_blocks(F.embedding(ids, weight, *arguments, **options))


def quantised_lstm(
    x: Tensor, initial: tuple[Tensor, Tensor], weights: Sequence[Tensor], *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """DynamicQuantizeLSTM, one layer, batch first: x [B,T,in], h and c [1,B,H] → y [B,T,H], h, c [1,B,H].

    `weights` are the input's [4H,in], the recurrent [4H,H], and their biases [4H], in torch's gate order;
    `options` what `torch.lstm` takes besides. Raises ValueError for a layer that is not batch first.
    """
    _require_batch_first(options)
    w, r, input_bias, recurrent_bias = weights
    steps = _quantised_bytes(x.transpose(0, 1))  # [T,B,in]
    gates = F.linear(steps, _quantised_rows(w), input_bias + recurrent_bias)  # [T,B,4H]
    h, c = initial
    y, c = recurrence(gates, _quantised_rows(r), h[0], c[0])  # [T,B,H], [B,H]
    return y.transpose(0, 1), y[-1:], c[None]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # compiled, the loop over T would be unrolled
def quantised_gru(
    x: Tensor, initial: Tensor, weights: Sequence[Tensor], *options: Any
) -> tuple[Tensor, Tensor]:
    """GRU cells out of MatMulNBits, one layer, batch first: x [B,T,in], h [1,B,H] → y [B,T,H], h [1,B,H].

    As `quantised_lstm`, with gates r, z, n. Autograd keeps every step, so it takes more memory than that.
    """
    _require_batch_first(options)
    w, r, input_bias, recurrent_bias = weights
    r = _quantised_blocks(r)
    h, y = initial[0], []
    for step in quantised_linear(x, w, input_bias).unbind(1):  # [B,3H]
        past = F.linear(_quantised_activations(h), r, recurrent_bias)
        (reset_x, update_x, new_x), (reset_h, update_h, new_h) = step.chunk(3, -1), past.chunk(3, -1)
        update = (update_x + update_h).sigmoid()
        new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
        h = new + update * (h - new)
        y.append(h)
    return torch.stack(y, dim=1), h[None]


def _require_batch_first(options: Sequence[Any]) -> None:
    if options and not options[-1]:
        raise ValueError("a recurrent layer in int8 arithmetic takes its input batch first")


@torch.compiler.disable  # type: ignore[untyped-decorator]  # compiled, the loop over T would be unrolled
def recurrence(gates: Tensor, weight: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Run the recurrent half of an LSTM layer, h quantised before every product with the weights.

    Takes gates [T,B,4H] (input, forget, cell, output: the input's share and the biases), weight [4H,H], h and
    c [B,H]; gives y [T,B,H] and the last c [B,H]. Can be differentiated once.
    """
    y, last = _Recurrence.apply(gates, weight, h, c)  # type: ignore[no-untyped-call]
    return y, last


_COUNTERPARTS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: quantised_linear,
    F.embedding: quantised_embedding,
    torch.lstm: quantised_lstm,
    torch.gru: quantised_gru,
}


class _Through(Function):
    """f(x) forwards, the identity backwards."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        return f(x)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _through(x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    y: Tensor = _Through.apply(x, f)  # type: ignore[no-untyped-call]
    return y


def _quantised_blocks(weight: Tensor) -> Tensor:
    return _through(weight, lambda value: block_levels(value).dequantised(weight.shape[-1]))


def _quantised_activations(x: Tensor) -> Tensor:
    return _through(x, lambda value: activation_block_levels(value).dequantised(x.shape[-1]))


def _quantised_rows(weight: Tensor) -> Tensor:
    return _through(weight, lambda value: row_levels(value).dequantised(weight.shape[-1]))


def _quantised_bytes(x: Tensor) -> Tensor:
    return _through(x, _bytes)


def _bytes(x: Tensor) -> Tensor:
    return activation_byte_levels(x).dequantised(x.shape[-1])


class _Recurrence(Function):
    """See `recurrence`.

    Written out because autograd over T steps would add a [4H,H] gradient per step; here it is one product.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        T, B, H = gates.shape[0], h.shape[0], h.shape[1]
        transposed = weight.t()
        inputs = gates.new_empty(T, B, H)  # quantised h, as each step's product sees it
        active = torch.empty_like(gates)  # [T,B,4H]
        cells = gates.new_empty(T + 1, B, H)
        y = gates.new_empty(T, B, H)
        cells[0] = c
        for t in range(T):
            inputs[t] = _bytes(h)
            a = torch.addmm(gates[t], inputs[t], transposed)  # [B,4H]
            torch.sigmoid(a, out=active[t])
            i, f, g, o = active[t].chunk(4, dim=-1)
            torch.tanh(a[:, 2 * H : 3 * H], out=g)
            torch.addcmul(f * cells[t], i, g, out=cells[t + 1])
            h = torch.mul(o, cells[t + 1].tanh(), out=y[t])
        ctx.save_for_backward(weight, inputs, active, cells)
        return y, cells[T].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weight, inputs, active, cells = ctx.saved_tensors
        dy, dc = gradients
        T, B, H = inputs.shape
        i, f, g, o = active.view(T, B, 4, H).unbind(2)  # [T,B,H] each
        squashed = cells[1:].tanh()
        # What d(cell) and d(h) of a step are multiplied with to give those of the gates before activation.
        per_cell = torch.stack([g * i * (1 - i), cells[:-1] * f * (1 - f), i * (1 - g * g)], dim=2)
        per_output = squashed * o * (1 - o)
        through_h = o * (1 - squashed * squashed)
        gates = torch.empty_like(active).view(T, B, 4, H)
        dh = torch.zeros_like(dc)
        for t in reversed(range(T)):
            dh = dh + dy[t]
            dc = torch.addcmul(dc, dh, through_h[t])
            torch.mul(dc[:, None], per_cell[t], out=gates[t, :, :3])
            torch.mul(dh, per_output[t], out=gates[t, :, 3])
            dc = dc * f[t]
            dh = gates[t].view(B, 4 * H) @ weight
        flat = gates.view(T, B, 4 * H)
        return flat, flat.view(-1, 4 * H).t() @ inputs.view(-1, H), dh, dc


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Context that switches autocast off on the tensor's device."""
    return torch.autocast(tensor.device.type, enabled=False)
