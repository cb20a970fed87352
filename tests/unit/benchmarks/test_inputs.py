"""Prompts and windows from the built-in texts, with a tokenizer of one token a byte."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.cpu.inputs import Inputs, write_inputs


def test_sizes_and_no_overlap(tmp_path: Path) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write_inputs(tmp_path, tmp_path / "inputs.json")
    found = Inputs.load(tmp_path / "inputs.json")
    assert [len(row) for row in found.short] == [64] * 16
    assert [len(row) for row in found.long] == [512] * 8
    assert [len(row) for row in found.windows] == [512] * 16
    prompts = [*found.long, *found.short]
    assert len({tuple(row[:64]) for row in prompts}) == len(prompts), "no prompt repeats another's beginning"
    assert not {tuple(row) for row in found.long} & {tuple(row) for row in found.windows}
    write_inputs(tmp_path, tmp_path / "again.json")
    assert Inputs.load(tmp_path / "again.json") == found
