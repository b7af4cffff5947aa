"""Convolutional auto-encoders to measure Mixers against: a plain one, and one written as a script of layers.

Source: https://github.com/defgsus/nn-experiments, "MLP-Mixer re-invented for auto-encoding".
"""

import math
import re
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models import layers
from mixer_jax.models.autoencoder import Autoencoder
from mixer_jax.models.ops.convolution import Convolution, check_odd, same


class CnnAutoencoder(Autoencoder):
  """Convolutions without padding, ReLU after each, a linear layer to the code; mirrored by transposed convolutions.

  Args:
    image: (height, width, channels).
    channels: of the convolutions.
    kernel: their side.
    code: how many numbers an image becomes.

  Refuses a size below 1, an image that the convolutions leave nothing of.
  """

  def __init__(
    self, *, image: tuple[int, int, int], channels: tuple[int, ...], kernel: int = 3, code: int, rngs: nnx.Rngs
  ):
    self.image, self.code = tuple(image), code
    if min((kernel, code, *channels)) < 1:
      raise MixerError(
        f'model.channels is {list(channels)}, model.kernel {kernel} and model.code {code}; each must be at least 1'
      )
    lost = len(channels) * (kernel - 1)
    self.inner = (image[0] - lost, image[1] - lost, channels[-1] if channels else image[2])
    if min(self.inner) < 1:
      raise MixerError(
        f'model.kernel is {kernel}: {len(channels)} convolutions of it leave {self.inner[0]}x{self.inner[1]} of the'
        f' image {image[0]}x{image[1]}; take smaller or fewer ones'
      )
    pairs = list(zip((image[2], *channels), channels, strict=False))
    taps, full = (kernel, kernel), (kernel - 1, kernel - 1)
    self.encoder = nnx.List([Convolution(i, o, taps, padding=(0, 0), rngs=rngs) for i, o in pairs])
    self.decoder = nnx.List(
      [Convolution(o, i, taps, padding=full, transposed=True, rngs=rngs) for i, o in reversed(pairs)]
    )
    linear = lambda i, o: layers.linear(i, o, init='torch', dtype=jnp.float32, rngs=rngs)
    self.to_code, self.from_code = linear(math.prod(self.inner), code), linear(code, math.prod(self.inner))

  def encode(self, image: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> [batch, code]."""
    layers.check_image(self.image, image)
    for layer in self.encoder:
      image = jax.nn.relu(layer(image))
    return self.to_code(image.reshape(len(image), -1))

  def decode(self, code: jax.Array) -> jax.Array:
    """[batch, code] -> [batch, height, width, channels], not bounded."""
    x = self.from_code(code).reshape(len(code), *self.inner)
    for number, layer in enumerate(self.decoder):
      x = layer(jax.nn.relu(x) if number else x)
    return x


class Down(NamedTuple):
  """Pixel-unshuffle: blocks of `side` x `side` pixels become channels (Shi et al. 2016, arXiv 1609.05158)."""

  side: int


class Conv(NamedTuple):
  """A convolution, after `skips` that keep the shape."""

  inputs: int
  outputs: int
  skips: int


def read_script(script: str, image: tuple[int, int, int]) -> list[Down | Conv]:
  """'ch=32|down4|ch/2' -> layers. `ch=N`, `ch*N`, `ch/N`: a convolution to so many channels; `downN`; `scl=N`.

  Refuses the first word that cannot be read, that does not fit what is before it or does nothing.
  """
  layers_, skips = [], 0
  height, width, channels = image
  words = script.split('|')
  for number, word in enumerate(words, start=1):
    refuse = lambda why, place=f'model.script: word {number}, {word!r},': MixerError(f'{place} {why}')
    match = re.fullmatch(r'(ch=|ch\*|ch/|down|scl=)(\d+)', word)
    if not match or (match[1] != 'scl=' and int(match[2]) < 1):
      raise refuse("cannot be read; words are ch=N, ch*N, ch/N, downN or scl=N, joined by '|'")
    kind, value = match[1], int(match[2])
    if number == len(words) and kind in ('down', 'scl='):
      raise refuse('is the last; end with a convolution such as ch=1')
    followed_by = next((later for later in words[number:] if not later.startswith('down')), '')
    if (kind, value) == ('down', 1) or (kind == 'scl=' and (value == skips or followed_by.startswith('scl='))):
      raise refuse('does nothing')
    if kind == 'scl=':
      skips = value
    elif kind == 'down':
      if height % value or width % value:
        raise refuse(f'does not divide the {height}x{width} pixels before it')
      layers_.append(Down(value))
      height, width, channels = height // value, width // value, channels * value**2
    else:
      if kind == 'ch/' and channels % value:
        raise refuse(f'does not divide the {channels} channels before it')
      outputs = {'ch=': value, 'ch*': channels * value, 'ch/': channels // value}[kind]
      layers_.append(Conv(channels, outputs, skips))
      channels = outputs
  return layers_


class ScriptedConv(nnx.Module):
  """Skip convolutions with ReLU6 and a bridge over them, then a convolution; where the shape is kept, a residual.

  The residual is the layer's input, not what the skip convolutions made of it, as in the source's code.
  """

  def __init__(self, conv: Conv, kernel: int, *, transposed: bool, activate: bool, rngs: nnx.Rngs):
    taps = (kernel, kernel)
    make = lambda i, o: Convolution(i, o, taps, padding=same(taps), transposed=transposed, rngs=rngs)
    self.skips = nnx.List([make(conv.inputs, conv.inputs) for _ in range(conv.skips)])
    self.conv, self.activate = make(conv.inputs, conv.outputs), activate

  def __call__(self, x: jax.Array) -> jax.Array:
    y = x
    for layer in self.skips:
      y = jax.nn.relu6(layer(y))
    y = self.conv(x + y if len(self.skips) else x)
    y = jax.nn.relu6(y) if self.activate else y
    return x + y if x.shape == y.shape else y


class ScriptedAutoencoder(Autoencoder):
  """Convolutions and pixel-unshuffles as a script says, see read_script; the decoder mirrors them.

  The code is the last image, flattened: [batch, height' x width' x channels']. No activation after the last layer of
  the encoder and of the decoder; in that of a script which begins with `down` a pixel-shuffle is the last, so that the
  convolution before it has one, as in the source. With `scl=N` in the script N convolutions that keep the shape come
  before each layer, with one skip connection over all of them (arXiv 2412.04755).

  Args:
    image: (height, width, channels).
    script: such as 'ch=32|down4|ch/2|ch/2|ch/2|ch*1|ch*1|ch=1'.
    kernel: side of the convolutions, odd.
  """

  def __init__(self, *, image: tuple[int, int, int], script: str, kernel: int = 3, rngs: nnx.Rngs):
    check_odd(kernel)
    self.image, steps = tuple(image), read_script(script, image)
    down = math.prod(step.side for step in steps if isinstance(step, Down))
    self.inner = (image[0] // down, image[1] // down, steps[-1].outputs)
    self.code = math.prod(self.inner)
    encoder, decoder = [], []
    for i, step in enumerate(steps):
      if isinstance(step, Down):
        encoder.append(step)
        decoder.append(step)
        continue
      back = Conv(step.outputs, step.inputs, step.skips)
      encoder.append(ScriptedConv(step, kernel, transposed=False, activate=i < len(steps) - 1, rngs=rngs))
      decoder.append(ScriptedConv(back, kernel, transposed=True, activate=i > 0, rngs=rngs))
    self.encoder, self.decoder = nnx.List(encoder), nnx.List(decoder[::-1])

  def encode(self, image: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> [batch, code]."""
    layers.check_image(self.image, image)
    x = image
    for layer in self.encoder:
      if isinstance(layer, Down):
        x = einops.rearrange(x, 'b (h p) (w q) c -> b h w (c p q)', p=layer.side, q=layer.side)
      else:
        x = layer(x)
    return x.reshape(len(x), -1)

  def decode(self, code: jax.Array) -> jax.Array:
    """[batch, code] -> [batch, height, width, channels], not bounded."""
    x = code.reshape(len(code), *self.inner)
    for layer in self.decoder:
      if isinstance(layer, Down):
        x = einops.rearrange(x, 'b h w (c p q) -> b (h p) (w q) c', p=layer.side, q=layer.side)
      else:
        x = layer(x)
    return x
