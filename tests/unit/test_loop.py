"""The run: when it steps, evaluates, stops and saves, and what it writes down about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llama_recipes.errors import DataError, NonFiniteError
from llama_recipes.training.evaluate import evaluate
from support.documents import random_documents, untrained
from support.tiny import tiny_llama
from support.trained import LENGTHS, Trained

# What is written down


def test_a_line_a_step_with_everything_the_contract_names(tmp_path):
    trained = Trained(tmp_path, num_epochs=2, gradient_accumulation_steps=3)
    progress = trained.train()
    assert [line["step"] for line in trained.steps] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in trained.steps] == [1, 1, 1, 2, 2, 2]
    assert all(
        list(line) == [
            *("step", "epoch", "loss", "lr", "grad_norm", "tokens", "supervised_tokens"),
            *("tokens_per_second", "step_seconds", "peak_memory_gib"),
        ]
        for line in trained.steps
    )  # fmt: skip
    assert all(
        list(line) == ["step", "eval_loss", "eval_perplexity", "eval_supervised_tokens"]
        for line in trained.evaluations
    )
    assert progress.step == 6
    assert progress.stop_reason == "all epochs are done"


def test_tokens_are_cumulative_and_count_no_padding(tmp_path):
    trained = Trained(tmp_path, num_epochs=2)
    progress = trained.train()
    supervised = int(trained.store.supervised.sum())
    assert trained.steps[7]["tokens"] == sum(LENGTHS)
    assert trained.steps[7]["supervised_tokens"] == supervised
    assert (progress.tokens, progress.supervised_tokens) == (2 * sum(LENGTHS), 2 * supervised)
    counts = [line["tokens"] for line in trained.steps]
    assert counts == sorted(set(counts))


def test_the_loss_of_an_epoch_is_a_mean_over_its_tokens(tmp_path):
    trained = Trained(tmp_path, num_epochs=2, gradient_accumulation_steps=3)
    progress = trained.train()
    for epoch in (1, 2):
        lines = [line for line in trained.lines if line.get("epoch") == epoch]
        seen = np.diff([0, *(line["supervised_tokens"] for line in trained.steps)])
        weights = seen[[line["step"] - 1 for line in lines]]
        expected = np.average([line["loss"] for line in lines], weights=weights)
        assert progress.epoch_losses[epoch - 1] == pytest.approx(expected)
    assert len(progress.epoch_seconds) == 2
    assert min(progress.epoch_seconds) > 0


def test_the_rate_of_each_step_is_the_schedule_s(tmp_path):
    trained = Trained(tmp_path, lr_scheduler="cosine", warmup_steps=2, num_epochs=2)
    trained.train()
    assert [line["lr"] for line in trained.steps] == [trained.schedule.at(i, 0) for i in range(16)]
    by_epoch = Trained(tmp_path / "gamma", lr_scheduler="gamma", gamma=0.5, num_epochs=2)
    by_epoch.train()
    assert [line["lr"] for line in by_epoch.steps] == [1e-2] * 8 + [5e-3] * 8


def test_the_loss_falls(tmp_path):
    losses = Trained(tmp_path, num_epochs=6).train().epoch_losses
    assert losses[-1] < losses[0] / 2


# When it evaluates


def test_an_evaluation_after_every_epoch(tmp_path):
    trained = Trained(tmp_path, num_epochs=2)
    progress = trained.train()
    assert [line["step"] for line in trained.evaluations] == [8, 16]
    assert progress.eval_losses == [line["eval_loss"] for line in trained.evaluations]
    exact = evaluate(trained.model, trained.evaluation.batches(0))
    assert progress.eval_losses[-1] == exact.loss
    assert trained.evaluations[-1]["eval_supervised_tokens"] == exact.supervised_tokens


def test_by_eval_every_and_at_the_very_end(tmp_path):
    trained = Trained(tmp_path, num_epochs=2, eval_every=6)
    trained.train()
    assert [line["step"] for line in trained.evaluations] == [6, 12, 16]


def test_at_the_end_where_the_number_of_steps_is_limited(tmp_path):
    trained = Trained(tmp_path, num_epochs=2, max_train_step=3)
    progress = trained.train()
    assert [line["step"] for line in trained.steps] == [1, 2, 3]
    assert [line["step"] for line in trained.evaluations] == [3]
    assert progress.stop_reason == "max_train_step=3 is reached"
    assert len(progress.epoch_losses) == 1
    assert [kind for kind, _ in trained.saved] == ["best"]


def test_a_limit_beyond_the_epochs_changes_nothing(tmp_path):
    progress = Trained(tmp_path, max_train_step=1000).train()
    assert (progress.step, progress.stop_reason) == (8, "all epochs are done")


def test_never_without_validation_data(tmp_path):
    trained = Trained(tmp_path, num_epochs=2, eval_every=3, evaluated=False)
    progress = trained.train()
    assert trained.evaluations == []
    assert progress.eval_losses == []
    assert [kind for kind, _ in trained.saved] == ["best", "best"]  # after every epoch


def test_max_eval_step_limits_the_batches_of_an_evaluation(tmp_path):
    trained = Trained(tmp_path, max_eval_step=2)
    trained.train()
    first_two = sum(batch.num_supervised for batch in list(trained.evaluation.batches(0))[:2])
    assert trained.evaluations[-1]["eval_supervised_tokens"] == first_two


def test_training_goes_on_in_training_mode(tmp_path):
    trained = Trained(tmp_path, eval_every=1)
    trained.train()
    assert trained.model.training


def test_a_validation_set_that_the_collator_empties_is_an_error(tmp_path):
    def masked(samples):
        (ids,) = (sample["input_ids"] for sample in samples)
        return {"input_ids": [ids], "labels": [[-100] * len(ids)]}

    with pytest.raises(DataError, match="No token of the documents to evaluate is supervised"):
        Trained(tmp_path, eval_collator=masked).train()


# When it stops, and what it keeps


def test_early_stopping_after_as_many_evaluations_without_gain(tmp_path):
    trained = Trained(tmp_path, num_epochs=50, eval_every=1, early_stopping_patience=3)
    progress = trained.train()
    losses = [line["eval_loss"] for line in trained.evaluations]
    assert progress.step == len(losses) < 50 * 8
    assert progress.step == int(np.argmin(losses)) + 1 + 3
    assert progress.stop_reason == "no better evaluation loss in 3 evaluations (early stopping)"
    assert trained.selection.best_step == int(np.argmin(losses)) + 1
    assert trained.saved[-1][0] == "last"


def test_the_best_weights_are_those_that_were_evaluated(tmp_path):
    trained = Trained(tmp_path, num_epochs=3, eval_every=4)
    trained.train()
    best = next(weights for kind, weights in reversed(trained.saved) if kind == "best")
    model = tiny_llama()
    model.load_state_dict(best)
    again = evaluate(model, trained.evaluation.batches(0))
    assert again.loss == min(line["eval_loss"] for line in trained.evaluations)


def poison_after(trained: Trained, steps: int) -> None:
    """The weights go bad from outside after so many steps."""
    model, made = trained.model, []

    def count(*_: object) -> None:
        made.append(None)
        if len(made) == steps:
            with torch.no_grad():
                model.model.norm.weight[0] = float("nan")

    trained.run.optimizer.register_step_post_hook(count)


def test_a_loss_that_is_not_finite_ends_the_run_with_what_was_done_kept(tmp_path):
    trained = Trained(tmp_path, num_epochs=2)
    poison_after(trained, 5)
    with pytest.raises(NonFiniteError, match="The loss is nan"):
        trained.train()
    assert [line["step"] for line in trained.steps] == [1, 2, 3, 4, 5]
    assert [kind for kind, _ in trained.saved] == ["best"]


def test_a_loss_that_is_not_finite_at_once_leaves_nothing(tmp_path):
    trained = Trained(tmp_path)
    with torch.no_grad():
        trained.model.model.norm.weight[0] = float("inf")
    with pytest.raises(NonFiniteError):
        trained.train()
    assert trained.saved == []


@pytest.mark.parametrize("error", [DataError("Your collator failed."), KeyboardInterrupt()])
def test_an_error_of_the_user_s_collator_or_ctrl_c_keeps_what_was_done(error, tmp_path):
    served = []

    def collator(samples):
        served.append(samples)
        if len(served) == 6:
            raise error
        return {name: [sample[name] for sample in samples] for name in ("input_ids", "labels")}

    trained = Trained(tmp_path, collator=collator)
    with pytest.raises(type(error)):
        trained.train()
    done = trained.steps[-1]["step"]
    assert done >= 4
    assert len(trained.saved) == 1
    now = dict(trained.model.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in trained.saved[0][1].items())


def test_a_step_without_a_label_is_said_and_changes_nothing(tmp_path):
    trained = Trained(tmp_path, documents=[*random_documents([9, 4]), untrained(6)])
    progress = trained.train()
    assert progress.step == 3
    assert len(trained.steps) == 2
    assert "has no supervised token: nothing changed." in trained.shown.getvalue()


# What is shown


def test_the_screen_shows_epochs_evaluations_and_the_best(tmp_path):
    trained = Trained(tmp_path, num_epochs=2)
    progress = trained.train()
    said = trained.shown.getvalue()
    assert f"Step 8: eval_ppl={np.exp(progress.eval_losses[0]):.4f} eval_epoch_loss=" in said
    assert ", the best so far" in said
    for epoch, loss in enumerate(progress.epoch_losses, start=1):
        expected = (
            f"Epoch {epoch}: train_perplexity={np.exp(loss):.4f}, train_epoch_loss={loss:.4f}"
        )
        assert expected in said
