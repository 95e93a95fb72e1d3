"""Where an export goes, and how it gets there: nothing has its name before it has been checked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgetext.errors import ExportError
from edgetext.models.huggingface import is_huggingface
from edgetext_export.golden import replay
from edgetext_export.writer import write_bundle
from edgetext_runtime.bundle import Manifest, read_bundle
from edgetext_runtime.errors import BundleError, EdgetextError
from edgetext_runtime.generator import Generator

VERIFIED_THREADS = (1, 2)
"""Thread counts at which the written file must give its golden tokens."""


def output_path(source: Path, output: str | Path | None, recipe: str) -> Path:
    """Where the bundle goes: into the run, but not into somebody else's model directory.

    Raises ExportError if a name was given that does not end in .etx.
    """
    if output is not None:
        path = Path(output)
        if path.suffix != ".etx" and not path.is_dir():
            raise ExportError(f"{path} is no name of a bundle; call it {path.name}.etx (-o)")
        return path
    return (
        Path(f"{source.resolve().name}-{recipe}.etx")
        if is_huggingface(source)
        else source / f"student-{recipe}.etx"
    )


def check_outputs(paths: Sequence[Path], force: bool) -> None:
    """Refuse outputs that could not be written, before minutes go into making them."""
    first = paths[0]
    for path in paths:
        if path.is_dir():
            raise ExportError(
                f"{path} is a directory; give the path of a file, such as {path / 'model.etx'} (-o)"
            )
        if path.exists() and not force:
            raise ExportError(
                f"{path} exists already; replace it with --force, or choose another path with -o"
            )
    if not first.parent.is_dir():
        raise ExportError(f"{first.parent} is not a directory; make it first, or choose another path with -o")
    if not os.access(first.parent, os.W_OK):
        raise ExportError(f"{first.parent} cannot be written to; choose another path with -o")


def deliver(
    path: Path,
    manifest: Manifest,
    members: Mapping[str, bytes],
    files: Mapping[Path, bytes],
    accept: Callable[[int], None],
) -> None:
    """Write a bundle and the files beside it under other names, check what can be read back, then name them.

    Args:
        path: the bundle's.
        manifest: the bundle's, its record of the members left out.
        members: all but the manifest.
        files: what lies beside the bundle, by path in the same folder.
        accept: is given the size of the bundle and raises ExportError if it is not wanted.

    Raises:
        ExportError: if the bundle is not wanted, gives other golden tokens than it holds, or a file cannot be
            written; then nothing is.
    """
    drafts = {name: name.with_name(f".{name.name}.{os.getpid()}.draft") for name in (*files, path)}
    try:
        try:
            write_bundle(drafts[path], manifest, members, force=True)
            accept(drafts[path].stat().st_size)
            bundle = read_bundle(drafts[path])
            for threads in VERIFIED_THREADS:
                check_replay(
                    Generator(bundle, threads=threads, provider="cpu"), f"read back with {threads} threads"
                )
            del bundle
            for name, content in files.items():
                drafts[name].write_bytes(content)
            for name, draft in drafts.items():  # the bundle last: it is what others wait for
                draft.replace(name)
        finally:
            for draft in drafts.values():
                draft.unlink(missing_ok=True)
    except ExportError:
        raise
    except (BundleError, OSError) as error:
        reason = error.__cause__ or error
        said = reason.strerror if isinstance(reason, OSError) else str(reason)
        raise ExportError(
            f"{path} could not be written: {said}; nothing was. Make room there, or choose another path with "
            f"-o"
        ) from error
    except EdgetextError as error:
        raise ExportError(f"the written bundle does not run: {error}") from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what tools read and write on the way, gone afterwards.

    Raises:
        ExportError: if it cannot be made, or has no room.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except OSError as error:
        raise ExportError(
            f"there is no room for temporary files: {error.strerror}; make some, or name another folder in "
            f"the environment variable TMPDIR"
        ) from error


def check_replay(generator: Generator, how: str) -> None:
    """Raise ExportError if a golden case gives other tokens; `how` says what was done to the model since."""
    for number, result in enumerate(replay(generator)):
        if not result.equal:
            raise ExportError(
                f"golden case {number} gives other tokens when the model is {how} (first at token "
                f"{result.first_difference}): onnxruntime is not deterministic here; please report this"
            )
