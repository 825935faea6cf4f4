"""The notebook: stored without outputs, and run from start to end on a tiny model."""

from __future__ import annotations

import importlib.util
import json
import os
import re

import nbformat
import pytest

from support.pages import ROOT, blocks, links
from support.tiny_folder import jsonl, tiny_folder
from support.workplace import chats

NOTEBOOK = ROOT / "recipes" / "finetuning" / "huggingface_trainer" / "peft_finetuning.ipynb"
SECONDS = 240
STEPS = 12

needs_jupyter = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("nbclient", "ipykernel", "accelerate")),
    reason="nbclient, ipykernel or accelerate is not installed: pip install -e '.[dev]'",
)


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_valid_and_without_outputs(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    for cell in cells:
        assert cell.outputs == []
        assert cell.execution_count is None


def test_every_cell_of_code_is_explained_before(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    kinds = [cell.cell_type for cell in notebook.cells]
    assert "code code code" not in " ".join(kinds)


def test_its_words_hold_no_command_and_no_dead_link(notebook):
    """Commands stand in cells of code, which run."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert list(blocks(NOTEBOOK, cell.source)) == []
            for link in links(cell.source):
                assert link.startswith("https://") or (NOTEBOOK.parent / link).exists()


@needs_jupyter
def test_it_runs_from_start_to_end(notebook, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    tiny_folder(tmp_path / "model")
    jsonl(tmp_path / "train.jsonl", chats(40))
    variables = {
        "NOTEBOOK_MODEL": str(tmp_path / "model"),
        "NOTEBOOK_MAX_STEPS": str(STEPS),
        "OMP_NUM_THREADS": "1",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where).execute()

    said = {cell.id: text_of(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert "learnt: 'It is 0. #### 0<|im_end|>'" in said["labels"]
    figures = {
        name: float(value)
        for name, value in re.findall(r"(llama-recipes|by hand): ([\d.]+)", said["evaluate"])
    }
    assert figures["llama-recipes"] == pytest.approx(figures["by hand"], abs=2e-4)
    ours = tmp_path / "trainer-adapter-ours"
    steps = [json.loads(line) for line in (ours / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in step for step in steps) == STEPS
    for folder in ("trainer-adapter", "trainer-adapter-ours"):
        assert (tmp_path / folder / "adapter_model.safetensors").stat().st_size
        assert folder in said["both"]


def text_of(cell) -> str:
    """What a cell wrote to the screen; rich shows its lines in a notebook by itself."""
    return "".join(
        out.text if out.output_type == "stream" else out.get("data", {}).get("text/plain", "")
        for out in cell.outputs
    )
