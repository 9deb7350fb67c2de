"""What choosing the draft exit and the draft length by context could gain: speculation replayed on traces.

    soft calibrate --model MODEL --prompts prompts.jsonl --max-new-tokens 48 --journal traces.jsonl
    python benches/draft_headroom.py traces.jsonl --exits 3,6,12,30 --head 8 --draft-head 0.33 --texts 525

The journal also holds the texts that dynamic decoding wrote, behind those that `calibrate` counts: --texts leaves them out.

Every answer of the journal is decoded again by arithmetic. A round drafts n tokens at an exit: n + 1 states run through the blocks
before it, one at a time, and the draft head is asked for each token that may be drafted. Then all n + 1 run through the blocks behind
the exit and the head in one pass, which costs (1 + 0.05 n) times that of one state. The round gains the accepted drafts and one token
more. Costs are in blocks; the speed is the cost of plain decoding divided by it. An oracle knows the tokens of the full model: it
bounds what a better choice could give.
"""

import argparse
import itertools
import json

MOST, EXTRA, MEMORY = 8, 0.05, 0.9
CONFIDENCE, PROBE = lambda early: early["score"]["probability"], lambda early: early["probe"]
THRESHOLDS = [0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


class Costs:
    def __init__(self, args):
        self.depths = [int(depth) for depth in args.exits.split(",")]
        self.plain, self.draft_head = self.depths[-1] + args.head, args.draft_head
        # From exit to exit; the last one with the head.
        self.segments = [after - before for before, after in zip([0, *self.depths], [*self.depths[:-1], self.plain])]

    def round(self, exit, drafts, asked):
        before = self.depths[exit]
        return (drafts + 1) * before + asked * self.draft_head + (self.plain - before) * (1 + EXTRA * drafts)


def round_of(text, at, exit, threshold, costs, evidence=CONFIDENCE):
    """Tokens and cost of a round: drafts while the exit is confident. A token that is not drafted is asked for."""
    drafts = accepted = asked = 0
    right = True
    for token in text[at:at + MOST]:
        early = token["early"][exit]
        drafted = evidence(early) >= threshold
        asked += drafted or evidence is CONFIDENCE
        if not drafted:
            break
        drafts += 1
        right = right and early["score"]["token"] == token["full"]
        accepted += right
    return min(accepted + 1, len(text) - at), costs.round(exit, drafts, asked)


def round_by_token(text, at, threshold, costs, evidence):
    """A round in which every token is drafted at the first exit that is confident of it, until none is of one."""
    accepted, right, cost, waiting = 0, True, 0, []
    for token in text[at:at + MOST]:
        exit = next((exit for exit, early in enumerate(token["early"]) if evidence(early) >= threshold), None)
        asked = len(token["early"]) if exit is None else exit + 1
        cost += costs.draft_head * (asked if evidence is CONFIDENCE else exit is not None)
        if exit is None:
            break
        cost += costs.depths[exit]
        waiting.append(exit)
        right = right and token["early"][exit]["score"]["token"] == token["full"]
        accepted += right
    # States that wait at an exit join the newest one there.
    for segment, blocks in enumerate(costs.segments):
        cost += blocks * (1 + EXTRA * sum(exit < segment for exit in waiting))
    return min(accepted + 1, len(text) - at), cost


def exact_round(text, at, exit, costs):
    """The best round of an exit: it stops before the first wrong draft, or does not draft."""
    right = list(itertools.takewhile(
        lambda token: token["early"][exit]["score"]["token"] == token["full"], text[at:at + MOST]))
    rounds = [(min(n + 1, len(text) - at), costs.round(exit, n, n)) for n in range(len(right) + 1)]
    return max(rounds, key=lambda round: round[0] / round[1])


def replay(text, choose):
    """Tokens and cost of a text; `choose` gives the round at a position."""
    at = cost = 0
    while at < len(text):
        tokens, spent = choose(at)
        at, cost = at + tokens, cost + spent
    return at, cost


def by_recent_agreement(text, threshold, costs):
    """Draft exits by the recent agreement of all exits, which the passes of the full model show for nothing (DEL)."""
    agreement = [0.5] * (len(costs.depths) - 1)
    seen = 0

    def speed(exit):
        chance = min(agreement[exit], 0.99)
        lengths = range(1, MOST + 1)
        tokens = [(1 - chance ** (n + 1)) / (1 - chance) for n in lengths]
        return max(tokens[n - 1] / costs.round(exit, n, n) for n in lengths)

    def choose(at):
        nonlocal seen
        for token in text[seen:at]:
            for exit, early in enumerate(token["early"]):
                right = early["score"]["token"] == token["full"]
                agreement[exit] = MEMORY * agreement[exit] + (1 - MEMORY) * right
        seen = at
        best = max(range(len(agreement)), key=speed)
        return round_of(text, at, best, threshold, costs) if speed(best) > 1 / costs.plain else (1, costs.plain)

    return replay(text, choose)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journal")
    parser.add_argument("--exits", required=True)
    parser.add_argument("--head", type=float, required=True, help="cost of the full head in blocks")
    parser.add_argument("--draft-head", type=float, required=True, help="cost of the head of a draft in blocks")
    parser.add_argument("--texts", type=int, help="use the first texts only")
    args = parser.parse_args()
    costs = Costs(args)
    texts = traces(args.journal, len(costs.depths) - 1)[:args.texts]
    exits = range(len(costs.depths) - 1)
    settings = list(itertools.product(exits, THRESHOLDS))

    def fixed(text, setting):
        return replay(text, lambda at: round_of(text, at, *setting, costs))

    def speed(results):
        tokens, cost = map(sum, zip(*results))
        return tokens * costs.plain / cost

    def best(results):
        return max(results, key=lambda result: result[0] / result[1])

    def oracle_length(text, exit):
        return replay(text, lambda at: exact_round(text, at, exit, costs))

    plain = [[(len(text), len(text) * costs.plain)] for text in texts]
    all_fixed = [[fixed(text, setting) for setting in settings] for text in texts]
    print(f"{len(texts)} texts, {sum(map(len, texts))} tokens")
    for exit in exits:
        of_exit = [speed([results[settings.index((exit, threshold))] for results in all_fixed]) for threshold in THRESHOLDS]
        print(f"exit {costs.depths[exit]}, best threshold for all texts: {max(of_exit):.3f}")
    print(f"exit by recent agreement, best threshold for all texts: "
          f"{max(speed([by_recent_agreement(text, threshold, costs) for text in texts]) for threshold in THRESHOLDS):.3f}")
    for name, evidence in [("confidence", CONFIDENCE), ("probe", PROBE)]:
        def by_token(threshold):
            return speed([replay(text, lambda at: round_by_token(text, at, threshold, costs, evidence)) for text in texts])

        print(f"each token at the first exit sure by {name}, best threshold for all texts: {max(map(by_token, THRESHOLDS)):.3f}")
    for exit in exits:
        def by_probe(threshold):
            return speed([replay(text, lambda at: round_of(text, at, exit, threshold, costs, PROBE)) for text in texts])

        print(f"exit {costs.depths[exit]} by its probe, best threshold for all texts: {max(map(by_probe, THRESHOLDS)):.3f}")
    print(f"oracle of exit and threshold per text, or plain: {speed([best(r + p) for r, p in zip(all_fixed, plain)]):.3f}")
    for exit in exits:
        print(f"oracle of the length, exit {costs.depths[exit]}: {speed([oracle_length(text, exit) for text in texts]):.3f}")
    of_both = [replay(text, lambda at: best([exact_round(text, at, exit, costs) for exit in exits])) for text in texts]
    print(f"oracle of exit and length per round: {speed(of_both):.3f}")


def traces(journal, exits):
    found = []
    with open(journal) as lines:
        for line in lines:
            value = json.loads(line).get("value")
            if isinstance(value, list) and value and isinstance(value[0], dict) and "early" in value[0]:
                if len(value[0]["early"]) != exits:
                    raise SystemExit(f"{journal}: traces of {len(value[0]['early'])} early exits, expected {exits}")
                found.append(value)
    if not found:
        raise SystemExit(f"{journal}: no traces")
    return found


if __name__ == "__main__":
    main()
