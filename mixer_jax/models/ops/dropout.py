"""Dropout and stochastic depth."""

import einops
import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: float, *, key: jax.Array) -> jax.Array:
  """Sets entries of x to zero with probability `rate` and divides the others by 1 - rate (Srivastava et al. 2014).

  Each random word decides about two entries, which halves the time of nnx.Dropout on a CPU: `rate` is rounded to a
  multiple of 2**-16.
  """
  words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 2)), jnp.uint32)
  # Side by side, so that devices that share the last axis need nothing of each other.
  bits = einops.rearrange(jax.lax.bitcast_convert_type(words, jnp.uint16), '... n two -> ... (n two)')
  bits = bits[..., : x.shape[-1]]
  return jnp.where(bits >= round(rate * 2**16), x / (1 - rate), 0).astype(x.dtype)


def stochastic_depth(branch: jax.Array, rate: float | jax.Array, *, rescale: bool, key: jax.Array) -> jax.Array:
  """Drops the whole residual branch of an example with probability `rate` (Huang et al. 2016, arXiv 1603.09382).

  `branch` is [tokens, batch, channels]. `rescale` divides kept branches by the probability of keeping, as timm does, so
  that training and evaluation agree in expectation; the original Mixer does not.
  """
  keep = jax.random.bernoulli(key, 1 - rate, (1, branch.shape[1], 1))
  return jnp.where(keep, branch / (1 - rate) if rescale else branch, 0).astype(branch.dtype)
