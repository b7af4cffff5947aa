"""Products with gradients by hand against plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixer_jax.models.ops import products


def draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize('outputs', [3, 9], ids=['fewer outputs', 'more outputs'])
@pytest.mark.parametrize('ours, plain, rows', [
  (products.from_left, lambda kernel, x: kernel.T @ x, False),
  (products.from_right, lambda x, kernel: x @ kernel, True),
], ids=['left', 'right'])  # fmt: skip
def test_the_product_and_both_gradients(ours, plain, rows, outputs):
  kernel, x = draw(5, outputs), draw(40, 5, seed=1) if rows else draw(5, 40, seed=1)
  arguments = (x, kernel) if rows else (kernel, x)

  @jax.jit
  def both(*arguments):
    return [[y, *pull(jnp.cos(y))] for y, pull in (jax.vjp(way, *arguments) for way in (ours, plain))]

  for found, wanted in zip(*both(*arguments), strict=True):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_linear_layer_over_the_first_axis():
  layer = jax.jit(lambda: nnx.Linear(5, 3, bias_init=nnx.initializers.normal(), rngs=nnx.Rngs(0)))()
  x = draw(5, 4, 7)
  wanted = np.einsum('io,ibc->obc', layer.kernel[...], x) + np.asarray(layer.bias[...])[:, None, None]
  np.testing.assert_allclose(products.over_tokens(layer, x), wanted.reshape(3, -1), rtol=1e-5, atol=1e-5)
  assert products.over_tokens(layer, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
