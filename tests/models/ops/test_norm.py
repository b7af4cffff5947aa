"""LayerNorm over the tokens against the formula, its gradient too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.ops.norm import TokenNorm


@pytest.mark.parametrize('spread', [1.0, 1e-3], ids=['usual', 'near epsilon'])
def test_token_norm_is_the_formula_and_its_gradient(spread):
  rng = np.random.default_rng(0)
  x = jnp.asarray(spread * rng.normal(size=(6, 3, 16)) + 2 * spread, jnp.float32)
  towards = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
  scale, bias = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)

  def ours(x, scale, bias):
    norm = TokenNorm(6, dtype=jnp.float32)
    norm.scale[...], norm.bias[...] = scale, bias
    return norm(x)

  def formula(x, scale, bias):
    normal = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-6)
    return normal * scale[:, None, None] + bias[:, None, None]

  def both(function):
    value, pull = jax.vjp(function, x, scale, bias)
    return value, *pull(towards)

  for got, wanted in zip(both(ours), both(formula), strict=True):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_token_norm_of_equal_tokens_is_the_bias():
  norm = TokenNorm(6, dtype=jnp.float32)
  np.testing.assert_array_equal(norm.scale[...], np.ones(6))
  x = jnp.full((6, 2, 3), 7.3)
  np.testing.assert_allclose(norm(x), np.zeros(x.shape), atol=2e-3)
  assert np.isfinite(jax.grad(lambda x: norm(x).sum())(x)).all()


def test_token_norm_of_bfloat16_counts_in_float32():
  norm = TokenNorm(6, dtype=jnp.bfloat16)
  # Means of 300 lose a unit to bfloat16's 8 bits; the numbers themselves do not.
  x = np.random.default_rng(0).integers(-2, 3, size=(6, 2, 50)) * 2 + 300
  out = norm(jnp.asarray(x, jnp.bfloat16))
  assert out.dtype == jnp.bfloat16
  expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
  np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.01)
