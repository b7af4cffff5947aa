"""The splits of your own files, for a config: val and test where they are there, else a part of the training split."""

from pathlib import Path
from typing import Any

from mixer_jax.data.images import folder
from mixer_jax.data.splits import parse_split

FEWEST_STEPS = 300  # of a run on few images


def image_folder(path: str | Path) -> tuple[dict[str, Any], int]:
  """config.data of PATH/train/CLASS/*.jpg, PATH/val and PATH/test, and the number of training images.

  Without validation images of known classes, `val` is a tenth of those of train, in proportion to the classes.

  Raises:
    ValueError: there is no folder PATH/train.
  """
  root = Path(path).expanduser()
  if not (root / 'train').is_dir():
    inside = f'; it has {", ".join(folder.folders(root)[:12]) or "no folders"}' if root.is_dir() else ''
    raise ValueError(f'{root}/train is not a folder; PATH must hold PATH/train/CLASS/*.jpg{inside}')
  train = folder.read_image_folder(str(root), 'train', None)
  val = folder.validation(root)
  val = val if val and folder.has_labels(root, val) else None
  parts = {'train': 'train', 'val': val} if val else {'train': 'train[:90%]', 'val': 'train[90%:]'}
  parts |= {'test': 'test'} if (root / 'test').is_dir() and folder.has_labels(root, 'test') else {}
  examples = len(parse_split(parts['train'], {'train': len(train.paths)})[1])
  return {'name': f'image_folder:{root}', 'classes': len(train.classes), **parts}, examples


def length(examples: int, epochs: int) -> dict[str, Any]:
  """config.batch_size and config.total: batches of 64 for so many epochs; of few images smaller ones, for longer.

  A batch is at most a quarter of the images, but at least 8; a run has at least FEWEST_STEPS steps.
  """
  batch = next((size for size in (64, 32, 16) if 4 * size <= examples), 8)
  return {'batch_size': batch, 'total': f'{max(epochs, -(-FEWEST_STEPS * batch // examples))} epochs'}
