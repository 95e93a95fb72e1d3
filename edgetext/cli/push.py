"""``edgetext push``: a bundle onto the Hugging Face Hub."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command(short_help="Put a bundle on the Hugging Face Hub.")
@click.argument("model", metavar="MODEL.etx", type=click.Path(path_type=str))
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make the repository private, if it is made now.")
@click.option("--force", is_flag=True, help="Replace the repository's file of that name, and its page.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line with what was done at the end.")
def command(model: str, repository: str, private: bool, force: bool, as_json: bool) -> None:
    """Put MODEL.etx (or its unpacked folder) into the repository OWNER/NAME, which is made if there is none.

    Its card becomes the repository's page, unless there is one already. You are who `hf auth login` says you
    are, or HF_TOKEN. Needs huggingface_hub: pip install 'edgetext[hub]'.
    """
    from edgetext_export.hub import push_bundle

    pushed = push_bundle(model, repository, private=private, force=force)
    page = "with its card as the page" if pushed.page else "the page that was there stays"
    click.echo(f"{pushed.file} is in {repository}, {page}: {pushed.url}")
    if as_json:
        click.echo(json.dumps(asdict(pushed)))
