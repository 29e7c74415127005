"""Sample with the same seed as 2023."""

import math
import sys

from arrays_of_text import read

given = read(sys.argv[1])
seed, top_k, last = (int(given[name][0, 0]) for name in ("seed", "top_k", "repeat_last_n"))
temp, top_p, penalty = (given[name][0, 0] for name in ("temp", "top_p", "repeat_penalty"))
words = [seed & 0xFFFFFFFF]
for i in range(1, 624):
    words.append((1812433253 * (words[-1] ^ words[-1] >> 30) + i) & 0xFFFFFFFF)
at = 624


def output():
    global at
    if at == 624:
        for i in range(624):
            y = words[i] & 0x80000000 | words[(i + 1) % 624] & 0x7FFFFFFF
            words[i] = words[(i + 397) % 624] ^ y >> 1 ^ (0x9908B0DF if y & 1 else 0)
        at = 0
    y = words[at]
    at += 1
    y ^= y >> 11
    y ^= y << 7 & 0x9D2C5680
    y ^= y << 15 & 0xEFC60000
    return y ^ y >> 18


recent, tokens = [0] * last, []
for logits in given["logits"]:
    scores = [logit / temp for logit in logits]
    for token in set(recent[-last:]):
        scores[token] *= penalty if scores[token] < 0 else 1 / penalty
    order = sorted(range(len(scores)), key=lambda token: -scores[token])[:top_k]
    chances = [math.exp(scores[token] - scores[order[0]]) for token in order]
    total, kept, reached = sum(chances), [], 0.0
    for chance in chances:
        kept.append(chance / total)
        reached += chance / total
        if top_p < 1 and reached >= top_p:
            break
    token = order[0]
    if len(kept) > 1:
        first = output()
        second = output()
        draw, sum_so_far = (first + second * 2**32) / 2**64, 0.0
        for candidate, chance in zip(order, kept):
            token, sum_so_far = candidate, sum_so_far + chance / sum(kept)
            if sum_so_far >= draw:
                break
    recent.append(token)
    tokens.append(token)
open(sys.argv[2], "w").writelines(f"{token}\n" for token in tokens)
