"""From a run to a model and back: checkpoints by time, the best one, resumed with other options, models in memory, run
directories as models, exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from srft import Run, SrftError, load_recipe, train
from srft.cli import app
from srft.evaluation.run import evaluate
from srft.policy.load import ModelSettings, load_model, load_tokenizer
from srft.recipe.load import load_evaluation
from srft.run.export import export
from srft.training import loop
from srft.training.run_dir import RunDir
from tests.helpers import SMALL, weights

LENGTH = "evaluation.sampling.max_response_length=24"
SFT = [*SMALL, "method.name=sft", "optim.lr=1e-3", "logging.samples_every=0", "data.limit=16", LENGTH]
PLAIN = [*SFT, "evaluation.sets={}"]


def small(*changes: str) -> Any:
    return load_recipe("quickstart", [*SFT, *changes])


def plain(*changes: str) -> Any:
    return load_recipe("quickstart", [*PLAIN, *changes])


def names(run: Run) -> list[str]:
    return [checkpoint.name for checkpoint in run.directory.checkpoints]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with LoRA, another rope_theta, an evaluation at each step and the best checkpoint kept."""
    pytest.importorskip("peft", reason="peft is not installed: scripts/setup test")
    changes = ["model.lora.rank=4", "model.config.rope_theta=40000", "evaluation.every=1", "training.steps=3"]
    changes += [
        "training.best.metric=test/demo_nll",
        "training.keep_checkpoints=1",
    ]  # the largest loss: the first step's
    return train(small(*changes), tmp_path_factory.mktemp("models") / "adapters")


def test_checkpoints_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_recipe("quickstart").training.checkpoint_minutes == 10
    assert names(train(plain(), tmp_path / "ten")) == ["step-000002"]
    soon = plain("training.checkpoint_minutes=1e-9")
    assert names(train(soon, tmp_path / "soon")) == ["step-000001", "step-000002"]
    gather = loop.gather

    def beside_an_earlier_clock(accelerator: Any, mine: list[Any]) -> list[Any]:
        """The first process has just begun; this one is the second."""
        return [0.0, *mine] if mine and isinstance(mine[0], float) else gather(accelerator, mine)

    monkeypatch.setattr(loop, "gather", beside_an_earlier_clock)
    assert names(train(soon, tmp_path / "second")) == ["step-000002"]


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path) -> None:
    changes = ["training.best.metric=learning_rate", "training.checkpoint_every=1", "training.keep_checkpoints=1"]
    changes += ["optim.schedule=linear", "training.steps=3"]
    run = train(plain(*changes), tmp_path / "run")
    assert names(run) == ["step-000001", "step-000003"]  # the rate is the highest at first
    assert [path.name for path in (tmp_path / "run/trainer").iterdir()] == ["step-000003"]
    assert json.loads((tmp_path / "run/best.json").read_text()) == {
        "checkpoint": "step-000001", "metric": "learning_rate", "value": run.metrics[0]["learning_rate"],
    }  # fmt: skip
    best, newest = run.load(best=True).state_dict(), run.load().state_dict()
    assert any(not torch.equal(best[name], newest[name]) for name in best)
    assert ModelSettings(path=str(tmp_path / "run")).path.endswith("step-000001")
    resumed = train(plain(*changes, "training.steps=4"), tmp_path / "run", resume=True)
    assert names(resumed) == ["step-000001", "step-000004"]


def test_the_best_of_an_evaluation_is_saved_when_it_comes(adapters: Run) -> None:
    """No other rule would have saved a checkpoint before the last step."""
    loss = {row["step"]: row["demo_nll"] for row in adapters.evaluations if row["benchmark"] == "test"}
    assert set(loss) == {0, 1, 2, 3}
    best = max((1, 2, 3), key=loss.__getitem__)
    assert adapters.directory.best == {
        "checkpoint": f"step-{best:06d}", "metric": "test/demo_nll", "value": loss[best],
    }  # fmt: skip
    assert best < 3
    assert names(adapters) == [f"step-{best:06d}", "step-000003"]


def test_a_set_without_answers_has_a_loss(tmp_path: Path) -> None:
    """Which falls as the run learns the very demonstrations."""
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"prompt": "Say a.", "completion": "aaaa"}) + "\n")
    own = f"evaluation.sets={{own: {{path: {file}, measure: loss}}}}"
    run = train(plain(f"data.path={file}", "training.prompts_per_step=1", own), tmp_path / "run")
    before, after = run.evaluations
    assert before["demo_nll"] > after["demo_nll"]
    assert before.keys() == {
        "step",
        "benchmark",
        "problems",
        "demonstrations",
        "demo_nll",
        "demo_perplexity",
        "seconds",
    }
    assert not list((tmp_path / "run").rglob("own.jsonl"))  # nothing was sampled
    assert "NLL" in repr(run)
    with pytest.raises(SrftError, match="measure: loss"):
        train(
            plain(f"data.path={file}", "training.prompts_per_step=1", own.replace("loss", "answers")), tmp_path / "no"
        )


