"""A baseline that never reads the question: a bigram over the tokens of TriviaQA's answers.

    python bigram.py MODEL_FOLDER TRAIN.json DEV.json [--train 1600] [--dev 1000]

Each answer is the tokens of " " + the canonical answer and the end-of-text token, as `soft evaluate` scores them; the token before the first is
the prompt's last. Probabilities are those of the bigram, interpolated with the unigram and with a uniform distribution over the vocabulary
(weights chosen on the training answers held out of every tenth). Prints accuracy and nats per token. Needs `tokenizers` only.
"""

import argparse
import collections
import json
import math
import pathlib

from tokenizers import Tokenizer


def answers(path, limit, tokenizer, end):
    rows = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["Data"][:limit]
    texts = [" " + row["Answer"]["Value"].strip() for row in rows]
    return [tokenizer.encode(text, add_special_tokens=False).ids + [end] for text in texts]


class Bigram:
    def __init__(self, texts, start, vocab):
        self.start, self.vocab = start, vocab
        self.pairs = collections.defaultdict(collections.Counter)
        self.single = collections.Counter()
        for text in texts:
            for before, token in zip([start, *text], text):
                self.pairs[before][token] += 1
                self.single[token] += 1
        self.total = sum(self.single.values())

    def probability(self, before, token, weights):
        after = self.pairs[before]
        seen = sum(after.values())
        pair = after[token] / seen if seen else self.single[token] / self.total
        return weights[0] * pair + weights[1] * self.single[token] / self.total + weights[2] / self.vocab

    def best(self, before):
        counts = self.pairs[before] or self.single
        return max(counts, key=counts.get)

    def score(self, texts, weights):
        nats, right, count = 0.0, 0, 0
        for text in texts:
            for before, token in zip([self.start, *text], text):
                nats -= math.log(self.probability(before, token, weights))
                right += self.best(before) == token
                count += 1
        return nats / count, 100 * right / count, count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("train")
    parser.add_argument("dev")
    parser.add_argument("--train", dest="train_rows", type=int, default=1600)
    parser.add_argument("--dev", dest="dev_rows", type=int, default=1000)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.folder / "tokenizer.json"))
    config = json.loads((args.folder / "config.json").read_text())
    end, vocab = config["eos_token_id"], config["vocab_size"]
    train = answers(args.train, args.train_rows, tokenizer, end)
    dev = answers(args.dev, args.dev_rows, tokenizer, end)
    held_out, fitted = train[::10], [text for index, text in enumerate(train) if index % 10]
    grid = [(a, b, 1 - a - b) for a in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7) for b in (0.1, 0.15, 0.2, 0.25, 0.3) if a + b < 0.99]
    part = Bigram(fitted, -1, vocab)
    weights = min(grid, key=lambda weights: part.score(held_out, weights)[0])
    nats, accuracy, count = Bigram(train, -1, vocab).score(dev, weights)
    print(f"{count} answer tokens: {nats:.2f} nats, {accuracy:.1f} % right; weights {[round(w, 2) for w in weights]}")


if __name__ == "__main__":
    main()
