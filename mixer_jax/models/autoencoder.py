"""Auto-encoders of patches: image -> patches -> layers that mix -> code -> the mirror image.

`MixingAutoencoder` comes from an experiment that reinvented the Mixer for auto-encoding; `MixerAutoencoder` has the
blocks of models/mixer.py.
"""

import math
from typing import Annotated

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax import parts
from mixer_jax.errors import MixerError
from mixer_jax.models import blocks as stack
from mixer_jax.models import checks, layers
from mixer_jax.models import mixing as mixings
from mixer_jax.models.mixer import MixerBlock
from mixer_jax.models.ops.products import from_right

CNN = {'name': 'cnn', 'kernel': 3}


class Autoencoder(nnx.Module):
  """A module with `encode`, `decode` and `code`, how many numbers an image becomes."""

  def __call__(self, image: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    """The image again; `rngs` is not needed."""
    return self.decode(self.encode(image))


class MixingAutoencoder(Autoencoder):
  """Linear layers that see one patch each, mixing layers after some of them, one linear layer to the code; mirrored.

  A layer whose input and output have the same shape has a residual connection around layer and GELU. The linear layers
  to the code, from it and to the pixels have no GELU, the decoder's mixing layers always have one.

  Source: https://github.com/defgsus/nn-experiments, "MLP-Mixer re-invented for auto-encoding". Its notes count the code
  among the widths; here it has a key of its own.

  Args:
    image: (height, width, channels).
    patch: side of a patch in pixels, or (height, width); must divide the image.
    widths: of the linear layers of the encoder.
    code: how many numbers an image becomes.
    mixing: the mixing layers, see models/mixing; the source has all but `token_mlp`.
    after: behind which linear layers, counted from 1, a mixing layer stands; the decoder mirrors them.
    encoder_gelu: a GELU after the encoder's mixing layers; the source's earlier networks have none.
    output_gelu: a GELU on the pixels; the source has one where a mixing layer stands behind the first layer.

  Refuses a patch that does not divide the image, no widths, and an `after` beyond them.
  """

  def __init__(
    self, *, image: tuple[int, int, int], patch: int | tuple[int, int], widths: tuple[int, ...], code: int,
    mixing: Annotated[dict, mixings.MIXINGS] = CNN, after: tuple[int, ...] = (), encoder_gelu: bool = False,
    output_gelu: bool = False, rngs: nnx.Rngs,
  ):  # fmt: skip
    self.grid, self.patch = layers.patch_grid(image, patch)
    self.image, self.code = tuple(image), code
    self.encoder_gelu, self.output_gelu = encoder_gelu, output_gelu
    if not widths or min(widths) < 1 or code < 1:
      raise MixerError(f'model.widths is {list(widths)} and model.code {code}; each must be at least 1')
    if sorted(set(after)) != sorted(after) or not set(after) <= set(range(1, len(widths) + 1)):
      raise MixerError(
        f'model.after is {list(after)}, but must name some of the {len(widths)} layers, from 1, once each'
      )
    parts.resolve_named(mixings.MIXINGS, mixing, 'model.mixing')  # checked also where no layer is made
    each = {'init': 'torch', 'dtype': jnp.float32, 'rngs': rngs}
    linear = lambda i, o: layers.linear(i, o, **each)
    context = {'grid': self.grid, 'activation': layers.exact_gelu, 'dropout': 0.0, **each}
    mix = lambda width: mixings.make(mixing, width=width, **context)
    patches, inputs = math.prod(self.grid), layers.pixels(image, patch)
    encoder, decoder = [], []
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
    x = _residual(self.from_code, code, gelu=False).reshape(len(code), math.prod(self.grid), -1)
    *hidden, last = self.decoder
    for layer in hidden:
      x = _residual(layer, x, gelu=True)
    x = _residual(last, x, gelu=self.output_gelu)
    return layers.unpatchify(einops.rearrange(x, 'b t p -> t b p'), self.grid, self.patch)


def _residual(layer, x: jax.Array, *, gelu: bool) -> jax.Array:
  if isinstance(layer, nnx.Linear):
    y = from_right(x.reshape(-1, x.shape[-1]), layer.kernel[...]) + layer.bias[...]
    y = y.reshape(*x.shape[:-1], -1)
  else:
    y = einops.rearrange(layer(einops.rearrange(x, 'b t c -> t b c')), 't b c -> b t c')
  y = layers.exact_gelu(y) if gelu else y
  return x + y if x.shape == y.shape else y


class MixerAutoencoder(Autoencoder):
  """Patches -> linear stem -> Mixer blocks -> LayerNorm -> linear over everything -> code -> the mirror image.

  Ours: the original's blocks around a code of the same size as MixingAutoencoder's.

  Args:
    image, patch, code: see MixingAutoencoder.
    hidden: width of a token.
    encoder_blocks, decoder_blocks: how many Mixer blocks on each side.
    token_mlp, channel_mlp: hidden widths of the two MLPs.
    mixing: what mixes the tokens, see models/mixing; with another than the paper's MLP leave token_mlp out.
    bottleneck: width of a token next to the code; it keeps the two layers there small.
    bounded: a sigmoid at the end, for pixels in [0, 1]: the many that are exactly black or white then cost no effort.

  Refuses a patch that does not divide the image, a size below 1.
  """

  def __init__(
    self, *, image: tuple[int, int, int], patch: int | tuple[int, int], hidden: int, encoder_blocks: int,
    decoder_blocks: int, token_mlp: int = 0, channel_mlp: int, bottleneck: int, code: int,
    mixing: Annotated[dict, mixings.MIXINGS] = mixings.TOKEN_MLP, bounded: bool = True, rngs: nnx.Rngs,
  ):  # fmt: skip
    self.grid, self.patch = layers.patch_grid(image, patch)
    self.image, self.code, self.bounded = tuple(image), code, bounded
    checks.sizes(hidden=hidden, channel_mlp=channel_mlp, bottleneck=bottleneck, code=code)
    checks.sizes(0, encoder_blocks=encoder_blocks, decoder_blocks=decoder_blocks)
    mixing = mixings.with_hidden(mixing, token_mlp, key='token_mlp', value=token_mlp, unused=0)
    tokens, pixels = math.prod(self.grid), layers.pixels(image, patch)
    # Biases that start from 0 would make every token of a black image 0, and each LayerNorm of zeros multiplies its
    # gradient by 1,000.
    linear = lambda i, o: layers.linear(i, o, init='torch', dtype=jnp.float32, rngs=rngs)
    block = lambda rngs: MixerBlock(
      self.grid, hidden, channel_mlp, mixing=mixing, activation=layers.exact_gelu, dropout=0.0, rescale=False,
      init='original', dtype=jnp.float32, rngs=rngs,
    )  # fmt: skip
    blocks = lambda count: stack.make(block, count, rngs=rngs)
    norm = lambda: nnx.LayerNorm(hidden, epsilon=layers.EPSILON, rngs=rngs)
    self.stem, self.encoder, self.encoder_norm = linear(pixels, hidden), blocks(encoder_blocks), norm()
    self.narrow, self.to_code = linear(hidden, bottleneck), linear(tokens * bottleneck, code)
    self.from_code, self.widen = linear(code, tokens * bottleneck), linear(bottleneck, hidden)
    self.decoder, self.decoder_norm, self.head = blocks(decoder_blocks), norm(), linear(hidden, pixels)

  def encode(self, image: jax.Array) -> jax.Array:
    """[batch, height, width, channels], pixels as in training -> [batch, code]."""
    layers.check_image(self.image, image)
    x = self.stem(layers.patchify(image, self.patch))
    x, _ = stack.run(self.encoder, x, len(self.encoder))
    return self.to_code(einops.rearrange(self.narrow(self.encoder_norm(x)), 't b c -> b (t c)'))

  def decode(self, code: jax.Array) -> jax.Array:
    """[batch, code] -> [batch, height, width, channels], in [0, 1] if bounded."""
    x = einops.rearrange(self.from_code(code), 'b (t c) -> t b c', t=math.prod(self.grid))
    x, _ = stack.run(self.decoder, self.widen(x), len(self.decoder))
    x = self.head(self.decoder_norm(x))
    return layers.unpatchify(jax.nn.sigmoid(x) if self.bounded else x, self.grid, self.patch)
