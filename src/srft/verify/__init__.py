"""The verifier: grades responses. The libraries for mathematics are imported by its worker processes alone."""

from srft.verify.grade import Grade, Verdict
from srft.verify.graders import GRADERS
from srft.verify.verifier import Verifier

GRADER_NAMES = tuple(GRADERS)

__all__ = ["GRADER_NAMES", "Grade", "Verdict", "Verifier"]
