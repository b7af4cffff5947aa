"""Shared by the models: patches, GELUs, linear layers with a chosen initialiser."""

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


def pixels(image: tuple[int, int, int], patch: int | tuple[int, int]) -> int:
  """How many numbers a patch holds."""
  return math.prod(patch_grid(image, patch)[1]) * image[2]


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
  inputs: int, outputs: int, *, init: str, dtype: jnp.dtype, rngs: nnx.Rngs, zero: bool = False, bias: float = 0.0
) -> nnx.Linear:
  """A linear layer with float32 parameters that computes in `dtype`.

  Args:
    init: `original`: LeCun-normal kernel and constant bias, the defaults of Flax and so of the published Mixers;
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
