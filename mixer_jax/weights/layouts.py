"""The names and shapes of a Mixer's arrays elsewhere: the original's in both its namings, and timm's.

Our names are those of an unrolled models/mixer.py: `blocks.0.token_mixing.fc1.kernel`. Kernels are [inputs, outputs]
here and in the original, [outputs, inputs] in timm. The stem is [pixels of a patch, width of a token] here, pixels row
by row with their channels last; [height, width, channels, width of a token] in the original; [width of a token,
channels, height, width] in timm.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import einops
import numpy as np

from mixer_jax.errors import MixerError


class Layout(NamedTuple):
  """`stem` and `rest` make ours of theirs; `stem_back(ours, (height, width, channels))` and `rest_back` undo that."""

  block: str
  prefixes: tuple[str, ...]
  stem: Callable[[np.ndarray], np.ndarray]
  rest: Callable[[np.ndarray], np.ndarray]
  stem_back: Callable[[np.ndarray, tuple[int, int, int]], np.ndarray]
  rest_back: Callable[[np.ndarray], np.ndarray]
  patch: Callable[[tuple[int, ...]], tuple[int, ...]]  # the stem's shape -> (height, width, channels)


_from_image = lambda stem: einops.rearrange(stem, 'p q c h -> (p q c) h')
_to_image = lambda stem, patch: stem.reshape(*patch, -1)
_from_torch = lambda stem: einops.rearrange(stem, 'h c p q -> (p q c) h')
_to_torch = lambda stem, patch: einops.rearrange(stem.reshape(*patch, -1), 'p q c h -> h c p q')

LAYOUTS = {
  'original': Layout(
    'MixerBlock_{}/', ('', 'params/', 'target/', 'opt/target/'),
    _from_image, lambda x: x, _to_image, lambda x: x, lambda shape: shape[:3],
  ),
  # Its dense layers have axes of one.
  'older original': Layout(
    'Mixer/encoderblock_{}/', ('', 'target/', 'opt/target/'),
    _from_image, np.squeeze, _to_image, lambda x: x, lambda shape: shape[:3],
  ),
  'timm': Layout(
    'blocks.{}.', ('', 'module.', 'model.'), _from_torch, np.transpose, _to_torch, np.transpose,
    lambda shape: (shape[2], shape[3], shape[1]),
  ),
}  # fmt: skip
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
  """Ours -> theirs, of a Mixer of so many blocks."""
  which, block = list(LAYOUTS).index(layout), LAYOUTS[layout].block
  of_blocks = {
    f'blocks.{i}.{ours}': block.format(i) + theirs[which] for i in range(blocks) for ours, theirs in OF_BLOCK.items()
  }
  return {ours: theirs[which] for ours, theirs in ENDS.items()} | of_blocks


def find(given: Iterable[str]) -> tuple[str, str, int] | None:
  """(layout, prefix, blocks) of names in a file; None where they are not those of a Mixer that is known here."""
  given = set(given)
  for which, (layout, (block, prefixes, *_)) in enumerate(LAYOUTS.items()):
    for prefix in prefixes:
      if prefix + ENDS['stem.kernel'][which] in given and any(n.startswith(prefix + block.format(0)) for n in given):
        pattern = re.compile(re.escape(prefix + block).replace(r'\{\}', r'(\d{1,6})'))
        # A number that is far out is an array too many, not a reason to expect all blocks before it.
        return layout, prefix, len({match[1] for name in given if (match := pattern.match(name))})
  return None


def to_ours(layout: str, name: str, array: np.ndarray) -> np.ndarray:
  """An array of that layout as ours of the name `name`."""
  made = LAYOUTS[layout]
  return np.ascontiguousarray(made.stem(array) if name == 'stem.kernel' else made.rest(array))


def from_ours(
  layout: str, arrays: Mapping[str, np.ndarray], blocks: int, patch: tuple[int, int, int]
) -> dict[str, np.ndarray]:
  """Our arrays by their names and in their shapes there.

  Args:
    patch: (height, width, channels) of the pixels that the stem takes.

  Raises:
    MixerError: an array that the layout has no place for.
  """
  theirs, made = names(layout, blocks), LAYOUTS[layout]
  if extra := sorted(set(arrays) - set(theirs)):
    raise MixerError(f'the layout {layout} has no place for {", ".join(extra)}; write a model folder instead')
  convert = lambda name, x: made.stem_back(x, patch) if name == 'stem.kernel' else made.rest_back(x)
  return {theirs[name]: np.ascontiguousarray(convert(name, array)) for name, array in arrays.items()}
