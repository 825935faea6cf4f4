"""custom_dataset: what the user's file may give, and how its mistakes are shown as its own."""

from __future__ import annotations

import textwrap

import pytest
import tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from llama_recipes.configs.datasets import CustomDataset
from llama_recipes.data.example import BadRow, Tokens
from llama_recipes.data.sources import open_source
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import DataError, Interrupted


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    words = tokenizers.Tokenizer(WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"))


@pytest.fixture
def opened(tmp_path, tokenizer):
    def open_it(code: str, split="train", file="{}", **settings):
        path = tmp_path / "mine.py"
        path.write_text(textwrap.dedent(code))
        section = CustomDataset(file=file.format(path), **settings)
        return open_source(section, split, tokenizer=tokenizer)

    return open_it


def returning(samples: str) -> str:
    return f"def get_custom_dataset(dataset_config, tokenizer, split):\n    return {samples}\n"


NUMPY_NUMBERS = """
import numpy as np
def get_custom_dataset(dataset_config, tokenizer, split):
    numbers = {'input_ids': [1, 2, 3], 'labels': [-100, 2, 3]}
    return [{name: [np.int64(number) for number in row] for name, row in numbers.items()}]
"""
SAMPLE = "{'input_ids': [1, 2, 3], 'labels': [-100, 2, 3], 'attention_mask': [1, 1, 1]}"
TOKENS = Tokens([1, 2, 3], [-100, 2, 3])


def test_samples_become_tokens_and_are_never_cached(opened):
    source = opened(returning(f"[{SAMPLE}, {SAMPLE}]"))
    assert list(source.examples()) == [TOKENS, TOKENS]
    assert source.format == "tokens"
    assert source.fingerprint is None
    assert source.collator is None
    assert source.description == "mine.py: samples of get_custom_dataset for the split `train`"


def test_the_function_is_given_section_tokenizer_and_split(opened, tokenizer):
    code = """
        def get_custom_dataset(dataset_config, tokenizer, split):
            seen.append((dataset_config.data_path, tokenizer, split))
            return []
        seen = []
        def get_data_collator(tokenizer):
            return lambda samples: seen
    """
    names = {"data_path": "x/y", "train_split": "part-a", "test_split": "part-b"}
    train, validation = opened(code, **names), opened(code, "validation", **names)
    assert train.collator([]) == [("x/y", tokenizer.hf, "part-a")]
    assert validation.collator([]) == [("x/y", tokenizer.hf, "part-b")]


def test_another_function_may_be_named(opened):
    code = (
        returning("[]") + f"def other(dataset_config, tokenizer, split):\n    return [{SAMPLE}]\n"
    )
    assert list(opened(code, file="{}:other").examples()) == [TOKENS]


@pytest.mark.parametrize(
    "code",
    [
        "import numpy\n" + returning("[{'input_ids': numpy.array([1, 2, 3]), 'labels': L}]")
        + "L = numpy.array([-100, 2, 3])",
        "import torch\n" + returning("[{'input_ids': torch.tensor([1, 2, 3]), 'labels': L}]")
        + "L = torch.tensor([-100, 2, 3])",
        "from transformers import BatchEncoding\n" + returning(f"[BatchEncoding({SAMPLE})]"),
        returning("({'input_ids': (1, 2, 3), 'labels': [-100, 2, 3]} for _ in range(1))"),
        returning("[{'input_ids': [7, 1, 2, 7, 3], 'labels': [7, -100, 2, 7, 3],"
                  " 'attention_mask': [0, 1, 1, 0, 1]}]"),
        f"""
from torch.utils.data import Dataset
class Mine(Dataset):
    def __len__(self):
        return 1
    def __getitem__(self, index):
        return {SAMPLE}
def get_custom_dataset(dataset_config, tokenizer, split):
    return Mine()
""",
        f"""
from torch.utils.data import IterableDataset
class Mine(IterableDataset):
    def __iter__(self):
        yield {SAMPLE}
def get_custom_dataset(dataset_config, tokenizer, split):
    return Mine()
""",
        f"""
def get_custom_dataset(dataset_config, tokenizer, split):
    yield {SAMPLE}
""",
        NUMPY_NUMBERS,
    ],
    ids=["numpy", "torch", "encoding", "tuples", "masked", "map", "iterable", "generator",
         "list of numpy"],
)  # fmt: skip
def test_every_kind_of_sample_and_data_set(opened, code):
    source = opened(code)
    assert list(source.examples()) == [TOKENS]
    assert list(source.examples()) == [TOKENS]  # again from the start, generators too


def test_a_data_set_may_be_a_dataclass_of_the_file(opened):
    code = f"""
        from __future__ import annotations
        from dataclasses import dataclass
        @dataclass
        class Mine:
            size: int
            def __len__(self):
                return self.size
            def __getitem__(self, index):
                return {SAMPLE}
        def get_custom_dataset(dataset_config, tokenizer, split):
            return Mine(2)
    """
    assert list(opened(code).examples()) == [TOKENS, TOKENS]


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (
            "{'input_ids': [1, 2], 'labels': [1]}",
            "2 input_ids, 1 labels and an attention_mask of 2; the lengths must agree",
        ),
        (
            "{'input_ids': [1], 'labels': [1], 'attention_mask': [1, 1]}",
            "1 input_ids, 1 labels and an attention_mask of 2; the lengths must agree",
        ),
        (
            "{'input_ids': [[1, 2]], 'labels': [[1, 2]]}",
            "input_ids holds a list; a flat list of whole numbers is needed",
        ),
        (
            "{'input_ids': [1.5], 'labels': [1]}",
            "input_ids holds a fraction; a flat list of whole numbers is needed",
        ),
        (
            "{'input_ids': [1], 'labels': [None]}",
            "labels holds null; a flat list of whole numbers is needed",
        ),
        (
            "{'input_ids': 'a b', 'labels': [1]}",
            "input_ids is text, a list of numbers is needed",
        ),
        (
            "{'input_ids': [True], 'labels': [1]}",
            "input_ids holds true or false; a flat list of whole numbers is needed",
        ),
        ("{'input_ids': [-1], 'labels': [1]}", "input_ids holds -1; ids are 0 to 2147483647"),
        (
            "{'input_ids': [1], 'labels': [-1]}",
            "labels holds -1; it may hold ids and -100",
        ),
    ],
)
def test_a_sample_that_cannot_be_used(opened, sample, reason):
    source = opened(returning(f"[{SAMPLE}, {sample}]"))
    assert list(source.examples()) == [TOKENS, BadRow("mine.py, sample 2", reason)]


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_the_policy_for_bad_samples_is_handed_on(opened, policy):
    assert opened(returning("[]"), on_bad_row=policy).on_bad_row == policy


