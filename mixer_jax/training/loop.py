"""train_and_evaluate: from a config and a run directory to a trained model."""

import contextlib
import dataclasses
import hashlib
import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

import mixer_jax
from mixer_jax.analysis import curves
from mixer_jax.data import loader
from mixer_jax.data.examples import Source
from mixer_jax.errors import MixerError
from mixer_jax.files import read_json
from mixer_jax.messages import logger
from mixer_jax.optim import schedules
from mixer_jax.optim.schedules import Length
from mixer_jax.training import experiment as experiments
from mixer_jax.training import hooks, hosts, memory, warm_start, workdir
from mixer_jax.training import mesh as meshes
from mixer_jax.training.checkpoints import Checkpoints, checkpoints_in
from mixer_jax.training.experiment import Experiment
from mixer_jax.training.log import Log, read_metrics
from mixer_jax.training.settings import resolve
from mixer_jax.training.state import TrainState
from mixer_jax.training.step import is_finite, make_train_loop
from mixer_jax.training.summary import finish

EVERY, HELDOUT = ('log', 'eval', 'checkpoint'), ('val', 'test')
CALL_SECONDS = 1.0  # target duration of a call of the compiled loop, and so the latency of Ctrl-C


def train_and_evaluate(
  config: Mapping[str, Any], folder: str | Path, *, data_dir: str | None = None, check_data: bool = False
) -> dict | None:
  """Trains to the end, from the last checkpoint if there is one; returns the summary.

  All randomness is a function of (seed, step), and a checkpoint holds the rest. A run resumes as follows:
    1. the newest readable checkpoint gives the state and its step;
    2. log lines after that step are dropped, and those before it restore the watch's alarm;
    3. data order, augmentation and dropout continue from the step.

  Args:
    config: what differs from the defaults, as config.load returns it.
    folder: the run directory, created after everything else has been checked.
    data_dir: the data directory.
    check_data: read every example before the first step.

  Returns:
    The contents of summary.json, or None if SIGTERM or Ctrl-C stopped the run, after saving its state.

  Raises:
    MixerError: a mistake in the config or the data, a run directory of another config, a loss that is not finite.
  """
  with contextlib.ExitStack() as opened:
    return _train(resolve(config), Path(folder), data_dir, check_data, opened)


def _train(
  config: dict, folder: Path, data_dir: str | None, check_data: bool, opened: contextlib.ExitStack
) -> dict | None:
  hosts.agree('config', lambda: _facts(config, folder))
  workdir.check_config(folder, config)
  experiment = experiments.build(config, data_dir=data_dir)
  workdir.check_schema(folder, experiment.data.schema)
  if check_data:
    experiment.data.check_readable(data_dir)
  data = _read(experiment, data_dir)
  hosts.agree('data', lambda: _facts_of_data(experiment, data))
  workdir.check_classes(folder, data.train.classes)
  length = experiment.length(len(data.train))
  every = {name: length.steps(getattr(experiment.settings, f'{name}_every'), f'{name}_every') for name in EVERY}
  optimizer, schedule = experiment.optimizer(length)
  loaders = _loaders(experiment, data)
  opened.callback(loaders['train'].close)
  shapes = experiment.init_state(optimizer, abstract=True)
  memory.check(shapes)
  train_loop = make_train_loop(
    experiment.train_step(optimizer, length), jax.tree.map(lambda leaf: leaf.sharding, shapes),
    meshes.over_batch(experiment.mesh),
  )  # fmt: skip

  # Everything is validated before anything is written.
  start = None if checkpoints_in(folder) else warm_start.start(experiment, data.train.classes)
  first = jax.process_index() == 0
  report = _report(experiment, data_dir) if first else []
  hosts.agree('weights', lambda: (start and start.about) or {})
  if first:
    opened.enter_context(workdir.open_for_training(folder, config, data.train.classes, experiment.data.schema))
    _draw_schedule(folder / 'figures' / 'schedule.png', schedule, length.total)
  checkpoints = Checkpoints(folder, best=experiment.best, highest=experiment.task.highest)
  state = checkpoints.restore_last(shapes, set_aside=True)
  if state is None:
    start = start or warm_start.start(experiment, data.train.classes)
    state = experiment.init_state(optimizer, start=start.arrays)
    if start.about and first:
      warm_start.record(folder, start.about)
  step = int(state.step)
  if step >= length.total and (folder / 'summary.json').exists():  # Finished before: its log and its summary stay.
    checkpoints.close()
    logger.info(f'{folder} is finished: {step:,} of {length.total:,} steps')
    return read_json(folder / 'summary.json') if first else None

  opened.enter_context(_told_if_interrupted(folder))
  log = Log(folder, step=step, total=length.total, write=first)
  opened.callback(log.close)
  alarm = experiment.alarm()
  if alarm and first:
    for line in read_metrics(folder):
      alarm(line)
  if first:
    for line in (*data.notes, *report):
      logger.info(line)
    unread = sum(of.size for of in loaders.values() if not of.resident and of.source.arrays is None)
    if unread and not check_data:
      logger.info(
        f'{unread:,} examples are read when their batch comes, and a damaged one stops the run there; --check_data'
        ' reads all before the first step'
      )
    logger.info(describe_start(experiment, length, len(data.train), step, loaders['train'].resident))

  heldout = {name: examples for name, examples in loaders.items() if name != 'train'}
  actions = [
    hooks.TrainingLog(experiment, log, schedule, alarm, every['log']),
    hooks.Evaluation(experiment, heldout, log, checkpoints, folder / 'figures', every['eval']),
    hooks.Saving(checkpoints, every['checkpoint']),
  ]
  if step >= length.total and heldout and _agreed(first and not _is_evaluated(folder, step, heldout)):
    actions[1](hooks.Moment(step, state, {}, last=True))  # its line was lost
  with Stop() as stop:
    moment = _steps(state, train_loop, loaders['train'], length.total, actions, log, checkpoints, experiment, stop)
  if not moment.last:
    checkpoints.save(moment.step, moment.state, moment.evaluated)
  checkpoints.close()
  if not moment.last:
    log.stopped(moment.step)
  log.close()
  if not first:
    return None
  if not moment.last:
    who = stop.name or 'another process'
    logger.info(f'stopped by {who} at step {moment.step}, saved; run the same command again to continue')
    return None
  return finish(folder, config, experiment, length, log.seconds)


