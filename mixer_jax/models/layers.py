"""What several models share: patches, linear layers with a chosen initialiser, dropout, stochastic depth."""

import math

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax.errors import MixerError, unknown

EPSILON = 1e-6  # of every LayerNorm: the original's


def exact_gelu(x: jax.Array) -> jax.Array:
  """x times the normal distribution function of x, by erf as in torch: jax.nn.gelu's erfc is slower on a CPU."""
  return 0.5 * x * (1 + jax.lax.erf(x / math.sqrt(2)))


GELUS = {'tanh': jax.nn.gelu, 'exact': exact_gelu}


def gelu(kind: str):
  """The GELU by name: `tanh` is the approximation of the published Mixers, `exact` (erf) that of timm.

  They differ by up to 4.7e-4 per activation, so converted weights must say which one they were trained with.
  """
  if kind not in GELUS:
    raise unknown('GELU', kind, GELUS)
  return GELUS[kind]


def patch_grid(image: tuple[int, int, int], patch: int | tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
  """(rows, columns) of patches in an image [height, width, channels], and the patch as (height, width)."""
  sides = (patch, patch) if isinstance(patch, int) else tuple(patch)
  if len(sides) != 2:
    raise MixerError(f'the patch is {list(sides)}, but must be one side, or (height, width)')
  height, width = sides
  if height < 1 or width < 1 or image[0] % height or image[1] % width:
    raise MixerError(
      f'the patch {height}x{width} does not divide the image {image[0]}x{image[1]}; choose a patch that divides'
      ' both sides, or another image size'
    )
  return (image[0] // height, image[1] // width), (height, width)


def patchify(image: jax.Array, patch: tuple[int, int]) -> jax.Array:
  """[batch, height, width, channels] -> [tokens, batch, pixels of a patch], tokens row by row."""
  return einops.rearrange(image, 'b (h p) (w q) c -> (h w) b (p q c)', p=patch[0], q=patch[1])


def unpatchify(x: jax.Array, grid: tuple[int, int], patch: tuple[int, int]) -> jax.Array:
  """[tokens, batch, pixels of a patch] -> [batch, height, width, channels]; undoes patchify."""
  return einops.rearrange(x, '(h w) b (p q c) -> b (h p) (w q) c', h=grid[0], p=patch[0], q=patch[1])


def check_image(wanted: tuple[int, int, int], image: jax.Array) -> None:
  """Refuses a batch of images of another shape than the model was made for."""
  if image.shape[1:] != wanted:
    raise MixerError(f'this model is made for images of shape {wanted}, but got {tuple(image.shape[1:])}')


def linear(
  inputs: int,
  outputs: int,
  *,
  init: str,
  dtype: jnp.dtype,
  rngs: nnx.Rngs,
  zero: bool = False,
  bias: float = 0.0,
) -> nnx.Linear:
  """A linear layer with float32 parameters that computes in `dtype`.

  Args:
    init: `original`: LeCun-normal kernel and constant bias, Flax's default and so the published Mixers';
      `torch`: kernel and bias uniform in +-1/sqrt(inputs), torch.nn.Linear's default.
    zero: start `original` from a zero kernel, as the published Mixers' head does.
    bias: the constant that the bias of `original` starts from.
  """
  if init == 'original':
    kernel_init = nnx.initializers.zeros if zero else nnx.initializers.lecun_normal()
    bias_init = nnx.initializers.constant(bias)
  elif init == 'torch':
    bound = 1 / math.sqrt(inputs)
    kernel_init = bias_init = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
  else:
    raise unknown('initialiser', init, ('original', 'torch'))
  return nnx.Linear(inputs, outputs, kernel_init=kernel_init, bias_init=bias_init, dtype=dtype, rngs=rngs)


@jax.custom_vjp
def from_left(kernel: jax.Array, x: jax.Array) -> jax.Array:
  """kernel.T @ x: [inputs, outputs], [inputs, columns] -> [outputs, columns], for many more columns than rows.

  The kernel's gradient, a sum over all columns, is taken with the smaller factor on the right and transposed as a whole
  afterwards: the other way round XLA ran it on one core of a CPU, and the barrier keeps it from turning it back.
  """
  return kernel.T @ x


def _from_left_backward(saved, dy):
  kernel, x = saved
  swap = dy.shape[0] > x.shape[0]
  product = jax.lax.optimization_barrier(dy @ x.T if swap else x @ dy.T)
  return product.T if swap else product, kernel @ dy


from_left.defvjp(lambda kernel, x: (kernel.T @ x, (kernel, x)), _from_left_backward)


@jax.custom_vjp
def from_right(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x @ kernel: [rows, inputs], [inputs, outputs] -> [rows, outputs], for many more rows than columns.

  The kernel's gradient, a sum over all rows, is the transposed x, written out, times that of the result: in the orders
  that XLA chose for a linear layer of [batch, tokens, channels] it took up to four times as long on a CPU.
  """
  return x @ kernel


def _from_right_backward(saved, dy):
  x, kernel = saved
  keep = jax.lax.optimization_barrier
  return dy @ kernel.T, keep(keep(x.T) @ dy)


from_right.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _from_right_backward)


class TokenNorm(nnx.Module):
  """LayerNorm of [tokens, batch, channels] over the tokens; mean and variance are float32, the result is `dtype`."""

  def __init__(self, tokens: int, *, dtype: jnp.dtype):
    self.scale, self.bias = nnx.Param(jnp.ones(tokens)), nnx.Param(jnp.zeros(tokens))
    self.dtype = dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    columns = x.reshape(x.shape[0], -1).astype(jnp.float32)
    return _norm_columns(columns, self.scale[...], self.bias[...]).reshape(x.shape).astype(self.dtype)


@jax.custom_vjp
def _norm_columns(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
  """Each column of [tokens, columns] to mean 0 and variance 1, times scale [tokens], plus bias [tokens].

  Means over the first axis as products with a row of 1/tokens, and the gradient by hand: nnx.LayerNorm over this axis
  took 80 times as long, backward pass included, on a CPU.
  """
  return _norm_columns_forward(x, scale, bias)[0]


def _norm_columns_forward(x, scale, bias):
  centred = x - _column_mean(x)
  inverse = jax.lax.rsqrt(_column_mean(jnp.square(centred)) + EPSILON)
  normal = centred * inverse
  return normal * scale[:, None] + bias[:, None], (normal, inverse, scale)


def _norm_columns_backward(saved, dy):
  normal, inverse, scale = saved
  dn = dy * scale[:, None]
  dx = (dn - _column_mean(dn) - normal * _column_mean(dn * normal)) * inverse
  return dx, (dy * normal).sum(axis=1), dy.sum(axis=1)


_norm_columns.defvjp(_norm_columns_forward, _norm_columns_backward)


def _column_mean(x: jax.Array) -> jax.Array:
  return jnp.matmul(jnp.full((1, x.shape[0]), 1 / x.shape[0]), x, precision='highest')


def dropout(x: jax.Array, rate: float, *, key: jax.Array) -> jax.Array:
  """Sets entries of x to zero with probability `rate` and divides the others by 1 - rate (Srivastava et al. 2014).

  Each random word decides about two entries, which halves the time of nnx.Dropout on a CPU: `rate` is rounded to a
  multiple of 2**-16.
  """
  words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 2)), jnp.uint32)
  # Side by side, so that devices that share the last axis need nothing of each other.
  bits = einops.rearrange(jax.lax.bitcast_convert_type(words, jnp.uint16), '... n two -> ... (n two)')
  bits = bits[..., : x.shape[-1]]
  return jnp.where(bits >= round(rate * 2**16), x / (1 - rate), 0).astype(x.dtype)


def stochastic_depth(branch: jax.Array, rate: float | jax.Array, *, rescale: bool, key: jax.Array) -> jax.Array:
  """Drops the whole residual branch of an example with probability `rate` (Huang et al. 2016, arXiv 1603.09382).

  Args:
    branch: [tokens, batch, channels].
    rescale: divide kept branches by the probability of keeping, as timm does, so that training and evaluation
      agree in expectation; the original Mixer does not.
  """
  keep = jax.random.bernoulli(key, 1 - rate, (1, branch.shape[1], 1))
  return jnp.where(keep, branch / (1 - rate) if rescale else branch, 0).astype(branch.dtype)
