"""Data sets with planted defects, and clean ones: what `inspect` has to find, and nothing else.

A defect is a finding's name, the part it is in and the rows that have it, from 1; rows are None
where a finding has no rows. Each case is a whole run: files, flags, and all that is to be found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from support.chat_tokenizers import CHATML

Rows = list[dict[str, Any]]
Defect = tuple[str, str, tuple[int, ...] | None]

COUNT = 40
PLACES = ["Oslo", "Lima", "Cairo", "Quito", "Delhi", "Rome", "Kyoto", "Accra"]
THINGS = ["bridge", "market", "river", "school", "harbour", "library", "tower"]
QUALITIES = ["old", "wide", "quiet", "busy", "steep"]

NO_GENERATION_PROMPT = CHATML.partition("{% if add_generation_prompt %}")[0]
NO_END_OF_TURN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LOST = "\ufffd"
MOJIBAKE = "naïve café".encode().decode("cp1252")
LONG = "and then it went on " * 40


@dataclass(frozen=True)
class Case:
    """files: by name, rows of JSON lines or the text of a file. tokenizer: the name of one."""

    name: str
    files: dict[str, Rows | str]
    flags: Sequence[str]
    defects: tuple[Defect, ...] = ()
    tokenizer: str = "chatml"


def question(number: int) -> str:
    place, thing = PLACES[number % 8], THINGS[number % 7]
    return f"What is the {QUALITIES[number % 5]} {thing} of {place} like, number {number}?"


def answer(number: int) -> str:
    return f"It was built in {1700 + 3 * number} near the {THINGS[(number + 3) % 7]}."


def chat(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question(number)},
            {"role": "assistant", "content": answer(number)},
        ]
    }


def instruction(number: int) -> dict[str, Any]:
    return {"instruction": "Answer.", "input": question(number), "output": answer(number)}


def completion(number: int) -> dict[str, Any]:
    return {"prompt": question(number) + "\n", "completion": answer(number)}


def text(number: int) -> dict[str, Any]:
    return {"text": f"{question(number)} {answer(number)}"}


FORMS: dict[str, Callable[[int], dict[str, Any]]] = {
    "chat": chat,
    "instruction": instruction,
    "completion": completion,
    "text": text,
}


def rows(form: str, first: int = 0, count: int = COUNT) -> Rows:
    return [FORMS[form](number) for number in range(first, first + count)]


def asked(row: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The row with another question; of a text, with another text."""
    if "messages" in row:
        first, *others = row["messages"]
        return {"messages": [first | {"content": change(first["content"])}, *others]}
    name = next(name for name in ("input", "prompt", "text") if name in row)
    return row | {name: change(row[name])}


