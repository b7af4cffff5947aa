"""Classifies images or rows of a table with a run and writes a CSV; with an auto-encoder, makes codes or images.

  python -m mixer_jax.predict --workdir=runs/digits --input photo.jpg scans/ 'more/*.png' --output=classes.csv
  python -m mixer_jax.predict --workdir=runs/unsw --input=connections.csv --output=classes.csv
  python -m mixer_jax.predict --workdir=runs/codes --input scans/ --output=pictures            # reconstructions
  python -m mixer_jax.predict --workdir=runs/codes --input scans/ --output=codes.npy --encode
  python -m mixer_jax.predict --workdir=runs/codes --input=codes.npy --output=pictures --decode

Images: file, class, probability, then the next four classes. Images of any size are resized and cropped as in training;
folders are searched for images. Rows: row, prediction, probability of that prediction, for every row in order, by the
schema and scaling of the run; the file may hold the label and the columns that the run dropped, and no others.
Codes: float32 [images, code], one row an image, in the order of the files. Pictures: a folder of PNG files, numbered in
the order of the images or codes; values outside [0, 1] become black or white.
"""

import csv
import os
import shutil
import sys
from pathlib import Path

from mixer_jax import doors
from mixer_jax.errors import MixerError


def find(run, inputs: list[str]) -> list[str]:
  """The files that are meant; on stderr how many images are converted or enlarged for this run."""
  files = run.experiment.data.find(inputs)
  for note in run.experiment.data.notes_of(files):
    print(note, file=sys.stderr)
  return files


def classify(run, inputs: list[str], write) -> str:
  """Writes a line for every image or row; returns how many there were, in words."""
  import numpy as np

  from mixer_jax.training.classifying import make_classify

  data = run.experiment.data
  example, kind, most = data.written
  top = min(most, len(run.classes))
  write([example, kind, 'probability', *(f'{k}_{i}' for i in range(2, top + 1) for k in (kind, 'probability'))])
  probabilities_of = make_classify(run)
  size, pieces = data.pieces(find(run, inputs))
  count, met = 0, {}
  for names, arrays, counts in pieces:
    for name, row in zip(names, probabilities_of(arrays, size), strict=True):
      best = np.argsort(-row, kind='stable')[:top]
      write([name, *(v for k in best for v in (run.classes[k], f'{row[k]:.6f}'))])
    count += len(names)
    met = {name: met.get(name, 0) + counts.get(name, 0) for name in [*met, *counts]}
  for what, number in met.items():
    print(f'{inputs[0]}: {number:,} cells of {what}', file=sys.stderr)
  return f'{count:,} {"rows" if example == "row" else "images"}'


def remove(part: Path) -> None:
  """A file or folder that was begun, if there is one."""
  if part.is_dir():
    shutil.rmtree(part)
  elif part.exists():
    part.unlink()


def main(arguments: list[str]) -> None:
  options = doors.parser('predict', __doc__)
  options.add_argument('--workdir', required=True, help='the run directory')
  options.add_argument(
    '--input', required=True, nargs='+', help='images, folders of images or patterns; or a CSV or .npy file'
  )
  options.add_argument('--output', required=True, help='the CSV or .npy file, or the folder of pictures, to write')
  kind = options.add_mutually_exclusive_group()
  kind.add_argument('--encode', action='store_true', help='images to codes')
  kind.add_argument('--decode', action='store_true', help='codes to images')
  options.add_argument('--checkpoint', default='last', help='last, best or a step')
  known = options.parse_args(arguments)
  doors.use_compilation_cache()
  from mixer_jax.training import autoencoding, restore

  run = restore.restore(known.workdir, step=known.checkpoint)
  has_code = run.experiment.has_code
  if (known.encode or known.decode) and not has_code:
    flag, task = '--encode' if known.encode else '--decode', run.experiment.settings.task['name']
    raise MixerError(f'{flag} needs the run of an auto-encoder, but {known.workdir} has the task {task}')
  if any(Path(known.output).exists() and os.path.samefile(known.output, p) for p in known.input if Path(p).exists()):
    raise MixerError(f'--output={known.output} is the --input too, and would be written over; choose another place')
  output = Path(known.output)
  part = Path(f'{output}.part')
  autoencoding.check_empty(part)
  try:
    if known.encode:
      told = autoencoding.encode_images(run, find(run, known.input), part)
    elif has_code:
      autoencoding.check_empty(output)
      if known.decode:
        told = autoencoding.decode_codes(run, known.input, part)
      else:
        told = autoencoding.reconstruct_images(run, find(run, known.input), part)
    else:
      with part.open('w', newline='') as file:
        told = classify(run, known.input, csv.writer(file).writerow)
    os.replace(part, output)
  except OSError as error:
    raise MixerError(f'cannot write --output={known.output} ({error.strerror}); choose another place') from error
  finally:
    remove(part)
  print(f'{told} -> {known.output}')


if __name__ == '__main__':
  doors.run(main, huge_pages=True)
