#!/usr/bin/env python3
"""Tiny random models of every architecture beside Llama, and what the reference computes with them.

Usage: make_golden.py OUT_FOLDER

Needs torch 2.3.1, transformers 4.57.1, numpy 1.26 and safetensors 0.8 (`pip install` them into an
environment of their own). For each model it writes a Hugging Face folder and golden.json (the
prompt) with golden.safetensors (the logits at every position). Everything is computed in double
precision, float32 islands of the reference included, and rounded once, so the committed files come
out again byte for byte.

Two places where transformers' own port differs from DeepSeek's published code are set right here:
DeepseekV2Attention leaves out YaRN's mscale in the softmax scale, and its gate never normalizes.
"""
import json
import math
import os
import sys

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

VOCAB = 96
FLOAT32 = torch.float32
PROMPT = 150  # tokens: crosses blocks of 64 and chunks of any smaller size
YARN = {"type": "yarn", "factor": 8.0, "beta_fast": 32, "beta_slow": 1,
        "original_max_position_embeddings": 64}
DEEPSEEK = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=80, moe_intermediate_size=24,
                num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
                kv_lora_rank=32, qk_rope_head_dim=16, qk_nope_head_dim=24, v_head_dim=20,
                n_shared_experts=2, n_routed_experts=8, num_experts_per_tok=3,
                first_k_dense_replace=1, max_position_embeddings=512, rms_norm_eps=1e-6,
                rope_theta=10000.0, attention_bias=False, bos_token_id=0, eos_token_id=1,
                tie_word_embeddings=False)


def deepseek_v2_lite():
    return transformers.DeepseekV2Config(
        **DEEPSEEK, q_lora_rank=None, topk_method="greedy", n_group=1, topk_group=1,
        routed_scaling_factor=1.0, norm_topk_prob=False, head_dim=16,
        rope_scaling=dict(YARN, mscale=0.707, mscale_all_dim=0.707))


def deepseek_v2():
    return transformers.DeepseekV2Config(
        **DEEPSEEK, q_lora_rank=28, topk_method="group_limited_greedy", n_group=4, topk_group=2,
        routed_scaling_factor=4.0, norm_topk_prob=False, head_dim=16,
        rope_scaling=dict(YARN, mscale=0.707, mscale_all_dim=0.707))


def deepseek_v3():
    return transformers.DeepseekV3Config(
        **DEEPSEEK, q_lora_rank=28, n_group=4, topk_group=2, routed_scaling_factor=2.5,
        norm_topk_prob=True, rope_interleave=True,
        rope_scaling=dict(YARN, mscale=1.0, mscale_all_dim=1.0))


def deepseek_v3_fp8():
    """Sizes that no block of 128 divides."""
    return transformers.DeepseekV3Config(**dict(
        DEEPSEEK, hidden_size=136, intermediate_size=264, moe_intermediate_size=40,
        num_hidden_layers=2, n_routed_experts=4, num_experts_per_tok=2),
        q_lora_rank=132, n_group=2, topk_group=1, routed_scaling_factor=2.5, norm_topk_prob=True,
        rope_interleave=True, rope_scaling=dict(YARN, mscale=1.0, mscale_all_dim=1.0))


def mixtral():
    return transformers.MixtralConfig(
        vocab_size=VOCAB, hidden_size=48, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=12, num_local_experts=6,
        num_experts_per_tok=2, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=1e6,
        sliding_window=None, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False)


def qwen3_moe():
    return transformers.Qwen3MoeConfig(
        vocab_size=VOCAB, hidden_size=48, intermediate_size=80, moe_intermediate_size=24,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        num_experts=8, num_experts_per_tok=3, norm_topk_prob=True, decoder_sparse_step=1,
        mlp_only_layers=[0], max_position_embeddings=512, rms_norm_eps=1e-6, rope_theta=1e6,
        bos_token_id=0, eos_token_id=1, tie_word_embeddings=True, attention_bias=False)


MODELS = {"deepseek-v2-lite": deepseek_v2_lite, "deepseek-v2": deepseek_v2,
          "deepseek-v3": deepseek_v3, "mixtral": mixtral, "qwen3-moe": qwen3_moe,
          "deepseek-v3-fp8": deepseek_v3_fp8}
