"""Preference methods: another library's loss, as a stage of ours."""

from __future__ import annotations

from srft.errors import SrftError
from srft.objective.registry import Terms, method
from srft.objective.tokens import Tokens


@method("dpo", needs={"preferences"}, source="DPO by TRL; PSFT Table 9", settings={"data.selection.keep": "pairs"})
def dpo(t: Tokens, *, beta: float = 0.01) -> Terms:
    """Direct preference optimization on chosen and rejected responses, by TRL's DPOTrainer (PSFT Table 9)."""
    raise SrftError("TRL computes this loss", where="method 'dpo'", fix="Use it as the method of a run or a stage.")
