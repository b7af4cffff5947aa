"""Tables: a CSV file, or a function of the user's, and a schema -> numbers that a Mixer takes.

A table is read in two steps. `csv.read_csv` gives columns as they are in the file: float64 for numbers, text for
categories. `schema.fit` looks at training rows and gives a Schema, which turns any table of the same columns into
arrays, scaled as the training rows say:
  features [rows, columns], float32: every column scaled, a category as the number of its value;
  categories [rows, categorical columns], int32: that number itself, 0 for a value no training row has.
The schema is plain JSON and lies in the run directory, so that rows met later are treated as those of the training.
"""

from mixer_jax.data.tables.table import Table

__all__ = ['Table']