SEEDS = {name: 100 + 10 * i for i, name in enumerate(  # a new one goes to the end
    ["deepseek-v2", "deepseek-v2-lite", "deepseek-v3", "mixtral", "qwen3-moe", "deepseek-v3-fp8"])}
BLOCK = 128
QUANTIZATION = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                "weight_block_size": [BLOCK, BLOCK]}


def compute_in_double():
    """Where the reference asks for float32, it gets float64."""
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double


def mscale(factor, weight):
    return 0.1 * weight * math.log(factor) + 1.0


def weights(shape, name, random):
    """Products keep the variance of their input; norms are near one."""
    if name.endswith("norm.weight") or name.endswith("layernorm.weight"):
        return 1 + 0.2 * random.standard_normal(shape)
    if name.endswith("e_score_correction_bias"):
        return 0.05 * random.random(shape)
    spread = 2.0 if "embed_tokens" in name or "lm_head" in name else 1.0
    return spread * random.standard_normal(shape) / math.sqrt(shape[-1])


def is_scaled(name):
    return "_proj" in name and name.endswith(".weight")


def quantize(value):
    """Codes, scales and what they stand for in double: a block's largest element becomes 448."""
    rows, cols = value.shape
    scales = np.zeros((-(-rows // BLOCK), -(-cols // BLOCK)), np.float32)
    codes = torch.empty((rows, cols), dtype=torch.float8_e4m3fn)
    wide = np.zeros((rows, cols), np.float64)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            block = np.s_[i * BLOCK:(i + 1) * BLOCK, j * BLOCK:(j + 1) * BLOCK]
            scales[i, j] = np.abs(value[block]).max() / np.float32(448)
            codes[block] = torch.from_numpy(value[block] / scales[i, j]).to(torch.float8_e4m3fn)
            wide[block] = codes[block].to(FLOAT32).numpy().astype(np.float64) * float(scales[i, j])
    return codes, torch.from_numpy(scales), wide


def fill(model, seed, fp8):
    random = np.random.Generator(np.random.PCG64(seed))
    state = {}
    tensors = dict(model.named_parameters())
    tensors.update((n, b) for n, b in model.named_buffers() if n.endswith("correction_bias"))
    for name in sorted(tensors):
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        value = weights(tuple(tensors[name].shape), name, random).astype(np.float32)
        state[name] = torch.from_numpy(value)
        if fp8 and is_scaled(name):
            state[name], state[name + "_scale_inv"], value = quantize(value)
        tensors[name].data.copy_(torch.from_numpy(value.astype(np.float64)))
    return state


def correct_deepseek_v2(model):
    scaling = model.config.rope_scaling
    m = mscale(scaling["factor"], scaling["mscale_all_dim"])
    for layer in model.model.layers:
        layer.self_attn.scaling *= m * m


def write(folder, name, seed):
    config = MODELS[name]()
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    fp8 = name.endswith("-fp8")
    state = fill(model, seed, fp8)
    if name.startswith("deepseek-v2"):
        correct_deepseek_v2(model)
    tokens = np.random.Generator(np.random.PCG64(seed + 1)).integers(2, VOCAB, PROMPT)
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
    assert logits.dtype == np.float64, "something was computed in float32"
    out = os.path.join(folder, name)
    os.makedirs(out, exist_ok=True)
    save_torch(state, os.path.join(out, "model.safetensors"))
    save_file({"logits": logits.astype(np.float32)}, os.path.join(out, "golden.safetensors"))
    text = config.to_dict()
    text["architectures"] = [type(model).__name__]
    if fp8:
        text["quantization_config"] = QUANTIZATION
    for key in ("transformers_version", "_attn_implementation_autoset", "dtype", "torch_dtype"):
        text.pop(key, None)
    with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as file:
        json.dump(text, file, indent=1, sort_keys=True)
        file.write("\n")
    with open(os.path.join(out, "golden.json"), "w", encoding="utf-8") as file:
        json.dump({"tokens": tokens.tolist(), "torch": torch.__version__.split("+")[0],
                   "transformers": transformers.__version__}, file)
        file.write("\n")
    print(f"{name}: {sum(v.numel() for v in state.values())} parameters, "
          f"logits spread {logits.std():.2f}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    compute_in_double()
    for name in sorted(MODELS):
        write(sys.argv[1], name, SEEDS[name])


if __name__ == "__main__":
    main()
