"""Rows of JSON lines, CSV, Parquet and saved Hugging Face datasets: (where it is, text) of one column.

With a label column the texts are `LabelledText`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgetext.corpus.labels import LabelledText, label_of
from edgetext.corpus.lines import document_too_long, read_lines
from edgetext.errors import CorpusError
from edgetext_runtime.errors import DependencyError

__all__ = ["is_saved_dataset", "read_csv", "read_jsonl", "read_parquet", "read_saved_dataset"]

_DEFAULT_COLUMN = "text"
_BATCH_ROWS = 256


def read_jsonl(
    path: Path, column: str | None, limit: int, label: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yields the texts of a file with one JSON object per line; null counts as empty.

    Raises:
        CorpusError: if a line is not an object, has no such key, or another value than a string there.
    """
    # A text can be longer in JSON than it is: \\u00e9 is six bytes for two.
    for number, line in read_lines(path, str(path), 6 * limit):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = getattr(error, "msg", str(error))
            raise CorpusError(
                f"{where}: not valid JSON ({message}). A .jsonl file has one object per line; from a JSON "
                f"array: jq -c '.[]' FILE.json > {path.name}"
            ) from None
        if not isinstance(row, dict):
            raise CorpusError(
                f'{where}: a JSON {type(row).__name__}, expected an object such as {{"text": "..."}} on '
                f"each line"
            )
        if column is None:
            column = _choose(_apart(_holding_strings(row), label), None, where)
        for name in (column, label):
            if name is not None and name not in row:
                raise _no_column(name, _holding_strings(row), where)
        yield where, _text_of(row[column], column, where, label, row.get(str(label)))


def read_csv(
    path: Path, column: str | None, limit: int, label: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yields the texts of one column of a comma-separated file whose first row holds the names.

    Raises:
        CorpusError: if there is no such column or a row does not have the columns of the first.
    """
    # The library's limit is for the whole process, and by default only 128 kB: it is raised, never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), limit + 1))
    rows = csv.reader((line for _, line in read_lines(path, str(path), limit)), strict=True)
    header: list[str] = []
    index = labels = 0
    start = 1
    try:
        for row in rows:
            where = f"{path}, line {start}"
            start = rows.line_num + 1
            if not row:
                continue
            if not header:
                header = row
                names = dict.fromkeys(header, True)
                column = _choose(_apart(names, label), column, where)
                index = header.index(column)
                labels = 0 if label is None else header.index(_choose(names, label, where))
            elif len(row) != len(header):
                raise CorpusError(
                    f"{where}: {len(row)} fields where the first row has {len(header)} "
                    f"({', '.join(header)}). A field "
                    'with a comma, a quote or a line end in it has to stand in quotes, "like ""this"""'
                )
            else:
                yield where, _text_of(row[index], str(column), where, label, row[labels])
    except csv.Error as error:
        if "field larger than" in str(error):
            raise document_too_long(f"{path}, line {start}", limit) from None
        raise CorpusError(
            f"{path}, line {start}: broken CSV row ({error}); look for a quote that is not closed or not "
            "doubled"
        ) from None


