"""The Mixer of an MNIST implementation in PyTorch, which departs from the paper in four places.

LayerNorm normalises over the tokens, blocks mix the channels first, all tokens side by side replace LayerNorm and mean,
and the head has hidden layers. Each of the four can be as in the paper (models/mixer.py) instead.
"""

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax.models import blocks as stack
from mixer_jax.models import checks, layers
from mixer_jax.models.mixer import MlpBlock
from mixer_jax.models.ops.norm import TokenNorm


class MnistBlock(nnx.Module):
  """A Mixer block with `norm_over` and `first`, see MnistMixer."""

  def __init__(
    self, tokens, hidden, token_mlp, channel_mlp, *, norm_over, first, activation, dropout, rescale, init, dtype, rngs
  ):
    def norm():
      if norm_over == 'tokens':
        return TokenNorm(tokens, dtype=dtype)
      return nnx.LayerNorm(hidden, epsilon=layers.EPSILON, dtype=dtype, rngs=rngs)

    each = {'activation': activation, 'dropout': dropout, 'init': init, 'dtype': dtype, 'rngs': rngs}
    self.token_norm, self.token_mixing = norm(), MlpBlock(tokens, token_mlp, over='tokens', **each)
    self.channel_norm, self.channel_mixing = norm(), MlpBlock(hidden, channel_mlp, over='channels', **each)
    self.first, self.rescale = first, rescale

  def __call__(self, x: jax.Array, *, drop_rate: float | jax.Array | None = None, rngs: nnx.Rngs | None = None):
    phases = [(self.token_norm, self.token_mixing), (self.channel_norm, self.channel_mixing)]
    for norm, mixing in phases if self.first == 'tokens' else reversed(phases):
      x = stack.residual(x, mixing(norm(x), rngs=rngs), drop_rate=drop_rate, rescale=self.rescale, rngs=rngs)
    return x


class MnistMixer(nnx.Module):
  """Image -> patches -> linear stem -> blocks -> all tokens side by side -> hidden GELU layers -> linear -> logits.

  Args:
    norm_over: what the blocks' LayerNorms normalise over, `tokens` or `channels` (the paper).
    first: what a block mixes first, `channels` or `tokens` (the paper).
    pool: `flatten` (all tokens side by side, channel by channel, no LayerNorm) or `mean` (the paper: LayerNorm, then
      the mean over the tokens).
    head: widths of the hidden layers before the logits; none in the paper.
    The others: see MlpMixer.
  """

  def __init__(
    self, *, image: tuple[int, int, int], classes: int, patch: int | tuple[int, int], hidden: int, blocks: int,
    token_mlp: int, channel_mlp: int, norm_over: str = 'tokens', first: str = 'channels', pool: str = 'flatten',
    head: tuple[int, ...] = (512, 512), gelu: str = 'exact', dropout: float = 0.0, stochastic_depth: float = 0.0,
    rescale: bool = False, head_bias: float = 0.0, init: str = 'torch', dtype: str = 'float32', scan: bool = False,
    remat: bool = False, rngs: nnx.Rngs,
  ):  # fmt: skip
    checks.sizes(hidden=hidden, blocks=blocks, token_mlp=token_mlp, channel_mlp=channel_mlp)
    checks.sizes(head=min(head, default=1))
    checks.rates(dropout=dropout, stochastic_depth=stochastic_depth)
    checks.choice('norm_over', norm_over, ('channels', 'tokens'))
    checks.choice('first', first, ('tokens', 'channels'))
    checks.choice('pool', pool, ('mean', 'flatten'))
    self.image, self.dtype, self.gelu = tuple(image), checks.dtype(dtype), layers.gelu(gelu)
    self.grid, self.patch = layers.patch_grid(image, patch)
    rows, columns = self.grid
    block = lambda rngs: MnistBlock(
      rows * columns, hidden, token_mlp, channel_mlp, norm_over=norm_over, first=first, activation=self.gelu,
      dropout=dropout, rescale=rescale, init=init, dtype=self.dtype, rngs=rngs,
    )  # fmt: skip
    self.stem = layers.linear(layers.pixels(image, patch), hidden, init=init, dtype=self.dtype, rngs=rngs)
    self.blocks, self.depth = stack.make(block, blocks, rngs=rngs, scan=scan), blocks
    self.drop_rate, self.remat, self.pool = stochastic_depth, remat, pool
    if pool == 'mean':
      self.pre_head_norm = nnx.LayerNorm(hidden, epsilon=layers.EPSILON, rngs=rngs)
    last = lambda inputs, outputs, **start: layers.linear(
      inputs, outputs, init=init, dtype=jnp.float32, rngs=rngs, **start
    )
    widths = [hidden if pool == 'mean' else hidden * rows * columns, *head]
    self.head_hidden = nnx.List([last(i, o) for i, o in zip(widths, widths[1:], strict=False)])
    self.head = last(widths[-1], classes, zero=True, bias=head_bias)

  def __call__(self, image: jax.Array, *, rngs: nnx.Rngs | None = None, intermediates: bool = False):
    """Logits [batch, classes], see MlpMixer.

    Of the intermediates, `features` are [batch, width] before the head's hidden layers, `pre_logits` what these give.
    """
    layers.check_image(self.image, image)
    tokens = self.stem(layers.patchify(image, self.patch).astype(self.dtype))
    x, outputs = stack.run(self.blocks, tokens, self.depth, drop_rate=self.drop_rate, rngs=rngs, remat=self.remat)
    x = x.astype(jnp.float32)
    x = self.pre_head_norm(x).mean(axis=0) if self.pool == 'mean' else einops.rearrange(x, 't b c -> b (c t)')
    named = {'features': x}
    for layer in self.head_hidden:
      x = self.gelu(layer(x))
    logits = self.head(x)
    named |= {'pre_logits': x, 'logits': logits}
    return (logits, stack.by_name(tokens, outputs) | named) if intermediates else logits

  def features(self, image: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    """What the head's hidden layers see, [batch, width]."""
    return self(image, rngs=rngs, intermediates=True)[1]['features']
