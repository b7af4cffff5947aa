"""Dropout and stochastic depth: rates, expectations, types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.ops.dropout import dropout, stochastic_depth

BRANCH = np.random.default_rng(1).normal(size=(5, 2000, 3)).astype(np.float32)


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_dropout_at_its_rate_and_both_halves_of_a_word_apart(rate):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1000, 2001)), jnp.float32)
  out = np.asarray(jax.jit(lambda key: dropout(x, rate, key=key))(jax.random.key(0)))
  dropped = out == 0
  np.testing.assert_allclose(out[~dropped], np.asarray(x)[~dropped] / (1 - rate), rtol=1e-6)
  assert abs(dropped.mean() - rate) < 5 * (rate * (1 - rate) / dropped.size) ** 0.5
  pairs = np.corrcoef(dropped[:, 0:2000:2].ravel(), dropped[:, 1:2001:2].ravel())[0, 1]
  assert abs(pairs) < 5 / 1e6**0.5


@pytest.mark.parametrize('rescale', [False, True])
def test_stochastic_depth_drops_whole_branches_at_its_rate(rescale):
  out = np.asarray(stochastic_depth(jnp.asarray(BRANCH), 0.3, rescale=rescale, key=jax.random.key(0)))
  kept = (out != 0).any(axis=(0, 2))
  # 2,000 examples: a standard deviation of the share is 0.01.
  assert 1 - kept.mean() == pytest.approx(0.3, abs=0.04)
  np.testing.assert_array_equal(out[:, ~kept], 0)
  np.testing.assert_allclose(out[:, kept], BRANCH[:, kept] / (0.7 if rescale else 1), rtol=1e-6)


def test_stochastic_depth_rescaled_keeps_the_expectation():
  branch = jnp.asarray(BRANCH[:, :4])
  draw = lambda key: stochastic_depth(branch, 0.3, rescale=True, key=key)
  mean = jax.jit(lambda keys: jax.vmap(draw)(keys).mean(axis=0))(jax.random.split(jax.random.key(0), 10_000))
  # A standard deviation of the mean is 0.0065 times the value.
  np.testing.assert_allclose(mean, branch, rtol=0.03)


def test_stochastic_depth_at_rate_zero_changes_nothing():
  out = stochastic_depth(jnp.asarray(BRANCH), 0.0, rescale=True, key=jax.random.key(0))
  np.testing.assert_array_equal(out, BRANCH)


def test_stochastic_depth_keeps_the_type_with_a_traced_rate():
  branch = jnp.asarray(BRANCH, jnp.bfloat16)
  drop = jax.jit(lambda rate: stochastic_depth(branch, rate, rescale=True, key=jax.random.key(0)))
  assert drop(0.5).dtype == jnp.bfloat16
