"""What can be looked at in a run's outcome, each by a name."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller

from support.outcome import Outcome

See = Callable[[Outcome], object]

losses, lrs, norms, tokens, trained, epochs = (
    methodcaller("steps", name)
    for name in ("loss", "lr", "grad_norm", "tokens", "supervised_tokens", "epoch")
)
eval_loss, eval_steps, eval_tokens = (
    methodcaller("evaluations", name) for name in ("eval_loss", "step", "eval_supervised_tokens")
)
prompt_format = methodcaller("result", "prompt_format")
recomputed = methodcaller("said", "Activations are computed again")
rows, eval_rows, batches, eval_batches = (
    methodcaller("said", words)
    for words in (
        "Training Set Length = ",
        "Validation Set Length = ",
        "Num of Training Set Batches loaded = ",
        "Num of Validation Set Batches loaded = ",
    )
)


counted = methodcaller("said", "Floating-point operations of optimizer step ")


def profiled(outcome: Outcome) -> str:
    """Where it says the trace is."""
    where = outcome.said("The trace is in ").partition(":")[0]
    return where.replace(str(outcome.root), "ROOT")


def code(outcome: Outcome) -> int:
    return outcome.code


def first_loss(outcome: Outcome) -> float:
    return outcome.steps("loss")[0]


def later_losses(outcome: Outcome) -> list[float]:
    return outcome.steps("loss")[1:]


def ending(outcome: Outcome) -> tuple[object, object]:
    """Number of the last step, and why it was the last."""
    return outcome.result("steps"), outcome.result("stop_reason")


def start(outcome: Outcome) -> dict[str, list]:
    """The A of an adapter, which in the first step does not change: B is zero then."""
    return {name: a for name, a in outcome.adapter().items() if "lora_A" in name}


def shapes(outcome: Outcome) -> dict[str, int]:
    return {name: len(tensor) for name, tensor in outcome.adapter().items()}


def saved_model(outcome: Outcome) -> list[str]:
    """Of the result; checkpoints are something else."""
    files = [file for file in outcome.files() if file.endswith(".safetensors")]
    return [file for file in files if "/checkpoints/" not in file]


def checkpoints(outcome: Outcome) -> list[int]:
    """Their steps."""
    folders = sorted((outcome.folder / "checkpoints").glob("step-*"))
    return [int(folder.name.removeprefix("step-")) for folder in folders]


def answered(outcome: Outcome) -> int:
    """Documents that were, before the training and after."""
    examples = outcome.json("samples.json")["examples"]
    return len([one for one in examples if None not in (one["before"], one["after"])])


def resumed(outcome: Outcome) -> str:
    return outcome.said("Going on after ").partition(",")[0]


def folders(outcome: Outcome) -> set[str]:
    return {file.partition("/")[0] for file in outcome.files()}


def threads(outcome: Outcome) -> set[str]:
    """Those of the user's collator, without the number of their pool."""
    lines = [line for line in outcome.out.splitlines() if line.startswith("collated by ")]
    return {line.split()[-1].rpartition("_")[2] for line in lines}


def numbers(outcome: Outcome) -> tuple[object, bool]:
    """Where there is no bf16, asking for it shows on the screen alone."""
    return outcome.steps("loss"), "no bf16 arithmetic" in outcome.out


def in_file(file: str, name: str) -> See:
    return lambda outcome: outcome.json(file)[name]


def in_adapter(name: str) -> See:
    return in_file("adapter_config.json", name)


def tracked(outcome: Outcome) -> set[str]:
    """Which of a run's trackers left something in its folder."""
    places = ("tensorboard/", "wandb/", "metrics_data_")
    return {
        place for place in places for file in outcome.files() if file.startswith(f"result/{place}")
    }


def in_wandb(name: str) -> See:
    def see(outcome: Outcome) -> object:
        from support.wandb_file import written_runs

        (run,) = written_runs(outcome.folder)
        return run.given[name]

    return see
