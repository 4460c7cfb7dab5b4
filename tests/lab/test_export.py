"""The converters of the model in the box (`examples/lab/export.py`)."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from jinja2 import Environment
from safetensors.numpy import load_file

from dynscale_dspy.lab.model import CHECKPOINT
from dynscale_dspy.lab.tokenizer import ChatTokenizer

PATH = Path(__file__).parents[2] / "examples" / "lab" / "export.py"


@pytest.fixture(scope="module")
def export() -> Any:
    spec = importlib.util.spec_from_file_location("export", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reader(export: Any, tmp_path_factory: pytest.TempPathFactory) -> gguf.GGUFReader:
    path = tmp_path_factory.mktemp("gguf") / "lab.gguf"
    export.write_gguf(path)
    return gguf.GGUFReader(path)


def test_a_gguf_file_holds_every_weight_of_the_checkpoint(export: Any, reader: gguf.GGUFReader) -> None:
    weights = load_file(CHECKPOINT / "model.safetensors")
    tensors = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
    assert len(tensors) == len(weights)
    assert np.array_equal(tensors["token_embd.weight"], weights["model.embed_tokens.weight"])
    assert np.array_equal(tensors["output_norm.weight"], weights["model.norm.weight"].astype(np.float32))
    heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}
    for layer in range(5):
        for name, theirs in export.BLOCK_NAMES.items():
            theirs_here = tensors[f"blk.{layer}.{theirs}.weight"]
            if name in heads:  # undo the interleaving: even rows of a head first, then odd ones
                by_head = theirs_here.reshape(heads[name], -1, theirs_here.shape[1])
                theirs_here = np.concatenate([by_head[:, 0::2], by_head[:, 1::2]], axis=1).reshape(theirs_here.shape)
            assert np.array_equal(theirs_here, weights[f"model.layers.{layer}.{name}.weight"]), (layer, name)


def test_a_gguf_file_holds_the_tokens_under_their_numbers(reader: gguf.GGUFReader) -> None:
    tokenizer = json.loads((CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    for text, number in tokenizer["model"]["vocab"].items():
        assert (tokens[number], types[number]) == (text, gguf.TokenType.NORMAL)
    for added in tokenizer["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        assert (tokens[added["id"]], types[added["id"]]) == (added["content"], kind)
    assert len(set(tokens)) == len(tokens) == 352


def test_a_merge_for_llama_cpp_is_one_that_no_text_can_use(export: Any, reader: gguf.GGUFReader) -> None:
    assert reader.fields["tokenizer.ggml.merges"].contents() == ["ÿ ÿ"]
    vocabulary = json.loads((CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert "ÿÿ" not in vocabulary


def test_the_chat_template_spells_the_prompt_that_our_server_reads(export: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    export.write_hugging_face(tmp_path)
    template = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    turns = [("system", "Be brief."), ("user", "What is 2 + 3?\nAnswer."), ("assistant", "5"), ("user", "And 4 + 4?")]
    text = (
        Environment()
        .from_string(template)
        .render(messages=[{"role": role, "content": content} for role, content in turns], add_generation_prompt=True)
    )
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert theirs == ChatTokenizer(CHECKPOINT / "tokenizer.json").encode_chat(turns)
