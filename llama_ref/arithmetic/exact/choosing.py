"""llama.cpp's choice of the next token, compiled: what `llama_ref.text.sampling` says in numpy, in the same bits.

One call chooses for several texts: their options, their last tokens and the states of their generators are rows of
arrays (`llama_ref.text.samplers` keeps them). A text whose rule is not here, or whose scores are not finite, is left to
numpy.
"""

from __future__ import annotations

import math

import numpy as np

from ggmlpy.machine.kernels import kernel

from .libm import _expf
from .std_sort import STRIP, _any_above, _heap_order, _intro_order

__all__ = [
    "BY_NUMPY",
    "CHAIN",
    "CHAIN_CROSSING",
    "GREEDY",
    "MARCH",
    "MT_WORDS",
    "OPTIONS",
    "choose_each",
    "seed_twister",
]

# rules: not compiled; temperature 0; those of 2023-03-30, of 2023-04-30, and of 2023-08-21
BY_NUMPY, GREEDY, MARCH, CHAIN, CHAIN_CROSSING = range(-1, 4)
MT_WORDS, MT_MIDDLE = 624, 397
LOW_32 = np.uint64(0xFFFFFFFF)
WIDTH = 4  # of rows in which many scores are looked through, for each that is looked for
TWO_64 = 2.0**64
LARGEST = np.finfo(np.float32).max
BELOW_1 = math.nextafter(1.0, 0.0)

# fmt: off
OPTIONS = np.dtype([
    ("rule",    "<i8"),
    ("top_k",   "<i8"),
    ("last_n",  "<i8"),   # how many of the last tokens are made less likely
    ("top_p",   "<f8"),   # a float that was widened
    ("scale",   "<f4"),   # of the scores, at first; later rules divide by temp, at last
    ("temp",    "<f4"),
    ("penalty", "<f4"),
])
# fmt: on


@kernel
def seed_twister(words, seed):
    """The state of ``std::mt19937(seed)``, uint32 [625]: 624 words and the position."""
    word = np.uint64(seed) & LOW_32
    words[0] = word
    for i in range(1, MT_WORDS):
        word = (np.uint64(1812433253) * (word ^ (word >> np.uint64(30))) + np.uint64(i)) & LOW_32
        words[i] = word
    words[MT_WORDS] = MT_WORDS


@kernel
def _twist(words):
    for i in range(MT_WORDS):
        y = (words[i] & np.uint32(0x80000000)) | (words[(i + 1) % MT_WORDS] & np.uint32(0x7FFFFFFF))
        odd = np.uint32(0x9908B0DF) if y & np.uint32(1) else np.uint32(0)
        words[i] = words[(i + MT_MIDDLE) % MT_WORDS] ^ (y >> np.uint32(1)) ^ odd
    words[MT_WORDS] = 0


@kernel
def _draw(words):
    """The next 32 bits."""
    if words[MT_WORDS] >= MT_WORDS:
        _twist(words)
    y = np.uint64(words[np.int64(words[MT_WORDS])])
    words[MT_WORDS] += np.uint32(1)
    y ^= y >> np.uint64(11)
    y ^= (y << np.uint64(7)) & np.uint64(0x9D2C5680)
    y ^= (y << np.uint64(15)) & np.uint64(0xEFC60000)
    return (y ^ (y >> np.uint64(18))) & LOW_32


@kernel
def _canonical(words):
    """``std::generate_canonical<double, 53>``: two draws, the low half first."""
    low = _draw(words)
    value = np.float64(low + (_draw(words) << np.uint64(32))) / TWO_64
    return value if value < 1.0 else BELOW_1


@kernel
def _scored(logits, how, recent, said, scores):
    """Logits × scale, × or / penalty for tokens said lately; whether all are finite."""
    scale, strange = how.scale, np.int32(0)
    for i in range(len(logits)):
        scores[i] = logits[i] * scale
    for back in range(1, min(how.last_n, len(recent)) + 1):
        token = recent[(said - back) % len(recent)]
        if 0 <= token < len(logits):
            less = logits[token] < 0 or (logits[token] == 0 and how.rule >= CHAIN)
            score = logits[token] * scale
            scores[token] = score * how.penalty if less else score / how.penalty
    for i in range(len(scores)):
        strange += np.int32(not abs(scores[i]) <= LARGEST)
    return strange == 0


@kernel
def _likeliest(scores):
    best = 0
    for i in range(1, len(scores)):
        if scores[i] > scores[best]:
            best = i
    return best


@kernel
def _ordered(scores, how, order):
    """Put the largest scores' ids in front, in falling order; how many."""
    n = len(scores)
    k = min(how.top_k, n)
    if WIDTH * k <= n // 2 and _ordered_without_ties(scores, k, order):
        return k
    for i in range(k):
        order[i] = i
    if k == n and how.rule >= CHAIN:
        _intro_order(scores, order[:k])
    else:
        _heap_order(scores, order[:k])
    return k


