"""Answers to the exercises of 00 and 01: wrong ones with a part of what they are told, right ones of other forms."""

import math

import torch
import torch.nn.functional as F

from prilora_lite import LoRALinear
from prilora_lite import exercises as check


def merges_in_place(W0, A, B, s):
    W0 += s * B @ A
    return W0


def empties_a(W0, A, B, s):
    A[:] = 0
    return W0


def merges_through_data(W0, A, B, s):
    W0.data.add_(s * B @ A)
    return W0


def forward_in_place(x, W0, A, B, s):
    W0 += s * (B @ A)
    return x @ W0.T


def forward_scales_x(x, W0, A, B, s):
    x *= s
    return x @ W0.T + x @ A.T @ B.T


@torch.no_grad()
def forward_without_gradient(x, W0, A, B, s):
    return x @ W0.T + s * x @ A.T @ B.T


def forward_detached_a(x, W0, A, B, s):
    return x @ W0.T + s * x @ A.detach().T @ B.T


def forward_through_numpy(x, W0, A, B, s):
    y = x.numpy() @ W0.numpy().T + s * x.numpy() @ A.detach().numpy().T @ B.detach().numpy().T
    return torch.tensor(y)


def forward_first_token(x, W0, A, B, s):
    return (W0 @ x[0] + s * B @ (A @ x[0]))[None]


def forward_mean_of_tokens(x, W0, A, B, s):
    return (x @ W0.T + s * x @ A.T @ B.T).mean(0, keepdim=True)


def forward_alone_numpy(x, W0, A, B, s):
    return (x @ W0.T + s * x @ A.T @ B.T).detach().numpy()


def svd(update):
    return torch.linalg.svd(update, full_matrices=False)


def forgets_s(update, r):
    u, _, v = svd(update)
    return u[:, :r], v[:r]


def scales_twice(update, r):
    u, s, v = svd(update)
    return u[:, :r] @ torch.diag(s[:r]), torch.diag(s[:r]) @ v[:r]


def smallest_directions(update, r):
    u, s, v = svd(update)
    return u[:, -r:] * s[-r:], v[-r:]


def columns_of_v(update, r):
    u, s, v = svd(update)
    return u[:, :r] * s[:r], v.T[:r]


def takes_v_for_transposed(update, r):
    u, s, v = svd(update)
    return u[:, :r] @ torch.diag(s[:r]), v[:, :r].T


def whole_decomposition(update, r):
    u, s, v = svd(update)
    return u * s, v


def uncut_s(update, r):
    u, s, v = svd(update)
    return u[:, :r] * s, v[:r]


def a_first(update, r):
    u, s, v = svd(update)
    return v[:r], u[:, :r] * s[:r]


def root_on_one_side(update, r):
    u, s, v = svd(update)
    return u[:, :r] * s[:r].sqrt(), v[:r]


def skips_the_first(update, r):
    u, s, v = svd(update)
    return u[:, 1 : r + 1] * s[1 : r + 1], v[1 : r + 1]


def one_direction_short(update, r):
    u, s, v = svd(update)
    return u[:, : r - 1] * s[: r - 1], v[: r - 1]


def truncates_in_place(update, r):
    update -= update.mean()
    u, s, v = svd(update)
    return u[:, :r] * s[:r], v[:r]


def one_matrix(update, r):
    u, s, v = svd(update)
    return u[:, :r] * s[:r] @ v[:r]


def eigenvectors(update, r):
    _, vectors = torch.linalg.eigh(update.T @ update)
    return update @ vectors[:, :r], vectors[:, :r].T


