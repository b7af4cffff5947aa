"""The train step and the evaluation step as pure functions, and the jitted loops over them.

A Gradient is (params, batch, key) -> (gradient, sums over the batch). `accumulated` and `per_device` transform one,
`make_train_step` turns it into a step.
"""

import functools
from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mixer_jax.data import loader
from mixer_jax.optim import groups
from mixer_jax.tasks.task import Task
from mixer_jax.training.state import TrainState

Batch = dict[str, jax.Array]
Gradient = Callable[..., tuple[nnx.State, dict[str, jax.Array]]]


def make_gradient(graphdef: nnx.GraphDef, task: Task, *, frozen: nnx.State | None = None) -> Gradient:
  """The gradient of the mean loss over a batch, and the sums of the task's metrics.

  Args:
    frozen: from groups.frozen; frozen parameters have gradient 0, so they do not count in norms and SAM.
  """

  def loss_fn(params, batch: Batch, key):
    if frozen is not None:
      params = groups.hold(params, frozen)
    model = nnx.merge(graphdef, params)
    loss, scores, _ = task.loss(model, batch, rngs=nnx.Rngs(dropout=key), training=True)
    return loss.mean(), {name: value.sum() for name, value in ({'loss': loss} | scores).items()}

  return jax.grad(loss_fn, has_aux=True)


def accumulated(gradient: Gradient, parts: int) -> Gradient:
  """Accumulates the mean gradient over `parts` parts of a batch: the same update with less memory."""

  def mean_gradient(params, batch: Batch, key):
    # Interleaved, so that each device keeps its own examples.
    cut = jax.tree.map(lambda x: einops.rearrange(x, '(b k) ... -> k b ...', k=parts), batch)

    def add(total, inputs):
      return jax.tree.map(jnp.add, total, gradient(params, *inputs)), None

    keys = jax.random.split(key, parts)
    zeros = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], cut), keys[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), zeros)
    grads, sums = jax.lax.scan(add, zeros, (cut, keys))[0]
    return jax.tree.map(lambda g: g / parts, grads), sums

  return gradient if parts == 1 else mean_gradient


def per_device(gradient: Gradient, devices: int, shapes: nnx.State) -> Gradient:
  """One gradient per device, for equal shards of the batch, along a leading axis; sums are over the whole batch.

  Args:
    shapes: of the parameters; parameters with per-device perturbations also have the leading axis.
  """

  def gradients(params, batch: Batch, key):
    cut = jax.tree.map(lambda x: einops.rearrange(x, '(d b) ... -> d b ...', d=devices), batch)
    axes = jax.tree.map(lambda p, shape: 0 if p.ndim > shape.ndim else None, params, shapes)
    grads, sums = jax.vmap(gradient, in_axes=(axes, 0, 0))(params, cut, jax.random.split(key, devices))
    return grads, jax.tree.map(lambda x: x.sum(axis=0), sums)

  return gradients


def make_train_step(
  gradient: Gradient, optimizer: optax.GradientTransformation, preprocess: Callable, *, seed: int, ema: float,
  measure: Callable[..., dict[str, jax.Array]],
) -> Callable[[TrainState, Batch], TrainState]:  # fmt: skip
  """One step of training, (state, batch) -> state.

  Args:
    optimizer: possibly one of optim/sam.py, whose second gradient uses the same batch, augmentation and dropout.
    preprocess: (raw batch, key, step) -> augmented and normalised batch.
    seed: all randomness is a function of (seed, state.step).
    ema: decay of the parameters' average, capped at (1 + step) / (10 + step); 0 for no average.
    measure: (params before, params after, gradient, updates, optimizer state) -> numbers to sum over steps.
  """
  optimizer = optax.with_extra_args_support(optimizer)

  def train_step(state: TrainState, batch: Batch) -> TrainState:
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
    batch = preprocess(batch, augment_key, state.step)
    examples = jax.tree.leaves(batch)[0].shape[0]
    grads, sums = gradient(state.params, batch, dropout_key)

    def loss_and_gradient(params, _):
      second, second_sums = gradient(params, batch, dropout_key)
      return second_sums['loss'] / examples, second

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, grad_fn=loss_and_gradient)
    params = optax.apply_updates(state.params, updates)
    average = state.ema
    if ema:
      # A short memory at first: otherwise the initial parameters would dominate for 1 / (1 - ema) steps.
      decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
      average = optax.incremental_update(params, state.ema, 1 - decay)
    sums |= {'steps': jnp.float32(1), 'examples': jnp.float32(examples)}
    sums |= measure(state.params, params, grads, updates, opt_state)
    sums = jax.tree.map(jnp.add, state.sums, {name: sums[name] for name in state.sums})
    return TrainState(state.step + 1, params, opt_state, average, sums)

  return train_step


def make_eval_step(graphdef: nnx.GraphDef, task: Task, preprocess: Callable) -> Callable[..., tuple[Batch, jax.Array]]:
  """(params, batch with `mask`) -> (sums over the unmasked examples, with their number; outputs)."""

  def eval_step(params, batch: Batch) -> tuple[Batch, jax.Array]:
    mask, prepared = batch['mask'], preprocess(batch)
    loss, scores, output = task.loss(nnx.merge(graphdef, params), batch | prepared)
    sums = {name: (value * mask).sum() for name, value in ({'loss': loss} | scores).items()}
    return sums | {'examples': mask.sum()}, output

  return eval_step


def is_finite(sums: dict[str, jax.Array]) -> jax.Array:
  """Whether the loss, the gradient and SAM's perturbed loss are finite."""
  finite = jnp.isfinite(sums['loss']) & jnp.isfinite(sums['grad_norm'])
  return finite & jnp.isfinite(sums['sam_loss']) if 'sam_loss' in sums else finite


def make_train_loop(train_step: Callable, state_shardings, batch_sharding) -> Callable:
  """(state, feed, count) -> state after `count` steps, or right after the first step that is not finite.

  The count is an argument, not a shape, so every step runs the same compiled code and gives the same bits however a run
  is split into calls.
  """

  @functools.partial(jax.jit, donate_argnums=0, out_shardings=state_shardings)
  def train_loop(state, feed, count):
    go_on = lambda carry: (carry[0] < count) & is_finite(carry[1].sums)
    body = lambda carry: (carry[0] + 1, train_step(carry[1], loader.fetch(feed, carry[0], batch_sharding)))
    return jax.lax.while_loop(go_on, body, (jnp.int32(0), state))[1]

  return train_loop


def make_eval_loop(eval_step: Callable, names: tuple[str, ...], batch_sharding, *, outputs: int = 0) -> Callable:
  """(params, feed, count) -> sums of eval_step over the first `count` batches of a feed, and their outputs.

  Args:
    outputs: number of outputs to return with the label, [batches of the feed, batch, outputs + 1]; 0 for none.
  """

  @jax.jit
  def eval_loop(params, feed, count):
    mask = feed['mask'] if 'mask' in feed else feed['batches']['mask']

    def body(i, carry):
      sums, kept = carry
      batch = loader.fetch(feed, i, batch_sharding)
      more, given = eval_step(params, batch)
      if outputs:
        kept = kept.at[i].set(jnp.concatenate([given, batch['label'][:, None].astype(jnp.float32)], axis=-1))
      return jax.tree.map(jnp.add, sums, more), kept

    zeros = {name: jnp.zeros(()) for name in (*names, 'examples')}
    return jax.lax.fori_loop(0, count, body, (zeros, jnp.zeros((*mask.shape, outputs + 1) if outputs else 0)))

  return eval_loop
