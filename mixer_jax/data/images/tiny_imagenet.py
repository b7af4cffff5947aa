"""What Tiny ImageNet adds to folders of classes: wnids.txt, words.txt and SPLIT/SPLIT_annotations.txt."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mixer_jax.errors import MixerError


def annotations(root: Path, split: str) -> Path:
  """The file that lists the classes of the images of a split: file, class and box, with tabs between them."""
  return root / split / f'{split}_annotations.txt'


def labels(root: Path, split: str) -> dict[str, str]:
  """The class of each file name in SPLIT/images; {} where no file lists them."""
  path = annotations(root, split)
  if not path.is_file():
    return {}
  rows = [line.split('\t') for line in path.read_text(encoding='utf-8').splitlines() if line.strip()]
  if bad := [i for i, row in enumerate(rows, start=1) if len(row) < 2]:
    raise MixerError(f'{path}: line {bad[0]} has no tab between file and class; write FILE, tab, CLASS')
  if several := [name for name, count in Counter(row[0] for row in rows).items() if count > 1]:
    raise MixerError(f'{path}: lists {several[0]} more than once; keep one of the lines')
  return {row[0]: row[1].strip() for row in rows}


def check(
  root: Path, split: str, annotated: Mapping[str, str], paths: Sequence[str], classes: Sequence[str]
) -> list[str]:
  """The class of each image; refuses images that are not listed, listed ones that are not there, other classes."""
  names, where = [Path(path).name for path in paths], annotations(root, split)
  for wrong, what in (
    (sorted({*names} - {*annotated}), f'are in {root / split}, but not listed'),
    (sorted({*annotated} - {*names}), f'are listed, but not in {root / split}'),
    (sorted({*annotated.values()} ^ {*classes}), 'are classes of train or of this list, but not of both'),
  ):
    if wrong:
      raise MixerError(f'{where}: {len(wrong):,} names {what}, such as {wrong[0]}; unpack the data set again')
  return [annotated[name] for name in names]


def class_names(root: Path, classes: Sequence[str]) -> tuple[str, ...]:
  """The words for classes that wnids.txt lists, with their IDs where several have the same; else their own names."""
  listed, words = root / 'wnids.txt', root / 'words.txt'
  if not (listed.is_file() and words.is_file()):
    return tuple(classes)
  if differ := sorted({*listed.read_text(encoding='utf-8').split()} ^ {*classes}):
    raise MixerError(
      f'{listed} and the class folders differ in {len(differ):,}, such as {differ[0]}; unpack the data set again, or'
      ' remove that file'
    )
  lines = (line.partition('\t') for line in words.read_text(encoding='utf-8').splitlines())
  word = {name: text.strip() for name, _, text in lines}
  names = [word.get(name) or name for name in classes]
  counts = Counter(names)
  return tuple(text if counts[text] == 1 else f'{text} ({name})' for text, name in zip(names, classes, strict=True))
