"""Convolutions of stride 1, with products of matrices where XLA's own are slow.

On a CPU the gradient of jax.lax.conv_general_dilated for its kernel took 15 to 60 times as long as these products.
"""

import functools
import math

import einops
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
    entries = math.prod(x.shape[1:]) * math.prod(_size(x, kernel, padding)) * kernel.shape[-1]
    whole = math.prod(kernel.shape[:2]) > MANY_TAPS and entries <= LARGEST
    return (by_matrix if whole else by_rows)(x, kernel, padding)

  return apply


def _size(x, kernel, padding) -> list[int]:
  """(height, width) of what comes out."""
  return [n + 2 * p - k + 1 for n, p, k in zip(x.shape[1:3], padding, kernel.shape[:2], strict=True)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def by_rows(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
  """XLA's convolution, with one product of matrices for each row of the kernel as its gradient."""
  return _library(padding)(x, kernel)


def _by_rows_backward(padding, saved, dy):
  x, kernel = saved
  height, width = dy.shape[1:3]
  rows, columns = kernel.shape[:2]
  dx = _library((rows - 1 - padding[0], columns - 1 - padding[1]))(dy, kernel[::-1, ::-1].swapaxes(2, 3))
  x = jnp.pad(x, ((0, 0), *((n, n) for n in padding), (0, 0)))
  x = jnp.concatenate([x[:, :, b : b + width] for b in range(columns)], axis=-1)
  # The barriers keep XLA from another order of the axes, with which these products took up to four times as long.
  keep = jax.lax.optimization_barrier
  dy = keep(einops.rearrange(dy, 'b h w o -> o (b h w)'))
  dkernel = [keep(dy @ keep(einops.rearrange(x[:, a : a + height], 'b h w i -> (b h w) i'))) for a in range(rows)]
  return dx, einops.rearrange(dkernel, 'k o (l i) -> k l i o', l=columns)


by_rows.defvjp(lambda x, kernel, padding: (by_rows(x, kernel, padding), (x, kernel)), _by_rows_backward)


def by_matrix(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
  """All pixels times one matrix with the kernel in every place."""
  sizes = zip(x.shape[1:3], _size(x, kernel, padding), padding, kernel.shape[:2], strict=True)
  rows, columns = (_places(*each) for each in sizes)
  matrix = jnp.einsum('klio,yak,xbl->abiyxo', kernel, rows, columns, precision='highest')
  return jnp.tensordot(x, matrix, axes=3)


def _places(inputs: int, outputs: int, padding: int, taps: int) -> np.ndarray:
  """[outputs, inputs, taps]: 1 where output pixel y meets input pixel a at tap k."""
  y, a, k = np.ogrid[:outputs, :inputs, :taps]
  return (a == y + k - padding).astype(np.float32)
