"""The vanishing-gradient watch: how far each layer group moves per step, and an alarm when one stops moving."""

import collections
from collections.abc import Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax.ranges import Positive, Within


def numbers(before: nnx.State, after: nnx.State, grads: nnx.State, updates: nnx.State) -> dict[str, jax.Array]:
  """One step's effect on each group of parameters, as float32 scalars.

  A group is a top-level attribute of the model (`stem`, `head`). Lists, and `blocks` at any level, are split into their
  members (`blocks.0`, `head_hidden.1`, `encoder.blocks.3`), also if the blocks are stacked along a leading axis.

  Args:
    before, after: the parameters before and after the step.
    grads: the optimizer's input, before clipping.
    updates: the optimizer's output.

  Returns:
    `watch/GROUP/change`: the largest absolute change of a kernel's entry. It is measured on the weights, not the
      update, so that what float32 rounding swallows does not count. Groups without a kernel (a LayerNorm) have none.
    `watch/GROUP/grad_norm`, `watch/GROUP/update_norm`: Euclidean norms over all parameters of the group; entries below
      about 1e-19 count as 0, since their squares underflow.
  """
  after, grads, updates = (dict(nnx.to_flat_state(tree)) for tree in (after, grads, updates))
  change, squares = {}, {'grad_norm': {}, 'update_norm': {}}
  for path, leaf in nnx.to_flat_state(before):
    group, stacked = _group(path)
    axes = tuple(range(stacked, leaf.ndim))
    for what, tree in (('grad_norm', grads), ('update_norm', updates)):
      total = jnp.square(tree[path][...].astype(jnp.float32)).sum(axes)
      squares[what][group] = squares[what].get(group, 0) + total
    if path[-1] == 'kernel' and leaf.size:
      largest = jnp.abs(after[path][...] - leaf[...]).astype(jnp.float32).max(axes)
      change[group] = jnp.maximum(change.get(group, 0), largest)
  found = {'change': change, **{what: jax.tree.map(jnp.sqrt, of_groups) for what, of_groups in squares.items()}}
  result = {}
  for what, of_groups in found.items():
    for group, value in of_groups.items():
      parts = {group: value} if value.ndim == 0 else {f'{group}.{i}': value[i] for i in range(len(value))}
      result |= {f'watch/{name}/{what}': part for name, part in parts.items()}
  return result


def _group(path: tuple[str | int, ...]) -> tuple[str, bool]:
  """A parameter's group, and whether it is a stack of blocks, whose first axis runs over groups."""
  i = path.index('blocks') if 'blocks' in path else 0
  listed = isinstance(path[i + 1], int) if len(path) > i + 1 else False
  return '.'.join(map(str, path[: i + 1 + listed])), path[i] == 'blocks' and not listed


def names(params: nnx.State) -> tuple[str, ...]:
  """The names of the numbers, for concrete or abstract parameters."""
  return tuple(jax.eval_shape(numbers, params, params, params, params))


def means(sums: Mapping[str, float]) -> dict[str, float]:
  """The numbers as means over the steps in `sums`."""
  return {name: value / sums['steps'] for name, value in sums.items() if name.startswith('watch/')}


def smallest(line: Mapping[str, float]) -> str:
  """The console's one-line summary."""
  changes = _changes(line)
  group = min(changes, key=changes.get, default='')
  return f'smallest change {changes[group]:.2g} in {group}' if changes else ''


class Alarm:
  """Warns once for each group whose weights stand still while the training loss does.

  Warnings depend only on the log lines passed in, so a resumed run, which first replays metrics.jsonl, gives the same.

  Args:
    change: a group stands still if its `change`, the mean over a line's steps, is below this ...
    loss: ... and the training loss if its range is below this fraction of its largest absolute value ...
    lines: ... over this many consecutive log lines.
  """

  def __init__(
    self, *, change: Positive = 2e-6, loss: Positive = 1e-2, lines: Annotated[int, Within('[2, 2147483647]')] = 5
  ):
    self.change, self.loss = change, loss
    self._recent = collections.deque(maxlen=lines)
    self._warned = set()

  def __call__(self, line: Mapping[str, float]) -> list[str]:
    """The groups whose alarm begins with this line; lines without a training loss are ignored."""
    if 'train/loss' not in line:
      return []
    self._recent.append((line['train/loss'], _changes(line)))
    losses, changes = zip(*self._recent, strict=True)
    if len(losses) < self._recent.maxlen or max(losses) - min(losses) >= self.loss * max(map(abs, losses)):
      return []
    still = [g for g in changes[-1] if g not in self._warned and all(of[g] < self.change for of in changes)]
    self._warned.update(still)
    return still

  def text(self, step: int, groups: list[str]) -> str:
    """The warning for groups whose alarm began at a step."""
    return (
      f'at step {step} the weights of {", ".join(groups)} stand still, and so does the loss: over the last'
      f' {self._recent.maxlen} log lines the weights changed by less than {self.change:g} per step and the loss by less'
      f' than {100 * self.loss:g}%; their grad_norm in metrics.jsonl shows whether the gradient or the update vanished'
    )


def _changes(line: Mapping[str, float]) -> dict[str, float]:
  parts = {tuple(name.split('/')): value for name, value in line.items()}
  return {name[1]: value for name, value in parts.items() if name[0] == 'watch' and name[2] == 'change'}
