"""Every planted defect is found, with its rows, and nothing is found that was not planted."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from llama_recipes.data import store
from llama_recipes.data.finding import EXAMPLES
from support.inspected import inspect_case, make_models
from support.planted import CLEAN, FILES, ONE_BY_ONE, PLANTED, Case, Defect, case
from support.real import SHARED_DATA, needs_gsm8k

DOCS = Path(__file__).parents[2] / "docs" / "inspect.md"
CODE = ("findings", "findings_same", "findings_run")
ROWS = 120

needs_jfleg = pytest.mark.skipif(
    not (SHARED_DATA / "jfleg").is_dir(), reason="the folder ../shared/data/jfleg is missing"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def outcomes(made, tmp_path_factory) -> dict[str, tuple[set[Defect], set[Defect]]]:
    """What was planted and what was found, by case, of all cases."""
    root = tmp_path_factory.mktemp("cases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_sync", lambda path: None)  # no power cut is waited for
        return {
            each.name: (planted_in(each), found_in(each, root / str(number), made))
            for number, each in enumerate([*PLANTED, *CLEAN])
        }


def planted_in(each: Case) -> set[Defect]:
    return {(name, part, rows and rows[:EXAMPLES]) for name, part, rows in each.defects}


def found_in(each: Case, root: Path, made: Path) -> set[Defect]:
    """The findings with their first rows; those whose number is not that of the rows are not."""
    shown = inspect_case(each, root, made)
    counted = {(name, part): len(rows) for name, part, rows in each.defects if rows}
    return {
        (finding.name, finding.part, finding.rows or None)
        for finding in shown.findings
        if counted.get((finding.name, finding.part), finding.count) == finding.count
    }


@pytest.mark.parametrize("name", [each.name for each in (*PLANTED, *CLEAN)])
def test_what_is_planted_is_found_and_nothing_else(outcomes, name):
    planted, found = outcomes[name]
    assert found == planted


def test_recall_and_false_alarms(outcomes, record_property):
    planted = [defect for there, _ in outcomes.values() for defect in there]
    found = sum(len(there & seen) for there, seen in outcomes.values())
    alarms = sum(len(seen - there) for there, seen in outcomes.values())
    print(f"{len(planted)} planted, {found} found, {alarms} false alarms")
    record_property("recall", found / len(planted))
    record_property("false_alarms", alarms)
    assert (found / len(planted), alarms) == (1.0, 0)


def test_there_are_enough_of_every_kind():
    kinds = Counter(name for each in PLANTED for name, _, _ in each.defects)
    forms = Counter(each.name.partition(":")[0] for each in PLANTED)
    assert sum(kinds.values()) >= 25
    assert len(CLEAN) >= 15
    assert all(not each.defects for each in CLEAN)
    assert {"chat", "instruction", "completion", "text", "custom"} <= forms.keys()
    assert len({each.name for each in (*PLANTED, *CLEAN)}) == len(PLANTED) + len(CLEAN)


def test_the_page_says_how_many_were_planted():
    kinds = {name for each in PLANTED for name, _, _ in each.defects}
    planted = sum(len(each.defects) for each in PLANTED)
    said = " ".join(DOCS.read_text(encoding="utf-8").split())
    assert f"{planted} defects of {len(kinds)} kinds in {len(PLANTED)} data sets" in said
    assert f"{len(CLEAN)} clean ones" in said


def test_every_finding_is_planted_and_on_the_page():
    """The names in the code against the list above and the table of docs/inspect.md."""
    source = Path(__file__).parents[2] / "src" / "llama_recipes" / "data"
    code = "".join((source / f"{name}.py").read_text() for name in CODE)
    names = set(re.findall(r'(?<!== )"([a-z]+(?:_[a-z]+)+)"', code)) | {"mojibake"}
    names -= {"bad_rows_shown", "too_long"}
    page = DOCS.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE)) == names
    assert {name for each in PLANTED for name, _, _ in each.defects} == names


# Real text


def gsm8k(part: str, rows: slice) -> list[dict[str, str]]:
    lines = (SHARED_DATA / "gsm8k" / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[rows]]


def as_chat(row: dict[str, str]) -> dict:
    turns = (("user", row["question"]), ("assistant", row["answer"]))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def as_completion(row: dict[str, str]) -> dict:
    return {"prompt": row["question"] + "\n", "completion": row["answer"]}


def as_instruction(row: dict[str, str]) -> dict:
    return {"instruction": row["question"], "output": row["answer"]}


def as_text(row: dict[str, str]) -> dict:
    return {"text": f"{row['question']}\n{row['answer']}"}


@needs_gsm8k
@pytest.mark.parametrize("form", [as_chat, as_completion, as_instruction, as_text])
@pytest.mark.parametrize("start", [0, 4000])
def test_parts_of_gsm8k_are_clean(made, tmp_path, form, start):
    rows = [form(row) for row in gsm8k("train", slice(start, start + ROWS))]
    held_out = [form(row) for row in gsm8k("test", slice(start // 10, start // 10 + ROWS // 4))]
    assert found_in(case("gsm8k", rows, validation=held_out), tmp_path, made) == set()


def jfleg(name: str, rows: int) -> list[str]:
    lines = (SHARED_DATA / "jfleg" / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines[:rows]]


@needs_jfleg
@pytest.mark.parametrize("reference", [0, 1, 2, 3])
def test_parts_of_jfleg_are_clean(made, tmp_path, reference):
    pairs = {
        part: zip(jfleg(f"{part}.src", ROWS), jfleg(f"{part}.ref{reference}", ROWS), strict=True)
        for part in ("dev", "test")
    }
    rows = {
        part: [{"prompt": f"Correct: {wrong}\n", "completion": right} for wrong, right in found]
        for part, found in pairs.items()
    }
    found = found_in(case("jfleg", rows["dev"], validation=rows["test"]), tmp_path, made)
    assert found == set()


@needs_jfleg
def test_a_prompt_with_four_answers_is_clean(made, tmp_path):
    wrong = jfleg("dev.src", ROWS)
    rows = [
        {"prompt": f"Correct: {source}\n", "completion": right}
        for reference in range(4)
        for source, right in zip(wrong, jfleg(f"dev.ref{reference}", ROWS), strict=True)
        if source != right
    ]
    different = [json.loads(row) for row in dict.fromkeys(map(json.dumps, rows))]
    assert found_in(Case("jfleg", {"train.jsonl": different}, (*FILES, *ONE_BY_ONE)),
                    tmp_path, made) == set()  # fmt: skip
