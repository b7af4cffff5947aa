"""MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601).

Activations are [tokens, batch, channels] from the stem to the head. In this layout token mixing is one product from
the left, [hidden, tokens] @ [tokens, batch x channels], and channel mixing one from the right: no transposition
anywhere, which is the only difference from the original code, in layout, not in arithmetic.
"""

from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax.errors import MixerError, unknown
from mixer_jax.models import layers

SIZES = {
  'S/32': {'patch': 32, 'blocks': 8, 'hidden': 512, 'token_mlp': 256, 'channel_mlp': 2048},
  'S/16': {'patch': 16, 'blocks': 8, 'hidden': 512, 'token_mlp': 256, 'channel_mlp': 2048},
  'B/32': {'patch': 32, 'blocks': 12, 'hidden': 768, 'token_mlp': 384, 'channel_mlp': 3072},
  'B/16': {'patch': 16, 'blocks': 12, 'hidden': 768, 'token_mlp': 384, 'channel_mlp': 3072},
  'L/32': {'patch': 32, 'blocks': 24, 'hidden': 1024, 'token_mlp': 512, 'channel_mlp': 4096},
  'L/16': {'patch': 16, 'blocks': 24, 'hidden': 1024, 'token_mlp': 512, 'channel_mlp': 4096},
  'H/14': {'patch': 14, 'blocks': 32, 'hidden': 1280, 'token_mlp': 640, 'channel_mlp': 5120},
}


