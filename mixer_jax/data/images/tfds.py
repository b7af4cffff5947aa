"""Data sets of TensorFlow Datasets that have been prepared as ArrayRecord; TensorFlow is never imported."""

import functools
import importlib.util
import os
from typing import Any

import numpy as np

from mixer_jax.data.examples import Source
from mixer_jax.data.splits import data_root
from mixer_jax.errors import MixerError, unknown


def folder(data_dir: str | None) -> str | None:
  """Where TFDS looks; None for its own default."""
  return str(data_root(data_dir)) if data_dir or os.environ.get('MIXER_DATA_DIR') else None


def how_to_prepare(name: str, data_dir: str | None) -> str:
  """The command that prepares a data set."""
  where = f", data_dir='{folder(data_dir)}'" if folder(data_dir) else ''
  return (
    "pip install 'mixer-jax[tfds]' && python -c \"import tensorflow_datasets as tfds; "
    f"tfds.builder('{name}'{where}, file_format='array_record').download_and_prepare()\""
  )


def prepared(name: str, data_dir: str | None) -> Any:
  """The builder of a data set that TFDS has prepared, or None if it has not."""
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(name, data_dir=folder(data_dir))
  except (tfds.core.DatasetNotFoundError, ValueError) as error:
    first = str(error).strip().partition('\n')[0]
    raise MixerError(
      f'tfds:{name}: {first} See https://www.tensorflow.org/datasets/catalog/overview for the names.'
    ) from error
  return builder if builder.info.splits else None


def read(name: str, base: str, data_dir: str | None) -> Source:
  """The base split of a data set; refuses one that is not prepared, or has no images with class labels."""
  if not importlib.util.find_spec('tensorflow_datasets'):
    raise MixerError(f"tfds:{name}: TFDS is not installed; pip install 'mixer-jax[tfds]'.")
  builder = prepared(name, data_dir)
  if builder is None:
    raise MixerError(
      f'tfds:{name}: not prepared in {folder(data_dir) or "the default directory of TFDS"}; '
      f'prepare it once: {how_to_prepare(name, data_dir)}'
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
  return Source(tuple(names), None, functools.partial(_read, data), len(data))


def _read(data: Any, index: int) -> dict[str, Any]:
  example = data[index]
  return {'image': np.asarray(example['image']), 'label': np.int32(example['label'])}
