"""Evaluates a run: every example of a split, once, with the last or the best checkpoint. Prints one JSON object.

python -m mixer_jax.evaluate --workdir=runs/digits
python -m mixer_jax.evaluate --workdir=runs/digits --split='train[:80%]' --checkpoint=best
"""

import json

from mixer_jax import doors


def main(arguments: list[str]) -> None:
  options = doors.parser('evaluate', __doc__)
  options.add_argument('--workdir', required=True, help='the run directory')
  options.add_argument(
    '--split',
    default='test',
    help="test, val or train as the run's config has them, or a split such as 'train[:10%%]'",
  )
  options.add_argument('--checkpoint', default='last', help='last, best or a step')
  known = options.parse_args(arguments)
  doors.use_huge_pages()
  doors.use_compilation_cache()
  from mixer_jax.data import batches
  from mixer_jax.training import loop, mesh, restore
  from mixer_jax.training.step import make_eval_loop

  run = restore.restore(known.workdir, step=known.checkpoint)
  experiment, data = run.experiment, run.experiment.data
  split = getattr(data, known.split, '') if known.split in ('train', 'val', 'test') else known.split
  source = data.source(split or known.split, known.data_dir)
  feeder = batches.Feeder(
    source, seed=0, batch_size=experiment.settings.eval_batch_size, mesh=experiment.mesh,
    resident_mib=data.resident_mib, workers=data.workers,
  )  # fmt: skip
  eval_loop = make_eval_loop(experiment.eval_step(), experiment.metrics, mesh.over_batch(experiment.mesh))
  metrics = loop.evaluate(eval_loop, run.params, feeder)
  print(json.dumps({'split': split or known.split, 'step': run.step, 'examples': len(source), **metrics}))


if __name__ == '__main__':
  doors.run(main)
