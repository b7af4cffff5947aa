"""train_and_evaluate: chunks of steps, evaluation, checkpoints, logs. The only impure place."""

import contextlib
import functools
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

from mixer_jax.analysis import classes, curves
from mixer_jax.config import plain
from mixer_jax.data import loader
from mixer_jax.errors import MixerError
from mixer_jax.optim import schedules
from mixer_jax.training import experiment as experiments
from mixer_jax.training import mesh as meshes
from mixer_jax.training import pictures, warm_start, watch
from mixer_jax.training import state as states
from mixer_jax.training.checkpoints import Checkpoints, checkpoints_in
from mixer_jax.training.logging import Log, cannot_write, read_metrics, write_json
from mixer_jax.training.step import is_finite, make_train_loop
from mixer_jax.training.tasks import Report
from mixer_jax.training.workdir import check_classes, check_schema, check_workdir, read_json, start_workdir

CALL_SECONDS = 1.0  # about how long one call into the compiled loop takes: how soon Ctrl-C is heard


def train_and_evaluate(config: Mapping[str, Any], workdir: str | Path, *, data_dir: str | None = None) -> dict | None:
  """Trains from the last checkpoint in `workdir`, or from the start, to the end; returns the summary.

  Everything random is a function of (seed, step), and a checkpoint holds the rest, so that a run resumes thus:
    1. the newest readable checkpoint gives the state and its step;
    2. lines of the log after that step are dropped, and those before it tell the watch's alarm where it was;
    3. data order, augmentation and dropout go on from the step.

  Args:
    config: as config.load gives it.
    workdir: the run directory; made when all the rest has been checked.
    data_dir: where data sets lie.

  Returns:
    What summary.json holds, or None when SIGTERM or Ctrl-C ended the run early: its state is saved.

  Raises:
    MixerError: a mistake in the config or the data, a run directory of another config, a loss that is not finite.
  """
  with contextlib.ExitStack() as opened:
    return _train(plain(config), Path(workdir), data_dir, opened)


