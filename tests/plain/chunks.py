"""Chunks of a tagged sentence, word by word: the twin of minibatch.train.chunks, after the rules of conlleval.pl."""


def split_tag(tag):
    kind, _, type_ = tag.partition("-")
    return {"L": "E", "U": "S"}.get(kind, kind), type_


def ends_before(previous, current):
    """Whether a chunk that the previous word is in ends there (endOfChunk of the script)."""
    (kind, type_), (next_kind, next_type) = previous, current
    if kind == "O":
        return False
    return kind in "ES" or next_kind in "BSO" or type_ != next_type


def begins_at(previous, current):
    """Whether a chunk begins at the current word (startOfChunk of the script)."""
    (kind, type_), (next_kind, next_type) = previous, current
    if next_kind == "O":
        return False
    return next_kind in "BS" or kind in "OES" or type_ != next_type


def chunks(tags):
    """The chunks of a sentence: a set of (first word, last word, type)."""
    found, begin = set(), None
    previous = ("O", "")
    for place, tag in enumerate([*tags, "O"]):
        current = split_tag(tag)
        if ends_before(previous, current):
            found.add((begin, place - 1, previous[1]))
        if begins_at(previous, current):
            begin = place
        previous = current
    return found


def scores(pairs):
    """F1, precision and recall over pairs of sentences: the tags found and the right ones."""
    correct = found = there = 0
    for guessed, right in pairs:
        correct += len(chunks(guessed) & chunks(right))
        found += len(chunks(guessed))
        there += len(chunks(right))
    precision = correct / found if found else 0.0
    recall = correct / there if there else 0.0
    f1 = 2 * precision * recall / (precision + recall) if correct else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}
