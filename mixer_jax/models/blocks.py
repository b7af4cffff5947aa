"""The stack of blocks: how many, listed or stacked, with stochastic depth; the same for every model."""

from collections.abc import Callable, Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models.ops.dropout import stochastic_depth


def make(block: Callable[[nnx.Rngs], nnx.Module], depth: int, *, rngs: nnx.Rngs, scan: bool = False) -> Any:
  """`depth` blocks in a list, or with `scan` one block whose parameters have depth as their first axis."""
  return nnx.vmap(block)(rngs.split(depth)) if scan else nnx.List([block(rngs) for _ in range(depth)])


def run(
  blocks: Any, x: jax.Array, depth: int, *, drop_rate: float = 0.0, rngs: nnx.Rngs | None = None, remat: bool = False
) -> tuple[jax.Array, Any]:
  """x [tokens, batch, channels] after the last block, and after each; the same draws for a list and for a stack.

  Args:
    blocks: of `make`; each is called as block(x, drop_rate=..., rngs=...).
    drop_rate: of stochastic depth in the last block; it rises linearly from 0 in the first.
    rngs: with a `dropout` stream in training; None means evaluation.
    remat: recompute each block in the backward pass, for memory.
  """

  def body(x, inputs):
    block, rate, key = inputs
    x = block(x, drop_rate=rate, rngs=None if key is None else nnx.Rngs(dropout=key))
    return x, x

  body = jax.checkpoint(body) if remat else body
  keys = None if rngs is None else jax.random.split(rngs.dropout(), depth)
  rates = jnp.linspace(0, drop_rate, depth) if drop_rate else None
  if not isinstance(blocks, nnx.List):
    return jax.lax.scan(body, x, (blocks, rates, keys))
  outputs = []
  for i, block in enumerate(blocks):
    x, _ = body(x, (block, None if rates is None else rates[i], None if keys is None else keys[i]))
    outputs.append(x)
  return x, outputs


def residual(
  x: jax.Array, branch: jax.Array, *, drop_rate: float | jax.Array | None, rescale: bool, rngs: nnx.Rngs | None
) -> jax.Array:
  """x + branch; in training stochastic depth drops the branch of some examples."""
  if branch.shape != x.shape:
    raise MixerError(f'a mixing layer gave the shape {branch.shape} for {x.shape}, but must keep it')
  if rngs is not None and drop_rate is not None:
    branch = stochastic_depth(branch, drop_rate, rescale=rescale, key=rngs.dropout())
  return x + branch


def by_name(stem: jax.Array, outputs: Sequence[jax.Array] | jax.Array) -> dict[str, jax.Array]:
  """What the stem and every block gave, `stem`, `block_0`, ..., as [batch, tokens, channels]."""
  found = {'stem': stem, **{f'block_{i}': outputs[i] for i in range(len(outputs))}}
  return {name: einops.rearrange(x, 't b c -> b t c') for name, x in found.items()}
