"""Weights from a file or a model folder, in our names and shapes, with what is known of them.

Every array is float32 and finite; what was converted is noted.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from mixer_jax import parts
from mixer_jax.errors import MixerError
from mixer_jax.files import load_json, parse_json
from mixer_jax.models import MODELS, mixing, params, upgrade
from mixer_jax.models.layers import GELUS
from mixer_jax.models.mixer import MlpMixer
from mixer_jax.weights import archives, layouts, remote, trust

FORMAT = 'mixer_jax model folder 1'  # `format` in the config.json of a model folder
NOTED = ('image', 'mean', 'std', 'labels')  # beside `gelu` in the notes of a .safetensors file
PUBLISHED = {'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5]}  # pixels to [-1, 1], the original's and timm's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
  """A network without the code that made it."""

  arrays: dict[str, np.ndarray]  # float32 by dotted names, see models/params; those of the head may be missing
  model: dict[str, Any]  # `name` and the settings of config.model, as far as they are known
  data: dict[str, Any]  # `image`, `classes`, `mean` and `std` of config.data, as far as they are known
  labels: list[str] | None = None  # the names of the classes
  schema: dict | None = None  # of a table's columns
  source: str  # the address or path
  kind: str  # `original`, `older original`, `timm`, `model folder` or `run`
  sha256: str = ''  # of the file that holds the arrays; '' for a run
  notes: tuple[str, ...] = ()  # for the user

  @property
  def is_mixer(self) -> bool:
    """Whether it is what the published layouts hold: a Mixer with the paper's token MLP."""
    return _is_mixer(self.model)

  @property
  def patch(self) -> tuple[int, int]:
    """(height, width) of a Mixer's patch."""
    return _sides(self.model['patch'])

  @property
  def channels(self) -> int:
    """How many channels a Mixer's stem takes."""
    return len(self.arrays['stem.kernel']) // math.prod(self.patch)

  @property
  def tokens(self) -> int:
    """How many tokens a Mixer mixes."""
    return len(self.arrays['blocks.0.token_mixing.fc2.bias'])

  @property
  def image(self) -> tuple[int, int, int]:
    """(height, width, channels); raises MixerError if the file does not say and the tokens form no square."""
    if not self.data.get('image'):
      raise MixerError(
        f'{self.source} does not give the token grid, and {self.tokens} tokens do not form a square; give a model'
        " folder, or timm's layout as this project writes it"
      )
    return tuple(self.data['image'])


def _sides(patch: Any) -> tuple[int, int]:
  return (patch, patch) if isinstance(patch, int) else tuple(patch)


def _is_mixer(model: Mapping[str, Any]) -> bool:
  return model['name'] == 'mixer' and mixing.is_token_mlp(model.get('mixing', mixing.TOKEN_MLP))


def read(address: str, *, trusted: bool = False) -> Weights:
  """Weights of a file (see archives.READERS), a model folder, or one of these at an address.

  Of a training checkpoint by PyTorch, `FILE#KEY` reads the state dict of that key, such as `state_dict_ema`.
  A `trusted` folder is the user's own and may name any module; see trust.
  Refuses a missing file, anything but a Mixer in a known layout, and arrays that are missing, too many, misshapen, no
  floats or not finite: all of them are named.
  """
  place, part = remote.split(address)
  path = remote.fetch(place)
  try:
    is_folder = path.is_dir()
  except OSError as error:
    raise MixerError(f'{address} cannot be read ({error.strerror})') from error
  weights = _read_folder(path, address, trusted) if is_folder else _read_file(path, address, part)
  if not remote.is_address(address):
    return weights
  return dataclasses.replace(weights, notes=(f'sha256 {weights.sha256}, kept as {path}', *weights.notes))


def with_gelu(weights: Weights, kind: str) -> Weights:
  """The weights of a Mixer, with another GELU than their file says or implies."""
  notes = tuple(note for note in weights.notes if not note.startswith('gelu: '))
  return dataclasses.replace(weights, model=weights.model | {'gelu': kind}, notes=notes)


def is_model_folder(path: Path) -> bool:
  """Whether a folder is one that writing.to_folder made."""
  try:
    return _has_format(_read_config(path / 'config.json'))
  except MixerError:  # what is damaged there is named where it is read
    return False