def _steps(
  state: TrainState, train_loop, examples: loader.Loader, total: int, actions: Sequence, log: Log,
  checkpoints: Checkpoints, experiment: Experiment, stop: 'Stop',
) -> hooks.Moment:  # fmt: skip
  """Calls the compiled loop, and the hooks after every call, until the run ends or is stopped."""
  rate, step = 0.0, int(state.step)
  moment = hooks.Moment(step, state, {}, last=step >= total)
  stopping = False
  while step < total and not stopping:
    due = min([(step // hook.every + 1) * hook.every for hook in actions if hook.every] + [total])
    count = _agreed(min(due - step, max(1, int(rate * CALL_SECONDS)), examples.chunk))
    began = time.monotonic()
    if not rate:
      log.note('compiling ...')
    state = train_loop(state, examples.train(step, count), count)
    step_done = int(state.step)
    if not rate:
      log.note(f'compiling and the first step took {time.monotonic() - began:.1f} s')
    rate = count / (time.monotonic() - began)
    sums = {name: float(value) for name, value in jax.device_get(state.sums).items()}
    if not is_finite(sums):
      _fail_not_finite(step_done - 1, sums, experiment, examples.size, checkpoints)
    step = step_done
    log.progress(step, sums['loss'] / sums['examples'])
    moment = hooks.Moment(step, state, sums, last=step == total)
    for hook in actions:
      hook(moment)
    state = moment.state
    stopping = bool(_agreed(stop.asked))  # a later signal is seen after the next call
  return moment


@dataclasses.dataclass(frozen=True)
class _Data:
  train: Source
  heldout: dict[str, Source]

  @property
  def notes(self) -> tuple[str, ...]:
    # Two parts of one folder have the same.
    return tuple(dict.fromkeys(note for source in (self.train, *self.heldout.values()) for note in source.notes))


def _report(experiment: Experiment, data_dir: str | None) -> list[str]:
  try:
    return experiment.data.report(data_dir)
  except MixerError:
    raise
  except Exception as error:  # It only advises.
    return [f'warning: the report on the data failed ({type(error).__name__}: {" ".join(str(error).split())[:300]})']


def _is_evaluated(folder: Path, step: int, heldout: Mapping[str, Any]) -> bool:
  names = {name for line in read_metrics(folder) if line['step'] == step for name in line}
  return all(f'{split}/loss' in names for split in heldout)


def _facts(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """What all processes of a run must have in common before they read the data."""
  data = {key: value for key, value in config['data'].items() if key != 'workers'}
  steps = sorted(int(path.name) for path in (folder / 'checkpoints').glob('*') if path.name.isdecimal())
  return {**config, 'data': data, 'jax': jax.__version__, 'mixer_jax': mixer_jax.__version__, 'checkpoints': steps}


def _facts_of_data(experiment: Experiment, data: '_Data') -> dict[str, Any]:
  schema = json.dumps(experiment.data.schema and experiment.data.schema.to_json())
  sources = {'train': data.train, **data.heldout}
  facts = {name: hosts.facts_of(source) for name, source in sources.items()}
  return {**facts, 'checksum of the schema': hashlib.sha256(schema.encode()).hexdigest()}


def _read(experiment: Experiment, data_dir: str | None) -> _Data:
  data = experiment.data
  train = data.source(data.train, data_dir)
  return _Data(train, {name: data.source(split, data_dir) for name in HELDOUT if (split := getattr(data, name))})


def _loaders(experiment: Experiment, data: _Data) -> dict[str, loader.Loader]:
  settings, of = experiment.settings, experiment.data
  given = {'mesh': experiment.mesh, 'resident_mib': of.resident_mib, 'workers': of.workers, 'seed': settings.seed}
  train = loader.Loader(data.train, batch_size=settings.batch_size, **given)
  heldout = {name: loader.Loader(s, batch_size=settings.eval_batch_size, **given) for name, s in data.heldout.items()}
  return {'train': train, **heldout}


def _draw_schedule(path: Path, schedule: optax.Schedule, total: int) -> None:
  steps, rates = schedules.sampled(schedule, total)
  with hooks.drawn(path):
    curves.draw_schedule(steps, rates, path)


@contextlib.contextmanager
def _told_if_interrupted(folder: Path) -> Iterator[None]:
  """Says what is lost where a second Ctrl-C ends the run at once."""
  try:
    yield
  except KeyboardInterrupt:
    saved = [int(path.name) for path in (folder / 'checkpoints').glob('*') if path.name.isdecimal()]
    what = f'all after step {max(saved):,}, the last one saved, is lost' if saved else 'no step was saved'
    logger.warning(f'quit at once: {what}; the same command goes on from there')
    raise


class Stop:
  """A context that records SIGTERM and Ctrl-C; a second Ctrl-C interrupts at once."""

  def __init__(self):
    self.asked, self.name = 0, ''

  def __enter__(self):
    try:
      self._before = {s: signal.signal(s, self._notice) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread, as in some notebooks
      self._before = {}
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed from Python

  def _notice(self, number, _):
    if self.asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.asked, self.name = 1, signal.Signals(number).name
    logger.warning(f'{self.name}: saving after the current steps; press Ctrl-C again to quit at once')


def describe_start(experiment: Experiment, length: Length, examples: int, step: int, resident: bool) -> str:
  s, mesh = experiment.settings, experiment.mesh
  where = 'on the device' if resident else 'streamed'
  return '\n'.join(
    [
      f'{s.model["name"]}: {experiment.parameters:,} parameters',
      f'{s.data["name"]}: {examples:,} training examples, {where}',
      f'batch: {s.batch_size} global, {s.batch_size // mesh.size} on each of {mesh.size} devices'
      f' ({mesh.devices.flat[0].device_kind}; data {mesh.shape["data"]} x fsdp {mesh.shape["fsdp"]};'
      f' {jax.process_count()} processes)',
      f'{length.total:,} steps, {length.epoch:.1f} per epoch' + (f', resumed at step {step:,}' if step else ''),
    ]
  )


def _fail_not_finite(step: int, sums: dict, experiment: Experiment, examples: int, checkpoints: Checkpoints) -> None:
  settings = experiment.settings
  rows = loader.rows_of_step(settings.seed, step, settings.batch_size, examples)
  names = {'loss': 'loss', 'grad_norm': 'gradient', 'sam_loss': "loss at SAM's perturbation"}
  what = next(text for name, text in names.items() if not np.isfinite(sums[name]))
  shown = ', '.join(str(row) for row in rows[:8]) + (', ...' if len(rows) > 8 else '')
  raise MixerError(
    f'the {what} of step {step} is not finite; {checkpoints.last_good()};'
    f' the batch was rows {shown} of {settings.data["train"]}'
    f' (loader.rows_of_step(seed={settings.seed}, step={step}, batch_size={settings.batch_size}, size={examples}));'
    ' inspect those rows, or lower the learning rate or clip the gradient in another --workdir'
  )


def _agreed(value: int) -> int:
  """The maximum over processes."""
  if jax.process_count() == 1:
    return value
  return int(np.max(multihost_utils.process_allgather(np.int32(value))))
