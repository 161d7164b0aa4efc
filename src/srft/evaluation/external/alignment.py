"""MT-Bench, AlpacaEval 2 and Arena-Hard: the model answers by PSFT's settings (Table 10), a judge compares or rates."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from srft.data import TEMPLATES
from srft.data.files import append_rows, parse_json, read_jsonl, read_text, read_whole_rows, write_json, write_rows
from srft.data.template import apply_chat_template
from srft.errors import SrftError, did_you_mean, reason
from srft.evaluation.estimators import bootstrap
from srft.evaluation.external.judge import (
    CHOICE_SYSTEM,
    PAIR_PROMPT,
    PAIR_SYSTEM,
    Endpoint,
    PairVerdict,
    pairwise,
    preference,
    rating,
)
from srft.evaluation.records import check_same
from srft.policy.forward import Policy
from srft.policy.load import ModelSettings, load_config, load_model, load_tokenizer
from srft.policy.placement import for_inference
from srft.rollout.engine import SamplerSettings, make_sampler
from srft.rollout.sampler import SampleRequest, SamplingParams
from srft.seed import derive_seed

SYSTEM = TEMPLATES["assistant"].system or ""
Row = dict[str, Any]
Answer = Callable[[Sequence[Sequence[Mapping[str, str]]], Sequence[int]], list[str]]  # chats and their seeds → replies


@dataclass(frozen=True)
class Alignment:
    """One judged benchmark: its sampling of PSFT's Table 10 (which gives no length), its files, how many questions."""

    sampling: SamplingParams
    files: tuple[str, ...]
    questions: int


ALIGNMENTS: Mapping[str, Alignment] = {
    "mt-bench": Alignment(
        SamplingParams(n=1, temperature=0.0, top_p=1.0),
        ("mt_bench_question.jsonl", "mt_bench_reference_gpt4.jsonl", "mt_bench_judge_prompts.jsonl"),
        80,
    ),
    "alpaca-eval": Alignment(
        SamplingParams(n=1, temperature=0.7, top_p=0.95), ("alpaca_eval2_baseline_gpt4_1106.json",), 805
    ),
    "arena-hard": Alignment(
        SamplingParams(n=1, temperature=1.0, top_p=0.7),
        ("arena_hard_v0.1_question.jsonl", "arena_hard_v0.1_baseline_gpt-4-0314.jsonl"),
        500,
    ),
}


