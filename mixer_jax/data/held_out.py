"""The splits of your own files, for a config: val and test where they are there, else a part of the training split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def splits(is_there: Callable[[str], bool], percent: int, split: str) -> dict[str, str]:
  """The existing splits; without val and test, `split` is a random part, `percent` of the training examples."""
  found = {name: name for name in ('val', 'test') if is_there(name)}
  return {'train': 'train', **found} if found else {
    'train': f'train[:{100 - percent}%]', split: f'train[{100 - percent}%:]'
  }  # fmt: skip


def image_folder(folder: str | Path, percent: int) -> dict[str, Any]:
  """config.data of PATH/train/CLASS/*.jpg and, if present, PATH/val and PATH/test; classes are counted.

  Raises:
    ValueError: there is no folder PATH/train.
  """
  folder = Path(folder).expanduser()
  if not (folder / 'train').is_dir():
    raise ValueError(f'{folder}/train is not a folder; PATH must hold PATH/train/CLASS/*.jpg')
  classes = [path for path in (folder / 'train').iterdir() if path.is_dir() and not path.name.startswith('.')]
  found = splits(lambda name: (folder / name).is_dir(), percent, 'val')
  return {'name': f'image_folder:{folder}', 'classes': len(classes), **found}
