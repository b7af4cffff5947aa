"""Writes an auto-encoder's codes and images to files."""

import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mixer_jax.errors import MixerError
from mixer_jax.files import check_start
from mixer_jax.training.hooks import apply
from mixer_jax.training.restore import Run
from mixer_jax.weights import archives

BATCH = 64


def encode_images(run: Run, files: Sequence[str], output: Path) -> str:
  """Writes the codes of images, float32 [images, code], as .npy; returns how many there were, in words."""
  codes = np.concatenate([_apply(run, 'encode', image) for _, image in _read(run, files)])
  with output.open('wb') as file:
    np.save(file, codes, allow_pickle=False)
  return f'{len(codes):,} codes of {codes.shape[1]} numbers'


def decode_codes(run: Run, files: Sequence[str], folder: Path) -> str:
  """Writes what a file of codes becomes, as NUMBER.png.

  Refuses several files, one that holds no codes, codes of another width, and a file that is not as long as its header
  says; takes no more memory than the file and as many numbers in float32.
  """
  if len(files) != 1:
    raise MixerError(f'--input names {len(files)} files, but codes come from one .npy file')
  size = run.experiment.model.code
  wanted = f'codes of this run are finite numbers of shape [images, {size}], as --encode writes them'
  try:
    with open(files[0], 'rb') as file:
      codes = archives.read_npy(file, os.fstat(file.fileno()).st_size, files[0])
  except Exception as error:  # NumPy's reader of headers can raise anything on unexpected bytes.
    check_start(files[0])
    reason = 'an archive of arrays' if zipfile.is_zipfile(files[0]) else ' '.join(str(error).split())[:300]
    raise MixerError(f'--input={files[0]} cannot be read ({reason}); {wanted}') from error
  if codes.ndim != 2 or codes.shape[1] != size or not len(codes) or codes.dtype.kind not in 'fiu':
    raise MixerError(f'--input={files[0]} is {codes.dtype} {list(codes.shape)}; {wanted}')
  with np.errstate(over='ignore'):
    codes = codes.astype(np.float32)
  if not np.isfinite(codes).all():
    raise MixerError(f'--input={files[0]} holds numbers that are not finite in float32; {wanted}')
  for start in range(0, len(codes), BATCH):
    images = _apply(run, 'decode', codes[start : start + BATCH])
    _write(images, [f'{start + i:06d}.png' for i in range(len(images))], folder)
  return f'{len(codes):,} images'


def reconstruct_images(run: Run, files: Sequence[str], folder: Path) -> str:
  """Writes what becomes of images, as NUMBER_NAME.png; returns how many there were, in words."""
  count = 0
  for names, image in _read(run, files):
    numbered = [f'{i:06d}_{Path(name).stem}.png' for i, name in enumerate(names, start=count)]
    _write(_apply(run, '__call__', image), numbered, folder)
    count += len(names)
  return f'{count:,} images'


def _apply(run: Run, method: str, inputs: np.ndarray) -> np.ndarray:
  return apply(run.experiment.graphdef, run.params, method, inputs)


def check_empty(folder: Path) -> None:
  """Refuses a folder that is not empty."""
  if folder.is_dir() and any(folder.iterdir()):
    raise MixerError(f'--output={folder} is not empty; choose a new folder')


def _read(run: Run, files: Sequence[str]) -> Iterator[tuple[Sequence[str], np.ndarray]]:
  """(names, images as the model takes them), some at a time."""
  for names, arrays, _ in run.experiment.data.pieces(files)[1]:
    yield names, np.asarray(run.experiment.preprocess(arrays)['image'])


def _write(images: np.ndarray, names: Sequence[str], folder: Path) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  for image, name in zip(np.round(255 * np.clip(images, 0, 1)).astype(np.uint8), names, strict=True):
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / name)