def test_a_sample_is_handed_on_with_its_place(opened):
    assert [row.where for row in opened(returning(f"[{SAMPLE}, {SAMPLE}]")).rows()] == [
        "mine.py, sample 1",
        "mine.py, sample 2",
    ]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            "{'input_ids': [1], 'attention_mask': [1]}",
            "mine.py, sample 1 has no labels (found: input_ids, attention_mask); add labels, one "
            "number a token, -100 where nothing is to be learnt.",
        ),
        (
            "{'labels': [1]}",
            "mine.py, sample 1 has no input_ids (found: labels); add input_ids, one number a "
            "token.",
        ),
        (
            "([1], [1])",
            "mine.py, sample 1 is a list; a mapping with input_ids, labels and attention_mask is "
            "needed.",
        ),
    ],
)
def test_samples_of_the_wrong_kind_are_an_error(opened, sample, message):
    source = opened(returning(f"[{sample}]"))
    with pytest.raises(DataError) as error:
        list(source.examples())
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("returned", "end"),
    [
        (
            "None",
            "returned null; a list, a torch Dataset or another iterable of samples is needed.",
        ),
        (
            "'abc'",
            "returned text; a list, a torch Dataset or another iterable of samples is needed.",
        ),
        (
            "7",
            "returned a number; a list, a torch Dataset or another iterable of samples is needed.",
        ),
        (
            "{'train': [], 'test': []}",
            "returned an object with the keys train, test; the samples of that one split are "
            "needed.",
        ),
    ],
)
def test_a_function_that_returns_no_data_set(opened, tmp_path, returned, end):
    with pytest.raises(DataError) as error:
        opened(returning(returned))
    assert str(error.value) == (
        f"get_custom_dataset in {tmp_path}/mine.py, asked for the split `train`, {end}"
    )


def test_a_missing_file_is_named_with_its_nearest(tmp_path, tokenizer):
    (tmp_path / "custom_data.py").touch()
    section = CustomDataset(file=f"{tmp_path}/custom_dat.py:load")
    with pytest.raises(DataError) as error:
        open_source(section, "train", tokenizer=tokenizer)
    assert str(error.value) == (
        f"--custom_dataset.file={tmp_path}/custom_dat.py: no such file or folder; did you mean "
        f"{tmp_path}/custom_data.py?"
    )


