"""Convolutions of stride 1, as products of matrices where XLA's own are slow.

On a CPU the gradients of jax.lax.conv_general_dilated took 15 to 60 times as long as those of these products.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mixer_jax.errors import MixerError

MANY_TAPS = 32  # from here on the product with the whole matrix is faster, as long as that is small
LARGEST = 2**21  # entries of that matrix


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
  return jax.lax.platform_dependent(x, kernel, cpu=_products(padding), default=_library(padding))


def _library(padding):
  pairs = tuple((n, n) for n in padding)
  layout = ('NHWC', 'HWIO', 'NHWC')
  return lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, (1, 1), pairs, dimension_numbers=layout)


def _products(padding):
  def apply(x, kernel):
    size = [n + 2 * p - k + 1 for n, p, k in zip(x.shape[1:3], padding, kernel.shape[:2], strict=True)]
    entries = math.prod(x.shape[1:]) * math.prod(size) * kernel.shape[-1]
    whole = math.prod(kernel.shape[:2]) > MANY_TAPS and entries <= LARGEST
    return (by_matrix if whole else by_shifts)(x, kernel, padding, size)

  return apply


def by_shifts(x: jax.Array, kernel: jax.Array, padding: tuple[int, int], size: list[int]) -> jax.Array:
  """The image moved by every tap side by side, times the kernel."""
  rows, columns = kernel.shape[:2]
  x = jnp.pad(x, ((0, 0), *((n, n) for n in padding), (0, 0)))
  moved = [x[:, a : a + size[0], b : b + size[1]] for a in range(rows) for b in range(columns)]
  return jnp.concatenate(moved, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def by_matrix(x: jax.Array, kernel: jax.Array, padding: tuple[int, int], size: list[int]) -> jax.Array:
  """All pixels times one matrix with the kernel in every place."""
  rows, columns = (
    _places(n, m, p, k) for n, m, p, k in zip(x.shape[1:3], size, padding, kernel.shape[:2], strict=True)
  )
  matrix = jnp.einsum('klio,yak,xbl->abiyxo', kernel, rows, columns, precision='highest')
  return jnp.tensordot(x, matrix, axes=3)


def _places(inputs: int, outputs: int, padding: int, taps: int) -> np.ndarray:
  """[outputs, inputs, taps]: 1 where output pixel y meets input pixel a at tap k."""
  y, a, k = np.ogrid[:outputs, :inputs, :taps]
  return (a == y + k - padding).astype(np.float32)
