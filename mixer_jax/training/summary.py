"""summary.json and the figures of a finished run."""

import functools
from pathlib import Path

from mixer_jax.analysis import curves
from mixer_jax.errors import MixerError
from mixer_jax.files import read_json, write_json
from mixer_jax.messages import logger
from mixer_jax.optim.schedules import Length
from mixer_jax.training import hooks
from mixer_jax.training.experiment import Experiment
from mixer_jax.training.log import read_metrics


def finished(place: Path) -> list[Path]:
  """The summaries of the finished runs below a folder; warns of the runs that are not finished."""
  runs = sorted(path.parent for path in place.rglob('metrics.jsonl'))
  if left_out := [str(run) for run in runs if not (run / 'summary.json').is_file()]:
    shown = ', '.join(left_out[:5]) + (', ...' if len(left_out) > 5 else '')
    logger.warning(f'{len(left_out):,} runs below {place} are not finished and left out: {shown}')
  return sorted(place.rglob('summary.json'))


def check_finished(folder: str | Path) -> None:
  """Refuses a run without a summary, which is written at its end."""
  if not (Path(folder) / 'summary.json').is_file():
    raise MixerError(
      f'{folder} is not a finished run: it has no summary.json; finish it with the command that began it, or leave it'
      ' out'
    )


def finish(folder: Path, config: dict, experiment: Experiment, length: Length, seconds: float) -> dict:
  """Writes both; returns the summary."""
  lines = read_metrics(folder)
  last: dict[str, float] = {}
  for line in lines:
    last |= {k: v for k, v in line.items() if not k.startswith('time/') and k != 'step'}
  of_best = experiment.best_of(lines)
  examples = length.total * experiment.settings.batch_size
  summary = {
    'config': config,
    'parameters': experiment.parameters,
    'steps': length.total,
    'steps_per_epoch': length.epoch,
    'examples': examples,
    'seconds': round(seconds, 3),
    'examples_per_second': round(examples / max(seconds, 1e-9), 1),
    'device': f'{experiment.mesh.size} x {experiment.mesh.devices.flat[0].device_kind}',
    'metrics': last,
    'best': {'chosen_by': experiment.best, **{k: v for k, v in of_best.items() if not k.startswith('time/')}},
  }
  if (folder / 'init_from.json').exists():
    summary['init_from'] = read_json(folder / 'init_from.json')
  figures = {'curves': functools.partial(curves.draw, panels=experiment.task.panels)} if experiment.task.panels else {}
  figures |= {'watch': curves.draw_watch} if experiment.settings.watch else {}
  for name, draw in figures.items():
    figure = folder / 'figures' / f'{name}.png'
    with hooks.drawn(figure):
      draw(lines, figure)
  write_json(folder / 'summary.json', summary)
  shown = ', '.join(f'{k} {v:.4f}' for k, v in last.items() if k.split('/')[0] in ('val', 'test'))
  drawn = ', '.join(f'{name}: {folder / "figures" / name}.png' for name in figures)
  logger.info(f'{shown or "done"} after {length.total:,} steps, {seconds:.0f} s; {drawn}')
  return summary