def _read_file(path: Path, address: str, part: str) -> Weights:
  archive = archives.read(path, part)
  found = layouts.find(archive.arrays)
  if found is None:
    shown = ', '.join(sorted(archive.arrays)[:4])
    raise MixerError(
      f"{address} holds no Mixer by the original's or timm's names; it has {len(archive.arrays)} arrays: {shown}, ..."
      + (' (a model folder is given as a folder)' if 'stem.kernel' in archive.arrays else '')
    )
  layout, prefix, blocks = found
  theirs = {ours: prefix + name for ours, name in layouts.names(layout, blocks).items()}
  if not any(theirs[name] in archive.arrays for name in layouts.HEAD):
    theirs = {ours: name for ours, name in theirs.items() if ours not in layouts.HEAD}
  left_out = layouts.training_state(prefix, archive.arrays)
  _compare_names(address, set(theirs.values()), set(archive.arrays) - set(left_out))
  given = {ours: archive.arrays[name] for ours, name in theirs.items()}
  stem = given['stem.kernel'].shape
  if len(stem) != 4:
    raise MixerError(f'{address}: the stem has the shape {stem}, but a stem of patches has four axes; get another file')
  patch = layouts.LAYOUTS[layout].patch(stem)
  shapes = {ours: layouts.shape_of_ours(layout, ours, array.shape) for ours, array in given.items()}
  model, data, tokens = _describe(address, patch, shapes, blocks)
  about = _about(address, archive.notes)
  model['gelu'] = about.get('gelu', 'exact' if layout == 'timm' else 'tanh')
  notes = [] if 'gelu' in about else [f'gelu: {model["gelu"]}, as {layout} weights have it; the file does not say']
  if left_out:
    notes.append(
      f'read {prefix.rstrip("/.")} of a training checkpoint, left out {len(left_out)} arrays that only training needs,'
      f' such as {min(left_out)}'
    )
  data |= {key: about[key] for key in ('image', 'mean', 'std') if key in about}
  _check_data(address, data, about.get('labels'), patch, tokens)
  convert = lambda ours, value: layouts.to_ours(layout, ours, value)
  arrays, converted = _to_float32(address, {ours: (theirs[ours], given[ours]) for ours in given}, convert)
  return Weights(
    arrays=arrays, model=model, data=data, labels=about.get('labels'), source=address, kind=layout,
    sha256=archives.checksum(path), notes=(*archive.told, *notes, *converted),
  )  # fmt: skip


def _about(address: str, notes: dict[str, str]) -> dict[str, Any]:
  """What writing.to_timm notes in a .safetensors file; {} of files by others."""
  if 'mixer_jax' not in notes:
    return {}
  try:
    about = {key: value for key, value in parse_json(notes['mixer_jax']).items() if value is not None}
    good = about['gelu'] in GELUS and all(isinstance(about.get(key, []), list) for key in NOTED)
  except (ValueError, TypeError, KeyError, AttributeError):
    good = False
  if not good:
    raise MixerError(f'{address} has unreadable metadata: {notes["mixer_jax"][:200]!r}; get another file')
  return about


def _describe(
  address: str, patch: tuple[int, int, int], shapes: dict[str, tuple], blocks: int
) -> tuple[dict, dict, int]:
  """(model, data, number of tokens) of a Mixer with these shapes, by our names; every shape is checked."""
  side = lambda name, axis: dict(enumerate(shapes.get(name, (1, 1)))).get(axis, 0)
  tokens, token_mlp = (side('blocks.0.token_mixing.fc1.kernel', axis) for axis in (0, 1))
  classes, channel_mlp = side('head.kernel', 1), side('blocks.0.channel_mixing.fc1.kernel', 1)
  sizes = {'hidden': side('stem.kernel', 1), 'blocks': blocks, 'token_mlp': token_mlp, 'channel_mlp': channel_mlp}
  if any(0 in shape for shape in shapes.values()) or min(tokens, classes, *sizes.values()) < 1:
    raise MixerError(f'{address}: its array shapes do not fit a Mixer ({sizes}, {tokens} tokens); get another file')
  model = {'name': 'mixer', 'patch': patch[0] if patch[0] == patch[1] else list(patch[:2]), **sizes}
  _compare_shapes(address, _shapes_of(model, any_image(patch, tokens), classes), shapes)
  root = math.isqrt(tokens)
  square = {'image': [patch[0] * root, patch[1] * root, patch[2]]} if root * root == tokens else {}
  published = PUBLISHED if patch[2] == 3 else {}
  return model, {'classes': classes if 'head.kernel' in shapes else None, **square, **published}, tokens


def any_image(patch: tuple[int, int, int], tokens: int) -> tuple[int, int, int]:
  """The size of an image of so many tokens, (height, width, channels); no shape depends on how they lie."""
  return patch[0], patch[1] * tokens, patch[2]