@kernel
def _raise_to(tops, scores):
    for i in range(len(tops)):
        tops[i] = scores[i] if scores[i] > tops[i] else tops[i]


@kernel
def _ordered_without_ties(scores, k, order):
    """The same for a few of many, where every sorting algorithm agrees; whether that is so.

    Written in rows, each column has a largest score, and the k-th largest of these is no more than the k-th of all.
    """
    width = WIDTH * k
    tops = scores[:width].copy()
    for row in range(1, len(scores) // width):
        _raise_to(tops, scores[row * width : (row + 1) * width])
    for i in range(k):
        order[i] = i
    _heap_order(tops, order[:k])
    below, found = np.nextafter(tops[order[k - 1]], np.float32(-np.inf)), 0
    for start in range(0, len(scores), STRIP):
        stop = min(start + STRIP, len(scores))
        if _any_above(scores[start:stop], below):
            for i in range(start, stop):
                order[found] = i
                found += scores[i] > below
            if found > len(scores) - STRIP:
                return False
    _intro_order(scores, order[:found])
    ties = 0
    for i in range(min(k, found - 1)):
        ties += scores[order[i]] == scores[order[i + 1]]
    return ties == 0


@kernel
def _march(scores, how, order, weights):
    """Softmax in float with sums in double, and top-p (ed3c680bc, 352589927); how many candidates are left."""
    k = _ordered(scores, how, order)
    total = 0.0
    for i in range(k):
        weights[i] = _expf(scores[order[i]] - scores[order[0]])
        total += weights[i]
    for i in range(k):
        weights[i] = np.float32(weights[i] / total)
    if not how.top_p < 1.0:
        return k
    kept, reached = 0, 0.0
    while kept < k and (kept == 0 or not reached >= how.top_p):
        reached += weights[kept]
        kept += 1
    normalize = 1.0 / reached
    for i in range(kept):
        weights[i] = np.float32(weights[i] * normalize)
    return kept


@kernel
def _softmax(scores, order, n, divisor, weights):
    """Of scores in falling order, summed one after another in float."""
    top = scores[order[0]] / divisor
    total = np.float32(0)
    for i in range(n):
        weight = _expf(scores[order[i]] / divisor - top)
        weights[i] = weight
        total += weight
    for i in range(n):
        weights[i] = np.float32(weights[i]) / total


@kernel
def _chain(scores, how, order, weights):
    """Top-k, top-p, and temperature at last, all in float (3e5aa8a1c, dadbed99e); how many candidates are left."""
    k = _ordered(scores, how, order)
    top_p = np.float32(how.top_p)
    if top_p < 1:
        _softmax(scores, order, k, np.float32(1), weights)
        reached = np.float32(0)
        for i in range(k):
            reached += np.float32(weights[i])
            if how.rule == CHAIN_CROSSING and reached >= top_p:
                k = i + 1
                break
            if how.rule == CHAIN and reached > top_p and i >= 1:
                k = i
                break
    if not math.isfinite(scores[order[0]] / how.temp) or not math.isfinite(scores[order[k - 1]] / how.temp):
        return 0
    _softmax(scores, order, k, how.temp, weights)
    return k


@kernel
def _picked(weights, n, words):
    """``std::discrete_distribution`` over the first ``n``."""
    total = 0.0
    for i in range(n):
        total += weights[i]
    draw, reached = _canonical(words), 0.0
    for i in range(n - 1):
        reached += weights[i] / total
        if reached >= draw:
            return i
    return n - 1


@kernel
def choose_each(texts, logits, options, recent, said, twisters, scores, order, weights, chosen):
    """Choose the next token of each of some texts, and count it as said.

    Args:
        texts: int64 [n], rows of what follows.
        logits: float32 [n, n_vocab].
        options: OPTIONS [n_texts].
        recent: int32 [n_texts, n_ctx], a ring of each text's last tokens.
        said: int64 [n_texts], how many went into it.
        twisters: uint32 [n_texts, 625].
        scores, order, weights: float32, int64 and float64 [n_vocab], to work with.
        chosen: int64 [n]; -1 where it is left to numpy, and nothing was drawn.
    """
    for n in range(len(texts)):
        text = texts[n]
        how = options[text]
        chosen[n] = -1
        if how.rule == BY_NUMPY or not _scored(logits[n], how, recent[text], said[text], scores):
            continue
        if how.rule == GREEDY:
            chosen[n] = _likeliest(scores)
        else:
            left = _march(scores, how, order, weights) if how.rule == MARCH else _chain(scores, how, order, weights)
            if left > 0:
                chosen[n] = order[_picked(weights, left, twisters[text]) if left > 1 else 0]
        if chosen[n] >= 0:
            recent[text, said[text] % recent.shape[1]] = chosen[n]
            said[text] += 1
