"""Measures what PyTorch does of the benchmark's shapes on the same card, and prints both with their ratio.

    peers.py OURS.json      rows with a "peer" name are measured here under it
"""

import json
import sys

import torch
import torch.nn.functional as F

GROUPS, GROUP_SECONDS = 15, 4e-3


def seconds(launch):
    """Median seconds of launch(i), i counting up; events around groups of launches."""
    for i in range(3):
        launch(i)
    torch.cuda.synchronize()

    def run(count, first):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for i in range(count):
            launch(first + i)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / count

    once = run(3, 0)
    count = max(1, min(200, int(GROUP_SECONDS / max(once, 1e-7))))
    return sorted(run(count, i * count) for i in range(GROUPS))[GROUPS // 2]


def uniform(*shape):
    return torch.rand(*shape, device="cuda").mul_(2).sub_(1).to(torch.bfloat16)


def copy():
    a = uniform(1 << 31)
    b = torch.empty_like(a)
    return 2 * a.numel() * 2 / seconds(lambda i: b.copy_(a)) / 1e12


def gemm_large():
    a, b = uniform(8192, 8192), uniform(8192, 8192)
    return 2 * 8192**3 / seconds(lambda i: F.linear(a, b)) / 1e12


def gemm_rows(m):
    def measure():
        n, k = 10944, 2048
        x, w = uniform(m, k), [uniform(n, k) for _ in range(16)]
        return n * k * 2 / seconds(lambda i: F.linear(x, w[i % 16])) / 1e12

    return measure


def best_attention(q, k, v, causal, grouped):
    """The fastest of the kinds that take these shapes."""
    best = None
    for kind in (torch.nn.attention.SDPBackend.CUDNN_ATTENTION, torch.nn.attention.SDPBackend.FLASH_ATTENTION,
                 torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION):
        try:
            with torch.nn.attention.sdpa_kernel(kind):
                s = seconds(lambda i: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped))
        except RuntimeError:
            continue
        best = s if best is None else min(best, s)
    if best is None:
        raise RuntimeError("no kind of attention takes this shape")
    return best


def gqa_decode(batch):
    def measure():
        q = uniform(batch, 32, 1, 128)
        k, v = uniform(batch, 8, 8192, 128), uniform(batch, 8, 8192, 128)
        s = best_attention(q, k, v, False, True)
        return 2 * k.numel() * 2 / s / 1e12 if batch > 1 else s * 1e6

    return measure


def prefill(heads, kv_heads, key_dim, value_dim):
    def measure():
        t = 8192
        q, k, v = uniform(1, heads, t, key_dim), uniform(1, kv_heads, t, key_dim), uniform(1, kv_heads, t, value_dim)
        s = best_attention(q, k, v, True, heads != kv_heads)
        return heads * t * t * (key_dim + value_dim) / s / 1e12

    return measure


PEERS = {
    "copy": copy,
    "gemm_large": gemm_large,
    "gemm_1": gemm_rows(1),
    "gemm_16": gemm_rows(16),
    "gemm_128": gemm_rows(128),
    "gqa_decode": gqa_decode(64),
    "gqa_decode_1": gqa_decode(1),
    "prefill_128": prefill(32, 8, 128, 128),
    "prefill_192": prefill(16, 16, 192, 128),
}


def main():
    path = sys.argv[1]
    with open(path) as file:
        ours = json.load(file)
    print(f"{'kernel':14} {'shape':34} {'ours':>10} {'PyTorch':>10} {'ratio':>7}")
    for row in ours["rows"]:
        if row["peer"] not in PEERS:
            continue
        try:
            row["peer_value"] = PEERS[row["peer"]]()
        except RuntimeError as error:
            print(f"{row['kernel']:14} {row['shape']:34} {row['value']:10.4g}  {str(error).splitlines()[0][:60]}")
            continue
        finally:
            torch.cuda.empty_cache()
        ratio = row["value"] / row["peer_value"]
        row["ratio"] = 1 / ratio if row["less_is_better"] else ratio
        print(f"{row['kernel']:14} {row['shape']:34} {row['value']:10.4g} {row['peer_value']:10.4g} {row['ratio']:7.2f}")
    with open(path, "w") as file:
        json.dump(ours, file)


if __name__ == "__main__":
    main()
