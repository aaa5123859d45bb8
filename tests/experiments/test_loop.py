import pytest
import torch

import prilora_lite.experiments.loop as loop
from prilora_lite.experiments.loop import LengthGroupedSampler
from tests.training import run


def test_the_sampler_gives_every_row_once_and_batches_of_like_length():
    lengths = torch.randint(1, 60, (1003,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = LengthGroupedSampler(lengths, batch_size=8, seed=0)
    order = list(sampler)
    assert sorted(order) == list(range(1003))
    batches = [[lengths[row] for row in order[i : i + 8]] for i in range(0, 1003, 8)]
    padded = sum(len(b) * max(b) for b in batches)
    assert padded < 1.1 * sum(lengths)
    assert [b[0] for b in batches] != sorted(b[0] for b in batches)  # lengths come in no order


def test_the_sampler_depends_on_seed_and_epoch_alone():
    lengths = list(range(40))
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        sampler = LengthGroupedSampler(lengths, 8, seed)
        sampler.set_epoch(epoch)
        torch.rand(1)
        orders.append(list(sampler))
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("rows", [1, 7, 8, 9])
def test_the_sampler_takes_few_rows(rows):
    assert sorted(LengthGroupedSampler([3] * rows, 8, 0)) == list(range(rows))


def test_training_batches_are_grouped_by_length(encoder, rows, monkeypatch):
    seen = []

    class Spy(loop.LengthGroupedSampler):
        def __iter__(self):
            seen.append(self.epoch)
            return super().__iter__()

    monkeypatch.setattr(loop, "LengthGroupedSampler", Spy)
    run(encoder, rows)
    assert seen == [0, 1]


def test_a_progress_bar_is_shown_and_nothing_else(encoder, rows, capfd):
    run(encoder, rows, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "train: 100%" in err
    assert "{" not in err
    run(encoder, rows, progress=False)
    assert capfd.readouterr() == ("", "")
