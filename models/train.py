#!/usr/bin/env python3
"""Trains a small model with its own vocabulary and writes a model folder.

    models/train.py --text FILE... --out DIR [--attention gqa] [--minutes 60]

Llama architecture, or with --attention mla DeepSeek-V2's: dense layers with multi-head latent attention.
Needs PyTorch and regex (Debian: python3-torch python3-regex, or PyPI: torch regex numpy). Text files are
documents joined by a line <|endoftext|>. Documents are held out whole, chosen by the hash of their text,
or those of --held-out-text, and never trained on; the card DIR/README.md gives bits per byte on them. The
run can be stopped at any time and goes on from DIR/checkpoint.pt when started again with the same arguments.
"""
import argparse
import hashlib
import json
import math
import os
import struct
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import bpe


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--text", nargs="+", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--attention", choices=["mha", "gqa", "mqa", "mla"], default="gqa")
    p.add_argument("--minutes", type=float, default=60, help="of training, over all runs")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--threads", type=int, default=0, help="0: all")
    p.add_argument("--vocab", type=int, default=4096)
    p.add_argument("--dim", type=int, default=256)
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--heads", type=int, default=8)
    p.add_argument("--ffn", type=int, default=704)
    latent = p.add_argument_group("multi-head latent attention")
    latent.add_argument("--kv-lora-rank", type=int, default=64)
    latent.add_argument("--q-lora-rank", type=int, default=0, help="0: queries straight from the hidden state")
    latent.add_argument("--qk-nope-head-dim", type=int, default=32)
    latent.add_argument("--qk-rope-head-dim", type=int, default=16)
    latent.add_argument("--v-head-dim", type=int, default=32)
    p.add_argument("--context", type=int, default=1024)
    p.add_argument("--batch-tokens", type=int, default=16384)
    p.add_argument("--held-out", type=float, default=0.02, help="share of documents")
    p.add_argument("--held-out-text", help="documents to hold out instead of a share of --text")
    p.add_argument("--tokenizer", help="a tokenizer.json to use instead of learning a vocabulary")
    p.add_argument("--start", help="a model.safetensors in bf16: tensors it has in the same shape begin as its own")
    p.add_argument("--learning-rate", type=float, default=3e-3)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def kv_heads(a):
    return {"mha": a.heads, "gqa": max(1, a.heads // 4), "mqa": 1}[a.attention]


def read_documents(paths):
    for path in paths:
        with open(path, encoding="utf-8") as f:
            yield from (d.strip() for d in f.read().split(bpe.END) if d.strip())


def is_held_out(document, share):
    digest = hashlib.sha256(document.encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def split(a):
    """(documents to train on, documents held out)."""
    documents = list(read_documents(a.text))
    if a.held_out_text:
        return documents, list(read_documents([a.held_out_text]))
    train = [d for d in documents if not is_held_out(d, a.held_out)]
    return train, [d for d in documents if is_held_out(d, a.held_out)] or [train.pop()]


def prepare(a):
    """Vocabulary and ids, made once: returns (training ids, held-out ids, held-out bytes)."""
    tokenizer, data = os.path.join(a.out, "tokenizer.json"), os.path.join(a.out, "ids.npz")
    if not (os.path.exists(tokenizer) and os.path.exists(data)):
        train, held = split(a)
        print(f"{len(train)} documents to train on, {len(held)} held out", flush=True)
        tokens, merges = bpe.load(a.tokenizer) if a.tokenizer else bpe.learn(train, a.vocab)
        bpe.save(tokenizer, tokens, merges)
        encoder = bpe.Encoder(tokens, merges)
        encoded = [np.array([i for d in part for i in [0, *encoder.encode(d)]], dtype=np.uint16)
                   for part in (train, held)]
        np.savez(data, train=encoded[0], held=encoded[1], bytes=sum(len(d.encode()) for d in held))
    stored = np.load(data)
    return stored["train"].astype(np.int64), stored["held"].astype(np.int64), int(stored["bytes"])


class RmsNorm(nn.Module):
    def __init__(self, dim, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        wide = x if x.dtype == torch.float64 else x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class HeadsAttention(nn.Module):
    """Keys and values of their own for every head or group of heads; pairs that turn are halves apart."""

    def __init__(self, a):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = a.heads, kv_heads(a), a.dim // a.heads
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.q_proj, self.k_proj, self.v_proj = (linear(a.dim, n) for n in (wide, narrow, narrow))
        self.o_proj = linear(wide, a.dim)

    def forward(self, y, cos, sin):  # y [batch, tokens, dim]
        b, t, _ = y.shape
        q, k, v = (f(y).view(b, t, -1, self.head_dim).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (z.repeat_interleave(self.heads // self.kv_heads, 1) for z in (k, v))
        return self.o_proj(attend(q, k, v).transpose(1, 2).reshape(b, t, -1))


class LatentAttention(nn.Module):
    """Multi-head latent attention (arXiv 2405.04434, section 2.1): a token's cache is one normed latent and
    one rotated key for all heads; pairs that turn are neighbours."""

    def __init__(self, a):
        super().__init__()
        self.heads, self.nope, self.rope, self.v = a.heads, a.qk_nope_head_dim, a.qk_rope_head_dim, a.v_head_dim
        self.rank = a.kv_lora_rank
        wide = self.heads * (self.nope + self.rope)
        if a.q_lora_rank:
            self.q_a_proj, self.q_a_layernorm = linear(a.dim, a.q_lora_rank), RmsNorm(a.q_lora_rank, 1e-6)
            self.q_b_proj = linear(a.q_lora_rank, wide)
        else:
            self.q_proj = linear(a.dim, wide)
        self.kv_a_proj_with_mqa = linear(a.dim, self.rank + self.rope)
        self.kv_a_layernorm = RmsNorm(self.rank, 1e-6)
        self.kv_b_proj = linear(self.rank, self.heads * (self.nope + self.v))
        self.o_proj = linear(self.heads * self.v, a.dim)

    def forward(self, y, cos, sin):  # y [batch, tokens, dim]
        b, t, _ = y.shape
        q = self.q_proj(y) if hasattr(self, "q_proj") else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(y)))
        q = q.view(b, t, self.heads, -1).transpose(1, 2)
        latent, k_rope = self.kv_a_proj_with_mqa(y).split([self.rank, self.rope], -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(b, t, self.heads, -1).transpose(1, 2)
        k_nope, v = kv.split([self.nope, self.v], -1)
        q_rope = rotate(apart(q[..., self.nope:]), cos, sin)
        k_rope = rotate(apart(k_rope)[:, None], cos, sin).expand(-1, self.heads, -1, -1)
        q = torch.cat([q[..., :self.nope], q_rope], -1)
        k = torch.cat([k_nope, k_rope], -1)
        # The fused kernels want values as wide as keys.
        wide = F.pad(v, (0, max(0, self.nope + self.rope - self.v)))
        return self.o_proj(attend(q, k, wide)[..., :self.v].transpose(1, 2).reshape(b, t, -1))


def attend(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
    hidden = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(hidden, float("-inf")).softmax(-1).to(v.dtype) @ v


def apart(x):
    """Pairs of neighbours to halves apart; scores do not change by it, queries and keys are moved alike."""
    return torch.cat([x[..., 0::2], x[..., 1::2]], -1)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    wide = x.to(cos.dtype)
    return (wide * cos + turned.to(cos.dtype) * sin).to(x.dtype)


class Mlp(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.gate_proj, self.up_proj = linear(a.dim, a.ffn), linear(a.dim, a.ffn)
        self.down_proj = linear(a.ffn, a.dim)

    def forward(self, y):
        return self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class Layer(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RmsNorm(a.dim), RmsNorm(a.dim)
        self.self_attn = LatentAttention(a) if a.attention == "mla" else HeadsAttention(a)
        self.mlp = Mlp(a)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """Parameters have the names of a Hugging Face folder's tensors without their "model."."""

    def __init__(self, a):
        super().__init__()
        self.embed_tokens = nn.Embedding(a.vocab, a.dim)
        self.layers = nn.ModuleList(Layer(a) for _ in range(a.layers))
        self.norm = RmsNorm(a.dim)
        turning = a.qk_rope_head_dim if a.attention == "mla" else a.dim // a.heads
        frequencies = 10000.0 ** (-torch.arange(0, turning, 2).double() / turning)
        angle = torch.outer(torch.arange(a.context).double(), frequencies).to(torch.get_default_dtype())
        self.register_buffer("cos", torch.cat([angle.cos()] * 2, -1), persistent=False)
        self.register_buffer("sin", torch.cat([angle.sin()] * 2, -1), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * a.layers) if residual else 1))

    def logits(self, ids):
        x, t = self.embed_tokens(ids), ids.shape[1]
        for layer in self.layers:
            x = layer(x, self.cos[:t], self.sin[:t])
        return self.norm(x) @ self.embed_tokens.weight.t()

    def forward(self, ids, targets):
        return F.cross_entropy(self.logits(ids).float().flatten(0, 1), targets.flatten())


def read_tensors(path):
    """Name to tensor of a model.safetensors in bf16."""
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header, blob = json.loads(f.read(size)), f.read()
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["dtype"] == "BF16", f"{path}: tensor {name} is {entry['dtype']}, not BF16"
            first, last = entry["data_offsets"]
            flat = torch.frombuffer(bytearray(blob[first:last]), dtype=torch.bfloat16)
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


def start_from(model, path):
    """Returns how many parameters begin as the file's."""
    given, taken = read_tensors(path), 0
    for name, p in model.named_parameters():
        tensor = given.get("model." + name)
        if tensor is not None and tensor.shape == p.shape:
            p.data.copy_(tensor.to(p.dtype))
            taken += p.numel()
    return taken


def batch(ids, a, rng, device):
    starts = rng.integers(0, len(ids) - a.context - 1, max(1, a.batch_tokens // a.context))
    rows = torch.from_numpy(np.stack([ids[s:s + a.context + 1] for s in starts])).to(device)
    return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def bits_per_byte(model, ids, held_bytes, a, device, windows=None):
    """Of the held-out documents, in windows of one context; `windows` limits how many."""
    model.eval()
    starts = list(range(0, len(ids) - 1, a.context))[:windows]
    nll, scored = 0.0, 0
    for s in starts:
        row = torch.from_numpy(ids[s:s + a.context + 1]).to(device)[None]
        with torch.autocast(device, dtype=torch.bfloat16):
            nll += model(row[:, :-1], row[:, 1:]).item() * (row.shape[1] - 1)
        scored += row.shape[1] - 1
    model.train()
    return nll / math.log(2) / (held_bytes * scored / len(ids))


def config_of(a):
    config = {"vocab_size": a.vocab, "hidden_size": a.dim, "intermediate_size": a.ffn,
              "num_hidden_layers": a.layers, "num_attention_heads": a.heads, "hidden_act": "silu",
              "max_position_embeddings": a.context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
              "rope_scaling": None, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
              "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16"}
    if a.attention != "mla":
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **config,
                "num_key_value_heads": kv_heads(a), "head_dim": a.dim // a.heads}
    return {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", **config,
            "num_key_value_heads": a.heads, "head_dim": a.qk_rope_head_dim, "kv_lora_rank": a.kv_lora_rank,
            "q_lora_rank": a.q_lora_rank or None, "qk_nope_head_dim": a.qk_nope_head_dim,
            "qk_rope_head_dim": a.qk_rope_head_dim, "v_head_dim": a.v_head_dim,
            "n_routed_experts": None, "first_k_dense_replace": a.layers}


def cache_bytes(a):
    """Of a token, in bf16."""
    if a.attention == "mla":
        return 2 * a.layers * (a.kv_lora_rank + a.qk_rope_head_dim)
    return 2 * a.layers * 2 * kv_heads(a) * (a.dim // a.heads)


def export(model, a, bpb, log):
    header, blob = {"__metadata__": {"format": "pt"}}, b""
    for name, p in model.named_parameters():
        data = p.detach().cpu().bfloat16().contiguous().view(torch.int16).numpy().tobytes()
        header["model." + name] = {"dtype": "BF16", "shape": list(p.shape),
                                   "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    card = (f"# A small {a.attention.upper()} model\n\nTrained by models/train.py: {log['parameters']:,} parameters, "
            f"{log['steps']:,} steps, {log['tokens'] / 1e6:.1f} M tokens, {log['minutes']:.0f} minutes.\n\n"
            f"| held-out bits per byte | cache bytes per token (bf16) | context |\n|---|---|---|\n"
            f"| {bpb:.4f} | {cache_bytes(a)} | {a.context} |\n")
    for name, content in {"model.safetensors": struct.pack("<Q", len(text)) + text + blob,
                          "config.json": json.dumps(config_of(a), indent=1).encode(),
                          "generation_config.json": json.dumps({"bos_token_id": 0, "eos_token_id": 0, "do_sample": True,
                                                                "temperature": 0.7, "top_p": 0.9}).encode(),
                          "README.md": card.encode()}.items():
        write_atomically(os.path.join(a.out, name), content)


def write_atomically(path, content):
    with open(path + ".new", "wb") as f:
        f.write(content)
    os.replace(path + ".new", path)


def learning_rate(a, step, done):
    return a.learning_rate * min(1, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1, done))))


def main():
    a = parse_arguments()
    os.makedirs(a.out, exist_ok=True)
    device = a.device if a.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    train, held, held_bytes = prepare(a)
    model = Model(a).to(device)
    if a.start:
        print(f"{start_from(model, a.start):,} parameters begin as those of {a.start}", flush=True)
    groups = [{"params": [p for p in model.parameters() if (p.dim() == 2) == decay], "weight_decay": 0.1 * decay}
              for decay in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=1, betas=(0.9, 0.95))
    parameters = sum(p.numel() for p in model.parameters())
    step, spent = 0, 0.0
    checkpoint = os.path.join(a.out, "checkpoint.pt")
    if os.path.exists(checkpoint):
        state = torch.load(checkpoint, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
        print(f"resumed at step {step}, {spent / 60:.1f} minutes", flush=True)
    print(f"{parameters:,} parameters, {len(train):,} training tokens, on {device}", flush=True)

    def save():
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": spent},
                   checkpoint + ".new")
        os.replace(checkpoint + ".new", checkpoint)

    last = saved = time.monotonic()
    while spent < a.minutes * 60:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(a, step, spent / (a.minutes * 60))
        ids, targets = batch(train, a, np.random.default_rng([a.seed, step]), device)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(ids, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        now = time.monotonic()
        spent, last = spent + now - last, now
        if step % 25 == 0:
            print(f"step {step} {spent / 60:.1f} min loss {loss.item():.3f}", flush=True)
        if now - saved > 300:
            save()
            print(f"held-out bits per byte {bits_per_byte(model, held, held_bytes, a, device, 32):.4f}", flush=True)
            last = saved = time.monotonic()
    save()
    bpb = bits_per_byte(model, held, held_bytes, a, device)
    export(model, a, bpb, {"parameters": parameters, "steps": step, "tokens": step * a.batch_tokens, "minutes": spent / 60})
    print(f"done: {step} steps, held-out bits per byte {bpb:.4f}", flush=True)


if __name__ == "__main__":
    main()
