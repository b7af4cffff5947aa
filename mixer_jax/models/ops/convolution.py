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

MANY_TAPS = 16  # with more of them, and images not twice as wide as the kernel, by_products is faster
PART_BYTES = 2**20  # of what the kernel meets at a time: as much as stays in the cache of a core


class Convolution(nnx.Module):
  """Convolution of [batch, height, width, inputs], plus a bias, zeros around the image; starts as torch's does.

  It computes in the type of its input; the parameters are float32.

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
    return convolve(x, self.kernel[...].astype(x.dtype), self.padding) + self.bias[...].astype(x.dtype)


def same(kernel: tuple[int, int]) -> tuple[int, int]:
  """The padding that keeps the shape, for odd kernels."""
  return (kernel[0] - 1) // 2, (kernel[1] - 1) // 2


def check_odd(kernel: int, key: str = 'model.kernel') -> None:
  """Refuses sides of kernels for which no padding keeps the shape."""
  if kernel < 1 or kernel % 2 == 0:
    raise MixerError(f'{key} is {kernel}, but must be odd and at least 1, or the shape would change')


def convolve(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
  """x [batch, height, width, inputs], kernel [rows, columns, inputs, outputs] -> [batch, height', width', outputs].

  A correlation, as usual in deep learning: the kernel is not flipped.
  """
  return jax.lax.platform_dependent(x, kernel, cpu=_on_cpu(padding), default=_library(padding))


def _library(padding):
  pairs = tuple((n, n) for n in padding)
  layout = ('NHWC', 'HWIO', 'NHWC')
  return lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, (1, 1), pairs, dimension_numbers=layout)


def _on_cpu(padding):
  def apply(x, kernel):
    width = x.shape[2] + max(0, 2 * padding[1] - kernel.shape[1] + 1)  # before or after, whichever is wider
    narrow = width < 2 * kernel.shape[1]
    way = by_products if narrow and math.prod(kernel.shape[:2]) > MANY_TAPS else by_library
    return way(x, kernel, padding)

  return apply


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def by_library(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
  """XLA's convolution of a few images at a time; the kernel's gradient is one product of matrices for each of its rows.

  XLA writes out what the kernel meets at every pixel, for all images at once: whole batches left the cache, and took up
  to twice as long.
  """
  return _some_at_a_time(x, kernel, padding)


def _some_at_a_time(x, kernel, padding):
  return _joined(jax.lax.map(lambda part: _library(padding)(part, kernel), _in_parts(x, x, kernel, padding)))


def _by_library_backward(padding, saved, dy):
  x, kernel = saved
  opposite = tuple(n - 1 - p for n, p in zip(kernel.shape, padding, strict=False))

  def add(dkernel, part):
    x, dy = part
    dx = _library(opposite)(dy, _turned(kernel))
    if math.prod(dy.shape[:3]) > math.prod(x.shape[:3]):  # images grew: from this side fewer pixels meet the kernel
      return dkernel + _turned(_kernel_gradient(dy, x, kernel.shape[:2], opposite)), dx
    return dkernel + _kernel_gradient(x, dy, kernel.shape[:2], padding), dx

  parts = tuple(_in_parts(a, x, kernel, padding) for a in (x, dy))
  dkernel, dx = jax.lax.scan(add, jnp.zeros_like(kernel), parts)
  return _joined(dx), dkernel


# Not by_library itself: inside its own rule JAX would refuse products with a Hessian, forwards through backwards.
by_library.defvjp(lambda x, kernel, padding: (_some_at_a_time(x, kernel, padding), (x, kernel)), _by_library_backward)


def _in_parts(a, x, kernel, padding):
  """a [batch, ...] -> [parts, images of a part, ...], by what the kernel meets in images of the size of x.

  Interleaved, so that each of several devices keeps its images.
  """
  pixels = math.prod(n + 2 * p - k + 1 for n, p, k in zip(x.shape[1:3], padding, kernel.shape, strict=False))
  images = max(1, PART_BYTES // (pixels * math.prod(kernel.shape[:3]) * a.dtype.itemsize))
  devices = jax.device_count()
  part = next((n * devices for n in range(images, 0, -1) if len(a) % (n * devices) == 0), len(a))
  return einops.rearrange(a, '(n k) ... -> k n ...', n=part)


def _joined(parts):
  return einops.rearrange(parts, 'k n ... -> (n k) ...')


def _turned(kernel):
  """The kernel of the backward pass: flipped, with inputs and outputs swapped."""
  return kernel[::-1, ::-1].swapaxes(2, 3)


def _kernel_gradient(x, dy, taps, padding):
  height, width = dy.shape[1:3]
  x = jnp.pad(x, ((0, 0), *((n, n) for n in padding), (0, 0)))
  x = jnp.concatenate([x[:, :, b : b + width] for b in range(taps[1])], axis=-1)
  dkernel = [_outer(x[:, a : a + height], dy) for a in range(taps[0])]
  return einops.rearrange(dkernel, 'k (l i) o -> k l i o', l=taps[1])


def by_products(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
  """Rows of the image times rows of the kernel, each of these a matrix with its columns in every place."""
  width = x.shape[2] + 2 * padding[1] - kernel.shape[1] + 1
  y, b, tap = np.ogrid[:width, : x.shape[2], : kernel.shape[1]]
  places = (b == y + tap - padding[1]).astype(kernel.dtype)  # 1 where output pixel y meets input pixel b at this tap
  matrices = jnp.einsum('klio,ybl->kbiyo', kernel, places, precision='highest')
  matrices = einops.rearrange(matrices, 'k b i y o -> k (b i) (y o)')
  y = _rows_times(einops.rearrange(x, 'n h w i -> n h (w i)'), matrices, padding[0])
  return einops.rearrange(y, 'n h (w o) -> n h w o', w=width)


def _rows_times_plain(x, matrices, padding):
  """Convolution over the rows of [batch, rows, inputs] with [taps, inputs, outputs]."""
  batch, height, inputs = x.shape
  taps, _, outputs = matrices.shape
  result = []
  for y in range(height + 2 * padding - taps + 1):
    first, last = max(0, y - padding), min(height, y - padding + taps)
    met = matrices[first - y + padding : last - y + padding]
    size = (last - first) * inputs
    result.append(x[:, first:last].reshape(batch, size) @ met.reshape(size, outputs))
  return jnp.stack(result, axis=1)


_rows_times = jax.custom_vjp(_rows_times_plain, nondiff_argnums=(2,))


def _rows_times_backward(padding, saved, dy):
  x, matrices = saved
  taps = len(matrices)
  turned = jax.lax.optimization_barrier(matrices[::-1].swapaxes(1, 2))
  dmatrices = []
  for k in range(taps):
    # Rows that come out and have met row k of the kernel; there may be none.
    first = max(0, padding - k)
    last = max(first, min(dy.shape[1], x.shape[1] + padding - k))
    dmatrices.append(_outer(x[:, first + k - padding : last + k - padding], dy[:, first:last]))
  return _rows_times_plain(dy, turned, taps - 1 - padding), jnp.stack(dmatrices)


_rows_times.defvjp(
  lambda x, matrices, padding: (_rows_times_plain(x, matrices, padding), (x, matrices)), _rows_times_backward
)


def _outer(x, dy):
  """The sum over all but the last axis of the outer products, [inputs, outputs].

  The barriers keep XLA from another order of the axes, with which this took up to four times as long on a CPU.
  """
  keep = jax.lax.optimization_barrier
  x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
  return keep(keep(dy.T) @ keep(x)).T