def abstract(model: Mapping[str, Any], image: Sequence[int], classes: int) -> MlpMixer:
  """A Mixer without its arrays, of settings as JSON has them."""
  settings = {k: tuple(v) if isinstance(v, list) else v for k, v in model.items() if k != 'name'}
  return nnx.eval_shape(lambda: MlpMixer(image=tuple(image), classes=classes, **settings, rngs=nnx.Rngs(0)))


def _shapes_of(model: Mapping[str, Any], image: Sequence[int], classes: int) -> dict[str, tuple]:
  """The shapes, by name, of a Mixer with a single block."""
  return params.shapes(nnx.state(abstract({**model, 'blocks': 1}, image, classes), nnx.Param))


def _compare_shapes(address: str, wanted: dict[str, tuple], shapes: dict[str, tuple]) -> None:
  """Refuses shapes that are not the wanted ones, which are those of a single block."""
  pairs = {name: (found, wanted[re.sub(r'^blocks\.\d+', 'blocks.0', name)]) for name, found in shapes.items()}
  wrong = [f'{name} {found}, but should be {should}' for name, (found, should) in pairs.items() if found != should]
  if wrong:
    raise MixerError(f'{address}: misshapen arrays: {"; ".join(wrong)}; get another file')


def _read_folder(path: Path, address: str, trusted: bool) -> Weights:
  config = path / 'config.json'
  about = _read_config(config)
  if about is None:
    raise MixerError(f'{address} is neither a model folder nor a run: it has no config.json{_hint(path)}')
  if not _has_format(about):
    raise MixerError(f'{address} is not a model folder: its config.json has no format {FORMAT!r}{_hint(path)}')
  if about['format'] != FORMAT:
    raise MixerError(f'{address} has the format {about["format"]!r:.80}, but this version reads {FORMAT!r}; update')
  kinds = {'model': dict, 'data': dict, 'labels': (list, type(None)), 'schema': (dict, type(None))}
  for key, kind in kinds.items():
    if not isinstance(about.get(key), kind):
      raise MixerError(f'{config}: {key} is {about.get(key)!r:.80}, of the wrong type; get the folder again')
  if not isinstance(about['model'].get('name'), str):
    raise MixerError(f'{config}: model.name is {about["model"].get("name")!r:.80}, not a name; get the folder again')
  if not trusted:
    trust.check(str(config), about['model'], MODELS)
  about['model'] = upgrade(about['model'])
  file = path / 'model.safetensors'
  archive = archives.read(file)
  if _is_mixer(about['model']):
    _check_mixer(address, config, about, {name: array.shape for name, array in archive.arrays.items()})
  else:
    _check_data(str(config), about['data'], about['labels'])
  arrays, converted = _to_float32(address, {name: (name, array) for name, array in archive.arrays.items()})
  return Weights(
    arrays=arrays, model=about['model'], data=about['data'], labels=about['labels'], schema=about['schema'],
    source=address, kind='model folder', sha256=archives.checksum(file), notes=converted,
  )  # fmt: skip


def _hint(folder: Path) -> str:
  """The files of weights in a folder that is none of ours, in words."""
  found = sorted(path.name for path in folder.iterdir() if archives.end_of(path.name))
  return f'; if you mean a file in it, name that: {", ".join(found[:4])}' if found else ''


def _read_config(config: Path) -> Any:
  """The contents of a config.json; None where there is none."""
  try:
    return load_json(config) if config.is_file() else None
  except (OSError, ValueError) as error:
    raise MixerError(f'{config} cannot be read ({error}); get the folder again') from error


def _has_format(about: Any) -> bool:
  return isinstance(about, dict) and str(about.get('format', '')).startswith('mixer_jax model folder')


