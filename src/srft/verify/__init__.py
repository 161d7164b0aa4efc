"""The verifier: is a response's answer right?"""

from srft.verify.graders import overlong_penalty
from srft.verify.verifier import VERIFIERS, Grade, Verdict, Verifier

__all__ = ["VERIFIERS", "Grade", "Verdict", "Verifier", "overlong_penalty"]
