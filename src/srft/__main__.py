"""`python -m srft`, alone or under torchrun: the same command line."""

from srft.cli import main

main()
