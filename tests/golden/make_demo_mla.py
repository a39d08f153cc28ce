#!/usr/bin/env python3
"""What torch computes with models/demo-mla: the logits of models/train.py's own model in double precision.

Usage: make_demo_mla.py FOLDER OUT_FOLDER

Needs torch, numpy and regex as models/train.py does; where transformers is installed its DeepSeek-V2 is asked
too and must say the same. Writes golden.json (the prompt) and golden.safetensors (the logits at every position).
"""
import json
import os
import struct
import sys

import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../models"))
import train  # noqa: E402

PROMPT = 40  # tokens


def arguments(folder):
    """train.py's, as the folder's config.json has them."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        c = json.load(file)
    sizes = {"vocab": "vocab_size", "dim": "hidden_size", "layers": "num_hidden_layers", "ffn": "intermediate_size",
             "heads": "num_attention_heads", "context": "max_position_embeddings", "kv-lora-rank": "kv_lora_rank",
             "qk-nope-head-dim": "qk_nope_head_dim", "qk-rope-head-dim": "qk_rope_head_dim",
             "v-head-dim": "v_head_dim"}
    sys.argv = ["train.py", "--text", "none", "--out", "none", "--attention", "mla",
                "--q-lora-rank", str(c["q_lora_rank"] or 0)]
    for name, key in sizes.items():
        sys.argv += ["--" + name, str(c[key])]
    return train.parse_arguments()


def transformers_logits(folder, tokens):
    try:
        import transformers
    except ImportError:
        return None
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float64,
                                                              attn_implementation="eager").eval()
    return model(tokens).logits[0]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, out = sys.argv[1:]
    torch.set_default_dtype(torch.float64)
    a = arguments(folder)
    model = train.Model(a).eval()
    taken = train.start_from(model, os.path.join(folder, "model.safetensors"))
    assert taken == sum(p.numel() for p in model.parameters()), "the folder holds the whole model"
    tokens = torch.from_numpy(np.random.Generator(np.random.PCG64(1)).integers(1, a.vocab, PROMPT))[None]
    with torch.no_grad():
        logits = model.logits(tokens)[0]
        other = transformers_logits(folder, tokens)
    assert logits.dtype == torch.float64, "something was computed in float32"
    if other is not None:
        distance = ((other - logits).abs().max() / logits.std()).item()
        print(f"transformers' logits are {distance:.1e} of a standard deviation away")
        assert distance < 1e-4, "transformers computes parts in float32, no less"
    data = logits.float().contiguous().numpy().tobytes()
    header = json.dumps({"logits": {"dtype": "F32", "shape": list(logits.shape), "data_offsets": [0, len(data)]}})
    header += " " * (-len(header) % 8)
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "golden.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header.encode() + data)
    with open(os.path.join(out, "golden.json"), "w", encoding="utf-8") as file:
        json.dump({"tokens": tokens[0].tolist(), "torch": torch.__version__.split("+")[0]}, file)
        file.write("\n")


if __name__ == "__main__":
    main()
