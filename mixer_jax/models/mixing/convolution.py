"""Mixing by convolutions: one whose channels are the tokens, and one whose channels are the width.

Source: https://github.com/defgsus/nn-experiments, "MLP-Mixer re-invented for auto-encoding".
"""

import math

import einops
import jax
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models.ops.convolution import Convolution, check_odd, same


class Cnn(nnx.Module):
  """`cnn`: a convolution over the width, with the tokens as channels.

  Of the variants below, `plane` sees the width, and the tokens, as a square and convolves in two dimensions; `flipped`
  adds a second convolution, over the tokens with the width as channels.

  Refuses an even kernel; with `plane` a width that is not a square; with both also a grid that is not.
  """

  plane, flipped = False, False

  def __init__(self, *, grid: tuple[int, int], width: int, kernel: int = 3, rngs: nnx.Rngs):
    check_odd(kernel, 'model.mixing.kernel')
    name, side = type(self).__name__.lower(), math.isqrt(width)
    if self.plane and side**2 != width:
      raise MixerError(
        f'model.mixing {name} needs a width that is a square, but one of model.hidden or model.widths is {width};'
        f' {side**2} and {(side + 1) ** 2} are'
      )
    if self.plane and self.flipped and grid[0] != grid[1]:
      raise MixerError(
        f'model.mixing {name} needs a square grid of tokens, but this is {grid[0]}x{grid[1]}; choose another patch or'
        ' image'
      )
    taps = (kernel, kernel) if self.plane else (1, kernel)
    convolve = lambda channels: Convolution(channels, channels, taps, padding=same(taps), rngs=rngs)
    self.layers = nnx.List([convolve(math.prod(grid)), *([convolve(width)] if self.flipped else [])])
    self.heights = (side, grid[0]) if self.plane else (1, 1)

  def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    # In between the batch comes first: the auto-encoder has it so, and XLA then takes out both transpositions.
    x = einops.rearrange(x, 't b c -> b t c')
    x = einops.rearrange(x, 'b t (h w) -> b h w t', h=self.heights[0])
    x = einops.rearrange(self.layers[0](x), 'b h w t -> b t (h w)')
    if self.flipped:
      x = einops.rearrange(x, 'b (h w) c -> b h w c', h=self.heights[1])
      x = einops.rearrange(self.layers[1](x), 'b h w c -> b (h w) c')
    return einops.rearrange(x, 'b t c -> t b c')


class Cnnf(Cnn):
  """`cnnf`: `cnn`, then a convolution over the tokens, with the width as channels."""

  flipped = True


class Cnn2d(Cnn):
  """`cnn2d`: `cnn` in two dimensions."""

  plane = True


class Cnn2df(Cnn):
  """`cnn2df`: `cnnf` in two dimensions."""

  plane, flipped = True, True
