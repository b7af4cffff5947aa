"""Convolutions against jax.lax, forwards and backwards."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixer_jax.models import convolution

SHAPES = [
  ((5, 6, 3), (3, 3), 4, (1, 1)),
  ((1, 9, 4), (1, 5), 4, (0, 2)),
  ((7, 7, 2), (5, 3), 3, (0, 0)),
  ((3, 3, 4), (3, 5), 2, (2, 4)),  # as a transposed convolution has it
  ((6, 5, 4), (3, 3), 2, (2, 2)),
  ((2, 2, 3), (7, 7), 3, (3, 3)),  # wider than the image
]


def draw(shape, kernel, outputs):
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(2, *shape)), jnp.float32)
  return x, jnp.asarray(random.normal(size=(*kernel, shape[-1], outputs)), jnp.float32)


@pytest.mark.parametrize('way', [convolution.convolve, convolution.growing, convolution.by_matrix])
@pytest.mark.parametrize('shape, kernel, outputs, padding', SHAPES)
def test_convolutions_and_their_gradients(shape, kernel, outputs, padding, way):
  x, k = draw(shape, kernel, outputs)
  wanted = convolution.library(x, k, padding)
  np.testing.assert_allclose(way(x, k, padding), wanted, rtol=1e-4, atol=1e-4)
  weight = jnp.asarray(np.random.default_rng(1).normal(size=wanted.shape), jnp.float32)
  ours = jax.grad(lambda x, k: (way(x, k, padding) * weight).sum(), (0, 1))(x, k)
  theirs = jax.grad(lambda x, k: (convolution.library(x, k, padding) * weight).sum(), (0, 1))(x, k)
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_gradients_can_be_differentiated_again():
  x, k = draw((5, 6, 3), (3, 3), 4)
  second = lambda way: jax.jvp(jax.grad(lambda k: (way(x, k, (2, 2)) ** 3).sum()), (k,), (k,))[1]
  np.testing.assert_allclose(second(convolution.convolve), second(convolution.library), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize('side, product', [(7, True), (3, False)])
def test_kernels_wider_than_the_image_are_a_matrix_on_cpus(side, product):
  x, k = draw((4, 4, 3), (side, side), 3)
  padding = convolution.same((side, side))
  text = jax.jit(lambda x, k: convolution.convolve(x, k, padding)).lower(x, k).as_text()
  assert ('stablehlo.convolution' not in text) == product


@pytest.mark.parametrize('transposed', [False, True])
def test_parameters_start_in_torchs_bounds(transposed):
  layer = convolution.Convolution(3, 12, (5, 5), padding=(2, 2), transposed=transposed, rngs=nnx.Rngs(0))
  bound = 1 / math.sqrt(25 * (12 if transposed else 3))
  for leaf in (layer.kernel[...], layer.bias[...]):
    assert 0.8 * bound < np.abs(leaf).max() <= bound
