"""Mixing by linear layers: the paper's MLP over the tokens, and one linear layer over everything."""

import math
from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models import layers
from mixer_jax.models.mixer import MlpBlock


class TokenMlp(MlpBlock):
  """The token-mixing MLP of the paper (arXiv 2105.01601), the same for every channel; a Mixer sets `hidden` itself."""

  def __init__(
    self, *, grid: tuple[int, int], width: int, hidden: int = 0, activation: Callable = layers.exact_gelu,
    dropout: float = 0.0, init: str = 'torch', dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs,
  ):  # fmt: skip
    del width
    if hidden < 1:
      raise MixerError(f'model.mixing.hidden is {hidden}, but must be at least 1')
    super().__init__(
      math.prod(grid), hidden, over='tokens', activation=activation, dropout=dropout, init=init, dtype=dtype, rngs=rngs
    )


class LinearMixing(nnx.Module):
  """One linear layer over all numbers of an example, [tokens x width].

  Source: https://github.com/defgsus/nn-experiments, "MLP-Mixer re-invented for auto-encoding", `mlp`.
  """

  def __init__(
    self, *, grid: tuple[int, int], width: int, init: str = 'torch', dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs
  ):
    size = math.prod(grid) * width
    self.linear = layers.linear(size, size, init=init, dtype=dtype, rngs=rngs)

  def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    y = self.linear(einops.rearrange(x, 't b c -> b (t c)'))
    return einops.rearrange(y, 'b (t c) -> t b c', t=len(x))
