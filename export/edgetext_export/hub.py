"""Bundles on the Hugging Face Hub: one .etx file in a model repository, its card as the repository's page.

The device never needs this: it is given a file. ``huggingface_hub`` does the talking, with its own cache,
login and environment variables (``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetext.checkpoint import write_atomic
from edgetext.errors import EdgetextError, HubError
from edgetext_export.writer import write_bundle
from edgetext_runtime.bundle import read_bundle
from edgetext_runtime.errors import DependencyError, InputError

PAGE = "README.md"
"""What the Hub shows of a repository."""


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    url: str
    """Of the commit."""
    file: str
    """Name of the bundle in the repository."""
    page: bool
    """Whether the repository's page was written as well."""


def push_bundle(
    bundle: str | Path,
    repository: str,
    *,
    private: bool = False,
    force: bool = False,
    endpoint: str | None = None,
) -> Pushed:
    """Put a bundle into a model repository of the Hub, which is made if there is none.

    The card becomes the repository's page unless there is one already (`force` replaces it). A folder with
    the members of a bundle is put together first.

    Args:
        bundle: path of an .etx file, or of an unpacked folder.
        repository: ``owner/name``.
        private: make the repository private, if it is made now.
        force: replace a file of the same name.
        endpoint: address of the Hub; default: ``HF_ENDPOINT``, or the Hub.

    Raises:
        BundleError: if it is no valid bundle.
        DependencyError: without ``huggingface_hub``.
        HubError: if the Hub refuses, or cannot be reached.
        InputError: if the repository has a file of that name, or its name is none.
    """
    _check_name(repository)
    bundle, library = Path(bundle), _library()
    read = read_bundle(bundle)
    card = read.members["CARD.md"].decode() + _how_to_get(repository, _file_name(bundle))
    with tempfile.TemporaryDirectory() as folder, _errors(library, repository):
        api = library.HfApi(endpoint=endpoint)
        file = _file_name(bundle)
        path = write_bundle(Path(folder) / file, read.manifest, read.members) if bundle.is_dir() else bundle
        api.create_repo(repository, private=private, exist_ok=True)
        present = api.list_repo_files(repository)
        if file in present and not force:
            raise InputError(f"{repository} has a {file} already; replace it with --force, or rename yours")
        files = {file: path} if PAGE in present and not force else {file: path, PAGE: card.encode()}
        commit = api.create_commit(
            repository,
            [library.CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=f"Add {file}",
        )
    return Pushed(str(commit.commit_url), file, PAGE in files)


def fetch_bundle(
    repository: str, *, file: str | None = None, revision: str | None = None, endpoint: str | None = None
) -> Path:
    """Download a bundle from the Hub into the cache of ``huggingface_hub``, check it, and return its path.

    What is there already is not downloaded again. `Generator.load` takes the path.

    Args:
        repository: ``owner/name``.
        file: the .etx file, if the repository has several.
        revision: branch, tag or commit; default: the main branch.
        endpoint: as for `push_bundle`.

    Raises:
        BundleError: if what came is no valid bundle.
        DependencyError: without ``huggingface_hub``.
        HubError: if the Hub refuses, or cannot be reached.
        InputError: if the repository has no bundle, or several and `file` does not say which.
    """
    _check_name(repository)
    library = _library()
    with _errors(library, repository):
        if file is None:
            present = library.HfApi(endpoint=endpoint).list_repo_files(repository, revision=revision)
            file = _only([name for name in present if name.endswith(".etx")], repository)
        path = Path(library.hf_hub_download(repository, file, revision=revision, endpoint=endpoint))
    read_bundle(path)
    return path


def pull_bundle(
    repository: str,
    output: str | Path | None = None,
    *,
    force: bool = False,
    file: str | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
) -> tuple[Path, str]:
    """Download a bundle as `fetch_bundle` does, and put it at `output` (default: its name, here).

    Returns:
        Its path, and the SHA-256 that names it (`Bundle.sha256`).

    Raises:
        InputError: also if the output exists and `force` is not set.
    """
    if output is not None:
        _check_free(Path(output), force)  # before anything is downloaded
    fetched = fetch_bundle(repository, file=file, revision=revision, endpoint=endpoint)
    path = Path(fetched.name if output is None else output)
    _check_free(path, force)
    try:
        write_atomic(path, fetched.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}; choose another path with -o") from error
    return path, read_bundle(path).sha256


def _check_free(path: Path, force: bool) -> None:
    if path.is_dir() or (path.exists() and not force):
        raise InputError(
            f"{path} exists already: choose another path with -o, or replace a file with --force"
        )


def _check_name(repository: str) -> None:
    owner, slash, name = repository.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise InputError(f"{repository!r} is no name of a repository; give owner/name")


def _only(files: list[str], repository: str) -> str:
    if len(files) == 1:
        return files[0]
    if not files:
        raise InputError(f"{repository} has no bundle (.etx); is it the right repository?")
    raise InputError(f"{repository} has several bundles; choose one with --file: {', '.join(sorted(files))}")


def _file_name(bundle: Path) -> str:
    name = bundle.resolve().name
    return name if name.endswith(".etx") else f"{name}.etx"


def _how_to_get(repository: str, file: str) -> str:
    """What the page says beyond the card."""
    return (
        f"\n## From the Hub\n\n```sh\nedgetext pull {repository} --file {file}   # checked on arrival; or\n"
        f"hf download {repository} {file} --local-dir .\n```\n"
    )


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise DependencyError("huggingface_hub is not installed: pip install 'edgetext[hub]'") from None
    return huggingface_hub


@contextmanager
def _errors(library: Any, repository: str) -> Iterator[None]:
    """Turn what the library, or the connection below it, raises into one clear message."""
    errors = library.errors
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it would tell of every try to connect again
    try:
        yield
    except EdgetextError:
        raise
    except errors.HFValidationError as error:
        raise InputError(f"{repository!r} is no name of a repository; give owner/name") from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        raise HubError(
            f"the Hub has no such thing in {repository}: {_said(error)}; check the name, and log in if it is "
            f"private: hf auth login"
        ) from error
    except errors.HfHubHTTPError as error:
        raise HubError(
            f"the Hub refuses ({repository}): {_said(error)}; log in with a token that may do this: hf auth "
            f"login"
        ) from error
    except Exception as error:  # its own, and those of whichever HTTP library it uses
        raise HubError(f"the Hub cannot be reached ({repository}): {_said(error)}") from error
    finally:
        logger.setLevel(level)


def _said(error: Exception) -> str:
    return next(filter(None, (line.strip() for line in str(error).splitlines())), type(error).__name__)
