"""What processes exchange, in two of them without a launcher."""

from __future__ import annotations

import pytest
import torch

from ase_finetune.distributed import Processes


def work(rank, store, queue):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    both = Processes(rank, 2)
    first, second, third = (torch.nn.Parameter(torch.full((2,), float(rank))) for _ in range(3))
    first.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    if rank == 1:
        second.grad = torch.tensor([5.0, 0.0])
    both.add_gradients([first, second, third])
    both.equalize([third])
    found = {
        "share": list(both.share(range(5))),
        "total": both.total([1.0, float(rank)]),
        "of_first": both.of_first([10.0 + rank]),
        "gradients": [None if p.grad is None else p.grad.tolist() for p in (first, second, third)],
        "equal": third.tolist(),
    }
    queue.put((rank, found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    context = torch.multiprocessing.get_context("spawn")
    store, queue = tmp_path_factory.mktemp("gloo") / "store", context.Queue()
    workers = [context.Process(target=work, args=(rank, store, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    results = dict(queue.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    return results


def test_frames_are_shared_without_overlap(found):
    assert found[0]["share"] == [0, 2, 4] and found[1]["share"] == [1, 3]


def test_sums_agree_in_all_processes(found):
    for one in found.values():
        assert one["total"] == [2.0, 1.0] and one["of_first"] == [10.0]
        assert one["equal"] == [0.0, 0.0]


def test_gradients_are_added_and_what_none_has_stays_none(found):
    for one in found.values():
        assert one["gradients"] == [[3.0, 6.0], [5.0, 0.0], None]


def test_one_process_is_alone():
    alone = Processes()
    assert list(alone.share([3, 4])) == [3, 4] and alone.total([2.0]) == [2.0]
