"""The lines of a CSV file: gzip and UTF-16 are known by a file's first bytes, and no line fills the memory."""

import codecs
import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from mixer_jax.errors import MixerError
from mixer_jax.files import stand_in

LONGEST = 2**24  # characters of a line; the csv module has 2**17 for a cell
MARKS = {  # in this order: that of UTF-32 begins with that of UTF-16
  codecs.BOM_UTF8: 'utf-8-sig',
  codecs.BOM_UTF32_LE: 'utf-32', codecs.BOM_UTF32_BE: 'utf-32',
  codecs.BOM_UTF16_LE: 'utf-16', codecs.BOM_UTF16_BE: 'utf-16',
}  # fmt: skip
OTHER_FILES = {
  b'PK\x03\x04': 'an Excel or zip file; save the table as CSV, or unpack it',
  b'\xd0\xcf\x11\xe0': 'an Excel file; save the table as CSV',
  b'PAR1\x15': 'a Parquet file; save the table as CSV',
}
ERRORS = (OSError, EOFError, zlib.error, UnicodeError, csv.Error)  # what reading a file raises


def read_lines(path: str | Path) -> Iterator[str]:
  """The lines of a text file, with their ends, one at a time; raises ERRORS, see `unreadable`."""
  with contextlib.ExitStack() as opened:
    raw = opened.enter_context(Path(path).open('rb'))
    if raw.peek(2).startswith(b'\x1f\x8b'):
      raw = opened.enter_context(gzip.GzipFile(fileobj=raw))
    start = raw.peek(64)
    if kind := next((kind for mark, kind in OTHER_FILES.items() if start.startswith(mark)), stand_in(start)):
      raise MixerError(f'{path} is {kind}')
    encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), 'utf-8')
    text = opened.enter_context(io.TextIOWrapper(raw, encoding=encoding, newline=''))
    while line := text.readline(LONGEST + 1):
      if len(line) > LONGEST:
        raise csv.Error(f'a line of more than {LONGEST:,} characters')
      if '\0' in line:
        raise csv.Error('a NUL byte')
      if not line.isascii() and '\ufeff' in line:
        raise csv.Error('a byte order mark inside the text, as where files were joined')
      yield line


def unreadable(path: str | Path, error: Exception, row: int | None = None) -> MixerError:
  """The error for a file that raised one of ERRORS, after that row."""
  where = f'{path}, after row {row}:' if row is not None else f'{path} cannot be read as a table:'
  if isinstance(error, UnicodeError):
    return MixerError(f'{where} {error}; save it in UTF-8, such as by `iconv -f WINDOWS-1252 -t UTF-8`')
  if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
    return MixerError(f'{where} its gzip is damaged ({error}); copy or download it again')
  if isinstance(error, OSError):
    return MixerError(f'{where} {error.strerror or error}; name a CSV file')
  return MixerError(f'{where} {error}; give a CSV file in UTF-8 and close every quote')
