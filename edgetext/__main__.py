"""``python -m edgetext``: the same as the ``edgetext`` command."""

from edgetext.cli import main

main()