def test_a_file_that_is_not_python(tmp_path, tokenizer):
    (tmp_path / "data.txt").touch()
    section = CustomDataset(file=f"{tmp_path}/data.txt")
    with pytest.raises(DataError, match=r"data\.txt is no Python file; its name must end in \.py"):
        open_source(section, "train", tokenizer=tokenizer)


def test_a_missing_function_lists_those_there(opened, tmp_path):
    code = "from textwrap import dedent\ndef load(): ...\nclass Mine: ...\ndef prepare(): ...\n"
    with pytest.raises(DataError) as error:
        opened(code)
    assert str(error.value) == (
        f"{tmp_path}/mine.py has no function get_custom_dataset (it has load, prepare). Define it, "
        f"or name another: --custom_dataset.file {tmp_path}/mine.py:FUNCTION."
    )


def test_a_file_without_functions(opened):
    with pytest.raises(DataError, match=r"no function get_custom_dataset \(it has no functions\)"):
        opened("x = 1\n")


def error_of(opened, code: str) -> tuple[str, BaseException | None]:
    with pytest.raises(DataError) as error:
        list(opened(code).examples())
    return str(error.value), error.value.__cause__


def test_a_syntax_error_is_theirs(opened, tmp_path):
    message, _ = error_of(opened, "x = 1\ndef f(:\n    pass\n")
    assert message == f"Your file {tmp_path}/mine.py, line 2: SyntaxError: invalid syntax: def f(:"


def test_an_error_at_the_top_level_is_theirs(opened, tmp_path):
    message, cause = error_of(opened, "import os\nimport no_such_module_here\n")
    assert message == (
        f"Your file {tmp_path}/mine.py, line 2, at its top level: ModuleNotFoundError: No module "
        "named 'no_such_module_here' (the line is: import no_such_module_here)"
    )
    assert isinstance(cause, ModuleNotFoundError)


def test_an_error_in_their_function_is_theirs(opened, tmp_path):
    code = """
        def get_custom_dataset(dataset_config, tokenizer, split):
            return load(split)

        def load(split):
            return {}["train.csv"]
    """
    message, cause = error_of(opened, code)
    assert message == (
        f"Your file {tmp_path}/mine.py, line 6, in load: KeyError: 'train.csv' "
        '(the line is: return {}["train.csv"])'
    )
    assert isinstance(cause, KeyError)


def test_an_error_in_a_library_points_to_their_line(opened, tmp_path):
    code = """
        import json
        def get_custom_dataset(dataset_config, tokenizer, split):
            return json.loads("nonsense")
    """
    message, _ = error_of(opened, code)
    assert message.startswith(
        f"Your file {tmp_path}/mine.py, line 4, in get_custom_dataset: JSONDecodeError: Expecting"
    )


def test_an_error_while_samples_are_read_is_theirs(opened, tmp_path):
    code = """
        class Mine:
            def __len__(self):
                return 2
            def __getitem__(self, index):
                return [][index]["input_ids"]
        def get_custom_dataset(dataset_config, tokenizer, split):
            return Mine()
    """
    message, _ = error_of(opened, code)
    assert message == (
        f"Your file {tmp_path}/mine.py, line 6, in __getitem__: IndexError: list index out of "
        'range (the line is: return [][index]["input_ids"])'
    )


def test_a_function_with_other_parameters_is_theirs(opened):
    message, _ = error_of(opened, "def get_custom_dataset(tokenizer):\n    return []\n")
    assert "led to an error outside of it: TypeError: get_custom_dataset() takes 1" in message


def test_leaving_the_program_is_an_error_too(opened):
    message, _ = error_of(opened, "raise SystemExit('bye')\n")
    assert "line 1, at its top level: SystemExit: bye" in message


def test_an_interruption_is_not_theirs(opened):
    code = "from llama_recipes.errors import Interrupted\nraise Interrupted('stopped')\n"
    with pytest.raises(Interrupted):
        opened(code)


def test_an_error_in_the_collator_hook_is_theirs(opened):
    code = returning("[]") + "def get_data_collator(tokenizer):\n    return 1 / 0\n"
    message, _ = error_of(opened, code)
    assert "mine.py, line 4, in get_data_collator: ZeroDivisionError: division by zero" in message


def test_a_collator_that_is_no_function(opened, tmp_path):
    code = returning("[]") + "def get_data_collator(tokenizer):\n    return None\n"
    message, _ = error_of(opened, code)
    assert message == (
        f"get_data_collator in {tmp_path}/mine.py returned null; a function is needed."
    )
