"""``python -m streams``: the command line, where no script is installed."""

from streams.cli import main

main()