WRONG = [
    (check.starting_weights, lambda r, n, m: (1e-3 * torch.randn(r, n), 1e-3 * torch.randn(m, r)), "disturbed model"),
    (check.starting_weights, lambda r, n, m: (torch.zeros(r, n), torch.zeros(m, r)), "neither ever moves"),
    (check.starting_weights, lambda r, n, m: (torch.full((r, n), 0.1), torch.zeros(m, r)), "one single direction"),
    (
        check.starting_weights,
        lambda r, n, m: (torch.empty(r, n).fill_(math.nan), torch.zeros(m, r)),
        "no finite number",
    ),
    (check.starting_weights, lambda r, n, m: (torch.randn(2, n), torch.zeros(m, 2)), "A should be of shape .3, 8."),
    (check.starting_weights, lambda r, n, m: torch.zeros(m, r) @ torch.randn(r, n), "one tensor"),
    (check.starting_weights, lambda r, n, m: torch.nn.Linear(n, r), "Return two tensors"),
    (check.starting_weights, lambda r, n, m: (torch.randn(r, n), 0), "two things of type Tensor and int"),
    (check.starting_weights, lambda r, n, m: (torch.eye(r, n).long(), torch.zeros(m, r)), "Whole numbers can't"),
    (check.full_parameters, lambda m, n: m + n, "added the two sides(.|\n)*expected 6, got 5"),
    (check.full_parameters, lambda m, n: 2 * (m + n), "around the edge"),
    (check.full_parameters, lambda m, n: m * m, "squared m"),
    (check.full_parameters, lambda m, n: n**2, "squared n"),
    (check.full_parameters, lambda m, n: m**n, "to a power"),
    (check.full_parameters, lambda m, n: m * n + m, "a bias"),
    (check.full_parameters, lambda m, n: (m + 1) * n, "n numbers too many"),
    (check.full_parameters, lambda m, n: m * n - 1, "for m = 2 and n = 3"),
    (check.full_parameters, lambda m, n: 6, "the same whatever is asked: how does it depend on m and n"),
    (check.full_parameters, lambda m, n: None, "is there a return"),
    (check.full_parameters, lambda m, n: print(m * n), "is there a return"),
    (check.full_parameters, lambda m, n: str(m * n), "not made of numbers alone: '6'"),
    (check.full_parameters, lambda m, n: complex(m * n), "not made of numbers"),
    (check.full_parameters, lambda m, n: (m, n), "expected a single number, got the shape"),
    (check.full_parameters, lambda m, n: torch.ones(m, n), "expected a single number"),
    (check.full_parameters, lambda m: m * m, "Keep the arguments of the stub"),
    (check.full_parameters, lambda m, n: rows * n, "Is this name imported"),  # noqa: F821
    (
        check.lora_forward,
        lambda *given: check.lora_forward.exercise.truth(*given).float(),
        "your result of torch.float32",
    ),
    (
        check.lora_forward,
        lambda x, W0, A, B, s: x @ W0.view(W0.T.shape) + s * x @ A.view(A.T.shape) @ B.view(B.T.shape),
        "turn nothing",
    ),
    (check.truncate, lambda update, r: (-update[:, :r], update[:r]), "of B A, expected"),
    (check.lora_forward, lambda x, W0, A, B, s: x @ W0.T + x @ A.T @ B.T, "left out the scaling"),
    (check.lora_forward, lambda x, W0, A, B, s: x @ W0.T, "frozen layer alone"),
    (check.lora_forward, lambda x, W0, A, B, s: s * (x @ A.T) @ B.T, "update alone"),
    (check.lora_forward, lambda x, W0, A, B, s: s * (x @ W0.T + x @ A.T @ B.T), "scaled the frozen part"),
    (check.lora_forward, lambda x, W0, A, B, s: x @ W0.T + s / A.shape[0] * x @ A.T @ B.T, "divided by the rank"),
    (check.lora_forward, lambda x, W0, A, B, s: x @ W0.T - s * x @ A.T @ B.T, "subtract"),
    (check.lora_forward, lambda x, W0, A, B, s: x @ W0.T + s * (s * x @ A.T @ B.T), "scaled twice"),
    (check.lora_forward, lambda x, W0, A, B, s: x @ W0.T + s + x @ A.T @ B.T, "it is a factor"),
    (check.lora_forward, lambda x, W0, A, B, s: W0 @ x.T + s * B @ (A @ x.T), "a column for each token"),
    (check.lora_forward, lambda x, W0, A, B, s: x @ W0 + s * x @ B @ A, "which of the two has to be turned"),
    (check.lora_forward, lambda x, W0, A, B, s: W0 @ x + s * B @ A @ x, "can't stand on the left"),
    (check.lora_forward, lambda x, W0, A, B, s: F.linear(x, W0) + s * x @ A @ B, "now A: a row of x"),
    (check.lora_forward, lambda x, W0, A, B, s: F.linear(x, W0) + s * x @ B @ A, "A reads x before B"),
    (check.lora_forward, lambda x, W0, A, B, s: F.linear(x, W0) + s * x @ (A @ B), "A reads first and B writes"),
    (check.lora_forward, lambda x, W0, A, B, s: F.linear(x, W0) + s * x @ (B @ A), "treat it as you treat W0"),
    (check.lora_forward, lambda x, W0, A, B, s: F.linear(x, W0) + s * x @ A.T @ B, "now B: its columns"),
    (check.lora_forward, lambda x, W0, A, B, s: x * W0 + s * x @ A.T @ B.T, "fit"),
    (check.lora_forward, forward_in_place, "changes W0"),
    (check.lora_forward, forward_scales_x, "changes x"),
    (check.lora_forward, forward_without_gradient, "no gradient reaches A and B"),
    (check.lora_forward, forward_detached_a, "no gradient reaches A, so"),
    (check.lora_forward, forward_through_numpy, "no gradient reaches A and B"),
    (check.lora_forward, forward_alone_numpy, "Return a torch tensor; .* ndarray"),
    (check.lora_forward, forward_first_token, "expected the shape .*, got the shape"),
    (check.lora_forward, forward_mean_of_tokens, "expected the shape"),
    (check.lora_forward, lambda x, W0, A, B, s: None, "is there a return"),
    (check.merged_weight, lambda W0, A, B, s: W0 + B @ A, "left out the scaling"),
    (
        check.merged_weight,
        lambda W0, A, B, s: W0 + s * A @ B,
        "Which of them stands next to x(.|\n)*RuntimeError: mat1",
    ),
    (check.merged_weight, lambda W0, A, B, s: W0 + s * (A @ B), "Which of them stands next to x"),
    (check.merged_weight, lambda W0, A, B, s: W0 + s * A.T @ B.T, "gives an n x m matrix"),
    (check.merged_weight, lambda W0, A, B, s: (W0 + s * B @ A).T, "returned the transpose"),
    (check.merged_weight, lambda W0, A, B, s: s * B @ A, "update alone"),
    (check.merged_weight, lambda W0, A, B, s: s * (W0 + B @ A), "scaled W0 as well"),
    (check.merged_weight, lambda W0, A, B, s: W0 - s * B @ A, "subtract"),
    (check.merged_weight, lambda W0, A, B, s: W0 + s / A.shape[0] * B @ A, "divided by the rank"),
    (check.merged_weight, lambda W0, A, B, s: W0 + s * s * B @ A, "counts twice"),
    (check.merged_weight, lambda W0, A, B, s: W0 + s * B * A, "entry by entry"),
    (check.merged_weight, lambda W0, A, B, s: W0 + s + B @ A, "added s"),
    (check.merged_weight, lambda W0, A, B, s: W0, "W0 as it was"),
    (check.merged_weight, lambda W0, A, B, s: W0 @ (s * B @ A), "inner two numbers"),
    (check.merged_weight, merges_in_place, "changes W0, which belongs to the caller"),
    (check.merged_weight, merges_through_data, "changes W0, which belongs to the caller"),
    (check.merged_weight, empties_a, "changes A, which belongs to the caller"),
    (check.truncate, forgets_s, "left out S"),
    (check.truncate, scales_twice, "counts twice"),
    (check.truncate, smallest_directions, "smallest singular values"),
    (check.truncate, columns_of_v, "columns of V"),
    (check.truncate, takes_v_for_transposed, "columns of V"),
    (check.truncate, whole_decomposition, "cut it to r directions"),
    (check.truncate, uncut_s, "All of S is too long"),
    (check.truncate, a_first, "return A first"),
    (check.truncate, root_on_one_side, "into one factor only"),
    (check.truncate, skips_the_first, "skipped the first"),
    (check.truncate, one_direction_short, r"B should be of shape \(4, 1\), for r = 1; yours is \(4, 0\)"),
    (check.truncate, truncates_in_place, "changes update"),
    (check.truncate, one_matrix, "Two matrices are expected"),
    (check.truncate, eigenvectors, "smallest singular values"),
    (check.truncate, lambda update, r: (update[:, :r], torch.eye(3).double()[:r]), "another such matrix is nearer"),
    (check.truncate, lambda update, r: update, "Two matrices are expected"),
    (check.truncate, lambda update, r: ("a", "b"), "not made of numbers alone: 'a'"),
    (check.truncate, lambda update, r: (None, None), "is there a return"),
    (check.truncate, lambda update, r: None, "Two matrices are expected"),
]