def judge(
    model: str,
    benchmark: str,
    endpoint: Endpoint,
    *,
    data_dir: Path,
    out: Path,
    limit: int | None = None,
    max_length: int = 2048,
    max_batch: int = 64,
    engine: str = "auto",
    seed: int = 0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Answer, have judged, score. Answers and judgements lie in `out`; the same call again asks for what is missing.

    Raises:
        SrftError: files are missing, or the judge does not answer.
    """
    if benchmark not in ALIGNMENTS:
        raise SrftError(
            f"unknown benchmark '{benchmark}'", where="--benchmark", fix=did_you_mean(benchmark, ALIGNMENTS)
        )
    endpoint.check()
    alignment = ALIGNMENTS[benchmark]
    params = alignment.sampling.model_copy(update={"max_response_length": max_length})
    data = [_published(data_dir / file) for file in alignment.files]
    if len(data[0]) != alignment.questions:
        raise SrftError(
            f"{benchmark} has {alignment.questions} questions, found {len(data[0])}",
            where=str(data_dir / alignment.files[0]),
            fix="Fetch the published file.",
        )
    out.mkdir(parents=True, exist_ok=True)
    try:
        questions = _questions(benchmark, data)[:limit]
    except (LookupError, TypeError, AttributeError) as error:
        what = f"not the published files: {reason(error)}"
        raise SrftError(what, where=str(data_dir), fix="Fetch them anew.") from None
    settings = {"model": model, "temperature": params.temperature, "top_p": params.top_p, "max_length": max_length}
    _continue(out / f"{benchmark}.settings.json", {**settings, "seed": seed, "judge": endpoint.model})
    answers = _RowsById(out / f"{benchmark}.answers.jsonl")
    if missing := [q for q in questions if q["id"] not in answers.rows]:
        reply = _model(model, params, SamplerSettings.model_validate({"engine": engine, "max_batch": max_batch}))
        _answer(missing, reply, answers, seed, max(max_batch, 1))
    games = [g for q in questions for g in _games(benchmark, q, answers.rows[q["id"]]["turns"], data, seed)]
    judged = _RowsById(out / f"{benchmark}.judgements.jsonl")
    left = [g for g in games if g["id"] not in judged.rows]
    more = {"logprobs": True, "top_logprobs": 5, "max_tokens": 1} if benchmark == "alpaca-eval" else {}

    def keep(i: int, judgement: dict[str, Any]) -> None:
        judged.add({**{k: v for k, v in left[i].items() if k != "messages"}, **judgement})

    endpoint.ask_all([g["messages"] for g in left], keep, **more)
    result = {**settings, "benchmark": benchmark, "judge": endpoint.model, "questions": len(questions)}
    result |= _score(benchmark, [judged.rows[g["id"]] for g in games])
    write_json(out / f"{benchmark}.json", result)
    if benchmark == "alpaca-eval":  # for the length-controlled rate, by AlpacaEval's own package
        outputs = [
            {"instruction": q["turns"][0], "output": answers.rows[q["id"]]["turns"][0], "generator": model}
            for q in questions
        ]
        write_json(out / "alpaca-eval.outputs.json", outputs)
    if console:
        shown = ", ".join(f"{k} {v:.2f}" for k, v in result.items() if isinstance(v, float) and k not in settings)
        console.print(f"{benchmark}, {len(questions)} questions: {shown}", highlight=False)
    return result


def _questions(benchmark: str, data: Sequence[Sequence[Row]]) -> list[Row]:
    """`id`, `turns`, and the `baseline` to compare with or the `reference` to rate by."""
    if benchmark == "mt-bench":
        references = {r["question_id"]: r["choices"][0]["turns"] for r in data[1]}
        return [
            {"id": str(r["question_id"]), "turns": r["turns"], "reference": references.get(r["question_id"])}
            for r in data[0]
        ]
    if benchmark == "alpaca-eval":
        return [{"id": str(i), "turns": [r["instruction"]], "baseline": r["output"]} for i, r in enumerate(data[0])]
    baselines = {r["uid"]: r["messages"][-1]["content"]["answer"] for r in data[1]}
    return [{"id": r["uid"], "turns": [r["prompt"]], "baseline": baselines[r["uid"]]} for r in data[0]]


def _games(benchmark: str, q: Row, answers: Sequence[str], data: Sequence[Sequence[Row]], seed: int) -> list[Row]:
    """What the judge is asked about a question: messages, and where our answer stands."""
    if benchmark == "mt-bench":
        prompts = {p["name"]: p for p in data[2]}
        kind, fields = ("single-math-v1", _turns("ref_answer", q["reference"])) if q["reference"] else ("single-v1", {})
        fields |= _turns("question", q["turns"]) | _turns("answer", answers)
        fields |= {"question": q["turns"][0], "answer": answers[0]}
        return [
            {"id": f"{q['id']}-{turn}", "turn": turn, "messages": _messages(prompts[name], fields)}
            for turn, name in ((1, kind), (2, f"{kind}-multi-turn"))
        ]
    if benchmark == "alpaca-eval":
        ours_first = random.Random(derive_seed(seed, "order", q["id"])).random() < 0.5
        pair = (answers[0], q["baseline"]) if ours_first else (q["baseline"], answers[0])
        text = f"# Instruction\n{q['turns'][0]}\n\n# Output m\n{pair[0]}\n\n# Output M\n{pair[1]}\n\nWhich is better?"
        return [{"id": q["id"], "ours": "m" if ours_first else "M", "messages": _chat(CHOICE_SYSTEM, text)}]
    games = []
    for ours, pair in (("B", (q["baseline"], answers[0])), ("A", (answers[0], q["baseline"]))):
        text = PAIR_PROMPT.format(question=q["turns"][0], answer_a=pair[0], answer_b=pair[1])
        games.append({"id": f"{q['id']}-{ours}", "ours": ours, "messages": _chat(PAIR_SYSTEM, text)})
    return games


def _score(benchmark: str, judged: Sequence[Row]) -> dict[str, Any]:
    """Means over what could be read, with how much could not be."""
    if benchmark == "mt-bench":
        read = [(row["turn"], rating(row["text"])) for row in judged]
        turns = {turn: [r for t, r in read if t == turn and r is not None] for turn in (1, 2)}
        means: dict[str, Any] = {f"turn{turn}": fmean(values) for turn, values in turns.items() if values}
        if every := [*turns[1], *turns[2]]:
            means["mean"] = fmean(every)
        return means | {"unread": sum(r is None for _, r in read)}
    rounds = [_round(benchmark, row) for row in judged]
    by_question: dict[str, list[PairVerdict]] = {}
    for row, verdict in zip(judged, rounds, strict=True):
        if verdict:
            by_question.setdefault(row["id"].rpartition("-")[0] or row["id"], []).append(verdict)
    if not by_question:
        return {"unread": len(judged)}
    wins = [100 * sum(game.win * game.weight for game in games) for games in by_question.values()]
    weights = [float(sum(game.weight for game in games)) for games in by_question.values()]
    rate = {"win_rate": sum(wins) / sum(weights), "win_rate_ci": bootstrap(wins, weights=weights)}
    return rate | {"unread": sum(r is None for r in rounds)}


def _round(benchmark: str, row: Row) -> PairVerdict | None:
    """The verdict as our share of the win; None where it cannot be read."""
    if benchmark == "alpaca-eval":
        second = preference(row)
        return None if second is None else PairVerdict(second if row["ours"] == "M" else 1 - second, 1)
    verdict = pairwise(row["text"])
    if verdict is None or row["ours"] == "A":
        return verdict
    return PairVerdict(1 - verdict.win, verdict.weight)


def _answer(questions: Sequence[Row], reply: Answer, answers: _RowsById, seed: int, batch: int) -> None:
    for start in range(0, len(questions), batch):
        part = questions[start : start + batch]
        turns: list[list[str]] = [[] for _ in part]
        for turn in range(max(len(q["turns"]) for q in part)):
            chats = []
            for q, said in zip(part, turns, strict=True):
                chat = [{"role": "system", "content": SYSTEM}]
                for asked, answered in zip(q["turns"], [*said, None], strict=False):
                    chat.append({"role": "user", "content": asked})
                    chat += [{"role": "assistant", "content": answered}] if answered is not None else []
                chats.append(chat)
            texts = reply(chats, [derive_seed(seed, "judged", q["id"], turn) for q in part])
            for said, text in zip(turns, texts, strict=True):
                said.append(text)
        for q, said in zip(part, turns, strict=True):
            answers.add({"id": q["id"], "turns": said})


def _model(path: str, params: SamplingParams, sampler_settings: SamplerSettings) -> Answer:
    settings = ModelSettings(path=path)
    tokenizer, config = load_tokenizer(settings), load_config(settings)
    if not getattr(tokenizer, "chat_template", None):
        raise SrftError("the tokenizer has no chat template", where=path, fix="Judged benchmarks need a chat model.")
    window = getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    policy = Policy(for_inference(load_model(settings)))
    sampler = make_sampler(sampler_settings, policy, settings, tokenizer, max_model_len=min(window, 16384))

    def reply(chats: Sequence[Sequence[Mapping[str, str]]], seeds: Sequence[int]) -> list[str]:
        texts = [apply_chat_template(chat, TEMPLATES["chat"], tokenizer) for chat in chats]
        prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        room = window - max(map(len, prompts))
        if room < 1:
            raise SrftError("a chat is longer than the model's window", where=path, fix="Lower --max-length.")
        groups = sampler.sample(
            [SampleRequest(ids, seed) for ids, seed in zip(prompts, seeds, strict=True)],
            params.model_copy(update={"max_response_length": min(params.max_response_length, room)}),
        )
        replies = [tokenizer.decode(group[0].token_ids, skip_special_tokens=True) for group in groups]
        return [text.rpartition("</think>")[2].strip() for text in replies]

    return reply


class _RowsById:
    """Rows by `id` in a file that grows line by line; a line that a kill cut is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {row["id"]: row for row in read_whole_rows(path) if "id" in row}
        write_rows(path, self.rows.values())

    def add(self, row: Row) -> None:
        self.rows[row["id"]] = row
        append_rows(self.path, [row])


def _continue(file: Path, settings: Mapping[str, Any]) -> None:
    """Record the settings, or check that they are those of the answers that are kept."""
    if file.exists():
        check_same("answers", parse_json(read_text(file), str(file)), settings, file)
    write_json(file, settings)


def _published(file: Path) -> list[Row]:
    if not file.is_file():
        raise SrftError("no such file", where=str(file), fix="Put the published file into --data-dir.")
    if file.suffix == ".json":
        return parse_json(read_text(file), str(file))
    return [row for _, row in read_jsonl(file)]


def _turns(name: str, texts: Sequence[str]) -> dict[str, str]:
    return {f"{name}_{i}": text for i, text in enumerate(texts, 1)}


def _messages(prompt: Row, fields: Mapping[str, str]) -> list[dict[str, str]]:
    return _chat(prompt["system_prompt"], prompt["prompt_template"].format(**fields))


def _chat(system: str, text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]
