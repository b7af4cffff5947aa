"""The text of a CSV file: packed, in other encodings, with other line ends; without end, damaged, or no text at all."""

import functools
import gzip
import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from refusals import refuses
from table_files import HEADER, read, rows

from mixer_jax.data.inputs import Rows
from mixer_jax.data.tables import csv as csv_files
from mixer_jax.data.tables import lines

TEXT = '\n'.join(','.join(row) for row in [HEADER, *rows()]) + '\n'
pack = functools.partial(gzip.compress, mtime=0)  # the same name of a test in every process


@pytest.mark.parametrize(
  'content',
  [
    pack(TEXT.encode()),
    pack(TEXT[:100].encode()) + pack(TEXT[100:].encode()),
    pack(TEXT.encode('utf-16')),
    TEXT.encode('utf-16'),
    b'\xfe\xff' + TEXT.encode('utf-16-be'),
    TEXT.encode('utf-32'),
    TEXT.encode('utf-8-sig'),
    TEXT.replace('\n', '\r\n').encode(),
    TEXT.replace('\n', '\r').encode(),
    ('sep=,\n' + TEXT).encode(),
    ('"sep=,"\r\n' + TEXT).encode('utf-8-sig'),
    TEXT.replace(',', ',  ').encode(),
    '\n'.join(','.join(f' "{cell}"' for cell in row) for row in [HEADER, *rows()]).encode(),
    TEXT.replace('\n', ',\n').encode(),
    TEXT.replace('\n', ', ,\n').encode(),
  ],
  ids=['gzip', 'two members', 'utf-16 in gzip', 'utf-16', 'utf-16 big', 'utf-32', 'mark', 'windows', 'old mac', 'excel',
       'excel quoted', 'spaces', 'quotes', 'commas at the end', 'more commas'],
)  # fmt: skip
def test_the_same_table_in_other_clothes(content, tmp_path):
  plain, path = tmp_path / 'plain.csv', tmp_path / 'other.csv'
  plain.write_text(TEXT, encoding='utf-8')
  path.write_bytes(content)
  expected, table = read(plain), read(path)
  assert list(table.columns) == list(expected.columns)
  for name in HEADER:
    np.testing.assert_array_equal(table.columns[name], expected.columns[name])


@pytest.mark.parametrize(
  'content, parts',
  [
    (pack(TEXT.encode())[:-9], ['gzip is damaged', 'copy or download it again']),
    (pack(TEXT.encode())[:40] + b'\0' * 60, ['gzip is damaged']),
    (TEXT.replace('red', 'größe').encode('latin-1'), ["can't decode byte 0xf6", 'UTF-8', 'iconv -f WINDOWS-1252']),
    (TEXT.encode('utf-16')[:-3], ['utf-16', 'save it in UTF-8']),
    (TEXT.encode('utf-16-le'), ['a NUL byte']),
    ((TEXT + '\ufeff' + TEXT).encode(), ['after row 40', 'a byte order mark inside the text', 'joined']),
    (TEXT.replace('blue', 'bl\ufeffue').encode(), ['a byte order mark inside the text']),
    (b'PK\x03\x04' + b'\0' * 40, ['an Excel or zip file', 'save the table as CSV']),
    (b'\xd0\xcf\x11\xe0' + b'\0' * 40, ['an Excel file']),
    (b'PAR1\x15\x04', ['a Parquet file']),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n', ['is a Git LFS pointer', '`git lfs pull`']),
    (b'<!DOCTYPE html>\n<html></html>\n', ['a web page', 'download the file itself']),
    (b'<!doctype html>', ['is a web page']),
    (pack(b'<HTML><body>'), ['is a web page']),
  ],
)
def test_what_is_no_text(content, parts, tmp_path):
  path = tmp_path / 'mine.csv'
  path.write_bytes(content)
  with refuses(path, *parts):
    read(path)


def test_a_workbook(tmp_path):
  with zipfile.ZipFile(tmp_path / 'mine.csv', 'w') as archive:
    archive.writestr('xl/workbook.xml', '<workbook/>')
  with refuses('an Excel or zip file; save the table as CSV'):
    read(tmp_path / 'mine.csv')


def bomb(path, head, size):
  """A small gzip file of a line without an end."""
  with gzip.open(path, 'wb', compresslevel=1) as file:
    file.write(head)
    for _ in range(size // 2**20):
      file.write(b'0' * 2**20)


@pytest.mark.parametrize('head', [b'', b'a,label\n1,', b'a,label\n"'])
def test_a_line_without_an_end_does_not_fill_the_memory(head, tmp_path):
  path = tmp_path / 'bomb.csv.gz'
  bomb(path, head, 2**27)
  tracemalloc.start()
  with refuses(path, f'a line of more than {lines.LONGEST:,} characters'):
    read(path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2**26 < 2**27


def test_a_cell_has_its_own_limit(tmp_path, monkeypatch):
  path = tmp_path / 'mine.csv'
  path.write_text('a,label\n' + '0' * 200_000 + ',1\n')
  with refuses('after row 0: field larger than field limit (131072)'):
    read(path)
  # A quote that is not closed takes the next lines with it.
  path.write_text('a,label\n"0,1\n' + '1,0\n' * 50_000)
  with refuses('after row 0: field larger than field limit', 'close every quote'):
    read(path)
  monkeypatch.setattr(lines, 'LONGEST', 50)
  path.write_text('a,label\n' + '1,0\n' * 3 + '0' * 49 + ',1\n')
  with refuses('after row 3: a line of more than 50 characters'):
    read(path)


def test_a_packed_file_is_read_piece_by_piece(tmp_path):
  path = tmp_path / 'mine.csv.gz'
  with gzip.open(path, 'wt') as file:
    file.write('a,label\n' + '12345678,1\n' * 100_000)
  tracemalloc.start()
  count = sum(len(cells['a']) for _, cells in csv_files.read_cells(path))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert count == 100_000 and peak < 2**20


def test_files_are_closed(tmp_path, monkeypatch):
  """Also where only the header is read."""
  opened = []
  wrapper = io.TextIOWrapper
  monkeypatch.setattr(lines.io, 'TextIOWrapper', lambda *a, **k: opened.append(wrapper(*a, **k)) or opened[-1])
  path = tmp_path / 'mine.csv'
  path.write_text(TEXT)
  csv_files.read_header(path)
  next(csv_files.read_cells(path))
  assert opened and all(file.closed for file in opened)


def test_a_folder_of_packed_files(tmp_path):
  for split in ('train', 'test'):
    (tmp_path / f'{split}.csv.gz').write_bytes(gzip.compress(TEXT.encode()))
  data = Rows(name=f'csv:{tmp_path}', test='test')
  assert len(data.table('train', None)) == len(data.table('test', None)) == 40
  with refuses('val.csv, nor with .gz; put it there'):
    data.table('val', None)