class MlpBlock(nnx.Module):
  """Linear, activation, linear over the tokens or channels of [tokens, batch, channels]; dropout after each linear."""

  def __init__(
    self, features: int, hidden: int, *, over: str, activation: Callable, dropout: float, init: str, dtype, rngs
  ):  # fmt: skip
    self.fc1 = layers.linear(features, hidden, init=init, dtype=dtype, rngs=rngs)
    self.fc2 = layers.linear(hidden, features, init=init, dtype=dtype, rngs=rngs)
    self.over, self.activation, self.rate = over, activation, dropout

  def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    shape = x.shape
    x = x.reshape(shape[0], -1) if self.over == 'tokens' else x
    x = self._drop(self.activation(self._linear(self.fc1, x)), rngs)
    return self._drop(self._linear(self.fc2, x), rngs).reshape(shape)

  def _drop(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
    return x if rngs is None or not self.rate else layers.dropout(x, self.rate, key=rngs.dropout())

  def _linear(self, layer: nnx.Linear, x: jax.Array) -> jax.Array:
    if self.over == 'channels':
      return layer(x)
    return layers.from_left(layer.kernel[...].astype(x.dtype), x) + layer.bias[...].astype(x.dtype)[:, None]


class MixerBlock(nnx.Module):
  """x + token_mixing(LayerNorm(x)), then x + channel_mixing(LayerNorm(x)).

  Deviations for the Mixer of configs/mnist.py, not the paper's: `norm_over='tokens'` normalises over the tokens, and
  `first='channels'` mixes the channels before the tokens.
  """

  def __init__(
    self, tokens: int, hidden: int, token_mlp: int, channel_mlp: int, *,
    norm_over: str, first: str, activation: Callable, dropout: float, rescale: bool, init: str, dtype, rngs,
  ):  # fmt: skip
    if norm_over == 'tokens':
      norm = lambda: layers.TokenNorm(tokens, dtype=dtype)
    else:
      norm = lambda: nnx.LayerNorm(hidden, epsilon=layers.EPSILON, dtype=dtype, rngs=rngs)
    mlp = {'activation': activation, 'dropout': dropout, 'init': init, 'dtype': dtype, 'rngs': rngs}
    self.token_norm = norm()
    self.token_mixing = MlpBlock(tokens, token_mlp, over='tokens', **mlp)
    self.channel_norm = norm()
    self.channel_mixing = MlpBlock(hidden, channel_mlp, over='channels', **mlp)
    self.first, self.rescale = first, rescale

  def __call__(self, x: jax.Array, *, drop_rate: float | jax.Array | None = None, rngs: nnx.Rngs | None = None):
    phases = [(self.token_norm, self.token_mixing), (self.channel_norm, self.channel_mixing)]
    for norm, mixing in phases if self.first == 'tokens' else reversed(phases):
      branch = mixing(norm(x), rngs=rngs)
      if rngs is not None and drop_rate is not None:
        branch = layers.stochastic_depth(branch, drop_rate, rescale=self.rescale, key=rngs.dropout())
      x = x + branch
    return x


class MlpMixer(nnx.Module):
  """Image -> patches -> linear stem -> Mixer blocks -> LayerNorm -> mean over the tokens -> linear head -> logits.

  Args:
    image: (height, width, channels) of the images; any channel count, any aspect ratio.
    classes: number of logits.
    patch: side of a patch in pixels, or (height, width); must divide the image.
    hidden: width of a token.
    blocks: number of Mixer blocks.
    token_mlp, channel_mlp: hidden widths of the two MLPs.
    gelu: `tanh` (the published weights) or `exact` (timm's).
    dropout: rate after every linear layer of the MLPs; the paper fine-tunes and trains with 0.
    stochastic_depth: rate of the last block; it rises linearly from 0 at the first, one mask per example and branch.
    rescale: divide kept branches by the keeping probability (timm) or not (the original).
    norm_over, first: see MixerBlock.
    pool: `mean` (LayerNorm, then the mean over the tokens) or `flatten` (all tokens side by side, channel by
      channel, no LayerNorm: configs/mnist.py).
    head: widths of hidden GELU layers before the logits; none in the paper.
    head_bias: what the logits' bias starts from, e.g. -6.9 = log(1/1000) for sigmoid cross-entropy on 1000 classes.
    init: `original` or `torch`, see layers.linear. `original` starts the logits' kernel from zero.
    dtype: what activations are computed in, `float32` or `bfloat16`; parameters and logits are float32.
    scan: stack the blocks and scan over depth: compile time and program size that do not grow with depth.
    remat: recompute each block in the backward pass, for memory.

  Raises:
    MixerError: a patch that does not divide the image, a rate outside [0, 1), an unknown choice.
  """

  def __init__(
    self, *, image: tuple[int, int, int], classes: int, patch: int | tuple[int, int], hidden: int, blocks: int,
    token_mlp: int, channel_mlp: int, gelu: str = 'tanh', dropout: float = 0.0, stochastic_depth: float = 0.0,
    rescale: bool = False, norm_over: str = 'channels', first: str = 'tokens', pool: str = 'mean',
    head: tuple[int, ...] = (), head_bias: float = 0.0, init: str = 'original', dtype: str = 'float32',
    scan: bool = False, remat: bool = False, rngs: nnx.Rngs,
  ):  # fmt: skip
    grid, self.patch = layers.patch_grid(image, patch)
    self.image, self.tokens, self.depth = tuple(image), grid[0] * grid[1], blocks
    for what, value, known in (
      ('norm_over', norm_over, ('channels', 'tokens')),
      ('first', first, ('tokens', 'channels')),
      ('pool', pool, ('mean', 'flatten')),
      ('dtype', dtype, ('float32', 'bfloat16')),
    ):
      if value not in known:
        raise unknown(f'model.{what}', value, known)
    for what, rate in (('dropout', dropout), ('stochastic_depth', stochastic_depth)):
      if not 0 <= rate < 1:
        raise MixerError(f'model.{what} is {rate}, but a rate must be in [0, 1)')
    for what, size in (
      ('hidden', hidden),
      ('blocks', blocks),
      ('token_mlp', token_mlp),
      ('channel_mlp', channel_mlp),
    ):
      if size < 1:
        raise MixerError(f'model.{what} is {size}, but must be at least 1')
    self.stochastic_depth, self.pool, self.scan, self.remat = stochastic_depth, pool, scan, remat
    self.gelu, self.dtype = layers.gelu(gelu), jnp.dtype(dtype)

    make = lambda rngs: MixerBlock(
      self.tokens, hidden, token_mlp, channel_mlp, norm_over=norm_over, first=first, activation=self.gelu,
      dropout=dropout, rescale=rescale, init=init, dtype=self.dtype, rngs=rngs,
    )  # fmt: skip
    pixels = self.patch[0] * self.patch[1] * image[2]
    self.stem = layers.linear(pixels, hidden, init=init, dtype=self.dtype, rngs=rngs)
    self.blocks = nnx.vmap(make)(rngs.split(blocks)) if scan else nnx.List([make(rngs) for _ in range(blocks)])
    if pool == 'mean':
      self.pre_head_norm = nnx.LayerNorm(hidden, epsilon=layers.EPSILON, rngs=rngs)
    widths = [hidden if pool == 'mean' else hidden * self.tokens, *head]
    self.head_hidden = nnx.List(
      [layers.linear(a, b, init=init, dtype=jnp.float32, rngs=rngs) for a, b in zip(widths, widths[1:], strict=False)]
    )
    self.head = layers.linear(widths[-1], classes, init=init, dtype=jnp.float32, rngs=rngs, zero=True, bias=head_bias)

  def __call__(self, image: jax.Array, *, rngs: nnx.Rngs | None = None, intermediates: bool = False):
    """Logits of a batch of images.

    Args:
      image: [batch, height, width, channels], float, normalised as in training.
      rngs: with a `dropout` stream in training; None means evaluation: no dropout, no stochastic depth.
      intermediates: also return what the layers gave, by name.

    Returns:
      logits [batch, classes], float32; with `intermediates` also a dict: `stem`, `block_0`, ... [batch, tokens,
      channels], `features` [batch, width] before the head's hidden layers, `pre_logits` after them, `logits`.
    """
    layers.check_image(self.image, image)
    tokens = self.stem(layers.patchify(image, self.patch).astype(self.dtype))
    x, outputs = self._run_blocks(tokens, rngs)
    x = x.astype(jnp.float32)
    if self.pool == 'mean':
      x = self.pre_head_norm(x).mean(axis=0)
    else:
      x = einops.rearrange(x, 't b c -> b (c t)')
    features = x
    for layer in self.head_hidden:
      x = self.gelu(layer(x))
    logits = self.head(x)
    if not intermediates:
      return logits
    named = {'stem': tokens, **{f'block_{i}': outputs[i] for i in range(self.depth)}}
    named = {name: einops.rearrange(y, 't b c -> b t c') for name, y in named.items()}
    return logits, {**named, 'features': features, 'pre_logits': x, 'logits': logits}

  def _run_blocks(self, x: jax.Array, rngs: nnx.Rngs | None):
    """[tokens, batch, channels] after the last block, and after each: the same draws scanned or not."""

    def body(x, inputs):
      block, rate, key = inputs
      x = block(x, drop_rate=rate, rngs=None if key is None else nnx.Rngs(dropout=key))
      return x, x

    body = jax.checkpoint(body) if self.remat else body
    keys = None if rngs is None else jax.random.split(rngs.dropout(), self.depth)
    rates = jnp.linspace(0, self.stochastic_depth, self.depth) if self.stochastic_depth else None
    if self.scan:
      return jax.lax.scan(body, x, (self.blocks, rates, keys))
    outputs = []
    for i, block in enumerate(self.blocks):
      x, _ = body(x, (block, None if rates is None else rates[i], None if keys is None else keys[i]))
      outputs.append(x)
    return x, outputs
