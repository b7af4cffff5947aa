"""Trains every combination of values with several seeds and compares the runs in a table and a figure.

  python -m mixer_jax.sweep --config=digits --over='model.blocks=2,4,8' --seeds=3 --workdir=runs/depth
  python -m mixer_jax.sweep --config=imagenet --over='arg=S/32,S/16' --over='schedule.peak=1e-3,3e-3' \\
    --workdir=runs/sizes

Run the command again to resume interrupted runs and start missing ones. What a run would refuse is said before the
first one starts. A failed run does not stop the others.
--over='model.tokens+model.patch=patches+3,columns+1' changes two keys together. Writes table.md, table.csv, table.png
and, for up to 8 combinations, curves.png to --workdir.
Exit code: 0 if every run is done, or after an interruption that was saved.
"""

import re
from pathlib import Path

from mixer_jax import cli
from mixer_jax.errors import MixerError, unknown
from mixer_jax.files import reported
from mixer_jax.messages import logger

MOST_CURVES = 8  # more are hard to tell apart


def main(arguments: list[str]) -> None:
  options = cli.parser('sweep', __doc__, data=True)
  cli.add_config(options, required=True)
  options.add_argument('--over', action='append', default=[], help='KEY=VALUE,VALUE,...; repeatable')
  options.add_argument('--seeds', type=int, default=1, help='seeds per combination, from 0 (default: 1)')
  options.add_argument('--metrics', help='columns of table.md, e.g. val/loss,val/accuracy (default: that of best)')
  options.add_argument(
    '--folds', action='store_true', help='the rows are folds of a cross-validation: adds their mean and deviation'
  )
  options.add_argument('--workdir', required=True, help='the folder for all runs')
  known, rest = options.parse_known_args(arguments)
  cli.use_compilation_cache()
  from mixer_jax.analysis import curves, results
  from mixer_jax.training import sweep

  workdir = Path(known.workdir)
  cli.config_arguments(known, rest)
  runs = sweep.plan(known.config, rest, known.over, known.seeds, workdir)
  failed = sweep.execute(runs, known.data_dir)
  done = sweep.done(runs, failed)
  if done:
    summaries = sweep.summaries(done)
    table = results.rows(summaries)
    metrics = known.metrics.split(',') if known.metrics else [summaries[0][2]['best']['chosen_by'] or 'train/loss']
    for metric in metrics:
      if lacking := [row for row in table if metric not in row]:
        raise unknown('metric', metric, [name for name in lacking[0] if re.fullmatch(r'(val|test|train)/\S+', name)])
    text = results.markdown(table, metrics, sweep.grouped(failed or {}), folds=known.folds)
    written = [f'{workdir}/table.md', 'table.csv', 'table.png']
    with reported(workdir):
      (workdir / 'table.md').write_text(text, encoding='utf-8')
      results.write_csv(table, workdir / 'table.csv')
      results.draw(table, metrics[0], workdir / 'table.png')
      if len(table) <= MOST_CURVES:
        curves.draw_runs(sweep.metrics(done), metrics[0], workdir / 'curves.png', sweep.rates(done))
        written.append('curves.png')
    print(f'\n{text}\n{", ".join(written)}')
  if failed is None:
    logger.warning(f'stopped with {len(done)} of {len(runs)} runs done; run the same command again to continue')
  elif failed:
    reasons = '; '.join(f'{names}: {reason}' for names, reason in sweep.grouped(failed).items())
    raise MixerError(f'{len(failed)} of {len(runs)} runs failed: {reasons}')


if __name__ == '__main__':
  cli.run(main, huge_pages=True)
