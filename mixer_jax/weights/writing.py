"""Weights to a file or a folder: the original's .npz, timm's .safetensors, a model folder of our own.

A file is written beside its place and moved there whole.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy

from mixer_jax import files
from mixer_jax.errors import MixerError
from mixer_jax.weights import layouts
from mixer_jax.weights.reading import FORMAT, Weights, is_model_folder

WRITES = "the original's layout to FILE.npz, timm's to FILE.safetensors, a model folder to a name without an end"


def check_target(target: Path) -> None:
  """Refuses, before any work, an unknown suffix, a missing folder, and a place that holds something else."""
  if target.suffix not in ('.npz', '.safetensors', ''):
    raise MixerError(f'--to={target}: {WRITES}; not {target.suffix}')
  if not target.absolute().parent.is_dir():
    raise MixerError(f'--to={target}: there is no folder {target.absolute().parent}; make it first')
  files.check_no_device(target)
  if target.suffix and target.is_dir():
    raise MixerError(f'--to={target} is a folder; choose another name')
  if not target.suffix and target.exists():
    if not target.is_dir():
      raise MixerError(f'--to={target} is a file; choose another name: {WRITES}')
    if any(target.iterdir()) and not is_model_folder(target):
      raise MixerError(f'--to={target} is a folder with other things in it; choose another name')


def write(weights: Weights, target: Path, check: Callable[[Path], None] | None = None) -> tuple[str, ...]:
  """Writes weights in the layout that the end of the name stands for; returns notes for the user.

  `check` gets the file before it is moved into place, and raises if it rejects the file.
  Refuses what check_target does, and a network that the layout cannot represent.
  """
  check_target(target)
  writer = {'.npz': to_npz, '.safetensors': to_timm, '': to_folder}[target.suffix]
  part = target.with_name(f'.part-{target.name}')  # with the end of the name: `check` reads it
  try:
    with files.removed(part):
      notes = writer(weights, part)
      if check:
        check(part)
      if not target.suffix and target.is_dir():
        for file in part.iterdir():
          os.replace(file, target / file.name)
      else:
        os.replace(part, target)
  except OSError as error:
    raise MixerError(f'cannot write --to={target} ({error.strerror}); choose another place') from error
  return notes


def to_npz(weights: Weights, path: Path) -> tuple[str, ...]:
  """The original's layout; the file has no place for anything but arrays."""
  arrays = _as_layout('original', weights)
  with path.open('wb') as file:
    np.savez(file, **arrays)
  lost = [what for what, kept in (('mean and std', weights.data.get('mean')), ('labels', weights.labels)) if kept]
  notes = [f'an .npz holds arrays alone: {", ".join(lost)} are not in it'] if lost else []
  return (*notes, *_other_gelu('tanh', "the original's code computes", weights))


def to_timm(weights: Weights, path: Path) -> tuple[str, ...]:
  """timm's layout, with GELU, image, mean, std and labels noted in the file; timm itself does not read these notes."""
  arrays = _as_layout('timm', weights)
  noted = {'gelu': weights.model['gelu'], 'labels': weights.labels}
  noted |= {key: weights.data.get(key) for key in ('image', 'mean', 'std')}
  # One note: of several, safetensors would change the order from file to file.
  path.write_bytes(safetensors.numpy.save(arrays, {'mixer_jax': json.dumps(noted)}))
  return _other_gelu('exact', 'timm computes', weights)


def to_folder(weights: Weights, folder: Path) -> tuple[str, ...]:
  """`model.safetensors` by our names and `config.json`: model (the GELU in it), data (the preprocessing), labels."""
  folder.mkdir()
  about = {
    'format': FORMAT, 'model': weights.model, 'data': weights.data, 'labels': weights.labels,
    'schema': weights.schema, 'source': weights.source,
  }  # fmt: skip
  (folder / 'config.json').write_text(json.dumps(about, indent=2) + '\n', encoding='utf-8')
  (folder / 'model.safetensors').write_bytes(safetensors.numpy.save(dict(weights.arrays), {'format': 'np'}))
  return ()


def _as_layout(layout: str, weights: Weights) -> dict[str, np.ndarray]:
  if not weights.is_mixer:
    mixing = f' with model.mixing {weights.model["mixing"]}' if weights.model['name'] == 'mixer' else ''
    raise MixerError(
      f'{weights.source} is a {weights.model["name"]}{mixing}, which only a model folder can hold: --to=FOLDER'
    )
  return layouts.from_ours(layout, weights.arrays, weights.model['blocks'], (*weights.patch, weights.channels))


def _other_gelu(computed: str, who: str, weights: Weights) -> tuple[str, ...]:
  if (gelu := weights.model['gelu']) == computed:
    return ()
  return (f'these weights were trained with the {gelu} GELU, but {who} the {computed} one: up to 4.7e-4 an activation',)
