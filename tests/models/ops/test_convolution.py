"""Convolutions as products against jax.lax, forwards and backwards."""

import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixer_jax.models.ops import convolution

SHAPES = [
  ((5, 6, 3), (3, 3), 4, (1, 1)),
  ((1, 9, 4), (1, 5), 4, (0, 2)),
  ((7, 7, 2), (5, 3), 3, (0, 0)),
  ((3, 3, 4), (3, 5), 2, (2, 4)),  # as a transposed convolution has it
  ((2, 2, 3), (7, 7), 3, (3, 3)),  # wider than the image
  ((4, 8, 2), (7, 5), 3, (6, 1)),
]


def draw(shape, kernel, outputs):
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(2, *shape)), jnp.float32)
  return x, jnp.asarray(random.normal(size=(*kernel, shape[-1], outputs)), jnp.float32)


def library(x, kernel, padding):
  pairs = [(n, n) for n in padding]
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), pairs, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


@pytest.mark.parametrize('way', [convolution.by_library, convolution.by_products])
@pytest.mark.parametrize('shape, kernel, outputs, padding', SHAPES)
def test_products_are_convolutions_and_so_are_their_gradients(shape, kernel, outputs, padding, way):
  x, k = draw(shape, kernel, outputs)
  wanted = library(x, k, padding)
  np.testing.assert_allclose(way(x, k, padding), wanted, rtol=1e-4, atol=1e-4)
  weight = jnp.asarray(np.random.default_rng(1).normal(size=wanted.shape), jnp.float32)
  ours = jax.grad(lambda x, k: (way(x, k, padding) * weight).sum(), (0, 1))(x, k)
  theirs = jax.grad(lambda x, k: (library(x, k, padding) * weight).sum(), (0, 1))(x, k)
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('way', [convolution.by_library, convolution.by_products])
@pytest.mark.parametrize('shape, kernel, outputs, padding', [SHAPES[0], SHAPES[3]])
def test_products_with_the_hessian(shape, kernel, outputs, padding, way):
  arguments = draw(shape, kernel, outputs)
  tangents = jax.tree.map(lambda x: jnp.cos(3 * x), arguments)
  of = lambda way: jax.grad(lambda x, k: jnp.sin(way(x, k, padding)).sum(), (0, 1))
  ours, theirs = (jax.jvp(of(way), arguments, tangents)[1] for way in (way, library))
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize('padding', [(0, 0), (4, 4)])  # images shrink and grow
@pytest.mark.parametrize('images', [1, 2, 5, 6])
def test_parts_of_a_batch_are_the_whole(images, padding, monkeypatch):
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(6, 7, 8, 3)), jnp.float32)
  k = jnp.asarray(random.normal(size=(5, 5, 3, 2)), jnp.float32)
  pixels = math.prod(n + 2 * p - 4 for n, p in zip((7, 8), padding, strict=True))
  monkeypatch.setattr(convolution, 'PART_BYTES', images * pixels * 75 * 4)
  shapes = convolution._in_parts(x, x, k, padding).shape
  assert shapes[:2] == {1: (6, 1), 2: (3, 2), 5: (2, 3), 6: (1, 6)}[images]
  wanted = library(x, k, padding)
  np.testing.assert_allclose(convolution.by_library(x, k, padding), wanted, rtol=1e-4, atol=1e-4)
  weight = jnp.asarray(random.normal(size=wanted.shape), jnp.float32)
  gradients = [
    jax.grad(lambda x, k, way=way: (way(x, k, padding) * weight).sum(), (0, 1))(x, k)
    for way in (convolution.by_library, library)
  ]
  for ours, theirs in zip(*gradients, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('shape, kernel, outputs, padding', SHAPES)
def test_what_is_chosen_is_the_same(shape, kernel, outputs, padding):
  x, k = draw(shape, kernel, outputs)
  np.testing.assert_allclose(convolution.convolve(x, k, padding), library(x, k, padding), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('shape, kernel, outputs, padding', [SHAPES[0], SHAPES[4]])
def test_bfloat16_stays_what_it_is_forwards_and_backwards(shape, kernel, outputs, padding):
  x, k = (a.astype(jnp.bfloat16) for a in draw(shape, kernel, outputs))
  for way in (convolution.by_library, convolution.by_products):
    assert jax.eval_shape(lambda x, k, way=way: way(x, k, padding), x, k).dtype == jnp.bfloat16
    backwards = jax.grad(lambda x, k, way=way: way(x, k, padding).astype(jnp.float32).sum(), (0, 1))
    assert {leaf.dtype for leaf in jax.eval_shape(backwards, x, k)} == {jnp.dtype('bfloat16')}


@pytest.mark.parametrize('transposed', [False, True])
def test_parameters_start_in_torchs_bounds(transposed):
  layer = convolution.Convolution(3, 12, (5, 5), padding=(2, 2), transposed=transposed, rngs=nnx.Rngs(0))
  bound = 1 / math.sqrt(25 * (12 if transposed else 3))
  for leaf in (layer.kernel[...], layer.bias[...]):
    assert 0.8 * bound < np.abs(leaf).max() <= bound


SHARED = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from mixer_jax.models.ops import convolution
mesh = Mesh(np.array(jax.devices()), ('data',))
x = jax.device_put(np.random.default_rng(0).normal(size=(8, 24, 24, 24)), NamedSharding(mesh, PartitionSpec('data')))
kernel = jax.device_put(np.ones((5, 5, 24, 32)), NamedSharding(mesh, PartitionSpec()))
way = lambda x, kernel: (convolution.convolve(x, kernel, (0, 0)) ** 2).sum()
compiled = jax.jit(jax.grad(way, (0, 1))).lower(x, kernel).compile()
print(compiled.as_text().count('all-gather('), *compiled.output_shardings[0].spec)
"""


def test_devices_keep_their_images():
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=2'
  environment = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  result = subprocess.run([sys.executable, '-c', SHARED], env=environment, capture_output=True, text=True, check=True)
  assert result.stdout == '0 data\n'
