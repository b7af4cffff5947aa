"""A Mixer for rows of a table: columns -> tokens -> the Mixer blocks of models/mixer.py -> logits.

Two ways to make tokens. `patches` cuts a row, numbers and numbered categories alike, into p neighbouring columns that
are projected together, as an image of one row and one channel. `columns` gives every column a token and an embedding
of its own (Gorishniy et al. 2021, arXiv 2106.11959; 2022, arXiv 2203.05556).
"""

import itertools
from typing import Annotated

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models import blocks as stack
from mixer_jax.models import checks, layers
from mixer_jax.models import mixing as mixings
from mixer_jax.models.mixer import MixerBlock

ACTIVATIONS = {'gelu': layers.exact_gelu, 'tanh': jnp.tanh}
TOKEN_EXPANSION = 4.0


class ColumnTokens(nnx.Module):
  """features [batch, columns] and categories [batch, categorical columns] -> tokens [columns, batch, hidden].

  A number x becomes x * weight + bias, with a weight and a bias for every column; with `bins`, x is first spread over
  that many pieces of [-1, 1] (each from 0 to 1 as x goes through it, the outer two on beyond it), so that the map can
  bend. A category is a row of an embedding; that of unknown values starts from zero and stays there, since no training
  row has one.
  """

  def __init__(self, columns: int, vocabularies: tuple[tuple[int, int], ...], hidden: int, *, bins: int, rngs):
    of_category, self.bins = dict(vocabularies), bins
    self.numbers, self.places = tuple(i for i in range(columns) if i not in of_category), tuple(of_category)
    bound = 1 / jnp.sqrt(max(1, bins))
    draw = lambda shape: jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)
    if self.numbers:  # no parameters of size 0, which no checkpoint takes
      self.kernel = nnx.Param(draw((len(self.numbers), max(1, bins), hidden)))
      self.bias = nnx.Param(draw((len(self.numbers), hidden)))
    if self.places:  # one table for all columns: a thousand of their own would take minutes to compile
      sizes = [size + 1 for size in of_category.values()]
      self.starts = tuple(itertools.accumulate([0, *sizes[:-1]]))
      self.table = nnx.Embed(sum(sizes), hidden, rngs=rngs)
      self.table.embedding[...] = self.table.embedding[...].at[jnp.array(self.starts)].set(0)

  def __call__(self, features: jax.Array, categories: jax.Array) -> jax.Array:
    tokens = []
    if self.numbers:
      x = jnp.take(features, jnp.array(self.numbers), axis=1)[..., None]
      if self.bins:
        edges = jnp.linspace(-1, 1, self.bins + 1)[:-1]
        inner = jnp.arange(self.bins)
        lowest, highest = jnp.where(inner == 0, -jnp.inf, 0), jnp.where(inner == self.bins - 1, jnp.inf, 1)
        x = jnp.clip((x - edges) * (self.bins / 2), lowest, highest)
      tokens.append(jnp.einsum('bnk,nkc->nbc', x, self.kernel[...]) + self.bias[...][:, None])
    if self.places:
      tokens.append(einops.rearrange(self.table(categories + jnp.array(self.starts)), 'b n c -> n b c'))
    return jnp.concatenate(tokens)[jnp.argsort(jnp.array([*self.numbers, *self.places]))]  # in the order of the file


