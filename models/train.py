#!/usr/bin/env python3
"""Trains a small Llama-architecture model with its own vocabulary and writes a model folder.

    models/train.py --text FILE... --out DIR [--attention gqa] [--minutes 60]

Needs PyTorch and regex (Debian: python3-torch python3-regex, or PyPI: torch regex numpy). Text files are
documents joined by a line <|endoftext|>. Documents are held out whole, chosen by the hash of their text,
and never trained on; the card DIR/README.md gives bits per byte on them. The run can be stopped at any
time and goes on from DIR/checkpoint.pt when started again with the same arguments.
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
    p.add_argument("--attention", choices=["mha", "gqa", "mqa"], default="gqa")
    p.add_argument("--minutes", type=float, default=60, help="of training, over all runs")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--threads", type=int, default=0, help="0: all")
    p.add_argument("--vocab", type=int, default=4096)
    p.add_argument("--dim", type=int, default=256)
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--heads", type=int, default=8)
    p.add_argument("--ffn", type=int, default=704)
    p.add_argument("--context", type=int, default=1024)
    p.add_argument("--batch-tokens", type=int, default=16384)
    p.add_argument("--held-out", type=float, default=0.02, help="share of documents")
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


def prepare(a):
    """Vocabulary and ids, made once: returns (training ids, held-out ids, held-out bytes)."""
    tokenizer, data = os.path.join(a.out, "tokenizer.json"), os.path.join(a.out, "ids.npz")
    if not (os.path.exists(tokenizer) and os.path.exists(data)):
        documents = list(read_documents(a.text))
        train = [d for d in documents if not is_held_out(d, a.held_out)]
        held = [d for d in documents if is_held_out(d, a.held_out)] or [train.pop()]
        print(f"{len(train)} documents to train on, {len(held)} held out; learning the vocabulary", flush=True)
        tokens, merges = bpe.learn(train, a.vocab)
        bpe.save(tokenizer, tokens, merges)
        encoder = bpe.Encoder(tokens, merges)
        encoded = [np.array([i for d in part for i in [0, *encoder.encode(d)]], dtype=np.uint16)
                   for part in (train, held)]
        np.savez(data, train=encoded[0], held=encoded[1], bytes=sum(len(d.encode()) for d in held))
    stored = np.load(data)
    return stored["train"].astype(np.int64), stored["held"].astype(np.int64), int(stored["bytes"])


class RmsNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return self.weight * (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


class Layer(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = a.heads, kv_heads(a), a.dim // a.heads
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.input_layernorm, self.post_attention_layernorm = RmsNorm(a.dim), RmsNorm(a.dim)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(a.dim, n, bias=False) for n in (wide, narrow, narrow))
        self.o_proj = nn.Linear(wide, a.dim, bias=False)
        self.gate_proj, self.up_proj = (nn.Linear(a.dim, a.ffn, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(a.ffn, a.dim, bias=False)

    def forward(self, x, cos, sin):  # x [batch, tokens, dim]
        b, t, _ = x.shape
        y = self.input_layernorm(x)
        q, k, v = (f(y).view(b, t, -1, self.head_dim).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (z.repeat_interleave(self.heads // self.kv_heads, 1) for z in (k, v))
        if hasattr(F, "scaled_dot_product_attention"):
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(self.head_dim)
            hidden = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
            o = scores.masked_fill(hidden, float("-inf")).softmax(-1).to(v.dtype) @ v
        x = x + self.o_proj(o.transpose(1, 2).reshape(b, t, -1))
        y = self.post_attention_layernorm(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return (x.float() * cos + turned.float() * sin).to(x.dtype)


class Model(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.embed_tokens = nn.Embedding(a.vocab, a.dim)
        self.layers = nn.ModuleList(Layer(a) for _ in range(a.layers))
        self.norm = RmsNorm(a.dim)
        head_dim = a.dim // a.heads
        angle = torch.outer(torch.arange(a.context).float(), 10000.0 ** (-torch.arange(0, head_dim, 2).float() / head_dim))
        self.register_buffer("cos", torch.cat([angle.cos()] * 2, -1), persistent=False)
        self.register_buffer("sin", torch.cat([angle.sin()] * 2, -1), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * a.layers) if residual else 1))

    def forward(self, ids, targets):
        x, t = self.embed_tokens(ids), ids.shape[1]
        for layer in self.layers:
            x = layer(x, self.cos[:t], self.sin[:t])
        logits = self.norm(x) @ self.embed_tokens.weight.t()
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


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


def export(model, a, bpb, log):
    tensors = {"model.embed_tokens.weight": model.embed_tokens.weight, "model.norm.weight": model.norm.weight}
    for i, layer in enumerate(model.layers):
        for name, p in layer.named_parameters():
            part = "" if "layernorm" in name else "mlp." if name.split("_")[0] in ("gate", "up", "down") else "self_attn."
            tensors[f"model.layers.{i}.{part}{name}"] = p
    header, blob = {"__metadata__": {"format": "pt"}}, b""
    for name, p in tensors.items():
        data = p.detach().cpu().bfloat16().contiguous().view(torch.int16).numpy().tobytes()
        header[name] = {"dtype": "BF16", "shape": list(p.shape), "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": a.vocab,
              "hidden_size": a.dim, "intermediate_size": a.ffn, "num_hidden_layers": a.layers,
              "num_attention_heads": a.heads, "num_key_value_heads": kv_heads(a), "head_dim": a.dim // a.heads,
              "hidden_act": "silu", "max_position_embeddings": a.context, "rms_norm_eps": 1e-5,
              "rope_theta": 10000.0, "rope_scaling": None, "attention_bias": False, "mlp_bias": False,
              "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16"}
    cache = 2 * 2 * kv_heads(a) * (a.dim // a.heads) * a.layers
    card = (f"# A small {a.attention.upper()} model\n\nTrained by models/train.py: {log['parameters']:,} parameters, "
            f"{log['steps']:,} steps, {log['tokens'] / 1e6:.1f} M tokens, {log['minutes']:.0f} minutes.\n\n"
            f"| held-out bits per byte | cache bytes per token (bf16) | context |\n|---|---|---|\n"
            f"| {bpb:.4f} | {cache} | {a.context} |\n")
    for name, content in {"model.safetensors": struct.pack("<Q", len(text)) + text + blob,
                          "config.json": json.dumps(config, indent=1).encode(),
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