def test_a_best_metric_that_will_not_be_is_told_before_training(tmp_path: Path) -> None:
    for metric, meant in (("test/avg@8", "test/avg"), ("rewards", "reward"), ("test/demo-nll", "test/demo_nll")):
        with pytest.raises(SrftError, match=f"no metric '{metric}'") as error:
            train(small(f"training.best.metric={metric}"), tmp_path / "run")
        assert f"'{meant}'" in error.value.fix
    with pytest.raises(SrftError, match="no metric 'test/demo_nll'"):  # grpo learns from no demonstrations
        train(small("training.best.metric=test/demo_nll", "method.name=grpo"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_what_it_followed(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed: scripts/setup test")
    lora = "model.lora.rank=4"
    train(plain(lora, "training.steps=1"), tmp_path / "run")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != "run.lock"]
    before = {path: path.read_bytes() for path in files}
    for wrong, message in (
        ("model.lora.target_modules=[q_proj]", "goes on with the model that it has"),
        ("method.name=ppo", "saved without weights/critic"),
        ("training.best.metric=nothing", "no metric 'nothing'"),
        ("data.path=missing.jsonl", "missing.jsonl"),
    ):
        with pytest.raises(SrftError, match=message):
            train(plain(lora, wrong, "training.steps=2"), tmp_path / "run", resume=True, allow_changes=True)
        assert {path: path.read_bytes() for path in files} == before
    train(plain(lora, "optim.lr=1e-4", "training.steps=2"), tmp_path / "run", resume=True, allow_changes=True)
    assert load_recipe(tmp_path / "run/recipe-000001.yaml").optim.lr == 1e-3
    assert load_recipe(tmp_path / "run/recipe.yaml").optim.lr == 1e-4


def test_a_model_in_memory_is_trained(tmp_path: Path) -> None:
    settings = ModelSettings(path="srft:model")
    model, tokenizer = load_model(settings), load_tokenizer(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    given = {name: value.clone() for name, value in model.state_dict().items()}
    stages = {"extends": "quickstart", "stages": [{"method": {"name": "sft"}}, {"method": {"name": "sft"}}]}
    changes = [change for change in PLAIN if change != "method.name=sft"]
    recipe = load_recipe(stages, [*changes, "model.path=no/such-model", "training.steps=1"])
    with pytest.raises(SrftError, match="has no tokenizer"):
        train(recipe, tmp_path / "run", model=model)
    run = train(recipe, tmp_path / "run", model=model, tokenizer=tokenizer)
    assert all(torch.equal(value, given[name]) for name, value in model.state_dict().items())
    begun = weights(tmp_path / "run/model")
    assert all(torch.equal(begun[name], given[name]) for name in begun)
    kept = load_recipe(tmp_path / "run/recipe.yaml")
    assert {part.model.path for part in (kept, *kept.parts)} == {str(tmp_path / "run/model")}
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()  # another one, which must not take the place of the first
    with pytest.raises(SrftError, match="already holds a run"):
        train(recipe, tmp_path / "run", model=model, tokenizer=tokenizer)
    with pytest.raises(SrftError, match="has its model"):
        train(out=tmp_path / "run", model=model, tokenizer=tokenizer, resume=True)
    assert all(torch.equal(value, begun[name]) for name, value in weights(tmp_path / "run/model").items())
    longer = kept.parts[-1].model_copy(update={"training": kept.parts[-1].training.model_copy(update={"steps": 2})})
    resumed = train(kept.model_copy(update={"stages": (kept.parts[0], longer)}), tmp_path / "run", resume=True)
    assert names(resumed)[-1] == "step-000003"
    assert run.load().config.model_type == "qwen2"


def test_a_run_directory_stands_for_its_model(adapters: Run, tmp_path: Path) -> None:
    """In an evaluation and in a recipe, with the config that it was trained with, and said by its checkpoint's name."""
    path = adapters.directory.path
    best = adapters.directory.best_checkpoint
    test = "sets.test={path: 'srft:arithmetic/test.jsonl', limit: 2, measure: loss}"
    recipe = load_evaluation(str(path), [test, "template=chat"])
    results = evaluate(recipe, out=tmp_path / "evaluation")
    assert results["settings"]["model"] == str(best)
    again = load_recipe("quickstart", [*PLAIN, f"model.path={path}", "training.steps=0"])
    assert again.model.path == str(best)
    mine, theirs = load_model(again.model), adapters.load(best=True)
    assert mine.config.rope_parameters["rope_theta"] == 40000
    for name, value in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[name], value)
    planned = CliRunner().invoke(app, ["plan", "quickstart-sft", f"model.path={path}", "--gpu", "h100-80", "--json"])
    assert planned.exit_code == 0, planned.output


def test_an_export_loads_anywhere(adapters: Run, tmp_path: Path) -> None:
    out = tmp_path / "model"
    words = ["export", str(adapters.directory.path), "--merge", "--checkpoint", "best", "--out", str(out)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert adapters.directory.best_checkpoint.name in result.output
    files = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "README.md"} <= files
    assert not {"trainer", "adapter_config.json", "adapter_model.safetensors", "state.pt"} & files
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    for name, value in adapters.load(best=True).state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value.to(torch.bfloat16))
    assert model.config.rope_parameters["rope_theta"] == 40000
    assert tokenizer.chat_template == load_tokenizer(ModelSettings(path="srft:model")).chat_template
    card = huggingface_hub.ModelCard.load(out / "README.md")
    assert card.data.tags == ["srft", "sft"]
    assert card.data.library_name == "transformers"
    (row,) = (r for r in adapters.evaluations if r["benchmark"] == "test" and r["step"] == adapters_step(adapters))
    values = {r.metric_type: r.metric_value for r in card.data.eval_results or () if r.dataset_name == "test"}
    assert values == {name: row[name] for name in ("avg", "demo_nll", "demo_perplexity")}
    for text in ("srft:arithmetic/train.jsonl", "srft:model", f"transformers {version('transformers')}", "rank: 4"):
        assert text in card.text
    with pytest.raises(SrftError, match="there already"):
        export(adapters.directory.path, out)


def adapters_step(run: Run) -> int:
    return int(run.directory.best["checkpoint"].removeprefix("step-"))


def version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


def test_adapters_are_exported_as_adapters_where_they_may(adapters: Run, tmp_path: Path) -> None:
    export(adapters.directory.path, tmp_path / "adapters", checkpoint=3)
    expected = adapters.load().state_dict()
    for name, value in load_model(ModelSettings(path=str(tmp_path / "adapters"))).state_dict().items():
        assert torch.equal(value, expected[name])
    assert huggingface_hub.ModelCard.load(tmp_path / "adapters/README.md").data.library_name == "peft"
    whole = plain("training.steps=1").model_dump() | {"stages": [{}, {"model": {"path": "srft:model", "lora": {}}}]}
    run = train(load_recipe(whole), tmp_path / "run")
    with pytest.raises(SrftError, match="another checkpoint of the run") as error:
        export(tmp_path / "run", tmp_path / "out")
    assert "--merge" in error.value.fix
    export(tmp_path / "run", tmp_path / "out", merge=True, dtype="fp32")
    exported = weights(tmp_path / "out")
    for name, value in run.load().state_dict().items():
        assert torch.equal(exported[name], value)


def test_what_cannot_be_exported(adapters: Run, tmp_path: Path) -> None:
    with pytest.raises(SrftError, match="no run is here"):
        export(tmp_path, tmp_path / "out")
    with pytest.raises(SrftError, match="no checkpoint of step 7") as error:
        export(adapters.directory.path, tmp_path / "out", checkpoint=7)
    assert "best, last or 1 or 3" in error.value.fix
    with pytest.raises(SrftError, match="no best checkpoint"):
        RunDir(tmp_path).best_checkpoint  # noqa: B018
    assert not (tmp_path / "out").exists()


def test_the_hub_is_asked_for_by_an_explicit_word(
    adapters: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []

    class Hub:
        def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
            if name == "no/login":
                raise OSError("401 Client Error\nmore of it")
            calls.append((name, private))

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
            calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    run = adapters.directory.path
    export(run, tmp_path / "alone", merge=True)
    assert not calls
    export(run, tmp_path / "private", merge=True, push_to_hub="me/model")
    assert calls[0] == ("me/model", True)
    assert calls[1] == ("me/model", sorted(path.name for path in (tmp_path / "private").iterdir()))
    assert "# me/model" in (tmp_path / "private/README.md").read_text()
    words = ["export", str(run), "--out", str(tmp_path / "public"), "--merge", "--push-to-hub", "me/open", "--public"]
    CliRunner().invoke(app, words, catch_exceptions=False)
    assert calls[2] == ("me/open", False)
    with pytest.raises(SrftError, match="401 Client Error\nLog in"):
        export(run, tmp_path / "refused", merge=True, push_to_hub="no/login")
    assert not (tmp_path / "refused").exists()