class TabularMixer(nnx.Module):
  """Row -> tokens -> Mixer blocks -> LayerNorm -> mean over the tokens, or all of them side by side -> logits.

  Args:
    columns: how many columns a row has.
    vocabularies: (place of a categorical column among the columns, number of its values), for every such column.
    outputs: number of logits; 1 for a binary task.
    tokens: `patches` or `columns`, see above.
    patch: columns in a patch, must divide the columns; 1 for `columns`.
    bins: pieces that a number is spread over, 0 for none and for `patches`; made for data in [-1, 1], such as those of
      the quantile scaling.
    hidden, blocks: width of a token, number of Mixer blocks.
    token_expansion, channel_expansion: hidden widths of the two MLPs, as multiples of tokens and of `hidden`.
    mixing: what mixes the tokens, a grid of one row, see models/mixing; only for the paper's MLP set token_expansion.
    activation: `gelu` (exact) or `tanh`, the hyperbolic tangent in its place.
    dropout: rate after every linear layer of the MLPs.
    stochastic_depth: rate of the last block; it rises linearly from 0. Kept branches are divided by their probability.
    pool: `mean` or `flatten`.
    init: `original` or `torch`, see layers.linear.

  Refuses a patch that does not divide the columns, `bins` for patches, a `patch` for columns.
  """

  def __init__(
    self, *, columns: int, vocabularies: tuple[tuple[int, int], ...], outputs: int, tokens: str = 'columns',
    patch: int = 1, bins: int = 0, hidden: int, blocks: int, token_expansion: float = TOKEN_EXPANSION,
    channel_expansion: float = 0.5, mixing: Annotated[dict, mixings.MIXINGS] = mixings.TOKEN_MLP,
    activation: str = 'gelu', dropout: float = 0.0, stochastic_depth: float = 0.0, pool: str = 'mean',
    init: str = 'torch', rngs: nnx.Rngs,
  ):  # fmt: skip
    checks.choice('tokens', tokens, ('patches', 'columns'))
    checks.choice('activation', activation, ACTIVATIONS)
    checks.choice('pool', pool, ('mean', 'flatten'))
    checks.rates(dropout=dropout, stochastic_depth=stochastic_depth)
    checks.sizes(hidden=hidden, blocks=blocks)
    checks.positive(token_expansion=token_expansion, channel_expansion=channel_expansion)
    if bins < 0 or bins and tokens == 'patches':
      raise MixerError(
        f"model.bins is {bins} with model.tokens {tokens!r}, but must be 0 for 'patches' and at least 0 for 'columns'"
      )
    if patch != 1 and tokens == 'columns':
      raise MixerError(f"model.patch is {patch}, but must be 1 for model.tokens 'columns'")
    if tokens == 'patches' and (patch < 1 or columns % patch):
      raise MixerError(
        f'model.patch is {patch}, which does not divide the {columns} columns; choose a divisor, or drop columns'
      )
    self.patch, self.pool, self.depth, self.drop_rate = patch, pool, blocks, stochastic_depth
    count = columns // patch
    self.grid = (1, count)
    if tokens == 'patches':
      self.stem = layers.linear(patch, hidden, init=init, dtype=jnp.float32, rngs=rngs)
    else:
      self.stem = ColumnTokens(columns, vocabularies, hidden, bins=bins, rngs=rngs)
    token_mlp, channel_mlp = max(1, round(token_expansion * count)), max(1, round(channel_expansion * hidden))
    mixing = mixings.with_hidden(
      mixing, token_mlp, key='token_expansion', value=token_expansion, unused=TOKEN_EXPANSION
    )
    block = lambda rngs: MixerBlock(
      self.grid, hidden, channel_mlp, mixing=mixing, activation=ACTIVATIONS[activation], dropout=dropout,
      rescale=True, init=init, dtype=jnp.float32, rngs=rngs,
    )  # fmt: skip
    self.blocks = stack.make(block, blocks, rngs=rngs)
    self.norm = nnx.LayerNorm(hidden, epsilon=layers.EPSILON, rngs=rngs)
    width = hidden if pool == 'mean' else hidden * count
    self.head = layers.linear(width, outputs, init=init, dtype=jnp.float32, rngs=rngs, zero=True)

  def features(self, features: jax.Array, categories: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    """What the head sees, [batch, width], of rows; training gives rngs with a `dropout` stream.

    `features` are float32 [batch, columns], scaled; `categories` int32 [batch, categorical columns], 0 for unknown.
    """
    if isinstance(self.stem, ColumnTokens):
      x = self.stem(features, categories)
    else:
      x = self.stem(einops.rearrange(features, 'b (t p) -> t b p', p=self.patch))
    x = self.norm(stack.run(self.blocks, x, self.depth, drop_rate=self.drop_rate, rngs=rngs)[0])
    return x.mean(axis=0) if self.pool == 'mean' else einops.rearrange(x, 't b c -> b (t c)')

  def __call__(self, features: jax.Array, categories: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    """Logits [batch, outputs] of rows, see `features`."""
    return self.head(self.features(features, categories, rngs=rngs))
