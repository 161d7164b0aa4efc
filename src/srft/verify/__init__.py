"""The verifier: grades responses. The libraries for mathematics are imported by its worker processes alone."""

from srft.verify.grade import Grade, Verdict
from srft.verify.graders import GRADER_NAMES
from srft.verify.verifier import Verifier

__all__ = ["GRADER_NAMES", "Grade", "Verdict", "Verifier"]