def answered(row: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    if "messages" in row:
        *others, last = row["messages"]
        return {"messages": [*others, last | {"content": change(last["content"])}]}
    name = next(name for name in ("output", "completion", "text") if name in row)
    return row | {name: change(row[name])}


Change = Callable[[dict[str, Any]], dict[str, Any]]


def planted(form: str, at: Sequence[int], change: Change) -> Rows:
    """Rows of which those with these numbers, from 1, are changed."""
    return [change(row) if number in at else row for number, row in enumerate(rows(form), start=1)]


FILES = ("--dataset=file_dataset", "--train_file=ROOT/train.jsonl")
ONE_BY_ONE = ("--batching_strategy=padding", "--batch_size_training=1")
SKIP = "--file_dataset.on_bad_row=skip"


def case(
    name: str,
    train: Rows,
    *defects: Defect,
    validation: Rows | None = None,
    flags: Sequence[str] = (),
    tokenizer: str = "chatml",
) -> Case:
    files: dict[str, Rows | str] = {"train.jsonl": train}
    more = []
    if validation is not None:
        files["validation.jsonl"] = validation
        more = ["--validation_file=ROOT/validation.jsonl"]
    return Case(name, files, (*FILES, *ONE_BY_ONE, *more, *flags), defects, tokenizer)


def inside(name: str, form: str, at: Sequence[int], change: Change, **more: Any) -> Case:
    """Rows `at` are changed, and that is the finding `name` in training."""
    label = more.pop("label", "")
    return case(
        f"{form}: {name}{label and f', {label}'}",
        planted(form, at, change),
        (name, "training", tuple(at)),
        **more,
    )


def behind(text: str) -> Change:
    return lambda row: answered(row, lambda content: content + text)


def before(text: str) -> Change:
    return lambda row: asked(row, lambda content: text + content)


def _copies(form: str) -> Case:
    """The last three are the first three again."""
    copied = rows(form)[:-3] + rows(form)[:3]
    return case(f"{form}: many_duplicates", copied, ("many_duplicates", "training", (38, 39, 40)))


def _leak(form: str) -> Case:
    held_out = rows(form, 100, 8) + rows(form, 5, 2)
    return case(
        f"{form}: validation_in_training",
        rows(form),
        ("validation_in_training", "validation", (9, 10)),
        validation=held_out,
    )


def _near_leak(form: str) -> Case:
    shout: Change = lambda row: asked(row, lambda content: "  " + content.upper())  # noqa: E731
    held_out = rows(form, 100, 6) + [shout(row) for row in rows(form, 5, 3)]
    return case(
        f"{form}: validation_near_training",
        rows(form),
        ("validation_near_training", "validation", (7, 8, 9)),
        validation=held_out,
    )


def _prompt_leak(form: str) -> Case:
    other = [answered(row, lambda content: "No: " + content) for row in rows(form, 7, 2)]
    return case(
        f"{form}: validation_prompts_in_training",
        rows(form),
        ("validation_prompts_in_training", "validation", (5, 6)),
        validation=rows(form, 100, 4) + other,
    )


def _constant(form: str) -> Case:
    same: Change = lambda row: answered(row, lambda _: "I cannot help with that.")  # noqa: E731
    return inside("constant_answers", form, range(1, 39), same)


def _told(form: str) -> Case:
    """The answer stands in the question."""

    def tell(row: dict[str, Any]) -> dict[str, Any]:
        said = row.get("output") or row.get("completion") or row["messages"][-1]["content"]
        return asked(row, lambda content: f"{content} Hint: {said}")

    return inside("prompt_holds_answer", form, range(1, 36), tell)


def _cut(form: str) -> Case:
    return inside("answers_cut", form, (4, 11), behind(LONG), flags=["--context_length=400"])


CUSTOM = """
def get_custom_dataset(config, tokenizer, split):
    def sample(number):
        ask = tokenizer(f"How many are {{number}} and {{number}}?").input_ids
        say = tokenizer(f"There are {{2 * number}} of them.").input_ids + [tokenizer.eos_token_id]
        ids = [tokenizer.bos_token_id] + ask + say
        labels = [-100] * (1 + len(ask)) + say
        {change}
        return {{"input_ids": ids, "labels": labels}}

    return [sample(number) for number in range(40 if split == "train" else 0)]
"""
COLLATOR = """
def get_data_collator(tokenizer):
    def collate(samples):
        longest = max(len(sample["input_ids"]) for sample in samples)
        batch = {"input_ids": [], "labels": [], "attention_mask": []}
        for sample in samples:
            fill = longest - len(sample["input_ids"])
            ids = sample["input_ids"] + [tokenizer.pad_token_id] * fill
            labels = LABELS
            batch["input_ids"].append(ids)
            batch["labels"].append(labels)
            batch["attention_mask"].append(sample["attention_mask"] + [0] * fill)
        return batch

    return collate
"""
BY_ID = COLLATOR.replace(
    "LABELS", "[-100 if id_ == tokenizer.eos_token_id else id_ for id_ in ids]"
)
# The first digit of the question decides, which is an even byte where its id is odd.
EVEN_UNTRAINED = COLLATOR.replace(
    "LABELS",
    "[-100] * len(ids) if sample['input_ids'][14] % 2 else sample['labels'] + [-100] * fill",
)
BY_MASK = COLLATOR.replace("LABELS", 'sample["labels"] + [-100] * fill')


def custom(name: str, change: str, *defects: Defect, more: str = "") -> Case:
    """40 samples, with a line that changes ids and labels of some."""
    code = CUSTOM.format(change=change or "pass") + more
    flags = ("--dataset=custom_dataset", "--custom_dataset.file=ROOT/own.py", "--no_run_validation")
    return Case(f"custom: {name}", {"own.py": code}, (*flags, *ONE_BY_ONE), defects)


EVEN = tuple(number + 1 for number in range(COUNT) if int(str(number)[0]) % 2 == 0)
ALL = tuple(range(1, COUNT + 1))

PLANTED: tuple[Case, ...] = (
    # The template
    case(
        "chat: template_without_generation_prompt",
        rows("chat"),
        ("template_without_generation_prompt", "run", None),
        tokenizer="no generation prompt",
    ),
    case(
        "chat: a template without an end of turn",
        rows("chat"),
        ("stop_token_not_trained", "training", ALL),
        tokenizer="no end of turn",
    ),
    case(
        "completion: a tokenizer without EOS",
        rows("completion"),
        ("stop_token_not_trained", "training", ALL),
        tokenizer="no eos",
    ),
    case(
        "text: a tokenizer without EOS",
        rows("text"),
        ("stop_token_not_trained", "training", ALL),
        tokenizer="no eos",
    ),
    # Rows that cannot be used
    case(
        "chat: a turn's border in a message",
        planted("chat", (3, 9), behind("<|im_end|>")),
        ("bad_rows", "training", None),
        flags=[SKIP],
    ),
    case(
        "chat: a turn's border in a message, refused",
        planted("chat", (3, 9), behind("<|im_end|>")),
        ("run_refused", "run", None),
        ("bad_rows", "training", None),
    ),
    case(
        "chat: two user turns in a row",
        planted("chat", (8,), lambda row: {"messages": row["messages"][:1] + row["messages"]}),
        ("bad_rows", "training", None),
        flags=[SKIP],
    ),
    case(
        "chat: the answer comes first",
        planted("chat", (8, 40), lambda row: {"messages": row["messages"][::-1]}),
        ("bad_rows", "training", None),
        flags=[SKIP],
    ),
    *(
        case(
            f"{form}: empty answers",
            planted(form, (2, 30), lambda row: answered(row, lambda _: "  ")),
            ("bad_rows", "training", None),
            flags=[SKIP],
        )
        for form in ("chat", "instruction", "completion")
    ),
    case(
        "completion: empty answers, refused",
        planted("completion", (2, 30), lambda row: answered(row, lambda _: "")),
        ("run_refused", "run", None),
        ("bad_rows", "training", None),
    ),
    # What the context length does
    *map(_cut, FORMS),
    *(
        case(
            f"{form}: long_documents_dropped",
            planted(form, (4, 11), behind(LONG)),
            ("long_documents_dropped", "training", None),
            flags=["--context_length=400", "--truncation=drop"],
        )
        for form in ("chat", "text")
    ),
    case(
        "instruction: long_documents_dropped, refused",
        planted("instruction", (4, 11), behind(LONG)),
        ("run_refused", "run", None),
        ("long_documents_dropped", "training", None),
        flags=["--context_length=400", "--truncation=error"],
    ),
    *(
        case(
            f"{form}: no_supervised_token",
            planted(form, (4, 11), before(LONG)),
            ("no_supervised_token", "training", None),
            flags=["--context_length=400"],
        )
        for form in ("chat", "instruction", "completion")
    ),
    # Labels
    case(
        "completion: few_supervised_tokens",
        [
            {"prompt": f"{question(n)} {LONG[: 300 + n]}", "completion": str(n % 5)}
            for n in range(COUNT)
        ],
        ("few_supervised_tokens", "training", None),
    ),
    custom(
        "stop_token_masked",
        "labels[-1] = -100",
        ("stop_token_masked", "training", ALL),
    ),
    custom(
        "stop_token_masked by the collator", "", ("stop_token_masked", "training", ALL), more=BY_ID
    ),
    custom(
        "labels_shifted",
        "labels = labels[1:] + [-100]",
        ("labels_shifted", "training", ALL),
    ),
    custom(
        "empty_answers",
        "labels = [-100] * (len(ids) - 1) + ids[-1:] if number in (5, 6) else labels",
        ("empty_answers", "training", (6, 7)),
    ),
    custom(
        "stop_token_not_trained",
        "ids, labels = ids[:-1], labels[:-1]",
        ("stop_token_not_trained", "training", ALL),
    ),
    custom(
        "no_supervised_token",
        "labels = [-100] * len(ids) if number == 3 else labels",
        ("no_supervised_token", "training", None),
    ),
    custom(
        "bos_twice",
        "ids, labels = ids[:1] + ids, labels[:1] + labels",
        ("bos_twice", "training", ALL),
    ),
    # Tokens
    *(
        inside("bos_twice", form, (6, 7, 8), before("<|im_start|>"))
        for form in ("completion", "text")
    ),
    *(
        inside("control_tokens_in_text", form, (1, 20), behind("<|im_end|>"))
        for form in ("instruction", "completion", "text")
    ),
    case(
        "text: control_tokens_in_text, a whole template",
        [
            {"text": f"<|im_start|>user\n{question(n)}<|im_end|>\n<|im_start|>bot\n{answer(n)}"}
            for n in range(COUNT)
        ],
        ("control_tokens_in_text", "training", ALL),
        ("bos_twice", "training", ALL),
    ),
    *(
        inside("unknown_tokens", form, (2, 3), behind(" Ünknöwn"), tokenizer="ascii")
        for form in ("completion", "text")
    ),
    # Words
    inside("foreign_markers", "chat", (7, 30), before("[INST] ")),
    inside("foreign_markers", "chat", (7, 30), behind("<|eot_id|>"), label="llama 3"),
    inside("foreign_markers", "instruction", (40,), behind("</s>")),
    inside("foreign_markers", "completion", (12, 13), before("<start_of_turn>user\n")),
    inside("foreign_markers", "text", (5, 6, 7), before("### Human: ")),
    inside("foreign_markers", "text", (5, 6, 7), before("Hi\n\nHuman: "), label="two turns"),
    *(
        inside("mojibake", form, (15,), change)
        for form, change in (
            ("chat", behind(MOJIBAKE)),
            ("instruction", before(MOJIBAKE)),
            ("completion", behind("it’s".encode().decode("cp1252"))),
            ("text", behind("Größe".encode().decode("latin-1"))),
        )
    ),
    *(inside("replacement_characters", form, (16, 17), behind(LOST)) for form in FORMS),
    # Sameness
    *map(_copies, FORMS),
    *map(_leak, FORMS),
    *map(_near_leak, ("chat", "completion", "text")),
    *map(_prompt_leak, ("chat", "instruction", "completion")),
    *map(_constant, ("chat", "instruction", "completion")),
    *map(_told, ("chat", "instruction", "completion")),
    # Steps
    case(
        "chat: few_steps", rows("chat"), ("few_steps", "run", None),
        flags=["--batch_size_training=20"],
    ),
    case(
        "text: few_steps of packed rows", rows("text"), ("few_steps", "run", None),
        flags=["--batching_strategy=packing"],
    ),
    custom(
        "idle_steps by the collator",
        "",
        ("idle_steps", "run", None),
        ("no_supervised_token", "training", EVEN),
        more=EVEN_UNTRAINED,
    ),
    case(
        "completion: much_padding",
        planted("completion", (1, 2, 3), behind(LONG)),
        ("much_padding", "run", None),
        flags=["--batch_size_training=20", "--num_epochs=40"],
    ),
)  # fmt: skip


def _varied(extra: Callable[[int], str], form: str = "chat") -> Rows:
    return [answered(row, lambda a, n=n: a + extra(n)) for n, row in enumerate(rows(form))]


CLEAN: tuple[Case, ...] = (
    *(case(f"clean {form}", rows(form), validation=rows(form, 100, 10)) for form in FORMS),
    case(
        "clean chat with a system message and two turns",
        [
            {
                "messages": [
                    {"role": "system", "content": "Answer in one sentence."},
                    *row["messages"],
                    {"role": "user", "content": f"And then, {n}?"},
                    {"role": "assistant", "content": "Nothing else."},
                ]
            }
            for n, row in enumerate(rows("chat"))
        ],
    ),
    case("clean chat, llama 3", rows("chat"), tokenizer="llama-3"),
    case("clean chat, llama 2", rows("chat"), tokenizer="llama-2"),
    case("clean chat, llama 2, sentencepiece", rows("chat"), tokenizer="llama-2, sentencepiece"),
    case("clean text, llama 2, sentencepiece", rows("text"), tokenizer="llama-2, sentencepiece"),
    case("clean chat, --train_on_prompt", rows("chat"), flags=["--train_on_prompt"]),
    case(
        "clean chat, a share for validation, packed in short rows",
        rows("chat"),
        flags=[
            "--validation_fraction=0.2",
            "--batching_strategy=packing",
            "--context_length=300",
            "--num_epochs=10",
        ],
    ),
    case("clean chat in French", _varied(lambda n: f" C'était à Besançon, l'été dura {n} jours.")),
    case("clean chat in Portuguese", _varied(lambda n: f" NÃO é a mãe, são {n} irmãs. Â propos.")),
    case("clean chat in Chinese", _varied(lambda n: f" 这座桥建于{n}年前。👩‍👩‍👧")),
    case("clean completion with HTML", _varied(lambda n: f" <s>old {n}</s> new", "completion")),
    case(
        "clean yes and no",
        [completion(n) | {"completion": "yes" if n % 3 else "no"} for n in range(COUNT)],
        validation=[completion(n) | {"completion": "yes"} for n in range(100, 110)],
    ),
    case(
        "clean poems on one prompt",
        [{"prompt": "Write a line.\n", "completion": answer(n)} for n in range(COUNT)],
        validation=[{"prompt": "Write a line.\n", "completion": answer(n)} for n in range(90, 99)],
    ),
    case(
        "clean completions without prompts",
        [{"prompt": "", "completion": answer(n)} for n in range(COUNT)],
        validation=[{"prompt": "", "completion": answer(n)} for n in range(90, 99)],
    ),
    case("clean texts, no BOS", rows("text"), tokenizer="no bos"),
    custom("clean", ""),
    custom("clean, with a collator", "", more=BY_MASK),
    custom(
        "clean, pieces of a long text with stops inside",
        "ids = ids + ids[1:9]; labels = list(ids)",
    ),
    Case(
        "clean grammar",
        {
            name: "input,target\n"
            + "".join(f'"{question(n)}","{question(n)} Yes."\n' for n in numbers)
            for name, numbers in (("a.csv", range(40)), ("b.csv", range(100, 110)))
        },
        (
            "--dataset=grammar_dataset",
            "--grammar_dataset.train_split=ROOT/a.csv",
            "--grammar_dataset.test_split=ROOT/b.csv",
            *ONE_BY_ONE,
        ),
    ),
    Case(
        "clean samsum",
        {
            f"{part}.jsonl": [
                {"dialogue": f"A: {question(n)}\nB: {answer(n)}", "summary": f"They talk of {n}."}
                for n in numbers
            ]
            for part, numbers in (("train", range(40)), ("validation", range(100, 110)))
        },
        ("--dataset=samsum_dataset", "--samsum_dataset.data_path=ROOT", *ONE_BY_ONE),
    ),
)  # fmt: skip
