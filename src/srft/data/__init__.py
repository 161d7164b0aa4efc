"""Problems and demonstrations: from files, the hub, generators and rows in memory, through templates, to tokens."""

from srft.data.load import load_data, load_problems, problems_from_rows, resolve_path
from srft.data.make_template import make_template
from srft.data.problem import Problem
from srft.data.settings import Columns, FewShot, PromptSettings
from srft.data.template import TEMPLATES, Template, after_opening, render
from srft.data.tokenize import Counts, Demonstration, Prompt, TokenizedProblems, check_tokenizer, tokenize_problems

__all__ = [
    "TEMPLATES", "Columns", "Counts", "Demonstration", "FewShot", "Problem", "Prompt", "PromptSettings", "Template",
    "TokenizedProblems", "after_opening", "check_tokenizer", "load_data", "load_problems", "make_template",
    "problems_from_rows", "render", "resolve_path", "tokenize_problems",
]  # fmt: skip
