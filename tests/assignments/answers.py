"""Plausible wrong answers: assignment -> answer -> name -> what differs from the solution, and the tests it fails.

A pair is a replacement within the course's solution; a text is the whole answer.
"""

WRONG = {
    "a1_lora_layer": {
        "a1_formula": {
            "s forgotten": (("s * (x @ A.T)", "(x @ A.T)"), {"a1_formula_test"}),
            "s on the base, too": (
                ("x @ W.T + b + s * (x @ A.T) @ B.T", "s * (x @ (W + B @ A).T + b)"),
                {"a1_formula_test"},
            ),
            "bias forgotten": (("x @ W.T + b", "x @ W.T"), {"a1_formula_test"}),
            "two dimensions alone": (("x @ W.T", "(W @ x.T).T"), {"a1_formula_test"}),
            "A and B the wrong way round": (("(x @ A.T) @ B.T", "(x @ B) @ A"), {"a1_formula_test"}),
            "the visible case by heart": (
                "def lora_forward(x, W, b, A, B, s):\n    return torch.tensor([[0.5, 2.0, 3.0]])",
                {"a1_formula_test"},
            ),
        },
        "a1_layer": {
            "alpha without r": (("alpha / rank", "alpha"), {"a1_scaling_test"}),
            "r over alpha": (("alpha / rank", "rank / alpha"), {"a1_scaling_test"}),
            "s squared": (("alpha / rank", "(alpha / rank) ** 2"), {"a1_scaling_test"}),
            "A all ones": (
                ("nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))", "nn.init.ones_(self.lora_A)"),
                {"a1_start_test"},
            ),
            "gradient cut at the base": (
                ("return self.base(x) +", "with torch.no_grad():\n            y = self.base(x)\n        return y +"),
                {"a1_training_test"},
            ),
            "A counted up": (
                (
                    "nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))",
                    "self.lora_A.data = torch.arange(1.0, self.lora_A.numel() + 1).view(self.lora_A.shape)",
                ),
                {"a1_start_test"},
            ),
            "B random": (("torch.zeros(base.out", "torch.randn(base.out"), {"a1_start_test"}),
            "A zero, too": (
                ("kaiming_uniform_(self.lora_A, a=math.sqrt(5))", "zeros_(self.lora_A)"),
                {"a1_start_test", "a1_training_test"},
            ),
            "base not frozen": (("base.requires_grad_(False)", "base"), {"a1_start_test", "a1_training_test"}),
            "gradient cut at A": (("x @ self.lora_A.T", "x @ self.lora_A.detach().T"), {"a1_training_test"}),
            "gradient cut at B": (("self.lora_B.T", "self.lora_B.data.T"), {"a1_training_test"}),
        },
        "a1_join": {
            "scaled in place": (
                (
                    "torch.cat([A1, A2]), torch.cat([s1 * B1, s2 * B2], dim=1)",
                    "torch.cat([A1, A2]), torch.cat([B1.mul_(s1), B2.mul_(s2)], dim=1)",
                ),
                {"a1_join_test"},
            ),
            "sums of A and B": (
                ("torch.cat([A1, A2]), torch.cat([s1 * B1, s2 * B2], dim=1)", "A1 + A2, s1 * B1 + s2 * B2"),
                {"a1_join_test"},
            ),
            "scalings forgotten": (("s1 * B1, s2 * B2", "B1, B2"), {"a1_join_test"}),
            "scalings twice": (("[A1, A2]", "[s1 * A1, s2 * A2]"), {"a1_join_test"}),
            "B one below the other": (("dim=1", "dim=0"), {"a1_join_test"}),
            "the visible case by heart": (
                "def join(A1, B1, s1, A2, B2, s2):\n    return torch.eye(2), torch.tensor([[2.0, 0], [0, 3]])",
                {"a1_join_test"},
            ),
        },
        "a1_saving": {
            "by a fraction, rounded down": (
                ("(m * n - 1) // (m + n)", "math.floor((m * n - 1) / (m + n))"),
                {"a1_saving_test"},
            ),
            "as many is fewer": (("(m * n - 1)", "m * n"), {"a1_saving_test"}),
            "rounded to nearest": (("(m * n - 1) // (m + n)", "round(m * n / (m + n))"), {"a1_saving_test"}),
            "by a fraction": (
                ("(m * n - 1) // (m + n)", "math.ceil(m * n / (m + n)) - 1"),
                {"a1_saving_test"},
            ),
            "B forgotten": (("// (m + n)", "// n"), {"a1_saving_test"}),
            "the rank of the weight": (("(m * n - 1) // (m + n)", "min(m, n)"), {"a1_saving_test"}),
            "the visible case by heart": (("(m * n - 1) // (m + n)", "int(m == 3)"), {"a1_saving_test"}),
        },
    },
    "a2_rank_schedule": {
        "a2_line": {
            "a share of the way in floating point": (
                ("(last - first) * l / (num_layers - 1)", "(last - first) * (l / (num_layers - 1))"),
                {"a2_line_test"},
            ),
            "rounded down": (("round(", "int("), {"a2_line_test"}),
            "ranks falling": (("first + (last - first)", "last + (first - last)"), {"a2_line_test"}),
            "L for L - 1": (("(num_layers - 1)", "num_layers"), {"a2_line_test"}),
            "half up": (("round(first", "int(0.5 + first"), {"a2_line_test"}),
            "one layer gets the first rank": (("[last]", "[first]"), {"a2_line_test"}),
            "the visible case by heart": (
                "def schedule(num_layers, first, last):\n"
                "    return [3] * 5 if first == last else [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]",
                {"a2_line_test"},
            ),
        },
        "a2_cost": {
            "m times n": (("m + n for", "m * n for"), {"a2_cost_test"}),
            "A alone": (("m + n for", "n for"), {"a2_cost_test"}),
            "one matrix of the layer": (("sum(m + n for m, n in shapes)", "sum(shapes[0])"), {"a2_cost_test"}),
            "every layer at the first rank": (("sum(ranks)", "ranks[0] * len(ranks)"), {"a2_cost_test"}),
            "the visible case by heart": (("sum(ranks) * sum(m + n for m, n in shapes)", "15"), {"a2_cost_test"}),
        },
        "a2_budget": {
            "a met budget is too dear": (("last + 1)) <= budget", "last + 1)) < budget"), {"a2_budget_test"}),
            "one too many": (("return last", "return last + 1"), {"a2_budget_test"}),
            "a formula without rounding": (
                "def largest_last(schedule, num_layers, first, budget):\n    return 2 * budget // num_layers - first",
                {"a2_budget_test"},
            ),
            "a cap": (("last = 0\n", "last = 0\n    budget = min(budget, 96)\n"), {"a2_budget_test"}),
            "a cap of a hundred": (
                ("return last", "return min(last, 100)"),
                {"a2_budget_test"},
            ),
            "never below the first": (("last = 0\n", "last = first - 1\n"), {"a2_budget_test"}),
            "no error": (("if last == 0:", "if last < 0:"), {"a2_budget_test"}),
        },
        "a2_names": {
            "layer 1 in layer 11": (
                "def rank_of(name, ranks):\n"
                "    for number, rank in enumerate(ranks):\n"
                '        if f"layer.{number}" in name:\n'
                "            return rank\n"
                "    raise ValueError(name)",
                {"a2_names_test"},
            ),
            "a dot on both sides": (
                "def rank_of(name, ranks):\n"
                "    for number, rank in enumerate(ranks):\n"
                '        if f".layer.{number}." in name:\n'
                "            return rank\n"
                "    raise ValueError(name)",
                {"a2_names_test"},
            ),
            "an encoder before it": (
                "import re\n\n\ndef rank_of(name, ranks):\n"
                "    found = re.search(r'encoder\\.layer\\.(\\d+)', name)\n"
                "    if not found:\n        raise ValueError(name)\n"
                "    return ranks[int(found[1])]",
                {"a2_names_test"},
            ),
            "the first digit alone": (
                "import re\n\n\ndef rank_of(name, ranks):\n    return ranks[int(re.search(r'r\\.(.)', name)[1])]",
                {"a2_names_test"},
            ),
            "the first number anywhere": (
                "import re\n\n\ndef rank_of(name, ranks):\n"
                "    if 'layer' not in name:\n        raise ValueError(name)\n"
                "    return ranks[int(re.search(r'\\d+', name).group())]",
                {"a2_names_test"},
            ),
            "the first part that is a number": (
                "def rank_of(name, ranks):\n"
                "    if '.layer.' not in name:\n        raise ValueError(name)\n"
                "    return ranks[next(int(part) for part in name.split('.') if part.isdigit())]",
                {"a2_names_test"},
            ),
            "what ends in layer": (
                "import re\n\n\ndef rank_of(name, ranks):\n"
                "    found = re.search(r'layer\\.(\\d+)', name)\n"
                "    if not found:\n        raise ValueError(name)\n"
                "    return ranks[int(found[1])]",
                {"a2_names_test"},
            ),
            "counted from one": ((") + 1])]", ") + 1]) - 1]"), {"a2_names_test"}),
            "a rank for the pooler": (
                ('raise ValueError(f"{name} belongs to no layer")', "return ranks[-1]"),
                {"a2_names_test"},
            ),
        },
    },
    "a3_pruner": {
        "a3_mean_square": {
            "padding zeroed in place": (
                (
                    "    return torch.cat([x[mask]",
                    "    for x, mask in batches:\n        x[~mask] = 0\n    return torch.cat([x[mask]",
                ),
                {"a3_mean_square_test"},
            ),
            "batches taken out of the list": (
                ("[x[mask] for x, mask in batches]", "[x[mask] for x, mask in [batches.pop() for _ in [*batches]]]"),
                {"a3_mean_square_test"},
            ),
            "padding counted": (("x[mask] for", "x.flatten(0, 1) for"), {"a3_mean_square_test"}),
            "padding multiplied by zero": (
                ("x[mask] for", "(x * mask[..., None]).flatten(0, 1) for"),
                {"a3_mean_square_test"},
            ),
            "a mean of means": (
                (
                    "torch.cat([x[mask] for x, mask in batches]).square()",
                    "torch.stack([x[mask].square().mean(dim=0) for x, mask in batches])",
                ),
                {"a3_mean_square_test"},
            ),
            "over the features": (("mean(dim=0)", "mean(dim=1)"), {"a3_mean_square_test"}),
            "the norm, not its square": (("mean(dim=0)", "mean(dim=0).sqrt()"), {"a3_mean_square_test"}),
            "the square of the mean": ((".square().mean(dim=0)", ".mean(dim=0).square()"), {"a3_mean_square_test"}),
        },
        "a3_average": {
            "beta the wrong way round": (
                ("decay * s + (1 - decay) * q", "(1 - decay) * s + decay * q"),
                {"a3_average_test"},
            ),
            "from zero": (("s = qs[0]\n    for q in qs[1:]", "s = 0 * qs[0]\n    for q in qs"), {"a3_average_test"}),
            "a plain mean": (("return s", "return torch.stack(list(qs)).mean(dim=0)"), {"a3_average_test"}),
            "no weight for the newest": (("(1 - decay) * q", "q"), {"a3_average_test"}),
            "the list is changed": (
                ("s = decay * s + (1 - decay) * q", "s.mul_(decay).add_((1 - decay) * q)"),
                {"a3_average_test"},
            ),
        },
        "a3_survivors": {
            "rounded to nearest": (
                ("int(ratio * scores.shape[1] + 1e-9)", "round(ratio * scores.shape[1])"),
                {"a3_survivors_test"},
            ),
            "a sort that is not stable": ((", stable=True", ""), {"a3_survivors_test"}),
            "A is changed": (("A.abs()", "A.abs_()"), {"a3_survivors_test"}),
            "size alone": (("A.abs() * s.sqrt()", "A.abs()"), {"a3_survivors_test"}),
            "no root": (("s.sqrt()", "s"), {"a3_survivors_test"}),
            "signs count": (("A.abs()", "A"), {"a3_survivors_test"}),
            "the mask turned round": (("return torch.ones", "return ~torch.ones"), {"a3_survivors_test"}),
            "rounded up": (
                ("int(ratio * scores.shape[1] + 1e-9)", "-int(-ratio * scores.shape[1] // 1)"),
                {"a3_survivors_test"},
            ),
            "without the 1e-9": ((" + 1e-9", ""), {"a3_survivors_test"}),
            "over the whole matrix": (
                "def survivors(A, s, ratio):\n"
                "    scores = (A.abs() * s.sqrt()).flatten()\n"
                "    keep = torch.ones_like(scores, dtype=torch.bool)\n"
                "    keep[scores.argsort(stable=True)[: int(ratio * len(scores) + 1e-9)]] = False\n"
                "    return keep.view(A.shape)",
                {"a3_survivors_test"},
            ),
            "of ties the higher index": (
                ("scores.argsort(dim=1, stable=True)[:, :k]", "scores.flip(1).argsort(dim=1, stable=True)[:, :k]"),
                {"a3_survivors_test"},
            ),
        },
        "a3_pruner": {
            "B pruned": (
                (
                    "self.layer.lora_A[~survivors(self.layer.lora_A, self.s, self.ratio)] = 0",
                    "self.layer.lora_B[self.layer.lora_B <= self.layer.lora_B.median()] = 0",
                ),
                {"a3_pruner_test", "a3_regrowth_test"},
            ),
            "a mask for good": (
                (
                    "self.layer.lora_A[~survivors(self.layer.lora_A, self.s, self.ratio)] = 0",
                    "self.mask = getattr(self, 'mask', survivors(self.layer.lora_A, self.s, self.ratio))\n"
                    "                self.layer.lora_A *= self.mask",
                ),
                {"a3_pruner_test", "a3_regrowth_test"},
            ),
            "a gradient that stops": (
                (
                    "self.layer.lora_A[~survivors(self.layer.lora_A, self.s, self.ratio)] = 0",
                    "keep = survivors(self.layer.lora_A, self.s, self.ratio)\n"
                    "                self.layer.lora_A *= keep\n"
                    "            self.layer.lora_A.register_hook(lambda grad: grad * keep)",
                ),
                {"a3_regrowth_test"},
            ),
            "another tensor for A": (
                (
                    "self.layer.lora_A[~survivors(self.layer.lora_A, self.s, self.ratio)] = 0",
                    "keep = survivors(self.layer.lora_A, self.s, self.ratio)\n"
                    "                self.layer.lora_A = nn.Parameter(self.layer.lora_A * keep)",
                ),
                {"a3_pruner_test"},
            ),
            "one step early": (("self.steps % self.interval", "(self.steps - 1) % self.interval"), {"a3_pruner_test"}),
            "the last batch alone": (
                ("self.batches.append((x, mask))", "self.batches = [(x, mask)]"),
                {"a3_pruner_test"},
            ),
            "old batches again": (
                ("self.steps, self.batches = self.steps + 1, []", "self.steps += 1"),
                {"a3_pruner_test"},
            ),
            "no moving average": (
                ("q if self.s is None else moving_average([self.s, q], self.decay)", "q"),
                {"a3_pruner_test"},
            ),
        },
        "a3_steps": {
            "the last step forgotten": (
                ("range(interval, steps, interval), steps", "range(interval, steps + 1, interval)"),
                {"a3_steps_test"},
            ),
            "the last step twice": (
                ("range(interval, steps, interval)", "range(interval, steps + 1, interval)"),
                {"a3_steps_test"},
            ),
            "counted from zero": (("range(interval, steps", "range(0, steps"), {"a3_steps_test"}),
            "the visible case by heart": (
                ("[*range(interval, steps, interval), steps]", "[40, 80, 100]"),
                {"a3_steps_test"},
            ),
        },
    },
    "a4_ablation_report": {
        "a4_methods": {
            "another budget": (
                ("PRILoRAConfig.lora(8, ratio=0.75)", "PRILoRAConfig(first_rank=8, last_rank=10, ratio=0)"),
                {"a4_methods_test"},
            ),
            "fewer layers": (("ratio=0.75", "ratio=0, layers=range(6)"), {"a4_methods_test"}),
            "two changes": (
                ("PRILoRAConfig.lora(8, ratio=0.75)", "PRILoRAConfig()"),
                {"a4_methods_test"},
            ),
            "a slope and another scaling": (
                ("lora(8, ratio=0.75)", "lora(8, first_rank=4, last_rank=12, scaling='mean')"),
                {"a4_methods_test"},
            ),
            "a list of ranks and pruning": (
                ("ratio=0.75", "ratio=0.5, ranks=(4,) * 6 + (12,) * 6"),
                {"a4_methods_test"},
            ),
            "a list of ranks and another scaling": (
                ("ratio=0.75", "ratio=0, ranks=(4,) * 6 + (12,) * 6, scaling='sqrt'"),
                {"a4_methods_test"},
            ),
            "no effect": (
                ("ratio=0.75", "ratio=0, importance='random'"),
                {"a4_methods_test", "a4_table_test", "a4_runs_test"},
            ),
            "a scaling that has no effect": (
                ("ratio=0.75", "ratio=0, scaling='sqrt'"),
                {"a4_methods_test", "a4_table_test", "a4_runs_test"},
            ),
            "no change": (
                ("ratio=0.75", "ratio=0"),
                {"a4_methods_test", "a4_table_test", "a4_runs_test"},
            ),
            "another baseline": (("lora(8),", "lora(8, ratio=0.25),"), {"a4_methods_test"}),
        },
        "a4_table": {
            "rounded": (("100 * value", "round(100 * value, 1)"), {"a4_table_test"}),
            "a share, no percent": (("100 * value", "value"), {"a4_table_test", "a4_runs_test"}),
            "the last metric": (
                ('next(iter(record["metrics"].values()))', 'list(record["metrics"].values())[-1]'),
                {"a4_table_test"},
            ),
            "seeds renumbered": (('record["seed"]', "len(rows)"), {"a4_table_test", "a4_runs_test"}),
            "the best seeds alone": (
                (
                    "return pd.DataFrame(rows)",
                    "return pd.DataFrame(rows).sort_values('value').groupby('method').tail(2)",
                ),
                {"a4_table_test", "a4_runs_test"},
            ),
            "numbers typed by hand": (
                (
                    "return pd.DataFrame(rows)",
                    "return pd.DataFrame(rows).assign(value=[70.0, 71.0, 72.0, 71.5, 70.0, 74.0][: len(rows)])",
                ),
                {"a4_table_test", "a4_runs_test"},
            ),
        },
        "a4_interval": {
            "sorted in place": (
                (
                    "    differences = pd.Series(mine)",
                    "    mine.sort()\n    lora.sort()\n    differences = pd.Series(mine)",
                ),
                {"a4_interval_test"},
            ),
            "the normal's 1.96": (("stats.t.ppf(0.975, n - 1)", "1.96"), {"a4_interval_test"}),
            "sd of a population": (("differences.std()", "differences.std(ddof=0)"), {"a4_interval_test"}),
            "no root of n": ((" / math.sqrt(n)", ""), {"a4_interval_test"}),
            "one-sided": (("0.975", "0.95"), {"a4_interval_test"}),
            "pairs ignored": (
                ("differences.std()", "math.hypot(pd.Series(mine).std(), pd.Series(lora).std())"),
                {"a4_interval_test"},
            ),
            "lora minus mine": (
                ("pd.Series(mine) - pd.Series(lora)", "pd.Series(lora) - pd.Series(mine)"),
                {"a4_interval_test"},
            ),
        },
        "a4_claim": {
            "above, whatever": (("    if low > 0:\n        return", "    return"), {"a4_claim_test"}),
            "by the mean alone": (("if low > 0", "if low + high > 0"), {"a4_claim_test"}),
            "by the nearer end": (("if high < 0", "if low < 0"), {"a4_claim_test"}),
            "zero at an end": (("if low > 0", "if low >= 0"), {"a4_claim_test"}),
            "no effect": (("no difference shown", "mine has no effect"), {"a4_claim_test"}),
        },
    },
}
