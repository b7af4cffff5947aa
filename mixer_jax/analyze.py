"""Studies of a finished run.

python -m mixer_jax.analyze sharpness --workdir=runs/digits
"""

import argparse
import functools
import json
import sys
from pathlib import Path

from mixer_jax import doors
from mixer_jax.errors import MixerError

SHARPNESS = """How sharp the minimum is in which a run stands. Prints one JSON object.

  python -m mixer_jax.analyze sharpness --workdir=runs/digits
  python -m mixer_jax.analyze sharpness --workdir=runs/digits --examples=256 --seed=1

The largest eigenvalues of the Hessian and the smallest, its trace, m-sharpness, and the loss along two lines and over a
plane. The run directory then has sharpness.json, which beside what is printed holds the lines and the plane, and
figures/sharpness_line.png and figures/sharpness_surface.png. The loss is that of training, label smoothing included,
without dropout and augmentation, over the same examples in every call; weight decay is no part of it. The parameters
are the averaged ones where the run kept an average. Computed in float32.
"""

OF_EXAMPLES = ('examples', 'batch_size')
OPTIONS = (
  ('examples', int, 1024, 'how many of the split, or all if there are fewer'),
  (
    'batch_size',
    int,
    None,
    "examples at a time, for memory; changes rounding only (default: the run's eval_batch_size)",
  ),
  ('eigenvalues', int, 5, 'how many of the largest'),
  ('iterations', int, 50, 'of Lanczos: products with the Hessian, and vectors in memory'),
  ('probes', int, 50, 'of the trace: products with the Hessian'),
  ('rho', float, 0.05, 'of m-sharpness: the length of its step'),
  ('m', int, None, 'of m-sharpness: examples in a group (default: 128, or all if there are fewer)'),
  ('points', int, 21, 'along each side of the surface; lines have twice as many'),
  ('span', float, 1.0, 'how far line and surface reach on each side, in lengths of the filters'),
  ('seed', int, 0, 'of all that is random'),
)


def study_sharpness(known: argparse.Namespace) -> None:
  import jax

  from mixer_jax.analysis import sharpness
  from mixer_jax.training import objective, restore
  from mixer_jax.training.logging import cannot_write, write_json

  workdir = Path(known.workdir)
  settings = {name: getattr(known, name) for name, *_ in OPTIONS if name not in OF_EXAMPLES}
  sharpness.check(**settings)
  if jax.process_count() > 1:
    raise MixerError(f'sharpness is studied by one process, but there are {jax.process_count()}; start one alone')
  run = restore.restore(workdir, step=known.checkpoint, raw=known.raw, exact=True)
  split, source = restore.open_split(run, workdir, known.split, known.data_dir)
  batches = objective.stack_examples(run.experiment, source, known.examples, known.batch_size)
  tell = lambda text: print(text, file=sys.stderr, flush=True)
  figures = workdir / 'figures'
  try:
    figures.mkdir(exist_ok=True)  # first, for all that follows takes minutes
    with jax.default_matmul_precision('highest'):
      numbers = sharpness.analyse(objective.make_losses(run.experiment), run.params, batches, **settings, tell=tell)
    found = {'split': split, 'step': run.step, 'averaged': run.averaged, 'seed': known.seed, **numbers}
    write_json(workdir / 'sharpness.json', found)
    sharpness.draw_lines(found, figures / 'sharpness_line.png')
    sharpness.draw_surface(found, figures / 'sharpness_surface.png')
  except OSError as error:
    raise cannot_write(figures, error) from error
  print(json.dumps({name: value for name, value in found.items() if name not in ('line', 'surface')}))


def main(arguments: list[str]) -> None:
  options = doors.parser('analyze', __doc__)
  studies = options.add_subparsers(metavar='STUDY', required=True)
  make = functools.partial(studies.add_parser, 'sharpness', help='of the minimum: eigenvalues, trace, surfaces')
  study = doors.parser('analyze sharpness', SHARPNESS, data=True, make=make)
  study.set_defaults(study=study_sharpness)
  study.add_argument('--workdir', required=True, help='the run directory')
  study.add_argument('--checkpoint', default='last', help='last, best or a step')
  study.add_argument('--raw', action='store_true', help='the parameters that were trained, not the average of them')
  study.add_argument(
    '--split', default='train', help="train, val or test as the run's config has them, or a split (default: train)"
  )
  for name, kind, default, text in OPTIONS:
    study.add_argument(
      f'--{name}', type=kind, default=default, help=text + ('' if default is None else f' (default: {default})')
    )
  known = options.parse_args(arguments)
  doors.use_compilation_cache()
  known.study(known)


if __name__ == '__main__':
  doors.run(main, huge_pages=True)
