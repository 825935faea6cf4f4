"""`llama-recipes chat`: what is printed where, what is remembered, and what is refused."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console

from llama_recipes.cli import chat
from llama_recipes.cli.conversation import Talker, converse
from llama_recipes.cli.main import main
from llama_recipes.data.example import Message
from llama_recipes.data.tokenizer import load_tokenizer
from llama_recipes.inference.generate import generate
from llama_recipes.inference.load import load_for_inference
from llama_recipes.inference.prompts import encode_conversation, encode_prompt
from llama_recipes.inference.stream import TextStream
from llama_recipes.parallel.device import has_bf16
from support.tiny_folders import save_tiny_model, save_tiny_tokenizer

CPU = torch.device("cpu")
SAMPLING = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_model(folder)
    return folder


@pytest.fixture
def loaded(folder):
    return load_for_inference(str(folder), device=CPU, dtype=torch.float32)


def expected_answer(folder, prompt, *, prompt_format="chat", system="", **settings):
    """What the command has to print, by way of `generate` alone."""
    dtype = torch.bfloat16 if has_bf16(CPU) else torch.float32
    loaded = load_for_inference(str(folder), device=CPU, dtype=dtype)
    ids = encode_prompt(prompt, prompt_format, loaded.tokenizer, system=system)
    settings = SAMPLING | settings
    (tokens,) = generate(loaded.model, [ids], stop_ids=loaded.tokenizer.stop_ids, **settings)
    return loaded.tokenizer.decode(tokens, skip_special=True)


def asked(folder, *flags):
    return main(["chat", str(folder), "--max_new_tokens=12", *flags])


# One prompt


def test_the_answer_is_all_that_is_printed(folder, capsys):
    assert asked(folder, "--prompt", "Hello world") == 0
    assert capsys.readouterr() == (expected_answer(folder, "Hello world") + "\n", "")


def test_the_flags_reach_the_model(folder, capsys):
    drawn = {"temperature": 3.0, "top_k": 40, "top_p": 0.9, "seed": 7}
    flags = [f"--{name}={value}" for name, value in drawn.items()]
    assert asked(folder, "--prompt=Hi", "--system=Be brief.", *flags) == 0
    expected = expected_answer(folder, "Hi", system="Be brief.", **drawn)
    assert capsys.readouterr() == (expected + "\n", "")
    assert asked(folder, "--prompt=Hi", "--prompt-format", "grammar") == 0
    assert capsys.readouterr().out[:-1] == expected_answer(folder, "Hi", prompt_format="grammar")


def test_a_file_or_a_pipe_is_one_prompt_without_its_last_line_break(
    folder, tmp_path, capsys, monkeypatch
):
    text = "def f(x):\n    return x**2\n\u00fc"
    (tmp_path / "prompt.txt").write_text(text + "\n", encoding="utf-8")
    expected = expected_answer(folder, text)
    assert asked(folder, f"--prompt_file={tmp_path / 'prompt.txt'}") == 0
    assert capsys.readouterr().out == expected + "\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text + "\n"))
    assert asked(folder) == 0
    assert capsys.readouterr().out == expected + "\n"


# What is wrong


def refused(capsys, code, *flags):
    assert main(["chat", *map(str, flags)]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err


def test_flags_that_are_wrong_are_all_listed(capsys):
    said = refused(
        capsys, 2, "--promt=x", "--top_p=2", "--temperature", "hot", "--prompt_format=chta",
        "--max_new_tokens=0", "--seed",
    )  # fmt: skip
    assert "--promt is no flag of llama-recipes chat. Did you mean --prompt?" in said
    assert "--top_p is 2.0, but must be a number, above 0 and at most 1." in said
    assert "--temperature is 'hot', but must be a number, at least 0." in said
    assert "Did you mean chat?" in said
    assert "--max_new_tokens is 0, but must be a whole number, at least 1." in said
    assert "--seed needs a value: a whole number" in said


def test_what_cannot_stand_together(folder, capsys):
    said = refused(capsys, 2, "--prompt=a", "--prompt_file=b")
    assert "No model is named" in said
    assert "--prompt and --prompt_file exclude each other" in said
    said = refused(capsys, 2, folder, "--model_name=other", "--prompt=a")
    assert "contradict each other" in said
    said = refused(capsys, 2, folder, "--prompt=a", "--prompt_format=samsum", "--system=Be kind.")
    assert "--system is a message of the chat format" in said
    said = refused(capsys, 2, folder, "--base_model=b", "--prompt=a")
    assert "is no adapter" in said


def test_a_missing_model_or_prompt(folder, tmp_path, capsys, monkeypatch):
    assert "There is no model at" in refused(capsys, 4, tmp_path / "none", "--prompt=a")
    said = refused(capsys, 3, folder, f"--prompt_file={tmp_path / 'none.txt'}")
    assert "none.txt cannot be read: No such file or directory." in said
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    said = refused(capsys, 3, folder, f"--prompt_file={tmp_path / 'latin.txt'}")
    assert "it is not UTF-8" in said
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert "nothing was piped in" in refused(capsys, 2, folder)
    assert "The prompt has" in refused(capsys, 3, folder, f"--prompt={'a b ' * 300}")


def test_settings_without_effect_are_named(folder, capsys):
    assert asked(folder, "--prompt=a", "--top_k=5", "--seed=3") == 0
    assert capsys.readouterr().err == (
        "Warning: --top_k has no effect without a --temperature above 0.\n"
        "Warning: --seed has no effect without a --temperature above 0.\n"
    )


def test_every_flag_has_its_meaning_in_the_help(capsys):
    with pytest.raises(SystemExit) as left:
        main(["chat", "--help"])
    assert left.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, field in chat.ChatFlags.model_fields.items():
        assert f"--{name} " in said
        assert str(field.description) in said


# A conversation


def talk(talker, *lines):
    """Say the lines, and leave; what was answered and what the screen showed."""
    waiting = list(lines)

    def read():
        if not waiting:
            raise EOFError
        line = waiting.pop(0)
        if line == "^C":
            raise KeyboardInterrupt
        return line

    screen = io.StringIO()
    converse(talker, read=read, console=Console(file=screen, width=200))
    assert not waiting
    return screen.getvalue()


def test_what_was_said_is_remembered_until_reset(loaded):
    answers = []
    talker = Talker(loaded, write=answers.append, system="Be brief.", **SAMPLING)
    shown = talk(talker, "Hello", "", "And?", "^C")
    assert "prompts are written as in the format chat. /reset begins anew" in shown
    said = [Message("system", "Be brief."), Message("user", "Hello")]
    for question in ("And?", None):
        (ids,) = generate(
            loaded.model,
            [encode_conversation(said, loaded.tokenizer)],
            stop_ids=loaded.tokenizer.stop_ids,
            **SAMPLING,
        )
        said.append(Message("assistant", loaded.tokenizer.decode(ids, skip_special=True)))
        said += [Message("user", question)] if question else []
    assert talker.said == said
    assert "".join(answers) == said[2].content + said[4].content
    talk(talker, "/reset", "/exit")
    assert talker.said == said[:1]


def test_elsewhere_each_line_is_a_prompt_of_its_own(folder):
    loaded = load_for_inference(
        str(folder), prompt_format="grammar", device=CPU, dtype=torch.float32
    )
    first, both = [], []
    talk(Talker(loaded, write=first.append, **SAMPLING), "He go.")
    shown = talk(Talker(loaded, write=both.append, **SAMPLING), "He go.", "He go.")
    assert "".join(both) == 2 * "".join(first)
    assert "/reset" not in shown


def test_an_interrupted_answer_counts_as_far_as_it_came(loaded):
    written = []

    def write(text):
        written.append(text)
        if len(written) == 3:
            raise KeyboardInterrupt

    talker = Talker(loaded, write=write, **SAMPLING)
    shown = talk(talker, "Hello")
    assert "Stopped." in shown
    assert talker.said == [Message("user", "Hello"), Message("assistant", "".join(written))]


def test_an_error_does_not_end_the_conversation(loaded):
    talker = Talker(loaded, write=lambda _: None, **SAMPLING)
    shown = talk(talker, "Hello", "a b " * 300)
    assert "Error: The prompt has" in shown
    assert "/reset begins the conversation anew." in shown
    assert [message.role for message in talker.said] == ["user", "assistant"]


def test_on_a_terminal(folder):
    """The whole command on a (pseudo) terminal: answer, end of input, exit code 0."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from llama_recipes.cli.main import run; run()"]
    with subprocess.Popen(
        [*command, "chat", str(folder), "--max_new_tokens=12"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "dumb"},
    ) as process:  # fmt: skip
        try:
            until(ours, "> ", seconds=60)
            os.write(ours, b"Hello world\n")
            shown = until(ours, "> ", seconds=60)
            os.write(ours, b"\x04")
            assert process.wait(30) == 0
        finally:
            process.kill()
    os.close(ours)
    os.close(theirs)
    assert all(word in shown for word in expected_answer(folder, "Hello world").split())