def truncate_with_numpy(update, r):
    u, s, v = svd(update.float())
    return (u[:, :r] * s[:r]).numpy(), v[:r].tolist()


def root_on_both_sides(update, r):
    u, s, v = svd(update)
    return u[:, :r] * s[:r].sqrt(), s[:r, None].sqrt() * v[:r]


def forward_by_layer(x, W0, A, B, s):
    return torch.stack([W0 @ token + s * B @ (A @ token) for token in x])


def merged_by_the_library(W0, A, B, s):
    layer = LoRALinear(torch.nn.Linear(W0.shape[1], W0.shape[0]), A.shape[0], scaling=s)
    layer.lora_A.data, layer.lora_B.data = A, B
    return W0 + layer.delta_weight()


RIGHT = [
    (check.starting_weights, lambda r, n, m: (torch.randn(r, n), torch.zeros(m, r))),
    (check.starting_weights, lambda r, n, m: [torch.zeros(r, n), torch.rand(m, r, dtype=torch.float64)]),
    (check.starting_weights, lambda r, n, m: (torch.eye(r, n), torch.nn.Parameter(torch.zeros(m, r)))),
    (check.full_parameters, lambda m, n: m * n),
    (check.full_parameters, lambda m, n: torch.zeros(m, n).numel()),
    (check.full_parameters, lambda m, n: float(m * n)),
    (check.lora_forward, lambda x, W0, A, B, s: x @ W0.T + s * (x @ A.T) @ B.T),
    (check.lora_forward, lambda x, W0, A, B, s: x @ (W0 + s * B @ A).T),
    (check.lora_forward, lambda x, W0, A, B, s: (W0 @ x.T + s * B @ A @ x.T).T),
    (check.lora_forward, lambda x, W0, A, B, s: torch.einsum("tn,mn->tm", x, W0) + s * F.linear(F.linear(x, A), B)),
    (check.lora_forward, forward_by_layer),
    (check.merged_weight, lambda W0, A, B, s: W0 + s * B @ A),
    (check.merged_weight, lambda W0, A, B, s: W0 + s * (A.T @ B.T).T),
    (check.merged_weight, lambda W0, A, B, s: (W0.double() + s * B.double() @ A.double()).tolist()),
    (check.merged_weight, merged_by_the_library),
    (check.truncate, truncate_with_numpy),
    (check.truncate, root_on_both_sides),
    (check.truncate, lambda update, r: [u := svd(update)[0][:, :r], u.T @ update]),
]
