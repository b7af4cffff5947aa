"""Augmentations that run on the device, inside the jitted train step.

A batch is {'image': float32 [batch, height, width, channels] in [0, 1], 'label': int32 [batch]}; other entries pass
through, and rows of a table have `features` and `categories` in place of `image`. A config names augmentations with
their settings, for example

    config.augment = {'flip': {}, 'crop': {'padding': 4}, 'mixup': {'alpha': 0.5}, 'mymodule:solarize': {'below': 0.5}}

They are applied in the order of `AUGMENTATIONS` (geometry, colour, erasing, mixing), whatever the order in the config,
then the user's own as the config has them, and noise last. Each uses its own key, so adding one leaves the others'
draws unchanged. Draws cover the whole batch, regardless of sharding.

Each name refers to a factory, in `AUGMENTATIONS` or `module:name`: (features, **settings[, classes]) -> a pure function
(batch, key) -> batch. The factory checks its settings against the batches (`features`, name -> ShapeDtypeStruct).
"""

import zlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from mixer_jax import parts
from mixer_jax.data.augment.colour import color_jitter, erasing, noise
from mixer_jax.data.augment.geometry import affine, crop, elastic, flip, resized_crop, rotation
from mixer_jax.data.augment.mixing import cutmix, mixup
from mixer_jax.data.augment.pieces import Augment, Batch, Features, distribution
from mixer_jax.errors import MixerError

__all__ = ['AUGMENTATIONS', 'Augment', 'Batch', 'Features', 'make_augment', 'make_optional']

_IN_ORDER = (flip, resized_crop, crop, rotation, affine, elastic, color_jitter, erasing, cutmix, mixup, noise)
AUGMENTATIONS: dict[str, Callable[..., Augment]] = {factory.__name__: factory for factory in _IN_ORDER}


def make_augment(settings: Mapping[str, Mapping], *, features: Features, classes: int | None) -> Augment:
  """The function (batch, key) -> batch that applies the augmentations a config names.

  Args:
    settings: name of an augmentation -> its settings, `{'crop': {'padding': 4}, 'flip': {}}`.
    features: what a batch holds, name -> ShapeDtypeStruct, the batch axis first.
    classes: number of classes; `mixup` and `cutmix` turn labels into float32 [batch, classes].

  Refuses unknown names and settings, wrong values, and data that lack what an augmentation needs.
  """
  if not isinstance(settings, Mapping):
    raise MixerError(f"augment must be a dict, {{'flip': {{}}, 'crop': {{'padding': 4}}}}, got {settings!r}")
  factories = {name: parts.find(name, AUGMENTATIONS, 'augmentation') for name in settings}
  order = [name for name in dict.fromkeys([*AUGMENTATIONS, *factories]) if name in factories]
  steps = []
  for name in sorted(order, key=lambda name: name == 'noise'):
    if not isinstance(settings[name], Mapping):
      raise MixerError(f"augment.{name} must be a dict of settings, {{'setting': value}}, got {settings[name]!r}")
    apply = parts.call(factories[name], settings[name], f'augment.{name}', features=features, classes=classes)
    if not callable(apply):
      raise MixerError(f'augment.{name} gave {type(apply).__name__}, but must give a function (batch, key) -> batch')
    # By name, not by place: the draws stay the same when AUGMENTATIONS grows.
    steps.append((zlib.crc32(name.encode()), apply))

  def augment(batch: Batch, key: jax.Array) -> Batch:
    for number, apply in steps:
      own_key = jax.random.fold_in(key, number)
      batch = apply(batch, own_key)
      if 'image' in batch:
        batch = {**batch, 'image': _finish(batch['image'], own_key)}
    return batch

  return augment


def make_optional(settings: Mapping[str, Mapping], *, features: Features, classes: int | None) -> Callable[..., Batch]:
  """(batch, key, augmenting) -> batch, as make_augment where there is a key and while augmenting.

  `augmenting` is True, or a traced bool: then both ways are compiled, and a batch that is left alone has the same
  entries as an augmented one.
  """
  augmented = make_augment(settings, features=features, classes=classes)
  if not settings:
    return lambda batch, _key, _augmenting: batch
  shapes = jax.eval_shape(augmented, dict(features), jax.random.key(0))

  def left_alone(batch: Batch, _key) -> Batch:
    if shapes['label'].ndim == 2:
      batch = {**batch, 'label': distribution(batch['label'], classes)}
    return batch

  def optional(batch: Batch, key: jax.Array | None, augmenting: jax.Array | bool) -> Batch:
    if key is None:
      return batch
    if augmenting is True:
      return augmented(batch, key)
    return jax.lax.cond(augmenting, augmented, left_alone, batch, key)

  return optional


def _finish(image: jax.Array, key: jax.Array) -> jax.Array:
  """Returns the image unchanged, but makes XLA compute it only once.

  XLA for CPUs fuses one augmentation into every read of the next, and so computes it once a read: rotation and cutmix
  together took ten times as long as apart. It drops an optimization_barrier before it fuses, but fuses nothing through
  a condition unknown at compile time.
  """
  same = lambda image: image
  on_cpu = lambda image: jax.lax.cond(jax.random.uniform(key) > 1, jnp.zeros_like, same, image)
  return jax.lax.platform_dependent(image, cpu=on_cpu, default=same)
