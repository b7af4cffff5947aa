"""Studies of a finished run.

python -m mixer_jax.analyze sharpness --workdir=runs/digits
python -m mixer_jax.analyze few_shot --workdir=runs/digits --data=mnist --train=train --test=test
"""

import argparse
import dataclasses
import functools
import json
from pathlib import Path

from mixer_jax import cli
from mixer_jax.errors import MixerError
from mixer_jax.files import check_writable, reported, write_json
from mixer_jax.messages import logger

SHARPNESS = """Measures the sharpness of a run's minimum. Prints one JSON object.

  python -m mixer_jax.analyze sharpness --workdir=runs/digits
  python -m mixer_jax.analyze sharpness --workdir=runs/digits --examples=256 --seed=1

Computes the Hessian's largest eigenvalues, its smallest one and its trace, m-sharpness, and the loss along two lines
and over a plane. Writes sharpness.json (what is printed, plus the lines and the plane), figures/sharpness_line.png and
figures/sharpness_surface.png to the run directory. The loss is the training loss, with label smoothing but without
dropout, augmentation and weight decay, over the same examples in every call. The parameters are the averaged ones if
the run kept an average. Computed in float32.
"""

FEW_SHOT = """Few-shot evaluation of a run's features: closed-form linear regression. Prints one JSON object.

  python -m mixer_jax.analyze few_shot --workdir=runs/digits
  python -m mixer_jax.analyze few_shot --workdir=runs/digits --data=mnist --train=train --test=test --shots=5,10,25

The network is frozen; its features are the input of the head (of its first hidden layer, if it has some). Images of
other data sets are resized to the run's size. Each draw takes that many images per class from the training split and is
evaluated on the whole test split. Writes few_shot.json and figures/few_shot.png to the run directory.
"""

OF_EXAMPLES = ('examples', 'batch_size')
OPTIONS = (
  ('examples', int, 1024, 'number of examples of the split, or all if there are fewer'),
  ('batch_size', int, None, "examples at a time; affects memory and rounding (default: the run's eval_batch_size)"),
  ('eigenvalues', int, 5, 'number of largest eigenvalues'),
  ('iterations', int, 50, 'Lanczos iterations: Hessian products, and vectors in memory'),
  ('probes', int, 50, 'Hessian products for the trace'),
  ('rho', float, 0.05, 'step length of m-sharpness'),
  ('m', int, None, 'group size of m-sharpness (default: 128, or all examples if there are fewer)'),
  ('points', int, 21, 'points along each side of the surface; lines have twice as many'),
  ('span', float, 1.0, 'reach of the random line and the surface on each side, in filter norms'),
  ('reach', float, None, 'reach of the line along the sharpest direction, a distance (default: from its curvature)'),
  ('seed', int, 0, 'random seed'),
)


def study_sharpness(known: argparse.Namespace) -> None:
  import jax

  from mixer_jax.analysis import sharpness
  from mixer_jax.inference import objective
  from mixer_jax.training import restore

  workdir = Path(known.workdir)
  settings = {name: getattr(known, name) for name, *_ in OPTIONS if name not in OF_EXAMPLES}
  sharpness.check(**settings)
  if jax.process_count() > 1:
    raise MixerError(f'sharpness runs in one process, but there are {jax.process_count()}; start a single one')
  run = restore.restore(workdir, step=known.checkpoint, raw=known.raw, exact=True)
  split, source = restore.open_split(run, workdir, known.split, known.data_dir)
  batches = objective.stack_examples(run.experiment, source, known.examples, known.batch_size)
  figures = workdir / 'figures'
  with reported(figures):
    figures.mkdir(exist_ok=True)  # fail early: the rest takes minutes
    with jax.default_matmul_precision('highest'):
      numbers = sharpness.analyse(
        objective.make_losses(run.experiment), run.params, batches, **settings, note=logger.info
      )
    found = {'split': split, 'step': run.step, 'averaged': run.averaged, 'seed': known.seed, **numbers}
    write_json(workdir / 'sharpness.json', found)
    sharpness.draw_lines(found, figures / 'sharpness_line.png')
    sharpness.draw_surface(found, figures / 'sharpness_surface.png')
  print(json.dumps({name: value for name, value in found.items() if name not in ('line', 'surface')}))


