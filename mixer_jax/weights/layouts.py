"""The names and shapes of a Mixer's arrays elsewhere: the original's in both its namings, and timm's.

Our names are those of an unrolled models/mixer.py: `blocks.0.token_mixing.fc1.kernel`. Kernels are [inputs, outputs]
here and in the original, [outputs, inputs] in timm. The stem is [pixels of a patch, width of a token] here, pixels row
by row with their channels last; it has four axes elsewhere, see `Layout.stem`.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import einops
import numpy as np

from mixer_jax.errors import MixerError


class Layout(NamedTuple):
  """How blocks are named, what prefixes names may have, and the axes of the stem."""

  block: str
  prefix: str  # a pattern
  stem: str  # its axes for einops: p rows and q columns of a patch, c channels, h numbers of a token

  def patch(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width, channels) of a patch, by the shape of the stem."""
    sides = dict(zip(self.stem.split(), shape, strict=True))
    return sides['p'], sides['q'], sides['c']


FLAX = r'((opt/)?target/)?(params/)?'  # of Flax's old optimizers, and of its later train states
TORCH = r'((_orig_mod|module|model|net)\.){0,3}'  # of torch.compile, of several devices, of Lightning and others
LAYOUTS = {
  'original': Layout('MixerBlock_{}/', FLAX, 'p q c h'),
  'older original': Layout('Mixer/encoderblock_{}/', FLAX, 'p q c h'),  # its dense layers have axes of one
  'timm': Layout('blocks.{}.', TORCH, 'h c p q'),
}
# What training checkpoints have beside a prefix: the optimizer's moments and counters.
STATE = re.compile(r'(opt|optimizer|state|extra)/|(step|epoch|n_averaged)$')
# Ours, and what they are called in each of these.
ENDS = {
  'stem.kernel': ('stem/kernel', 'embedding/kernel', 'stem.proj.weight'),
  'stem.bias': ('stem/bias', 'embedding/bias', 'stem.proj.bias'),
  'pre_head_norm.scale': ('pre_head_layer_norm/scale', 'Mixer/encoder_norm/scale', 'norm.weight'),
  'pre_head_norm.bias': ('pre_head_layer_norm/bias', 'Mixer/encoder_norm/bias', 'norm.bias'),
  'head.kernel': ('head/kernel', 'head/kernel', 'head.weight'),
  'head.bias': ('head/bias', 'head/bias', 'head.bias'),
}
OF_BLOCK = {
  'token_norm.scale': ('LayerNorm_0/scale', 'LayerNorm_0/scale', 'norm1.weight'),
  'token_norm.bias': ('LayerNorm_0/bias', 'LayerNorm_0/bias', 'norm1.bias'),
  'token_mixing.fc1.kernel': ('token_mixing/Dense_0/kernel', 'token_mixing_phase_0/kernel1', 'mlp_tokens.fc1.weight'),
  'token_mixing.fc1.bias': ('token_mixing/Dense_0/bias', 'token_mixing_phase_0/bias1', 'mlp_tokens.fc1.bias'),
  'token_mixing.fc2.kernel': ('token_mixing/Dense_1/kernel', 'token_mixing_phase_0/kernel2', 'mlp_tokens.fc2.weight'),
  'token_mixing.fc2.bias': ('token_mixing/Dense_1/bias', 'token_mixing_phase_0/bias2', 'mlp_tokens.fc2.bias'),
  'channel_norm.scale': ('LayerNorm_1/scale', 'LayerNorm_1/scale', 'norm2.weight'),
  'channel_norm.bias': ('LayerNorm_1/bias', 'LayerNorm_1/bias', 'norm2.bias'),
  'channel_mixing.fc1.kernel': (
    'channel_mixing/Dense_0/kernel', 'channel_mixing_phase_0/kernel1', 'mlp_channels.fc1.weight',
  ),
  'channel_mixing.fc1.bias': ('channel_mixing/Dense_0/bias', 'channel_mixing_phase_0/bias1', 'mlp_channels.fc1.bias'),
  'channel_mixing.fc2.kernel': (
    'channel_mixing/Dense_1/kernel', 'channel_mixing_phase_0/kernel2', 'mlp_channels.fc2.weight',
  ),
  'channel_mixing.fc2.bias': ('channel_mixing/Dense_1/bias', 'channel_mixing_phase_0/bias2', 'mlp_channels.fc2.bias'),
}  # fmt: skip
HEAD = ('head.kernel', 'head.bias')


