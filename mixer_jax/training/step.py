"""The train step and the evaluation step: pure functions, and the jitted loops over many of them."""

import functools
from collections.abc import Callable, Sequence

import einops
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mixer_jax.data import loader
from mixer_jax.optim import groups
from mixer_jax.optim.sam import SamState
from mixer_jax.training import watch
from mixer_jax.training.state import TrainState

Batch = dict[str, jax.Array]


def make_train_step(
  graphdef: nnx.GraphDef, *, inputs: Sequence[str], scores: Callable, optimizer: optax.GradientTransformation,
  prepare: Callable, seed: int, ema: float, accumulate: int, watched: bool, augment_until: int | None,
  frozen: nnx.State | None = None, shares: int = 0,
) -> Callable[[TrainState, Batch], TrainState]:  # fmt: skip
  """One step of training, (state, batch) -> state.

  Args:
    graphdef: of the model; its parameters are in the state.
    inputs: what of a batch the model takes, in that order.
    scores: of the task, (logits, batch, training=) -> numbers per example, with `loss` among them.
    optimizer: also one of optim/sam.py, whose second gradient is of the same batch, augmentation and dropout.
    prepare: (raw batch, key, augmenting) -> what the model sees: augmentation and normalisation.
    seed: all randomness is a function of (seed, state.step).
    ema: decay of the average of the parameters, at most (1 + step) / (10 + step); 0 keeps none.
    accumulate: the batch is cut into so many parts, whose gradients are averaged: the same update, less memory.
    watched: also sum the numbers of watch.py.
    augment_until: the step from which on nothing is augmented; None for never.
    frozen: as groups.frozen gives it: what has no gradient, and so no part in norms and in SAM, and does not move.
    shares: the optimizer takes the gradient of each of so many equal parts of the batch, those of the devices, with an
      axis of them in front; 0 for the mean of all.
  """

  def loss_fn(params, part: Batch, key):
    if frozen is not None:
      params = groups.hold(params, frozen)
    model = nnx.merge(graphdef, params)
    result = scores(model(*(part[name] for name in inputs), rngs=nnx.Rngs(dropout=key)), part, training=True)
    return result['loss'].mean(), {name: value.sum() for name, value in result.items()}

  grad_fn = jax.grad(loss_fn, has_aux=True)
  optimizer = optax.with_extra_args_support(optimizer)

  def gradient(params, batch: Batch, key):
    """The mean over the batch, in `accumulate` parts, and the sums."""
    if accumulate == 1:
      return grad_fn(params, batch, key)
    # Every device keeps its own share of each part, hence the interleaved cut.
    parts = jax.tree.map(lambda x: einops.rearrange(x, '(b k) ... -> k b ...', k=accumulate), batch)

    def add(total, inputs):
      return jax.tree.map(jnp.add, total, grad_fn(params, *inputs)), None

    keys = jax.random.split(key, accumulate)
    zeros = jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: x[0], parts), keys[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), zeros)
    grads, sums = jax.lax.scan(add, zeros, (parts, keys))[0]
    return jax.tree.map(lambda g: g / accumulate, grads), sums

  def train_step(state: TrainState, batch: Batch) -> TrainState:
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
    batch = prepare(batch, augment_key, augment_until is None or state.step < augment_until)
    examples = jax.tree.leaves(batch)[0].shape[0]
    if shares:
      cut = jax.tree.map(lambda x: einops.rearrange(x, '(d b) ... -> d b ...', d=shares), batch)
      keys = jax.random.split(dropout_key, shares)
      grads, sums = jax.vmap(gradient, in_axes=(None, 0, 0))(state.params, cut, keys)
      sums = jax.tree.map(lambda x: x.sum(axis=0), sums)
      again = lambda params: jax.vmap(gradient)(params, cut, keys)
    else:
      grads, sums = gradient(state.params, batch, dropout_key)
      again = lambda params: gradient(params, batch, dropout_key)

    def loss_and_gradient(params, _):
      second, second_sums = again(params)
      return second_sums['loss'] * max(shares, 1) / examples, second

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, grad_fn=loss_and_gradient)
    if frozen is not None:
      # Where schedule_free moves nothing, it still rounds.
      updates = groups.stay(updates, frozen)
    if shares:
      grads = jax.tree.map(lambda g: g.mean(axis=0), grads)
    params = optax.apply_updates(state.params, updates)
    average = state.ema
    if ema:
      # A short memory at first, or the average would hold on to the first parameters for 1 / (1 - ema) steps.
      decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
      average = optax.incremental_update(params, state.ema, 1 - decay)
    sums |= {'grad_norm': optax.tree.norm(grads), 'steps': jnp.float32(1)}
    sums |= {'examples': jnp.float32(examples)}
    if isinstance(opt_state, SamState):
      sums |= {f'sam_{name}': value for name, value in opt_state.report._asdict().items()}
    if watched:
      sums |= watch.numbers(state.params, params, grads, updates)
    sums = jax.tree.map(jnp.add, state.sums, {name: sums[name] for name in state.sums})
    return TrainState(state.step + 1, params, opt_state, average, sums)

  return train_step


