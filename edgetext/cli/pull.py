"""``edgetext pull``: a bundle from the Hugging Face Hub."""

from __future__ import annotations

import json

import click


@click.command(short_help="Get a bundle from the Hugging Face Hub, checked.")
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--file", metavar="NAME.etx", help="Which bundle, if the repository has several.")
@click.option("--revision", metavar="NAME", help="Branch, tag or commit. Default: the main branch.")
@click.option("-o", "--output", type=click.Path(path_type=str), help="Default: the bundle's name, here.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line with path and hash at the end.")
def command(
    repository: str, file: str | None, revision: str | None, output: str | None, force: bool, as_json: bool
) -> None:
    """Download the bundle of the repository OWNER/NAME, check it, and put it where you are.

    Needs huggingface_hub: pip install 'edgetext[hub]'. A device needs only the file.
    """
    from edgetext_export.hub import pull_bundle

    path, sha256 = pull_bundle(repository, output, force=force, file=file, revision=revision)
    click.echo(f"{path}\nsha256 of the manifest, which names the content: {sha256}")
    if as_json:
        click.echo(json.dumps({"path": str(path), "sha256": sha256}))
