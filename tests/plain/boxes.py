"""Plain twins of what concerns boxes: one box at a time, in Python's floats, as the formulas stand in their sources."""

import math

Box = tuple[float, float, float, float]


def area(box: Box) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    common = area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    union = area(one) + area(other) - common
    return common / union if union > 0 else 0.0


def suppressed(boxes: list[Box], scores: list[float], limit: float) -> list[int]:
    """Greedy non-maximum suppression: the places of the boxes that stay."""
    left = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if overlap(boxes[best], boxes[i]) <= limit]
    return kept


def centre_and_sides(box: Box) -> Box:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]


def refinement(roi: Box, box: Box) -> Box:
    """What makes `box` of `roi`: Girshick et al. 2014, appendix C, divided by the deviations 0.1, 0.1, 0.2, 0.2."""
    px, py, pw, ph = centre_and_sides(roi)
    gx, gy, gw, gh = centre_and_sides(box)
    return (gx - px) / pw / 0.1, (gy - py) / ph / 0.1, math.log(gw / pw) / 0.2, math.log(gh / ph) / 0.2


def nearest(box: Box, others: list[Box]) -> tuple[int, float]:
    """Which of the others overlaps `box` most, the first of equals, and by how much."""
    best, most = 0, 0.0
    for i, other in enumerate(others):
        if overlap(box, other) > most:
            best, most = i, overlap(box, other)
    return best, most