def names(layout: str, blocks: int) -> dict[str, str]:
  """Our names -> theirs, for a Mixer of so many blocks."""
  which, block = list(LAYOUTS).index(layout), LAYOUTS[layout].block
  of_blocks = {
    f'blocks.{i}.{ours}': block.format(i) + theirs[which] for i in range(blocks) for ours, theirs in OF_BLOCK.items()
  }
  return {ours: theirs[which] for ours, theirs in ENDS.items()} | of_blocks


def find(given: Iterable[str]) -> tuple[str, str, int] | None:
  """(layout, prefix, blocks) of the names in a file; None where no layout fits."""
  given = set(given)
  for which, (layout, there) in enumerate(LAYOUTS.items()):
    stem = ENDS['stem.kernel'][which]
    prefixes = {name.removesuffix(stem) for name in given if name.endswith(stem)}
    for prefix in sorted(filter(re.compile(there.prefix).fullmatch, prefixes), key=len):
      if any(name.startswith(prefix + there.block.format(0)) for name in given):
        pattern = re.compile(re.escape(prefix + there.block).replace(r'\{\}', r'(\d{1,6})'))
        # Counted, so that one number that is far out is one extra array, not a million missing blocks.
        return layout, prefix, len({match[1] for name in given if (match := pattern.match(name))})
  return None


def training_state(prefix: str, given: Iterable[str]) -> list[str]:
  """The names, beside those with the prefix of a training checkpoint, of what only training needs."""
  return [name for name in given if prefix and not name.startswith(prefix) and STATE.match(name)]


def to_ours(layout: str, name: str, array: np.ndarray) -> np.ndarray:
  """An array of that layout in the shape of ours, which is called `name`."""
  if name == 'stem.kernel':
    ours = einops.rearrange(array, f'{LAYOUTS[layout].stem} -> (p q c) h')
  else:
    ours = array.T if layout == 'timm' else array.reshape(shape_of_ours(layout, name, array.shape))
  return np.ascontiguousarray(ours)


def shape_of_ours(layout: str, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of to_ours(layout, name, array) for an array of that shape."""
  if name == 'stem.kernel':
    return math.prod(LAYOUTS[layout].patch(shape)), shape[LAYOUTS[layout].stem.split().index('h')]
  if layout == 'older original':
    return _without_ones(shape, 2 if name.endswith('.kernel') else 1)
  return shape[::-1] if layout == 'timm' else shape


def _without_ones(shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
  """A shape without axes of one, down to so many; those in front go first, as a real side may be one, too."""
  squeezed = tuple(side for side in shape if side != 1)
  if len(squeezed) == axes:
    return squeezed
  in_front = max(len(shape) - axes, 0)
  return shape[in_front:] if math.prod(shape[:in_front]) == 1 else shape


def from_ours(
  layout: str, arrays: Mapping[str, np.ndarray], blocks: int, patch: tuple[int, int, int]
) -> dict[str, np.ndarray]:
  """Our arrays by their names and in their shapes there; patch is (height, width, channels).

  Refuses an array that the layout cannot represent.
  """
  theirs = names(layout, blocks)
  if extra := sorted(set(arrays) - set(theirs)):
    raise MixerError(f'the layout {layout} has no place for {", ".join(extra)}; write a model folder instead')
  sides = dict(zip('pqc', patch, strict=True))

  def convert(name, array):
    if name == 'stem.kernel':
      return einops.rearrange(array, f'(p q c) h -> {LAYOUTS[layout].stem}', **sides)
    return array.T if layout == 'timm' else array

  return {theirs[name]: np.ascontiguousarray(convert(name, array)) for name, array in arrays.items()}
