"""Convolutions of stride 1, by other ways on CPUs where XLA's own take several times as long.

That is where the kernel is wider than the image, and the kernel's gradient where zeros around the image make it grow.
"""

import functools
import math

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mixer_jax.errors import MixerError

LARGEST = 2**21  # entries of the matrix of by_matrix


class Convolution(nnx.Module):
  """Convolution of [batch, height, width, inputs], plus a bias, zeros around the image; starts as torch's does.

  Args:
    kernel: (height, width).
    padding: zeros around the image, (rows, columns), on each side.
    transposed: draw the first parameters as torch.nn.ConvTranspose2d, which has other bounds; the arithmetic is the
      same, for a transposed convolution of stride 1 is a convolution whose padding is `kernel - 1 - padding`.
  """

  def __init__(
    self, inputs: int, outputs: int, kernel: tuple[int, int], *, padding: tuple[int, int], transposed: bool = False,
    rngs: nnx.Rngs,
  ):  # fmt: skip
    bound = 1 / math.sqrt(math.prod(kernel) * (outputs if transposed else inputs))
    draw = lambda shape: jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)
    self.kernel, self.bias = nnx.Param(draw((*kernel, inputs, outputs))), nnx.Param(draw((outputs,)))
    self.padding = padding

  def __call__(self, x: jax.Array) -> jax.Array:
    return convolve(x, self.kernel[...], self.padding) + self.bias[...]


def same(kernel: tuple[int, int]) -> tuple[int, int]:
  """The padding that keeps the shape, for odd kernels."""
  return (kernel[0] - 1) // 2, (kernel[1] - 1) // 2


def check_odd(kernel: int) -> None:
  """Refuses sides of kernels for which no padding keeps the shape."""
  if kernel < 1 or kernel % 2 == 0:
    raise MixerError(f'model.kernel is {kernel}, but must be odd and at least 1, or the shape would change')


def convolve(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
  """x [batch, height, width, inputs], kernel [rows, columns, inputs, outputs] -> [batch, height', width', outputs].

  As everywhere in deep learning a correlation: the kernel is not turned round.
  """
  size = [n + 2 * p - k + 1 for n, p, k in zip(x.shape[1:3], padding, kernel.shape[:2], strict=True)]
  entries = math.prod(x.shape[1:]) * math.prod(size) * kernel.shape[-1]
  if min(kernel.shape[:2]) > max(x.shape[1:3]) and entries <= LARGEST:
    on_cpu, default = (functools.partial(way, padding=padding) for way in (by_matrix, library))
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=default)
  return (growing if math.prod(size) > math.prod(x.shape[1:3]) else library)(x, kernel, padding)


def library(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
  pairs = tuple((n, n) for n in padding)
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), pairs, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def growing(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
  """As `library`. On CPUs the smaller image, x, is the kernel of the convolution that is the kernel's gradient."""
  return library(x, kernel, padding)


def _growing_backward(padding, saved, dy):
  def gradients(x, kernel, dy):
    return jax.vjp(lambda x, kernel: library(x, kernel, padding), x, kernel)[1](dy)

  def on_cpu(x, kernel, dy):
    rest = tuple(k - 1 - p for k, p in zip(kernel.shape[:2], padding, strict=True))
    summed_over_batch = einops.rearrange(dy, 'b h w o -> o h w b'), einops.rearrange(x, 'b h w i -> h w b i')
    dkernel = einops.rearrange(library(*summed_over_batch, rest), 'o h w i -> h w i o')[::-1, ::-1]
    return gradients(x, kernel, dy)[0], dkernel

  return jax.lax.platform_dependent(*saved, dy, cpu=on_cpu, default=gradients)


growing.defvjp(lambda x, kernel, padding: (library(x, kernel, padding), (x, kernel)), _growing_backward)


def by_matrix(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
  """All pixels times one matrix with the kernel in every place."""
  sides = zip(x.shape[1:3], padding, kernel.shape[:2], strict=True)
  rows, columns = (_places(n, n + 2 * p - k + 1, p, k) for n, p, k in sides)
  matrix = jnp.einsum('klio,yak,xbl->abiyxo', kernel, rows, columns, precision='highest')
  return jnp.tensordot(x, matrix, axes=3)


def _places(inputs: int, outputs: int, padding: int, taps: int) -> np.ndarray:
  """[outputs, inputs, taps]: 1 where output pixel y meets input pixel a at tap k."""
  y, a, k = np.ogrid[:outputs, :inputs, :taps]
  return (a == y + k - padding).astype(np.float32)
