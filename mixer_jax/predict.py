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

import collections
import csv
import os
from pathlib import Path

from mixer_jax import cli, files
from mixer_jax.errors import MixerError
from mixer_jax.messages import logger


def write_rows(run, inputs: list[str], path: Path) -> str:
  """Writes a line of CSV for every example; returns how many there were, in words."""
  from mixer_jax.inference.classify import make_answers

  data, task, classes = run.experiment.data, run.experiment.task, run.classes
  answer, (example, kind, most) = make_answers(run), data.written
  count, met = 0, collections.Counter()
  # surrogateescape: the names of files need not be UTF-8.
  with path.open('w', encoding='utf-8', errors='surrogateescape', newline='') as file:
    write = csv.writer(file).writerow
    write([example, *task.header(classes, kind, most)])
    size, pieces = data.pieces(inputs)
    for names, arrays, counts in pieces:
      answers = answer(arrays, size)
      for i, name in enumerate(names):
        write([name, *task.row({key: value[i] for key, value in answers.items()}, classes, most)])
      count += len(names)
      met.update(counts)
  for what, number in met.items():
    logger.info(f'{", ".join(inputs)}: {number:,} cells of {what}')
    if 2 * number > count:
      logger.warning(
        f'{", ".join(inputs)}: in most of the {count:,} rows the column {what}; see whether it is written as in'
        ' training (schema.json has the values met there), or train without it by data.drop'
      )
  return f'{count:,} {"rows" if example == "row" else "images"}'


def main(arguments: list[str]) -> None:
  options = cli.parser('predict', __doc__, prints_result=True)
  cli.add_run(options)
  options.add_argument(
    '--input', required=True, nargs='+', help='images, folders of images or patterns; or a CSV or .npy file'
  )
  options.add_argument('--output', required=True, help='the CSV or .npy file, or the folder of pictures, to write')
  kind = options.add_mutually_exclusive_group()
  kind.add_argument('--encode', action='store_true', help='images to codes')
  kind.add_argument('--decode', action='store_true', help='codes to images')
  known = options.parse_args(arguments)
  output = Path(known.output)
  files.check_no_device(output)
  cli.use_compilation_cache()
  from mixer_jax.inference import encode
  from mixer_jax.training import restore

  run = restore.restore(known.workdir, step=known.checkpoint)
  data, task = run.experiment.data, run.experiment.task
  if (known.encode or known.decode) and not task.has_code:
    flag, name = '--encode' if known.encode else '--decode', run.experiment.settings.task['name']
    raise MixerError(f'{flag} needs the run of an auto-encoder, but {known.workdir} has the task {name}')
  if any(Path(known.output).exists() and os.path.samefile(known.output, p) for p in known.input if Path(p).exists()):
    raise MixerError(f'--output={known.output} equals --input and would be overwritten; choose another place')
  part = Path(f'{output}.part')
  encode.check_empty(part)
  if known.decode or task.writes == 'pictures' and not known.encode:
    encode.check_empty(output)
  inputs = known.input if known.decode else data.find(known.input)
  for note in () if known.decode else data.notes_of(inputs):
    logger.info(note)
  try:
    with files.whole(output, part):
      if known.encode:
        done = encode.encode_images(run, inputs, part)
      elif known.decode:
        done = encode.decode_codes(run, inputs, part)
      elif task.writes == 'pictures':
        done = encode.reconstruct_images(run, inputs, part)
      else:
        done = write_rows(run, inputs, part)
  except OSError as error:
    raise files.cannot_write(f'--output={known.output}', error, 'choose another place') from error
  print(f'{done} -> {known.output}')


if __name__ == '__main__':
  cli.run(main, huge_pages=True)
