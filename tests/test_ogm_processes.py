"Two processes with half a batch each are modulated as one with the whole"
import pytest, torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from mmbalance.callback.ogm_ge import OGM, OGMGE
from mmbalance.layers.modulation import PoolNoise
from test_ogm import fit, items, learner, weights

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason='needs the gloo backend')
makers = [OGM, lambda: OGM(act='update'), OGMGE, lambda: OGMGE(noise=PoolNoise)]

def one_of_two(rank, path, results):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{path}', rank=rank, world_size=2)
    data = items()
    half = [o for i in range(0, len(data), 16) for o in data[i+8*rank:i+8*rank+8]]  # its half of each batch of 16
    for i,make in enumerate(makers):
        learn = learner(cb := make(), bs=8, data=half)
        if rank: torch.rand(rank)  # generators that differ
        learn.model = DistributedDataParallel(learn.model)
        fit(learn)
        torch.save((weights(learn), cb.coefs), f'{results}/{i}-{rank}.pt')
    dist.destroy_process_group()

def test_two_halves_are_one_whole(tmp_path):
    mp.spawn(one_of_two, (str(tmp_path/'meet'), str(tmp_path)), nprocs=2)
    for i,make in enumerate(makers):
        (a,a_coefs),(b,b_coefs) = (torch.load(tmp_path/f'{i}-{rank}.pt') for rank in (0, 1))
        assert torch.equal(a, b) and a_coefs==b_coefs
        if i>1: continue  # noise differs from that of one process
        want = fit(learner(cb := make()))
        assert_close(a, weights(want), rtol=0, atol=1e-6)
        for m in cb.coefs: assert_close(torch.tensor(a_coefs[m]), torch.tensor(cb.coefs[m]), rtol=0, atol=1e-6)
        assert min(map(min, cb.coefs.values()))<1