def _train(config: dict, workdir: Path, data_dir: str | None, opened: contextlib.ExitStack) -> dict | None:
  check_workdir(workdir, config)
  schema = experiments.learn_schema(config, data_dir)
  check_schema(workdir, schema)
  experiment = experiments.build(config, schema=schema)
  settings, data, mesh = experiment.settings, experiment.data, experiment.mesh

  source = data.source(data.train, data_dir)
  if (workdir / 'labels.json').exists():
    check_classes(workdir, read_json(workdir / 'labels.json'), source.classes)
  heldout = {name: data.source(split, data_dir) for name in ('val', 'test') if (split := getattr(data, name))}
  if jax.process_index() == 0:
    for note in (note for s in (source, *heldout.values()) for note in s.notes):
      print(note, file=sys.stderr if data.schema is None else sys.stdout)
  length = experiment.length(len(source))
  optimizer, schedule = experiment.optimizer(length)
  every = {
    name: schedules.steps(getattr(settings, f'{name}_every'), f'{name}_every', epoch=length.epoch, total=length.total)
    for name in ('log', 'eval', 'checkpoint')
  }
  feed = {'mesh': mesh, 'resident_mib': data.resident_mib, 'workers': data.workers, 'seed': settings.seed}
  train_loader = loader.Loader(source, batch_size=settings.batch_size, **feed)
  eval_loaders = {name: loader.Loader(s, batch_size=settings.eval_batch_size, **feed) for name, s in heldout.items()}

  shapes = experiment.init_state(optimizer, abstract=True)
  sharding = meshes.over_batch(mesh)
  train_loop = make_train_loop(
    experiment.train_step(optimizer, length), jax.tree.map(lambda leaf: leaf.sharding, shapes), sharding
  )
  eval_loop = experiment.eval_loop()

  first = jax.process_index() == 0
  start, origin = None, None
  if settings.init_from.get('weights') and not checkpoints_in(workdir):
    start, origin = warm_start.start(experiment, source.classes)  # before anything is written
  if first:
    opened.enter_context(start_workdir(workdir, config, source.classes, schema))
    draw_schedule(workdir / 'figures' / 'schedule.png', schedule, length.total)
  checkpoints = Checkpoints(workdir, best=experiment.best, highest=experiment.task.highest)
  state = checkpoints.restore_last(shapes, set_aside=True)
  if state is None:
    if settings.init_from.get('weights') and start is None:  # there were checkpoints, but none was any good
      start, origin = warm_start.start(experiment, source.classes)
    state = experiment.init_state(optimizer, start=start)
    if origin and first:
      write_json(workdir / 'init_from.json', origin)
      print('\n'.join([f'init_from {origin["weights"]} ({origin["kind"]})', *(f'  {line}' for line in origin['told'])]))
  step = int(state.step)
  log = Log(workdir, step=step, total=length.total, write=first)
  opened.callback(log.close)
  alarm = experiment.alarm()
  if alarm and first:
    for line in read_metrics(workdir):
      alarm(line)
  if first:
    for line in data.report(data_dir):
      print(line)
    print(describe_start(experiment, length, len(source), step, train_loader.resident), flush=True)

  rate, evaluated, stopping = 0.0, {}, False
  with Stop() as stop:
    while step < length.total and not stopping:
      due = min([_next(step, n) for n in every.values() if n] + [length.total])
      most = max(1, int(rate * CALL_SECONDS))
      count = _agreed(min(due - step, most, train_loader.chunk))
      began = time.monotonic()
      state = train_loop(state, train_loader.train(step, count), count)
      step_done = int(state.step)
      rate = count / (time.monotonic() - began)
      sums = {name: float(value) for name, value in jax.device_get(state.sums).items()}
      if not is_finite(sums):
        fail_not_finite(step_done - 1, sums, settings, len(source), checkpoints)
      step = step_done
      log.progress(step)

      if every['log'] and step % every['log'] == 0 or step == length.total:
        scalars = {f'train/{name}': sums[name] / sums['examples'] for name in experiment.metrics(training=True)}
        scalars |= {
          'train/grad_norm': sums['grad_norm'] / sums['steps'],
          'train/learning_rate': float(schedule(step - 1)),
        }
        if sums.get('sam_taken'):
          scalars |= {f'train/sam_{name}': sums[f'sam_{name}'] / sums['sam_taken'] for name in ('norm', 'loss')}
        begun, note = [], ''
        if alarm:
          scalars |= watch.means(sums)
          begun, note = alarm(scalars), watch.smallest(scalars)
          scalars |= {f'watch/{group}/alarm': 1 for group in begun}
        log.write(step, scalars, note)
        if begun:
          log.warn(alarm.text(step, begun))
        state = state._replace(sums=jax.tree.map(lambda x: x * 0, state.sums))
      evaluated = {}
      if every['eval'] and step % every['eval'] == 0 or step == length.total:
        params = states.evaluated(state)
        for name, examples in eval_loaders.items():
          for which, chosen in params.items():
            result, kept = evaluate(eval_loop, chosen, examples, experiment.task.report)
            evaluated |= {f'{name}/{which}{k}': v for k, v in result.items()}
            if kept is not None and not which and step == length.total and first:
              draw_report(workdir / 'figures', name, experiment.task.report, kept, source.classes)
        if not np.isfinite(sum(evaluated.values())):
          raise MixerError(
            f'the evaluation after {step} steps is not finite; {_last_good(checkpoints)}; lower the learning rate or'
            ' clip the gradient in another --workdir'
          )
        if evaluated:
          log.write(step, evaluated)
        if heldout and experiment.has_code:
          whole = jax.tree.map(_whole, params[''])
          shown = experiment, whole, next(iter(heldout.values())), workdir / 'figures'
          if first:
            pictures.draw_reconstructions(*shown, step)
          if first and step == length.total:
            pictures.draw_codes(*shown)
      if evaluated or step == length.total or every['checkpoint'] and step % every['checkpoint'] == 0:
        checkpoints.save(step, state, evaluated)
      stopping = bool(_agreed(stop.asked))  # A signal between here and the next look at it waits for that one.

  if step < length.total:
    checkpoints.save(step, state, evaluated)
  checkpoints.close()
  log.close()
  if not first:
    return None
  if step < length.total:
    print(
      f'stopped by {stop.name or "another process"} at step {step}, saved; the same command goes on from here',
      flush=True,
    )
    return None
  return finish(workdir, config, experiment, length, log.seconds)


def evaluate(
  eval_loop, params, examples_of: loader.Loader, report: Report | None
) -> tuple[dict[str, float], np.ndarray | None]:
  """The means of the task's numbers over every example of a loader, each counted once, and its report.

  Returns:
    numbers by name, and where the task has a report the logits and the label of every example, [examples, logits + 1].
  """
  total: dict[str, float] = {}
  parts = []
  for feed, count in examples_of.evaluate():
    sums, kept = eval_loop(params, feed, count)
    total = {name: total.get(name, 0.0) + float(value) for name, value in jax.device_get(sums).items()}
    if report:
      parts.append(_whole(kept)[:count].reshape(-1, kept.shape[-1]))
  examples = total.pop('examples')
  if round(examples) != examples_of.size:
    raise RuntimeError(f'evaluated {examples} examples of {examples_of.size}')
  means = {name: value / examples for name, value in total.items()}
  if not report or not np.isfinite(means['loss']):
    return means, None
  kept = np.concatenate(parts)[: examples_of.size]
  return means | report.numbers(kept[:, :-1], kept[:, -1].astype(int)), kept


def draw_schedule(path: Path, schedule: optax.Schedule, total: int) -> None:
  """The learning rate of a run, at as many of its steps as a figure shows."""
  steps = np.linspace(0, total - 1, min(total, 2000)).round().astype(np.int32)
  rates = np.asarray(jax.jit(jax.vmap(schedule))(steps))
  try:
    curves.draw_schedule(rates, total, path)
  except OSError as error:
    raise cannot_write(path, error) from error


