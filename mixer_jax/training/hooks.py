"""Training hooks: logging and the watch, evaluation and figures, checkpoints.

Each hook is called with a Moment after every call of the compiled loop. It acts every `every` steps, where the loop
stops for it; with 0, only at the end.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from mixer_jax.data import loader
from mixer_jax.data.examples import stack
from mixer_jax.errors import MixerError
from mixer_jax.files import reported
from mixer_jax.messages import logger
from mixer_jax.tasks.task import Report, View
from mixer_jax.training import state as states
from mixer_jax.training import watch
from mixer_jax.training.checkpoints import Checkpoints
from mixer_jax.training.experiment import Experiment
from mixer_jax.training.log import Log


@dataclasses.dataclass
class Moment:
  """A run's status after a call of the compiled loop.

  Attributes:
    sums: the state's sums as floats.
    last: whether the run ends here.
    evaluated: the metrics of this moment, once evaluated.
  """

  step: int
  state: states.TrainState
  sums: Mapping[str, float]
  last: bool
  evaluated: dict[str, float] = dataclasses.field(default_factory=dict)

  def is_due(self, every: int) -> bool:
    return self.last or bool(every) and self.step % every == 0


@dataclasses.dataclass
class TrainingLog:
  """Logs means over the steps since the last log line, and the watch's alarms.

  The last line takes in what `every` leaves over: every line is a mean of at least `every` steps.
  """

  experiment: Experiment
  log: Log
  schedule: Callable
  alarm: watch.Alarm | None
  every: int

  def __call__(self, moment: Moment) -> None:
    if not moment.is_due(self.every) or (not moment.last and self.log.total - moment.step < self.every):
      return
    sums = moment.sums
    scalars = {f'train/{name}': sums[name] / sums['examples'] for name in self.experiment.metrics(training=True)}
    scalars |= {
      'train/grad_norm': sums['grad_norm'] / sums['steps'],
      'train/learning_rate': float(self.schedule(moment.step - 1)),
    }
    if sums.get('sam_taken'):
      scalars |= {f'train/sam_{name}': sums[f'sam_{name}'] / sums['sam_taken'] for name in ('norm', 'loss')}
    begun, note = [], ''
    if self.alarm:
      scalars |= watch.means(sums)
      begun, note = self.alarm(scalars), watch.smallest(scalars)
      scalars |= {f'watch/{group}/alarm': 1 for group in begun}
    self.log.write(moment.step, scalars, note)
    if begun:
      self.log.warn(self.alarm.text(moment.step, begun))
    moment.state = moment.state._replace(sums=jax.tree.map(lambda x: x * 0, moment.state.sums))


@dataclasses.dataclass
class Evaluation:
  """Evaluates the held-out splits and lets the task draw its figures.

  If the run keeps an average of the parameters, the raw ones are evaluated too.
  """

  experiment: Experiment
  loaders: Mapping[str, loader.Loader]
  log: Log
  checkpoints: Checkpoints
  folder: Path
  every: int

  def __post_init__(self):
    self._loop = self.experiment.eval_loop()

  def __call__(self, moment: Moment) -> None:
    if not moment.is_due(self.every):
      return
    params = states.evaluated(moment.state)
    kept = {}
    for split, examples in self.loaders.items():
      for which, chosen in params.items():
        result, outputs = evaluate(self._loop, chosen, examples, self.experiment.task.report)
        moment.evaluated |= {f'{split}/{which}{name}': value for name, value in result.items()}
        kept |= {} if which else {split: outputs}
    if not np.isfinite(sum(moment.evaluated.values())):
      raise MixerError(
        f'the evaluation after {moment.step} steps is not finite; {self.checkpoints.last_good()}; lower the learning'
        ' rate or clip the gradient in another --workdir'
      )
    if moment.evaluated:
      self.log.write(moment.step, moment.evaluated)
    self._draw(moment, params[''], kept)

  def _draw(self, moment: Moment, params: nnx.State, kept: Mapping[str, np.ndarray | None]) -> None:
    experiment, task = self.experiment, self.experiment.task
    params = jax.tree.map(_whole, params) if task.draws_with_model and self.loaders else params
    if jax.process_index():
      return
    for number, (split, examples) in enumerate(self.loaders.items()):
      with drawn(self.folder):
        task.draw(View(
          split=split, examples=functools.partial(_first_examples, experiment, examples.source),
          apply=functools.partial(apply, experiment.graphdef, params), kept=kept[split],
          classes=examples.source.classes, folder=self.folder, step=moment.step, last=moment.last,
          first_split=number == 0,
        ))  # fmt: skip


@contextlib.contextmanager
def drawn(path: Path) -> Iterator[None]:
  """What goes wrong while a figure is drawn, as a warning: no run ends with it, but for what the disk refuses."""
  with reported(path):
    try:
      yield
    except (OSError, MixerError):
      raise
    except Exception as error:
      reason = f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
      logger.warning(f'a figure is missing in {path} ({reason}); the run goes on without it')


@dataclasses.dataclass
class Saving:
  """Saves checkpoints, also after every evaluation, since it may be the best."""

  checkpoints: Checkpoints
  every: int

  def __call__(self, moment: Moment) -> None:
    if moment.evaluated or moment.is_due(self.every):
      self.checkpoints.save(moment.step, moment.state, moment.evaluated)


def evaluate(
  eval_loop: Callable, params: nnx.State, examples: loader.Loader, report: Report | None
) -> tuple[dict[str, float], np.ndarray | None]:
  """The means of the task's metrics over all examples of a loader, and the numbers of its report.

  Returns:
    metrics by name, and, if the task has a report, the output and label of each example, [examples, outputs + 1].
  """
  total: dict[str, float] = {}
  parts = []
  for feed, count in examples.evaluate():
    sums, kept = eval_loop(params, feed, count)
    total = {name: total.get(name, 0.0) + float(value) for name, value in jax.device_get(sums).items()}
    if report:
      parts.append(_whole(kept)[:count].reshape(-1, kept.shape[-1]))
  evaluated = total.pop('examples')
  if round(evaluated) != examples.size:
    raise RuntimeError(f'evaluated {evaluated} examples of {examples.size}')
  means = {name: value / evaluated for name, value in total.items()}
  if not report or not np.isfinite(means['loss']):
    return means, None
  kept = np.concatenate(parts)[: examples.size]
  return means | report.numbers(kept[:, :-1], kept[:, -1].astype(int)), kept


def apply(graphdef: nnx.GraphDef, params: nnx.State, method: str, *inputs: np.ndarray) -> np.ndarray:
  """Calls `encode`, `decode` or `__call__` of a model, compiled once per shape."""
  return np.asarray(_apply(graphdef, method, params, *inputs))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(graphdef, method, params, *inputs):
  return getattr(nnx.merge(graphdef, params), method)(*inputs)


def _first_examples(experiment: Experiment, source: Sequence, count: int) -> dict[str, np.ndarray]:
  batch = stack([source[i] for i in range(min(count, len(source)))])
  return {name: np.asarray(value) for name, value in experiment.preprocess(batch).items()}


def _whole(array: jax.Array) -> np.ndarray:
  """Gathers an array that is sharded over processes."""
  return np.asarray(array if jax.process_count() == 1 else multihost_utils.process_allgather(array, tiled=True))