def study_few_shot(known: argparse.Namespace) -> None:
  from mixer_jax.analysis import few_shot
  from mixer_jax.data.examples import materialize
  from mixer_jax.inference import classify
  from mixer_jax.training import restore

  workdir = Path(known.workdir)
  try:
    shots = [int(count) for count in known.shots.split(',')]
  except ValueError as error:
    raise MixerError(f'--shots is {known.shots!r}, but must be numbers such as 5,10,25') from error
  few_shot.check(shots, known.draws, known.ridge)
  if known.data and not (known.train and known.test):
    raise MixerError(f'--data={known.data} needs --train and --test: its splits to learn from and to evaluate on')
  # What can be refused is refused before anything is restored or compiled.
  experiment = restore.rebuild(workdir)
  classify.check_features(experiment)
  data = experiment.data
  splits = {'train': known.train or data.train, 'test': known.test or data.test or data.val}
  if not splits['test']:
    raise MixerError(f'{workdir} has neither test nor val; set --test to the split to evaluate on')
  data = dataclasses.replace(data, name=known.data or data.name, classes=known.classes or data.classes)
  train, test = (data.source(split, known.data_dir) for split in splits.values())
  for folder in (workdir, workdir / 'figures'):
    check_writable(folder)
  raw = materialize(train)
  few_shot.check_counts(raw['label'], max(shots), train.classes)
  run = restore.restore(workdir, step=known.checkpoint, raw=known.raw)
  train_features, train_label = classify.features_of(run, raw), raw['label']
  raw = materialize(test)
  test_features, test_label = classify.features_of(run, raw), raw['label']
  found = few_shot.study(
    train_features, train_label, test_features, test_label, train.classes, shots=shots, draws=known.draws,
    ridge=known.ridge, seed=known.seed,
  )  # fmt: skip
  about = {
    'data': data.name, **splits, 'step': run.step, 'averaged': run.averaged, 'seed': known.seed,
    'width': train_features.shape[1], 'ridge': known.ridge, 'draws': known.draws, 'shots': found,
  }  # fmt: skip
  with reported(workdir / 'figures'):
    write_json(workdir / 'few_shot.json', about)
    few_shot.draw_figure(found, about['data'], workdir / 'figures' / 'few_shot.png')
  print(json.dumps(about))


def main(arguments: list[str]) -> None:
  options = cli.parser('analyze', __doc__, prints_result=True)
  studies = options.add_subparsers(metavar='STUDY', required=True)

  def add(name, about, function, text):
    make = functools.partial(studies.add_parser, name, help=about)
    study = cli.parser(f'analyze {name}', text, data=True, prints_result=True, make=make)
    study.set_defaults(study=function)
    cli.add_run(study)
    study.add_argument('--raw', action='store_true', help='use the trained parameters, not their average')
    return study

  study = add('sharpness', 'sharpness of the minimum: eigenvalues, trace, surfaces', study_sharpness, SHARPNESS)
  study.add_argument(
    '--split', default='train', help="the run's train, val or test, or any other split (default: train)"
  )
  for name, kind, default, text in OPTIONS:
    study.add_argument(
      f'--{name}', type=kind, default=default, help=text + ('' if default is None else f' (default: {default})')
    )
  study = add('few_shot', 'quality of the features: linear regression on few labels', study_few_shot, FEW_SHOT)
  study.add_argument('--data', help="a data set as in config.data.name (default: the run's)")
  study.add_argument('--classes', type=int, help="number of classes of --data (default: the run's)")
  study.add_argument('--train', help="the split to draw from (default: the run's train)")
  study.add_argument('--test', help="the split to evaluate on (default: the run's test, or val)")
  study.add_argument('--shots', default='5,10,25', help='images per class (default: 5,10,25)')
  study.add_argument('--draws', type=int, default=5, help='number of random draws (default: 5)')
  study.add_argument('--ridge', type=float, default=1.0, help='ridge penalty (default: 1)')
  study.add_argument('--seed', type=int, default=0, help='seed of the first draw; the others follow (default: 0)')
  known = options.parse_args(arguments)
  cli.use_compilation_cache()
  known.study(known)


if __name__ == '__main__':
  cli.run(main, huge_pages=True)
