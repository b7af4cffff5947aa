"""Evaluates a run: every example of a split, once, with the last or the best checkpoint. Prints one JSON object.

python -m mixer_jax.evaluate --workdir=runs/digits
python -m mixer_jax.evaluate --workdir=runs/digits --split='train[:80%]' --checkpoint=best

Where the task reports on whole splits, `confusion` counts [label][prediction].
"""

import json

from mixer_jax import cli
from mixer_jax.errors import MixerError


def main(arguments: list[str]) -> None:
  options = cli.parser('evaluate', __doc__, data=True, prints_result=True)
  cli.add_run(options)
  options.add_argument(
    '--split',
    help="test, val or train as the run's config has them, or a split such as 'train[:10%%]' (default: test, or val"
    ' where the config has no test)',
  )
  known = options.parse_args(arguments)
  cli.use_compilation_cache()
  from mixer_jax.analysis import classes
  from mixer_jax.data import loader
  from mixer_jax.training import hooks, restore

  run = restore.restore(known.workdir, step=known.checkpoint)
  experiment, data = run.experiment, run.experiment.data
  split = known.split or ('test' if data.test else 'val' if data.val else '')
  if not split:
    raise MixerError(f'{known.workdir} has neither test nor val; set --split, such as --split=train')
  split, source = restore.open_split(run, known.workdir, split, known.data_dir)
  examples = loader.Loader(
    source, seed=0, batch_size=experiment.settings.eval_batch_size, mesh=experiment.mesh,
    resident_mib=data.resident_mib, workers=data.workers,
  )  # fmt: skip
  report = experiment.task.report
  metrics, kept = hooks.evaluate(experiment.eval_loop(), run.params, examples, report)
  if kept is not None:
    counts = classes.confusion(kept[:, -1], report.predicted(kept[:, :-1]), len(source.classes))
    metrics['confusion'] = counts.tolist()
  print(json.dumps({'split': split, 'step': run.step, 'examples': len(source), **metrics}))


if __name__ == '__main__':
  cli.run(main, huge_pages=True)
