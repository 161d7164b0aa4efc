"""Problems and demonstrations: from files, the hub and generators, through templates, to tokens."""

from srft.data.load import load_problems, resolve_path
from srft.data.problem import Problem
from srft.data.template import TEMPLATES, Template, after_opening, render
from srft.data.tokenize import Counts, Demonstration, Prompt, TokenizedProblems, check_tokenizer, tokenize_problems

__all__ = [
    "TEMPLATES", "Counts", "Demonstration", "Problem", "Prompt", "Template", "TokenizedProblems", "after_opening",
    "check_tokenizer", "load_problems", "render", "resolve_path", "tokenize_problems",
]  # fmt: skip