def _check_mixer(address: str, config: Path, about: dict, shapes: dict[str, tuple]) -> None:
  """Refuses a Mixer whose config.json describes none, or one with other arrays."""
  model, data = about['model'], about['data']
  for key in ('hidden', 'blocks', 'token_mlp', 'channel_mlp'):
    if not _is_size(model.get(key)):
      raise MixerError(f'{config}: model.{key} is {model.get(key)!r:.80}, not a size; get the folder again')
  patch = model.get('patch')
  if not _is_size(patch) and not (isinstance(patch, list) and len(patch) == 2 and all(map(_is_size, patch))):
    raise MixerError(f'{config}: model.patch is {patch!r:.80}, not a side or (height, width); get the folder again')
  patch = _sides(patch)
  tokens = math.prod(shapes.get('blocks.0.token_mixing.fc2.bias', (1,)))
  _check_data(str(config), data, about['labels'], patch, tokens)
  channels = max((shapes.get('stem.kernel') or (0,))[0] // math.prod(patch), 1)
  try:
    wanted = _shapes_of(model, data.get('image') or any_image((*patch, channels), tokens), data.get('classes') or 1)
  except Exception as error:  # Invalid settings can raise anything.
    reason = ' '.join(str(error).split())[:300]
    raise MixerError(f'{config} does not describe a Mixer ({reason}); get the folder again') from error
  headless = not any(name.startswith('head') for name in shapes)
  names = [name for name in wanted if not (headless and name.startswith('head'))]
  blocks = range(min(model['blocks'], len(shapes)) or 1)  # a number that is far out is one thing missing, not a million
  needed = {re.sub(r'^blocks\.0', f'blocks.{i}', name) for i in blocks for name in names}
  _compare_names(address, needed, set(shapes))
  _compare_shapes(address, wanted, shapes)


def _is_size(value: Any) -> bool:
  return type(value) is int and 0 < value < 2**31


def _check_data(
  where: str, data: dict, labels: Any, patch: tuple[int, ...] | None = None, tokens: int | None = None
) -> None:
  """Refuses image, classes, mean, std or labels that are invalid or contradict each other.

  A Mixer's `patch` is (height, width), or with the channels where these are known.
  """
  image, classes, mean, std = (data.get(key) for key in ('image', 'classes', 'mean', 'std'))
  is_numbers = lambda value: (
    isinstance(value, list) and all(type(v) in (int, float) and math.isfinite(v) for v in value)
  )
  good = {
    'image': isinstance(image, list) and len(image) == 3 and all(map(_is_size, image)),
    'classes': _is_size(classes),
    'mean': is_numbers(mean),
    'std': is_numbers(std) and min(std, default=1) > 0,
  }
  for key, is_good in good.items():
    if data.get(key) is not None and not is_good:
      raise MixerError(f'{where} says that {key} is {data[key]!r:.80}, which is invalid; download it again')
  if labels and not all(isinstance(label, str) for label in labels):
    raise MixerError(f'{where} has labels that are not text; download it again')
  if labels and classes and len(labels) != classes:
    raise MixerError(f'{where} has {len(labels)} labels for {classes} classes; download it again')
  if not image:
    return
  if patch:
    height, width, *channels = patch
    if image[0] % height or image[1] % width or image[0] // height * (image[1] // width) != tokens:
      raise MixerError(
        f'{where} says that image is {image}, which patches of {height}x{width} do not cut into {tokens} tokens;'
        ' download it again'
      )
    if channels and channels[0] != image[2]:
      raise MixerError(
        f'{where} says that image is {image}, but its stem takes {channels[0]} channels; download it again'
      )
  for key, value in (('mean', mean), ('std', std)):
    if value is not None and len(value) != image[2]:
      raise MixerError(f'{where} says that {key} is {value!r:.80} for {image[2]} channels; download it again')


def _compare_names(address: str, needed: set[str], given: set[str]) -> None:
  notes = [
    f'{what} {", ".join(sorted(names))}'
    for what, names in (('missing', needed - given), ('extra', given - needed)) if names
  ]  # fmt: skip
  if notes:
    raise MixerError(f'{address} does not hold the arrays of a Mixer: {"; ".join(notes)}; get another file')


def _to_float32(
  address: str, given: dict[str, tuple[str, archives.Array]], convert: Callable = lambda _, value: value
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Finite float32 arrays, and what was converted to that.

  Args:
    given: our name -> name in the file, array.
    convert: (our name, array) -> array.
  """
  if other := [f'{name} ({array.dtype})' for name, array in given.values() if array.dtype not in archives.FLOATS]:
    raise MixerError(
      f'{address}: not of {", ".join(archives.FLOATS)}, as weights are: {", ".join(other)}; get another file'
    )
  arrays, converted, bad = {}, collections.Counter(), []
  for ours, (name, array) in given.items():
    value = array.read()
    if array.dtype != 'float32':
      converted[array.dtype] += 1
      with np.errstate(over='ignore', invalid='ignore'):  # refused below
        value = value.astype(np.float32)
    if count := value.size - int(np.isfinite(value).sum()):
      bad.append(f'{name} ({count:,} of {value.size:,})')
    arrays[ours] = convert(ours, value)
  if bad:
    raise MixerError(f'{address}: entries that are not finite in float32: {", ".join(bad)}; get another file')
  return arrays, tuple(f'{count} arrays: {dtype} -> float32' for dtype, count in sorted(converted.items()))


@functools.cache
def mixer_defaults() -> dict[str, Any]:
  """What a Mixer's settings are where a config does not name them."""
  return {k: p.default for k, p in parts.parameters(MlpMixer).items() if p.default is not p.empty}
