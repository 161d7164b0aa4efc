"""MT-Bench, AlpacaEval 2 and Arena-Hard: the model answers by PSFT's settings (Table 10), a judge compares or rates."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console

from srft.data import resolve_path
from srft.errors import SrftError, did_you_mean
from srft.evaluation.judge import CHOICE_SYSTEM, PAIR_PROMPT, PAIR_SYSTEM, Endpoint, pairwise, preference, rating
from srft.evaluation.metrics import bootstrap
from srft.evaluation.records import replace
from srft.policy import load_config, load_model, load_tokenizer, pad_token, stop_tokens
from srft.rollout import make_sampler
from srft.seed import derive_seed

SYSTEM = "You are a helpful assistant."  # PSFT A.2
Row = dict[str, Any]
Answer = Callable[[Sequence[Sequence[Mapping[str, str]]], Sequence[int]], list[str]]  # chats and their seeds → replies


@dataclass(frozen=True)
class Alignment:
    """One judged benchmark: its settings of PSFT's Table 10, its files, how many questions."""

    temperature: float
    top_p: float
    files: tuple[str, ...]
    questions: int


ALIGNMENTS: Mapping[str, Alignment] = {
    "mt-bench": Alignment(
        0.0, 1.0, ("mt_bench_question.jsonl", "mt_bench_reference_gpt4.jsonl", "mt_bench_judge_prompts.jsonl"), 80
    ),
    "alpaca-eval": Alignment(0.7, 0.95, ("alpaca_eval2_baseline_gpt4_1106.json",), 805),
    "arena-hard": Alignment(
        1.0, 0.7, ("arena_hard_v0.1_question.jsonl", "arena_hard_v0.1_baseline_gpt-4-0314.jsonl"), 500
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
    setting = ALIGNMENTS[benchmark]
    data = [_read(data_dir / file) for file in setting.files]
    if len(data[0]) != setting.questions:
        raise SrftError(
            f"{benchmark} has {setting.questions} questions, found {len(data[0])}",
            where=str(data_dir / setting.files[0]),
            fix="Fetch the published file.",
        )
    out.mkdir(parents=True, exist_ok=True)
    questions = _questions(benchmark, data)[:limit]
    settings = {"model": model, "temperature": setting.temperature, "top_p": setting.top_p, "max_length": max_length}
    _same(out / f"{benchmark}.settings.json", {**settings, "seed": seed, "judge": endpoint.model})
    answers = _Kept(out / f"{benchmark}.answers.jsonl")
    if missing := [q for q in questions if q["id"] not in answers.rows]:
        reply = _model(model, setting, max_length, max_batch, engine)
        _answer(missing, reply, answers, seed, max(max_batch, 1))
    games = [g for q in questions for g in _games(benchmark, q, answers.rows[q["id"]]["turns"], data, seed)]
    judged = _Kept(out / f"{benchmark}.judgements.jsonl")
    left = [g for g in games if g["id"] not in judged.rows]
    more = {"logprobs": True, "top_logprobs": 5, "max_tokens": 1} if benchmark == "alpaca-eval" else {}

    def take(i: int, found: dict[str, Any]) -> None:
        judged.add({**{k: v for k, v in left[i].items() if k != "messages"}, **found})

    endpoint.ask_all([g["messages"] for g in left], take, **more)
    result = {**settings, "benchmark": benchmark, "judge": endpoint.model, "questions": len(questions)}
    result |= _score(benchmark, [judged.rows[g["id"]] for g in games])
    replace(out / f"{benchmark}.json", json.dumps(result, indent=2) + "\n")
    if benchmark == "alpaca-eval":  # for the length-controlled rate, by AlpacaEval's own package
        outputs = [
            {"instruction": q["turns"][0], "output": answers.rows[q["id"]]["turns"][0], "generator": model}
            for q in questions
        ]
        replace(out / "alpaca-eval.outputs.json", json.dumps(outputs, ensure_ascii=False, indent=1) + "\n")
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
        found: dict[str, Any] = {f"turn{turn}": fmean(values) for turn, values in turns.items() if values}
        if every := [*turns[1], *turns[2]]:
            found["mean"] = fmean(every)
        return found | {"unread": sum(r is None for _, r in read)}
    rounds = [_round(benchmark, row) for row in judged]
    by_question: dict[str, list[tuple[float, int]]] = {}
    for row, found_round in zip(judged, rounds, strict=True):
        if found_round:
            by_question.setdefault(row["id"].rpartition("-")[0] or row["id"], []).append(found_round)
    if not by_question:
        return {"unread": len(judged)}
    wins = [100 * sum(x * w for x, w in games) for games in by_question.values()]
    weights = [float(sum(w for _, w in games)) for games in by_question.values()]
    rate = {"win_rate": sum(wins) / sum(weights), "win_rate_ci": bootstrap(wins, weights=weights)}
    return rate | {"unread": sum(r is None for r in rounds)}


def _round(benchmark: str, row: Row) -> tuple[float, int] | None:
    """Our share of the win and its weight; None where the verdict cannot be read."""
    if benchmark == "alpaca-eval":
        second = preference(row)
        return None if second is None else ((second if row["ours"] == "M" else 1 - second), 1)
    verdict = pairwise(row["text"])
    return None if verdict is None else ((verdict[0] if row["ours"] == "A" else 1 - verdict[0]), verdict[1])


def _answer(questions: Sequence[Row], reply: Answer, kept: _Kept, seed: int, batch: int) -> None:
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
            kept.add({"id": q["id"], "turns": said})


def _model(path: str, setting: Alignment, max_length: int, max_batch: int, engine: str) -> Answer:
    tokenizer, config, model = load_tokenizer(path), load_config(path), load_model(path)
    if torch.cuda.is_available():
        model = model.to("cuda").to(torch.bfloat16)  # type: ignore[arg-type]
    if not getattr(tokenizer, "chat_template", None):
        raise SrftError("the tokenizer has no chat template", where=path, fix="Judged benchmarks need a chat model.")
    window = getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    sampler = make_sampler(
        engine, model, path=resolve_path(path), pad_token_id=pad_token(tokenizer),
        stop_token_ids=stop_tokens(tokenizer, model), max_model_len=min(window, 16384), max_batch=max_batch,
    )  # fmt: skip

    def reply(chats: Sequence[Sequence[Mapping[str, str]]], seeds: Sequence[int]) -> list[str]:
        texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        room = window - max(map(len, ids))
        if room < 1:
            raise SrftError("a chat is longer than the model's window", where=path, fix="Lower --max-length.")
        groups = sampler.sample(
            ids, n=1, seeds=seeds, max_new_tokens=min(max_length, room), temperature=setting.temperature,
            top_p=setting.top_p,
        )  # fmt: skip
        said = [tokenizer.decode(group[0].token_ids, skip_special_tokens=True) for group in groups]
        return [text.rpartition("</think>")[2].strip() for text in said]

    return reply


class _Kept:
    """Rows by `id` in a file that grows line by line; a line that a kill cut is forgotten."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, dict[str, Row]()
        for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
            try:
                row = json.loads(line)
                self.rows[row["id"]] = row
            except (ValueError, KeyError, TypeError):
                continue
        replace(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows.values()))

    def add(self, row: Row) -> None:
        self.rows[row["id"]] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _same(file: Path, settings: Mapping[str, Any]) -> None:
    if file.exists() and (old := json.loads(file.read_text())) != settings:
        raise SrftError(f"it holds answers with {old}", where=str(file), fix="Name another --out.")
    replace(file, json.dumps(settings, indent=2) + "\n")


def _read(file: Path) -> list[Row]:
    if not file.is_file():
        raise SrftError("no such file", where=str(file), fix="Put the published file into --data-dir.")
    text = file.read_text(encoding="utf-8")
    return (
        json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line.strip()]
    )


def _turns(name: str, texts: Sequence[str]) -> dict[str, str]:
    return {f"{name}_{i}": text for i, text in enumerate(texts, 1)}


def _messages(prompt: Row, fields: Mapping[str, str]) -> list[dict[str, str]]:
    return _chat(prompt["system_prompt"], prompt["prompt_template"].format(**fields))


def _chat(system: str, text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]
