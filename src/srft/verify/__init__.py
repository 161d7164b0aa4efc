"""The verifier: is a response's answer right?"""

from srft.verify.verifier import Grade, Verdict, Verifier

__all__ = ["Grade", "Verdict", "Verifier"]
