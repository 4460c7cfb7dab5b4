"""Write the model in the box in the formats that other servers read: a Hugging Face folder, or a GGUF file.

The checkpoint is a Llama under Hugging Face's own names, so the folder needs only what surrounds the weights: the chat
template, the tokenizer's settings, and settings that make servers sample (some decode greedily otherwise). GGUF needs
`pip install gguf` besides this library. It orders the rows of queries and keys as its rotary embedding wants them.

    python examples/lab/export.py --hugging-face FOLDER
    python examples/lab/export.py --gguf FILE
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from dynscale_dspy.lab.model import CHECKPOINT

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
BLOCK_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
# llama.cpp refuses a byte-level tokenizer without merges, and ours has none. No text in UTF-8 holds the byte 0xFF.
NEVER_MERGED = "ÿ ÿ"


def write_hugging_face(folder: Path, checkpoint: Path = CHECKPOINT) -> None:
    """Write a folder that `transformers` and the servers built on it load."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copyfile(checkpoint / name, folder / name)
    config = read_json(checkpoint / "config.json")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    generation = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, **ids}
    for name, content in (("tokenizer_config.json", settings), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_gguf(path: Path, checkpoint: Path = CHECKPOINT) -> None:
    """Write a GGUF file with the weights in float16, as they are shipped, and the norms in float32."""
    import gguf  # pyright: ignore[reportMissingImports]

    config = read_json(checkpoint / "config.json")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("dynscale lab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    add_tokenizer(writer, gguf, config, read_json(checkpoint / "tokenizer.json"))
    for name, tensor in gguf_tensors(config, load_file(checkpoint / "model.safetensors")).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: Any, gguf: Any, config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    # The network has a few more rows than there are tokens.
    tokens = [f"[unused {number}]" for number in range(config["vocab_size"])]
    types = [gguf.TokenType.UNUSED] * len(tokens)
    for text, number in tokenizer["model"]["vocab"].items():
        tokens[number], types[number] = text, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], kind
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges or [NEVER_MERGED])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def gguf_tensors(config: dict[str, Any], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights under GGUF's names. The embeddings are tied, so there is no output matrix."""
    heads = {"self_attn.q_proj": config["num_attention_heads"], "self_attn.k_proj": config["num_key_value_heads"]}
    tensors = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
    }
    for layer in range(config["num_hidden_layers"]):
        for name, theirs in BLOCK_NAMES.items():
            tensor = weights[f"model.layers.{layer}.{name}.weight"]
            if name in heads:
                tensor = interleaved(tensor, heads[name])
            tensors[f"blk.{layer}.{theirs}.weight"] = tensor
    return {name: tensor.astype(np.float32 if tensor.ndim == 1 else np.float16) for name, tensor in tensors.items()}


def interleaved(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Put the two halves of each head's rows, which rotate together, side by side."""
    rows, columns = matrix.shape
    return np.ascontiguousarray(matrix.reshape(heads, 2, -1, columns).swapaxes(1, 2)).reshape(rows, columns)


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hugging-face", type=Path, metavar="FOLDER")
    parser.add_argument("--gguf", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if not (arguments.hugging_face or arguments.gguf):
        parser.error("Say what to write: --hugging-face FOLDER, --gguf FILE, or both.")
    if arguments.hugging_face:
        write_hugging_face(arguments.hugging_face)
        print(f"wrote {arguments.hugging_face}")
    if arguments.gguf:
        write_gguf(arguments.gguf)
        print(f"wrote {arguments.gguf}")


if __name__ == "__main__":
    main()