def until(terminal, ending, *, seconds):
    """What the terminal shows up to `ending`."""
    shown, stop = b"", time.monotonic() + seconds
    while not shown.endswith(ending.encode()):
        ready, _, _ = select.select([terminal], [], [], max(0, stop - time.monotonic()))
        assert ready, f"nothing more came after {shown!r}"
        shown += os.read(terminal, 1024)
    return shown.decode()


# Text as it comes


@pytest.mark.parametrize(
    "text",
    ["plain words", "naïve café", "👩\u200d👩\u200d👧 🎉🎉", "你好世界。", "a \ufffd b", "\n\n x"],
)
def test_no_character_is_shown_before_it_is_whole(text, tmp_path):
    save_tiny_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    shown = []
    stream = TextStream(tokenizer, shown.append)
    (ids,) = tokenizer.encode_batch([text])
    for id_ in ids:
        stream.add(id_)
        assert text.startswith("".join(shown))
    stream.finish()
    assert "".join(shown) == text == stream.text
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in shown)


def test_bytes_that_never_become_a_character_are_shown_in_the_end(tmp_path):
    save_tiny_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    (ids,) = tokenizer.encode_batch(["x🦙"])
    shown = []
    stream = TextStream(tokenizer, shown.append)
    for id_ in ids[:-1]:
        stream.add(id_)
    assert shown == ["x"]
    stream.finish()
    assert "".join(shown) == "x\ufffd"


def test_special_tokens_are_not_shown(tmp_path):
    save_tiny_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    (ids,) = tokenizer.encode_batch(["a<|bos|>b<|pad|>"])
    shown = []
    stream = TextStream(tokenizer, shown.append)
    for id_ in ids:
        stream.add(id_)
    stream.finish()
    assert "".join(shown) == "ab"
