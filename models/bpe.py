"""Byte-level BPE: learns a vocabulary from text and encodes with it.

Splitting is GPT-2's. The result is a Hugging Face tokenizer.json whose id 0 is <|endoftext|>, used as
begin and end of a document.
"""
import collections
import heapq
import json

import regex

END = "<|endoftext|>"
_WORDS = regex.compile(r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")


def _byte_alphabet():
    """GPT-2's map of the 256 bytes to printable characters."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {b: chr(b) for b in kept}
    spare = 256
    for b in range(256):
        if b not in alphabet:
            alphabet[b] = chr(spare)
            spare += 1
    return alphabet


_ALPHABET = _byte_alphabet()


def learn(documents, vocab_size):
    """Returns (tokens in id order, merges in rank order)."""
    counts = collections.Counter(w for d in documents for w in _WORDS.findall(d))
    words = [[_ALPHABET[b] for b in w.encode()] for w in counts]
    weights = list(counts.values())
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for i, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pairs[pair] += weights[i]
            where[pair].add(i)
    tokens, merges = [END, *(_ALPHABET[b] for b in range(256))], []
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    while len(tokens) < vocab_size and heap:
        count, pair = heapq.heappop(heap)
        if pairs.get(pair, 0) != -count:  # outdated: the heap is not updated in place
            if pairs.get(pair, 0) > 0:
                heapq.heappush(heap, (-pairs[pair], pair))
            continue
        merges.append(pair)
        tokens.append("".join(pair))
        touched = set()
        for i in list(where[pair]):
            old, weight = words[i], weights[i]
            for p in zip(old, old[1:]):
                pairs[p] -= weight
                touched.add(p)
            words[i] = _merge(old, pair)
            for p in zip(words[i], words[i][1:]):
                pairs[p] += weight
                where[p].add(i)
                touched.add(p)
        pairs.pop(pair, None)
        where.pop(pair, None)
        for p in touched:
            if pairs.get(p, 0) > 0:
                heapq.heappush(heap, (-pairs[p], p))
    return tokens, merges


def _merge(word, pair):
    out, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out


class Encoder:
    """Text to ids with the given merges; remembers every distinct word."""

    def __init__(self, tokens, merges):
        self._ids = {t: i for i, t in enumerate(tokens)}
        self._rank = {tuple(m): i for i, m in enumerate(merges)}
        self._cache = {}

    def encode(self, text):
        ids = []
        for word in _WORDS.findall(text):
            if word not in self._cache:
                self._cache[word] = self._encode_word(word)
            ids += self._cache[word]
        return ids

    def _encode_word(self, word):
        parts = [_ALPHABET[b] for b in word.encode()]
        while len(parts) > 1:
            best = min(zip(parts, parts[1:]), key=lambda p: self._rank.get(p, len(self._rank)))
            if best not in self._rank:
                break
            parts = _merge(parts, best)
        return [self._ids[p] for p in parts]


def load(path):
    """(tokens, merges) of a tokenizer.json written by save."""
    with open(path, encoding="utf-8") as f:
        model = json.load(f)["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return tokens, merges


def save(path, tokens, merges):
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 0, "content": END, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {**byte_level, "trim_offsets": False},
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {t: i for i, t in enumerate(tokens)},
                  "merges": [" ".join(m) for m in merges]},
    }
    with open(path, "w", encoding="utf-8") as f:
        json.dump(document, f, ensure_ascii=False, indent=0)