def read_parquet(path: Path, column: str | None, label: str | None = None) -> Iterator[tuple[str, str]]:
    """Yields the texts of one column of a Parquet file, a batch of rows at a time.

    Raises:
        CorpusError: if it is not a Parquet file or there is no such column of strings.
        DependencyError: if ``pyarrow`` is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DependencyError("pyarrow is not installed: pip install 'edgetext[train]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            types = {field.name: _is_string(field.type) for field in file.schema_arrow}
            column = _choose(_apart(types, label), column, str(path))
            wanted = _wanted(types, column, label, path)
            batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted)
            yield from _rows((batch.to_pydict() for batch in batches), column, path, label)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(
            f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}); copy or download it again"
        ) from None


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``folder`` was written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def read_saved_dataset(
    folder: Path, column: str | None, label: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yields the texts of one column of a dataset saved with the ``datasets`` library, memory-mapped.

    Of a dataset with several splits only ``train`` is read: what is set aside should not be trained on.
    Another split is read by naming its folder.

    Raises:
        CorpusError: if the folder is damaged or there is no such column of strings.
        DependencyError: if ``datasets`` is missing.
    """
    try:
        import datasets
    except ImportError:
        raise DependencyError("datasets is not installed: pip install 'edgetext[train]'") from None
    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # noqa: BLE001 - the library lets through whatever its parts raise
        raise CorpusError(
            f"{folder} cannot be read as a saved dataset ({type(error).__name__}: {error}); save it again"
        ) from None
    if isinstance(data, datasets.DatasetDict):
        splits = sorted(data)
        name = "train" if "train" in data else splits[0]
        if "train" not in data and len(splits) > 1:
            raise CorpusError(f"{folder} has no split train; name the folder of one: {', '.join(splits)}")
        data = data[name]
    kinds = {
        name: getattr(kind, "dtype", "") in ("string", "large_string") for name, kind in data.features.items()
    }
    column = _choose(_apart(kinds, label), column, str(folder))
    wanted = _wanted(kinds, column, label, folder)
    batches = data.select_columns(wanted).with_format(None).iter(batch_size=_BATCH_ROWS)
    yield from _rows(batches, column, folder, label)


def _rows(
    batches: Iterable[Mapping[str, list[object]]], column: str, path: Path, label: str | None
) -> Iterator[tuple[str, str]]:
    number = 0
    for batch in batches:
        for value, own in zip(batch[column], batch[label or column], strict=True):
            number += 1
            where = f"{path}, row {number}"
            yield where, _text_of(value, column, where, label, own)


def _apart(columns: Mapping[str, bool], label: str | None) -> dict[str, bool]:
    """The columns that the text may be in."""
    return {name: is_string for name, is_string in columns.items() if name != label}


def _wanted(columns: Mapping[str, bool], column: str, label: str | None, path: Path) -> list[str]:
    """The columns to read."""
    if label is None:
        return [column]
    if label not in columns:
        raise _no_column(label, columns, str(path))
    return [column, label]


def _holding_strings(row: Mapping[str, object]) -> dict[str, bool]:
    return {key: isinstance(value, str) for key, value in row.items()}


def _is_string(kind: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _choose(columns: Mapping[str, bool], wanted: str | None, where: str) -> str:
    """Returns the column to read, given for every column whether it holds strings."""
    if wanted is not None:
        if wanted not in columns:
            raise _no_column(wanted, columns, where)
        if not columns[wanted]:
            raise CorpusError(f"{where}: column {wanted!r} does not hold text; {_listed(columns)}")
        return wanted
    if columns.get(_DEFAULT_COLUMN):
        return _DEFAULT_COLUMN
    strings = [name for name, is_string in columns.items() if is_string]
    if len(strings) == 1:
        return strings[0]
    which = "several columns hold text" if strings else "no column holds text"
    raise CorpusError(
        f"{where}: {which}; choose with --column: {', '.join(strings or columns) or '(there is none)'}"
    )


def _no_column(column: str, columns: Mapping[str, bool], where: str) -> CorpusError:
    return CorpusError(f"{where}: there is no column {column!r}; {_listed(columns)}")


def _listed(columns: Mapping[str, bool]) -> str:
    strings = [name for name, is_string in columns.items() if is_string]
    return f"choose with --column: {', '.join(strings)}" if strings else f"columns: {', '.join(columns)}"


def _text_of(value: object, column: str, where: str, label: str | None, own: object) -> str:
    """Returns the text of a row, with its label if there is a label column, whose value is ``own``."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value if label is None or not value else LabelledText(value, label_of(own, label, where))
    raise CorpusError(
        f"{where}: column {column!r} holds {type(value).__name__} {str(value)[:40]!r}, not text; choose "
        "another with --column"
    )
