"""Data sets of TensorFlow Datasets that have been prepared as ArrayRecord; TensorFlow is never imported."""

import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from mixer_jax.data.examples import Source
from mixer_jax.data.splits import data_root
from mixer_jax.errors import MixerError, unknown


def folders(data_dir: str | None) -> list[str | None]:
  """Where prepared data sets are looked for, in order; None is TFDS's own default."""
  return [str(data_root(data_dir)), None] if data_dir or os.environ.get('MIXER_DATA_DIR') else [None]


def places(data_dir: str | None) -> str:
  """These folders by name, for messages."""
  import tensorflow_datasets as tfds

  default = str(Path(tfds.core.constants.DATA_DIR).expanduser())
  return ' and '.join(dict.fromkeys(folder or default for folder in folders(data_dir)))


def how_to_prepare(name: str, data_dir: str | None) -> str:
  """The command that prepares a data set."""
  first = folders(data_dir)[0]
  where = f", data_dir='{first}'" if first else ''
  return (
    "pip install 'mixer-jax[tfds]' && python -c \"import tensorflow_datasets as tfds; "
    f"tfds.builder('{name}'{where}, file_format='array_record').download_and_prepare()\""
  )


def prepared(name: str, data_dir: str | None) -> Any:
  """The builder of a data set that TFDS has prepared in one of `folders`, or None if it has not."""
  import tensorflow_datasets as tfds

  unknown_in = []
  for folder in folders(data_dir):
    try:
      builder = tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError as error:
      unknown_in.append(error)
    except ValueError as error:
      raise _no_name(name, error) from error
    else:
      if builder.info.splits:
        return builder
  if len(unknown_in) == len(folders(data_dir)):
    raise _no_name(name, unknown_in[-1], f' It was looked for in {places(data_dir)}.') from unknown_in[-1]
  return None


def _no_name(name: str, error: Exception, where: str = '') -> MixerError:
  first = str(error).strip().partition('\n')[0]
  return MixerError(
    f'tfds:{name}: {first}{where} See https://www.tensorflow.org/datasets/catalog/overview for the names.'
  )


def read(name: str, base: str, data_dir: str | None) -> Source:
  """The base split of a data set; refuses one that is not prepared, or has no images with class labels."""
  if not importlib.util.find_spec('tensorflow_datasets'):
    raise MixerError(f"tfds:{name}: TFDS is not installed; pip install 'mixer-jax[tfds]'.")
  builder = prepared(name, data_dir)
  if builder is None:
    raise MixerError(
      f'tfds:{name}: not prepared in {places(data_dir)}; prepare it once: {how_to_prepare(name, data_dir)}'
    )
  return source(builder, name, base, data_dir)


def source(builder: Any, name: str, base: str, data_dir: str | None) -> Source:
  """The examples of a builder as they are: images of their own size, labels not checked."""
  features = builder.info.features
  missing = [key for key in ('image', 'label') if key not in features]
  if missing:
    raise MixerError(
      f'tfds:{name} lacks the features {", ".join(missing)}; it has {", ".join(sorted(features))}. '
      'Name a data set that has both an image and a label.'
    )
  if base not in builder.info.splits:
    raise unknown(f'split of tfds:{name}', base, builder.info.splits)
  image, names = features['image'], getattr(features['label'], 'names', None)
  if names is None or image.np_dtype != np.uint8 or len(image.shape) != 3:
    raise MixerError(
      f'tfds:{name}: expected uint8 images and class labels, found {image} and {features["label"]}; '
      'name a data set for classifying images.'
    )
  try:
    data = builder.as_data_source(split=base)
  except NotImplementedError as error:
    raise MixerError(
      f'tfds:{name}: prepared in {builder.data_path} as {builder.info.file_format.value}, which has no '
      f'random access; remove that folder and prepare it anew as array_record: {how_to_prepare(name, data_dir)}'
    ) from error
  found = (f'tfds:{name}: found in {builder.data_path}',)
  return Source(tuple(names), None, functools.partial(_read, data), len(data), found)


def _read(data: Any, index: int) -> dict[str, Any]:
  example = data[index]
  return {'image': np.asarray(example['image']), 'label': np.int32(example['label'])}
