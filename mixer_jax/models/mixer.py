"""MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601), with the paper's equations beside the lines that compute them.

Activations are [tokens, batch, channels] from the stem to the head: token mixing is a product from the left, channel
mixing one from the right, and nothing is transposed. The original differs in this layout, not in its arithmetic.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax.models import blocks as stack
from mixer_jax.models import checks, layers
from mixer_jax.models import mixing as mixings
from mixer_jax.models.ops.dropout import dropout as drop
from mixer_jax.models.ops.products import over_tokens

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
  """W2 gelu(W1 x) over the tokens or the channels of x [tokens, batch, channels]; dropout after each linear layer."""

  def __init__(self, features: int, hidden: int, *, over: str, activation, dropout: float, init: str, dtype, rngs):
    self.fc1 = layers.linear(features, hidden, init=init, dtype=dtype, rngs=rngs)
    self.fc2 = layers.linear(hidden, features, init=init, dtype=dtype, rngs=rngs)
    self.over, self.activation, self.rate = over, activation, dropout

  def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    linear = over_tokens if self.over == 'tokens' else nnx.Linear.__call__
    y = self._drop(self.activation(linear(self.fc1, x)), rngs)  # gelu(W1 x)
    return self._drop(linear(self.fc2, y), rngs).reshape(x.shape)  # W2 gelu(W1 x)

  def _drop(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
    return x if rngs is None or not self.rate else drop(x, self.rate, key=rngs.dropout())


class MixerBlock(nnx.Module):
  """Mixes the tokens, then the channels: LayerNorm before each, a residual connection around LayerNorm and mixing."""

  def __init__(self, grid, hidden, channel_mlp, *, mixing, activation, dropout, rescale, init, dtype, rngs):
    norm = lambda: nnx.LayerNorm(hidden, epsilon=layers.EPSILON, dtype=dtype, rngs=rngs)
    each = {'activation': activation, 'dropout': dropout, 'init': init, 'dtype': dtype, 'rngs': rngs}
    self.token_norm, self.token_mixing = norm(), mixings.make(mixing, grid=grid, width=hidden, **each)
    self.channel_norm, self.channel_mixing = norm(), MlpBlock(hidden, channel_mlp, over='channels', **each)
    self.rescale = rescale

  def __call__(self, x: jax.Array, *, drop_rate: float | jax.Array | None = None, rngs: nnx.Rngs | None = None):
    add = lambda x, branch: stack.residual(x, branch, drop_rate=drop_rate, rescale=self.rescale, rngs=rngs)
    # U = X + W2 gelu(W1 LayerNorm(X)), for every channel; another mixing layer stands in the place of W2 gelu(W1 ...)
    u = add(x, self.token_mixing(self.token_norm(x), rngs=rngs))
    # Y = U + W4 gelu(W3 LayerNorm(U)), for every token
    return add(u, self.channel_mixing(self.channel_norm(u), rngs=rngs))


class MlpMixer(nnx.Module):
  """Image -> logits.

  Args:
    image: (height, width, channels) of the images. classes: number of logits.
    patch: side of a patch in pixels, or (height, width); must divide the image.
    hidden, blocks, token_mlp, channel_mlp: width of a token, number of blocks, hidden widths of the two MLPs.
    mixing: what mixes the tokens, see models/mixing; with another than the paper's MLP leave token_mlp out.
    gelu: `tanh` (the published weights) or `exact` (timm's).
    dropout: rate after every linear layer of the MLPs; the paper fine-tunes and trains with 0.
    stochastic_depth: rate of the last block, rising linearly from 0 at the first; one mask per example and branch.
    rescale: divide kept branches by the keeping probability (timm) or not (the original).
    head_bias: what the logits' bias starts from, e.g. -6.9 = log(1/1000) for sigmoid cross-entropy on 1000 classes.
    init: `original` or `torch`, see layers.linear. `original` starts the logits' kernel from zero.
    dtype: what activations are computed in, `float32` or `bfloat16`; parameters, features and logits are float32.
    scan, remat: stack the blocks and scan over depth, for compile time; recompute them backwards, for memory.
  """

  def __init__(
    self, *, image: tuple[int, int, int], classes: int, patch: int | tuple[int, int], hidden: int, blocks: int,
    token_mlp: int = 0, channel_mlp: int, mixing: Annotated[dict, mixings.MIXINGS] = mixings.TOKEN_MLP,
    gelu: str = 'tanh', dropout: float = 0.0, stochastic_depth: float = 0.0, rescale: bool = False,
    head_bias: float = 0.0, init: str = 'original', dtype: str = 'float32', scan: bool = False, remat: bool = False,
    rngs: nnx.Rngs,
  ):  # fmt: skip
    checks.sizes(hidden=hidden, blocks=blocks, channel_mlp=channel_mlp)
    checks.rates(dropout=dropout, stochastic_depth=stochastic_depth)
    self.image, self.dtype = tuple(image), checks.dtype(dtype)
    self.grid, self.patch = layers.patch_grid(image, patch)
    each = {'activation': layers.gelu(gelu), 'dropout': dropout, 'rescale': rescale, 'init': init, 'dtype': self.dtype}
    each['mixing'] = mixings.with_hidden(mixing, token_mlp, key='token_mlp', value=token_mlp, unused=0)
    block = lambda rngs: MixerBlock(self.grid, hidden, channel_mlp, **each, rngs=rngs)
    self.stem = layers.linear(layers.pixels(image, patch), hidden, init=init, dtype=self.dtype, rngs=rngs)
    self.blocks, self.depth = stack.make(block, blocks, rngs=rngs, scan=scan), blocks
    self.drop_rate, self.remat = stochastic_depth, remat
    self.pre_head_norm = nnx.LayerNorm(hidden, epsilon=layers.EPSILON, rngs=rngs)
    self.head = layers.linear(hidden, classes, init=init, dtype=jnp.float32, rngs=rngs, zero=True, bias=head_bias)

  def __call__(self, image: jax.Array, *, rngs: nnx.Rngs | None = None, intermediates: bool = False):
    """Images [batch, height, width, channels] -> logits [batch, classes]; training gives rngs with a `dropout` stream.

    With `intermediates` also a dict: `stem`, `block_0`, ... [batch, tokens, channels], `features` (also called
    `pre_logits`) [batch, hidden] and `logits`.
    """
    layers.check_image(self.image, image)
    tokens = self.stem(layers.patchify(image, self.patch).astype(self.dtype))  # one linear layer for every patch
    x, outputs = stack.run(self.blocks, tokens, self.depth, drop_rate=self.drop_rate, rngs=rngs, remat=self.remat)
    x = self.pre_head_norm(x.astype(jnp.float32)).mean(axis=0)  # LayerNorm, then global average pooling
    logits = self.head(x)  # one linear layer
    named = {'features': x, 'pre_logits': x, 'logits': logits}
    return (logits, stack.by_name(tokens, outputs) | named) if intermediates else logits

  def features(self, image: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    """What the head sees, [batch, hidden]."""
    return self(image, rngs=rngs, intermediates=True)[1]['features']
