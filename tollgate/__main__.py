"""`python -m tollgate`: the command, where its script is not on the path."""

from tollgate.cli import main

main()