def make_eval_step(
  graphdef: nnx.GraphDef, *, inputs: Sequence[str], scores: Callable, prepare: Callable
) -> Callable[..., tuple[Batch, jax.Array]]:
  """(params, batch with `mask`) -> sums over the examples that the mask lets count with their number, and logits."""

  def eval_step(params, batch: Batch) -> tuple[Batch, jax.Array]:
    mask, prepared = batch['mask'], prepare(batch)
    logits = nnx.merge(graphdef, params)(*(prepared[name] for name in inputs))
    sums = {name: (value * mask).sum() for name, value in scores(logits, batch | prepared).items()}
    return sums | {'examples': mask.sum()}, logits

  return eval_step


def is_finite(sums: dict[str, jax.Array]) -> jax.Array:
  """Whether loss and gradient are, also at SAM's perturbation."""
  finite = jnp.isfinite(sums['loss']) & jnp.isfinite(sums['grad_norm'])
  return finite & jnp.isfinite(sums['sam_loss']) if 'sam_loss' in sums else finite


def make_train_loop(train_step: Callable, state_shardings, batch_sharding) -> Callable:
  """(state, feed, count) -> state after `count` steps, or right after the first one that was not finite.

  The count is an argument, not a shape: however a run is cut into calls, every step is the same compiled code and
  gives the same bits.
  """

  @functools.partial(jax.jit, donate_argnums=0, out_shardings=state_shardings)
  def train_loop(state, feed, count):
    go_on = lambda carry: (carry[0] < count) & is_finite(carry[1].sums)
    body = lambda carry: (carry[0] + 1, train_step(carry[1], loader.fetch(feed, carry[0], batch_sharding)))
    return jax.lax.while_loop(go_on, body, (jnp.int32(0), state))[1]

  return train_loop


def make_eval_loop(eval_step: Callable, names: tuple[str, ...], batch_sharding, *, logits: int = 0) -> Callable:
  """(params, feed, count) -> sums of eval_step over the first `count` batches of a feed, and their logits.

  Args:
    logits: how many there are, which come with the label as [batches of the feed, batch, logits + 1]; 0 for nothing.
  """

  @jax.jit
  def eval_loop(params, feed, count):
    mask = feed['mask'] if 'mask' in feed else feed['batches']['mask']

    def body(i, carry):
      sums, kept = carry
      batch = loader.fetch(feed, i, batch_sharding)
      more, given = eval_step(params, batch)
      if logits:
        kept = kept.at[i].set(jnp.concatenate([given, batch['label'][:, None].astype(jnp.float32)], axis=-1))
      return jax.tree.map(jnp.add, sums, more), kept

    zeros = {name: jnp.zeros(()) for name in (*names, 'examples')}
    return jax.lax.fori_loop(0, count, body, (zeros, jnp.zeros((*mask.shape, logits + 1) if logits else 0)))

  return eval_loop
