"""Auto-encoders of patches: image -> patches -> layers that mix -> code -> the mirror image.

`MixingAutoencoder` has the five kinds of mixing layer of an experiment that reinvented the Mixer for auto-encoding,
`MixerAutoencoder` the blocks of models/mixer.py.
"""

import math

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax.errors import MixerError, unknown
from mixer_jax.models import convolution, layers
from mixer_jax.models.mixer import MixerBlock

# Kind -> whether its convolutions are of two dimensions, and whether a second one has the width as its channels.
CONVOLUTIONS = {'cnn': (False, False), 'cnnf': (False, True), 'cnn2d': (True, False), 'cnn2df': (True, True)}
MIXINGS = (*CONVOLUTIONS, 'mlp')


class LinearMixing(nnx.Module):
  """One linear layer over all numbers of [batch, patches, width]."""

  def __init__(self, size: int, *, rngs: nnx.Rngs):
    self.linear = layers.linear(size, size, init='torch', dtype=jnp.float32, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.linear(x.reshape(len(x), -1)).reshape(x.shape)


class ConvolutionMixing(nnx.Module):
  """Convolutions of [batch, patches, width]: one whose channels are the patches, or one whose channels are the width.

  Args:
    steps: for each, (layer, the height of what it slides over, whether its channels are the patches).
  """

  def __init__(self, steps: list[tuple[convolution.Convolution, int, bool]]):
    self.layers = nnx.List([layer for layer, _, _ in steps])
    self.heights, self.of_patches = tuple(height for _, height, _ in steps), tuple(over for _, _, over in steps)

  def __call__(self, x: jax.Array) -> jax.Array:
    for layer, height, of_patches in zip(self.layers, self.heights, self.of_patches, strict=True):
      inside, outside = 'b n (h w)', 'b h w n'
      if not of_patches:
        inside = 'b (h w) n'
      x = einops.rearrange(layer(einops.rearrange(x, f'{inside} -> {outside}', h=height)), f'{outside} -> {inside}')
    return x


def make_mixing(
  kind: str, grid: tuple[int, int], width: int, *, kernel: int, rngs: nnx.Rngs
) -> LinearMixing | ConvolutionMixing:
  """A layer that carries numbers between the patches of [batch, patches, width] and keeps the shape.

  `cnn`: 1-D convolution over the width, patches as channels. `cnnf`: `cnn`, then one over the patches, the width as
  channels. `cnn2d`, `cnn2df`: the same in two dimensions, the width and the patches seen as squares. `mlp`: one linear
  layer over everything.

  Raises:
    MixerError: an unknown kind, an even kernel, a width that is no square or a grid that is not for `cnn2d`, `cnn2df`.
  """
  if kind not in MIXINGS:
    raise unknown('model.mixing', kind, MIXINGS)
  patches, side = grid[0] * grid[1], math.isqrt(width)
  if kind == 'mlp':
    return LinearMixing(patches * width, rngs=rngs)
  convolution.check_odd(kernel)
  plane, flipped = CONVOLUTIONS[kind]
  if plane and side**2 != width:
    raise MixerError(
      f'mixing {kind} needs square widths, but one of model.widths is {width}; {side**2} and {(side + 1) ** 2} are'
    )
  if plane and flipped and grid[0] != grid[1]:
    raise MixerError(
      f'mixing {kind} needs a square grid of patches, but this is {grid[0]}x{grid[1]}; choose another patch or image'
    )
  taps = (kernel, kernel) if plane else (1, kernel)
  make = lambda channels: convolution.Convolution(channels, channels, taps, padding=convolution.same(taps), rngs=rngs)
  steps = [(make(patches), side if plane else 1, True)]
  if flipped:
    steps.append((make(width), grid[0] if plane else 1, False))
  return ConvolutionMixing(steps)


class MixingAutoencoder(nnx.Module):
  """Linear layers that see one patch each, mixing layers after some of them, one linear layer to the code; mirrored.

  A layer whose input and output have the same shape has a residual connection around layer and GELU. The linear layers
  to the code, from it and to the pixels have no GELU, the decoder's mixing layers always have one.

  Source: https://github.com/defgsus/nn-experiments, "MLP-Mixer re-invented for auto-encoding", which notes the widths
  as 64,64,64,16 with a code of 16 and as 64,64,64,32,564 where 564 is the code's: here the code has a key of its own.

  Args:
    image: (height, width, channels).
    patch: side of a patch in pixels, or (height, width); must divide the image.
    widths: of the linear layers of the encoder.
    code: how many numbers an image becomes.
    mixing: `cnn`, `cnnf`, `cnn2d`, `cnn2df` or `mlp`, see make_mixing.
    after: behind which linear layers, counted from 1, a mixing layer stands; the decoder mirrors them.
    kernel: side of the mixings' convolutions, odd.
    encoder_gelu: a GELU after the encoder's mixing layers; the source's earlier networks have none.
    output_gelu: a GELU on the pixels; the source's code has one where a mixing layer stands behind the first layer.

  Raises:
    MixerError: a patch that does not divide the image, no widths, an `after` beyond them, what make_mixing refuses.
  """

  def __init__(
    self, *, image: tuple[int, int, int], patch: int | tuple[int, int], widths: tuple[int, ...], code: int,
    mixing: str, after: tuple[int, ...], kernel: int, encoder_gelu: bool, output_gelu: bool,
    rngs: nnx.Rngs,
  ):  # fmt: skip
    self.grid, self.patch = layers.patch_grid(image, patch)
    self.image, self.code = tuple(image), code
    self.encoder_gelu, self.output_gelu = encoder_gelu, output_gelu
    if not widths or min(widths) < 1 or code < 1:
      raise MixerError(f'model.widths is {list(widths)} and model.code {code}; each must be at least 1')
    if mixing not in MIXINGS:
      raise unknown('model.mixing', mixing, MIXINGS)
    if sorted(set(after)) != sorted(after) or not set(after) <= set(range(1, len(widths) + 1)):
      raise MixerError(
        f'model.after is {list(after)}, but must name some of the {len(widths)} layers, from 1, once each'
      )
    patches, pixels = self.grid[0] * self.grid[1], math.prod(self.patch) * image[2]
    linear = lambda i, o: layers.linear(i, o, init='torch', dtype=jnp.float32, rngs=rngs)
    mix = lambda width: make_mixing(mixing, self.grid, width, kernel=kernel, rngs=rngs)
    encoder, decoder, inputs = [], [], pixels
    for number, width in enumerate(widths, start=1):
      encoder.append(linear(inputs, width))
      decoder.append(linear(width, inputs))
      if number in after:
        encoder.append(mix(width))
        decoder.append(mix(width))
      inputs = width
    self.encoder, self.decoder = nnx.List(encoder), nnx.List(decoder[::-1])
    self.to_code, self.from_code = linear(patches * inputs, code), linear(code, patches * inputs)

  def encode(self, image: jax.Array) -> jax.Array:
    """[batch, height, width, channels], pixels as in training -> [batch, code]."""
    layers.check_image(self.image, image)
    x = einops.rearrange(layers.patchify(image, self.patch), 't b p -> b t p')
    for layer in self.encoder:
      x = _residual(layer, x, gelu=self.encoder_gelu or isinstance(layer, nnx.Linear))
    return _residual(self.to_code, x.reshape(len(x), -1), gelu=False)

  def decode(self, code: jax.Array) -> jax.Array:
    """[batch, code] -> [batch, height, width, channels], not bounded."""
    x = _residual(self.from_code, code, gelu=False).reshape(len(code), self.grid[0] * self.grid[1], -1)
    *hidden, last = self.decoder
    for layer in hidden:
      x = _residual(layer, x, gelu=True)
    x = _residual(last, x, gelu=self.output_gelu)
    return layers.unpatchify(einops.rearrange(x, 'b t p -> t b p'), self.grid, self.patch)

  def __call__(self, image: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    """The image again; `rngs` is not needed."""
    return self.decode(self.encode(image))


def _residual(layer, x: jax.Array, *, gelu: bool) -> jax.Array:
  y = _of_rows(layer, x) if isinstance(layer, nnx.Linear) else layer(x)
  y = layers.exact_gelu(y) if gelu else y
  return x + y if x.shape == y.shape else y


def _of_rows(linear: nnx.Linear, x: jax.Array) -> jax.Array:
  y = layers.from_right(x.reshape(-1, x.shape[-1]), linear.kernel[...]) + linear.bias[...]
  return y.reshape(*x.shape[:-1], -1)


class MixerAutoencoder(nnx.Module):
  """Patches -> linear stem -> Mixer blocks -> LayerNorm -> linear over everything -> code -> the mirror image.

  Ours: the original's blocks around a code of the same size as MixingAutoencoder's.

  Args:
    image, patch, code: see MixingAutoencoder.
    hidden: width of a token.
    encoder_blocks, decoder_blocks: how many Mixer blocks on each side.
    token_mlp, channel_mlp: hidden widths of the two MLPs.
    bottleneck: width that a token is brought to before all of them become the code, and after it; this is what
      keeps those two layers small.
    bounded: a sigmoid at the end, for pixels in [0, 1]: the many that are exactly black or white then cost no effort.

  Raises:
    MixerError: a patch that does not divide the image, a size below 1.
  """

  def __init__(
    self, *, image: tuple[int, int, int], patch: int | tuple[int, int], hidden: int, encoder_blocks: int,
    decoder_blocks: int, token_mlp: int, channel_mlp: int, bottleneck: int, code: int,
    bounded: bool, rngs: nnx.Rngs,
  ):  # fmt: skip
    self.grid, self.patch = layers.patch_grid(image, patch)
    self.image, self.code, self.bounded = tuple(image), code, bounded
    for what, size in (
      ('hidden', hidden), ('token_mlp', token_mlp), ('channel_mlp', channel_mlp), ('bottleneck', bottleneck),
      ('code', code),
    ):  # fmt: skip
      if size < 1:
        raise MixerError(f'model.{what} is {size}, but must be at least 1')
    if encoder_blocks < 0 or decoder_blocks < 0:
      raise MixerError(
        f'model.encoder_blocks is {encoder_blocks} and model.decoder_blocks {decoder_blocks}; not below 0'
      )
    tokens, pixels = self.grid[0] * self.grid[1], math.prod(self.patch) * image[2]
    # Biases that start from 0 would make every token of a black image 0, and each LayerNorm of zeros multiplies its
    # gradient by 1,000.
    linear = lambda i, o: layers.linear(i, o, init='torch', dtype=jnp.float32, rngs=rngs)
    blocks = lambda count: nnx.List([
      MixerBlock(
        tokens, hidden, token_mlp, channel_mlp, norm_over='channels', first='tokens', activation=layers.exact_gelu,
        dropout=0.0, rescale=False, init='original', dtype=jnp.float32, rngs=rngs,
      )
      for _ in range(count)
    ])  # fmt: skip
    norm = lambda: nnx.LayerNorm(hidden, epsilon=layers.EPSILON, rngs=rngs)
    self.stem, self.encoder, self.encoder_norm = linear(pixels, hidden), blocks(encoder_blocks), norm()
    self.narrow, self.to_code = linear(hidden, bottleneck), linear(tokens * bottleneck, code)
    self.from_code, self.widen = linear(code, tokens * bottleneck), linear(bottleneck, hidden)
    self.decoder, self.decoder_norm, self.head = blocks(decoder_blocks), norm(), linear(hidden, pixels)

  def encode(self, image: jax.Array) -> jax.Array:
    """[batch, height, width, channels], pixels as in training -> [batch, code]."""
    layers.check_image(self.image, image)
    x = self.stem(layers.patchify(image, self.patch))
    for block in self.encoder:
      x = block(x)
    return self.to_code(einops.rearrange(self.narrow(self.encoder_norm(x)), 't b c -> b (t c)'))

  def decode(self, code: jax.Array) -> jax.Array:
    """[batch, code] -> [batch, height, width, channels], in [0, 1] if bounded."""
    x = einops.rearrange(self.from_code(code), 'b (t c) -> t b c', t=self.grid[0] * self.grid[1])
    x = self.widen(x)
    for block in self.decoder:
      x = block(x)
    x = self.head(self.decoder_norm(x))
    return layers.unpatchify(jax.nn.sigmoid(x) if self.bounded else x, self.grid, self.patch)

  def __call__(self, image: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    """The image again; `rngs` is not needed."""
    return self.decode(self.encode(image))
