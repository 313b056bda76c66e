"""A gated recurrent layer in both directions, step by step with NumPy: the twin of minibatch.models.recurrent.

Cho et al. 2014, with the reset gate inside as torch has it: n = tanh(W x + b + r · (U h + c)).
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def one_direction(inputs, w, u, b, c):
    """States (l, h) of inputs (l, e), from the first to the last."""
    hidden = u.shape[1]
    state, states = np.zeros(hidden), []
    for x in inputs:
        from_input, from_state = w @ x + b, u @ state + c
        reset, update = (
            sigmoid(from_input[k * hidden : (k + 1) * hidden] + from_state[k * hidden : (k + 1) * hidden])
            for k in (0, 1)
        )
        new = np.tanh(from_input[2 * hidden :] + reset * from_state[2 * hidden :])
        state = (1 - update) * new + update * state
        states.append(state)
    return np.array(states).reshape(-1, hidden)


def both_directions(inputs, weights):
    """States (l, 2h): those of the way there beside those of the way back; weights: by torch's names."""
    there, back = (
        [weights[f"{name}_l0{way}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        for way in ("", "_reverse")
    )
    return np.concatenate([one_direction(inputs, *there), one_direction(inputs[::-1], *back)[::-1]], axis=1)
