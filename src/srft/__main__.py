"""`python -m srft` and `accelerate launch -m srft`: the same command line."""

from srft.cli import main

main()