def draw_report(folder: Path, split: str, report: Report, kept: np.ndarray, names: Sequence[str]) -> None:
  """The figures of a split: what was taken for what, and for two classes what any threshold would give."""
  logits, label = kept[:, :-1], kept[:, -1].astype(int)
  try:
    classes.draw_confusion(label, report.predicted(logits), names, folder / f'confusion_{split}.png')
    if report.probability and len(np.unique(label)) == 2:
      classes.draw_thresholds(label, report.probability(logits), folder / f'thresholds_{split}.png')
  except OSError as error:
    raise cannot_write(folder, error) from error


def _whole(array: jax.Array) -> np.ndarray:
  """An array that is cut over processes, in each of them."""
  return np.asarray(array if jax.process_count() == 1 else multihost_utils.process_allgather(array, tiled=True))


class Stop:
  """Hears SIGTERM and Ctrl-C while it is entered; a second Ctrl-C ends at once."""

  def __init__(self):
    self.asked, self.name = 0, ''

  def __enter__(self):
    try:
      self._before = {s: signal.signal(s, self._hear) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # Not the main thread, as in some notebooks: nothing to hear there.
      self._before = {}
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python.

  def _hear(self, number, _):
    if self.asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.asked, self.name = 1, signal.Signals(number).name
    print(f'\n{self.name}: saving after the steps in flight; Ctrl-C again to leave at once', file=sys.stderr)


def describe_start(experiment, length, examples: int, step: int, resident: bool) -> str:
  s, mesh = experiment.settings, experiment.mesh
  where = 'on the device' if resident else 'streamed'
  return '\n'.join(
    [
      f'{s.model["name"]}: {experiment.parameters:,} parameters',
      f'{s.data["name"]}: {examples:,} training examples, {where}',
      f'batch: {s.batch_size} global, {s.batch_size // mesh.size} on each of {mesh.size} devices'
      f' ({mesh.devices.flat[0].device_kind}; data {mesh.shape["data"]} x fsdp {mesh.shape["fsdp"]};'
      f' {jax.process_count()} processes)',
      f'{length.total:,} steps of {length.epoch:.1f} an epoch' + (f', resumed at step {step:,}' if step else ''),
    ]
  )


def finish(workdir: Path, config: dict, experiment, length, seconds: float) -> dict:
  """summary.json and the figures."""
  lines = read_metrics(workdir)
  last: dict[str, float] = {}
  for line in lines:
    last |= {k: v for k, v in line.items() if not k.startswith('time/') and k != 'step'}
  of_best = experiment.best_of(lines)
  examples = length.total * experiment.settings.batch_size
  summary = {
    'config': config,
    'parameters': experiment.parameters,
    'steps': length.total,
    'examples': examples,
    'seconds': round(seconds, 3),
    'examples_per_second': round(examples / max(seconds, 1e-9), 1),
    'device': f'{experiment.mesh.size} x {experiment.mesh.devices.flat[0].device_kind}',
    'metrics': last,
    'best': {'chosen_by': experiment.best, **{k: v for k, v in of_best.items() if not k.startswith('time/')}},
  }
  if (workdir / 'init_from.json').exists():
    summary['init_from'] = read_json(workdir / 'init_from.json')
  figures = {'curves': functools.partial(curves.draw, panels=experiment.task.panels)}
  figures |= {'watch': curves.draw_watch} if experiment.settings.watch else {}
  for name, draw in figures.items():
    figure = workdir / 'figures' / f'{name}.png'
    try:
      draw(lines, figure)
    except OSError as error:
      raise cannot_write(figure, error) from error
  write_json(workdir / 'summary.json', summary)
  shown = ', '.join(f'{k} {v:.4f}' for k, v in last.items() if k.split('/')[0] in ('val', 'test'))
  drawn = ', '.join(f'{name}: {workdir / "figures" / name}.png' for name in figures)
  print(f'{shown or "done"} after {length.total:,} steps, {seconds:.0f} s; {drawn}')
  return summary


def fail_not_finite(step: int, sums: dict, settings, examples: int, checkpoints: Checkpoints) -> None:
  rows = loader.rows_of_step(settings.seed, step, settings.batch_size, examples)
  names = {'loss': 'loss', 'grad_norm': 'gradient', 'sam_loss': "loss at SAM's perturbation"}
  what = next(text for name, text in names.items() if not np.isfinite(sums[name]))
  shown = ', '.join(str(row) for row in rows[:8]) + (', ...' if len(rows) > 8 else '')
  raise MixerError(
    f'the {what} of step {step} is not finite; {_last_good(checkpoints)};'
    f' the batch was rows {shown} of {settings.data["train"]}'
    f' (loader.rows_of_step(seed={settings.seed}, step={step}, batch_size={settings.batch_size}, size={examples}));'
    ' look at those rows, or lower the learning rate or clip the gradient in another --workdir'
  )


def _last_good(checkpoints: Checkpoints) -> str:
  checkpoints.close()
  last = checkpoints.steps()[-1:]
  return f'the last good checkpoint is of step {last[0]}' if last else 'there is no checkpoint yet'


def _next(step: int, every: int) -> int:
  return (step // every + 1) * every


def _agreed(value: int) -> int:
  """The largest of the values that the processes of a run have."""
  if jax.process_count() == 1:
    return value
  return int(np.max(multihost_utils.process_allgather(np.int32(value))))
