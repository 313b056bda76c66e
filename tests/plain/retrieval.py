"""Recall among k by sorting all scores of every query: the twin of minibatch.train.retrieval."""


def recall(queries, answers, k):
    """The share of queries whose own answer is among the k largest products, ties counted against it."""
    hits = 0
    for i, query in enumerate(queries):
        scores = [sum(a * b for a, b in zip(query, answer, strict=True)) for answer in answers]
        ahead = [j for j, score in enumerate(scores) if j != i and score >= scores[i]]
        hits += len(ahead) < k
    return hits / len(queries)
