"""Classifies images with a run and writes a CSV: file, class, probability, then the next four classes.

  python -m mixer_jax.predict --workdir=runs/digits --input photo.jpg scans/ 'more/*.png' --output=classes.csv

Images of any size are resized and cropped as in training; folders are searched for images.
"""

import csv
import glob
import os
from pathlib import Path

from mixer_jax import doors
from mixer_jax.errors import MixerError

BATCH = 64


def find(inputs: list[str]) -> list[str]:
  """Files, the images in folders, and what patterns match, in order.

  Raises:
    MixerError: an input that leads to no file.
  """
  from mixer_jax.data.sources import SUFFIXES

  files: list[str] = []
  for item in inputs:
    if Path(item).is_dir():
      found = [str(p) for p in sorted(Path(item).rglob('*')) if p.suffix.lower() in SUFFIXES]
    else:
      found = [item] if Path(item).is_file() else sorted(glob.glob(item))
    if not found:
      raise MixerError(f'--input={item}: no such file, and no folder or pattern with images')
    files += found
  return files


def main(arguments: list[str]) -> None:
  options = doors.parser('predict', __doc__)
  options.add_argument('--workdir', required=True, help='the run directory')
  options.add_argument('--input', required=True, nargs='+', help='images, folders of images or patterns')
  options.add_argument('--output', required=True, help='the CSV file to write')
  options.add_argument('--checkpoint', default='last', help='last, best or a step')
  known = options.parse_args(arguments)
  doors.use_compilation_cache()
  import jax
  import numpy as np
  from flax import nnx

  from mixer_jax.data import sources
  from mixer_jax.training import restore

  files = find(known.input)
  run = restore.restore(known.workdir, step=known.checkpoint)
  experiment = run.experiment
  sigmoid = experiment.settings.task['loss'] == 'sigmoid'

  @jax.jit
  def probabilities(params, image):
    logits = nnx.merge(experiment.graphdef, params)(experiment.prepare({'image': image})['image'])
    return jax.nn.sigmoid(logits) if sigmoid else jax.nn.softmax(logits)

  top = min(5, len(run.classes))
  header = [
    'file',
    'class',
    'probability',
    *(f'{k}_{i}' for i in range(2, top + 1) for k in ('class', 'probability')),
  ]
  part = f'{known.output}.part'
  try:
    with open(part, 'w', newline='') as file:
      rows = csv.writer(file)
      rows.writerow(header)
      for start in range(0, len(files), BATCH):
        names = files[start : start + BATCH]
        image = np.stack([sources.read_image(name, experiment.data.image) for name in names])
        padding = np.zeros((BATCH - len(names), *image.shape[1:]), image.dtype)
        result = np.asarray(probabilities(run.params, np.concatenate([image, padding])))
        for name, row in zip(names, result, strict=False):
          best = np.argsort(-row, kind='stable')[:top]
          rows.writerow([name, *(v for k in best for v in (run.classes[k], f'{row[k]:.6f}'))])
    os.replace(part, known.output)
  except OSError as error:
    raise MixerError(f'cannot write --output={known.output} ({error.strerror}); choose another place') from error
  finally:
    Path(part).unlink(missing_ok=True)
  print(f'{len(files)} images -> {known.output}')


if __name__ == '__main__':
  doors.run(main, huge_pages=True)
