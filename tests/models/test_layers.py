"""Patches against a plain loop, the initialisers' statistics."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models import layers


@pytest.mark.parametrize(
  'shape, patch', [((6, 4, 3), (2, 2)), ((6, 8, 1), (3, 2)), ((4, 4, 5), (4, 4)), ((2, 3, 2), (1, 1))]
)
def test_patchify_is_the_loop_over_rows_and_columns(shape, patch):
  image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
  tokens = []
  for top in range(0, shape[0], patch[0]):
    for left in range(0, shape[1], patch[1]):
      tokens.append(image[:, top : top + patch[0], left : left + patch[1]].reshape(2, -1))
  np.testing.assert_array_equal(layers.patchify(jnp.asarray(image), patch), np.stack(tokens))


@pytest.mark.parametrize(
  'image, patch, expected',
  [
    ((12, 8, 3), 4, ((3, 2), (4, 4))),
    ((12, 8, 3), (6, 2), ((2, 4), (6, 2))),
    ((12, 8, 3), [12, 8], ((1, 1), (12, 8))),
  ],
)
def test_patch_grid(image, patch, expected):
  assert layers.patch_grid(image, patch) == expected


@pytest.mark.parametrize('patch, shown', [(5, '5x5'), ((4, 5), '4x5'), ((5, 4), '5x4'), (0, '0x0'), ((4, -2), '4x-2')])
def test_a_patch_that_does_not_divide_is_refused_with_both_sizes(patch, shown):
  with pytest.raises(MixerError, match=f'patch {shown} does not divide the image 12x8'):
    layers.patch_grid((12, 8, 3), patch)


def test_gelus_are_the_two_formulas():
  x = np.linspace(-5, 5, 101)
  exact = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
  tanh = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
  np.testing.assert_allclose(layers.gelu('exact')(jnp.asarray(x, jnp.float32)), exact, atol=1e-6)
  np.testing.assert_allclose(layers.gelu('tanh')(jnp.asarray(x, jnp.float32)), tanh, atol=1e-6)
  assert 4e-4 < np.abs(exact - tanh).max() < 4.8e-4


def test_unknown_gelu():
  with pytest.raises(MixerError, match=r"unknown GELU 'tahn'; did you mean 'tanh'\? Known: exact, tanh"):
    layers.gelu('tahn')


def make_linear(inputs=64, outputs=500, **settings):
  return layers.linear(inputs, outputs, **{'init': 'original', 'dtype': jnp.float32, 'rngs': nnx.Rngs(0), **settings})


def test_linear_original_is_lecun_normal():
  layer = make_linear(bias=-6.9)
  kernel = np.asarray(layer.kernel[...])
  assert kernel.shape == (64, 500)
  # 32,000 draws: the variance is known to 0.8%. The normal is cut off at two of its standard deviations,
  # which leaves 0.8796 of the standard deviation.
  assert kernel.mean() == pytest.approx(0, abs=4 / math.sqrt(64 * kernel.size))
  assert kernel.var() == pytest.approx(1 / 64, rel=0.03)
  assert np.abs(kernel).max() <= 2 / math.sqrt(64) / 0.8796 * 1.001
  np.testing.assert_array_equal(layer.bias[...], np.full(500, -6.9, np.float32))


def test_linear_original_may_start_from_zero():
  np.testing.assert_array_equal(make_linear(zero=True).kernel[...], np.zeros((64, 500)))


@pytest.mark.parametrize('zero', [False, True])
def test_linear_torch_is_uniform_kernel_and_bias(zero):
  layer = make_linear(init='torch', zero=zero, bias=-6.9)
  bound = 1 / math.sqrt(64)
  for value, share in ((layer.kernel[...], 0.03), (layer.bias[...], 0.15)):
    assert 0.98 * bound < jnp.abs(value).max() <= bound
    assert value.var() == pytest.approx(bound**2 / 3, rel=share)


def test_linear_unknown_initialiser():
  with pytest.raises(MixerError, match="unknown initialiser 'pytorch'; did you mean 'torch'"):
    make_linear(init='pytorch')


def test_linear_computes_in_its_type_with_float32_parameters():
  layer = make_linear(dtype=jnp.bfloat16)
  assert {layer.kernel[...].dtype, layer.bias[...].dtype} == {jnp.dtype('float32')}
  assert layer(jnp.ones((2, 64))).dtype == jnp.bfloat16
