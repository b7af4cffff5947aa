"""The Task interface: expected outputs, loss, and what is measured, written and drawn.

One of your own is a subclass that has `outputs` and `scores`, or `loss` where the loss needs more than the model's
output; see README.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mixer_jax.errors import MixerError

Batch = dict[str, jax.Array]
Scores = dict[str, jax.Array]


def model_inputs(batch: Batch) -> tuple[jax.Array, ...]:
  """What a model takes of a preprocessed batch, in this order: an image, or the features and categories of rows."""
  return tuple(batch[name] for name in ('image', 'features', 'categories') if name in batch)


@dataclasses.dataclass(frozen=True)
class Report:
  """Metrics of a whole split, beside the means over its examples; outputs are [examples, outputs]."""

  predicted: Callable[[np.ndarray], np.ndarray]  # outputs -> classes, int [examples]
  numbers: Callable[[np.ndarray, np.ndarray], dict[str, float]]  # (outputs, labels) -> {name: number}
  probability: Callable[[np.ndarray], np.ndarray] | None = (
    None  # outputs -> that of label 1, where there are two classes
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
  """A run at an evaluation, as a task sees it to draw figures."""

  split: str  # `val` or `test`
  examples: Callable[
    [int], dict[str, np.ndarray]
  ]  # (count) -> a batch of the first preprocessed examples, at most count
  apply: Callable[..., np.ndarray]  # (method of the model, arrays) -> arrays
  kept: np.ndarray | None  # for tasks with a report: outputs and label of every example, [examples, outputs + 1]
  classes: Sequence[str]
  folder: Path  # where figures lie
  step: int
  last: bool  # whether the run ends here
  first_split: bool  # whether `split` is the first of those that are evaluated


class Task:
  """What a model is trained for."""

  outputs: tuple[int, ...]  # shape of what a model gives for one example: (logits,) or (height, width, channels)
  report: Report | None = None  # metrics that are not means over examples
  best: str = 'accuracy'  # the score that chooses the best checkpoint
  highest: bool = True  # whether the best score is the highest
  # What is drawn into curves.png, see curves.draw.
  panels: tuple[tuple[str, str, str], ...] = (('loss', 'loss (nats)', 'log'), ('accuracy', 'error (%)', 'log'))
  draws_with_model: bool = False  # whether `draw` calls the model, whose parameters are then gathered from all hosts
  has_code: bool = False  # whether its models have `encode` and `decode`, for `predict --encode` and `--decode`
  writes: str = 'rows'  # what `predict` makes: `rows` of a CSV file, or a folder of `pictures`

  def scores(self, output: jax.Array, batch: Batch, *, training: bool = False) -> Scores:
    """{'loss', and what else is measured: [batch], float32} of an output [batch, ...] and a preprocessed batch."""
    raise NotImplementedError(f'{type(self).__name__} has neither scores() nor loss()')

  def loss(self, model: Any, batch: Batch, *, rngs=None, training: bool = False) -> tuple[jax.Array, Scores, jax.Array]:
    """(loss [batch], what else is measured [batch], the model's output [batch, ...]) of a preprocessed batch.

    Args:
      rngs: of dropout; None for none.
      training: whether this is the loss that is minimised, with label smoothing and weights of classes.
    """
    output = model(*model_inputs(self.seen(batch, rngs)), rngs=rngs)
    scores = dict(self.scores(output, batch, training=training))
    return scores.pop('loss'), scores, output

  def seen(self, batch: Batch, rngs: Any) -> Batch:
    """The batch as the model sees it, while the targets are those of `batch`; `rngs` as in `loss`."""
    return batch

  def check(self, model: Any, name: str, given: tuple[int, ...]) -> None:
    """Refuses an abstract model that does not give what this task takes; `given` is the shape of one output."""
    if given != self.outputs:
      raise MixerError(
        f'model {name} gives numbers of shape {given} for an example, but task {type(self).__name__} takes'
        f' {self.outputs}; set model.name or task.name'
      )

  def answers(self, output: jax.Array) -> dict[str, jax.Array]:
    """What a finished run says of examples, by name; runs inside jit. The `predict` and `export` commands use it."""
    return {'output': output}

  def header(self, classes: Sequence[str], kind: str, most: int) -> list[str]:
    """The columns of the file that `predict` writes, after the one that names the example.

    Args:
      kind: what a column of classes is called, `class` or `prediction`.
      most: how many of the likeliest classes are written.
    """
    return [f'output_{i}' for i in range(int(np.prod(self.outputs)))]

  def row(self, answer: dict[str, np.ndarray], classes: Sequence[str], most: int) -> list[Any]:
    """One line of that file, of the answers for one example."""
    return [f'{value:.6g}' for value in np.ravel(answer['output'])]

  def draw(self, view: View) -> None:
    """Figures at an evaluation, once for each split that is evaluated; nothing by default."""
