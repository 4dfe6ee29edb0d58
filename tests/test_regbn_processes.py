"Two processes with half a batch each do what one does with the whole"
import copy, math
import pytest, torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.testing import assert_close
from mmbalance.layers.regbn import RegBN

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason='needs the gloo backend')
cases = [dict(), dict(normalize_input=True, affine=True), dict(normalize_input=True, consistent=True), dict(rank=3), dict(constraint='weight'), dict(sigma_thr=.1), dict(implicit=True)]

def layer(kwargs, **more):
    torch.manual_seed(0)
    return RegBN(6, (2,2,2), **kwargs, **more).double()

def data(step):
    gen = torch.Generator().manual_seed(step)
    g = torch.randn(12, 2, 2, 2, generator=gen, dtype=torch.float64)
    f = g.flatten(1)@torch.randn(8, 6, generator=gen, dtype=torch.float64) + torch.randn(12, 6, generator=gen, dtype=torch.float64)
    if step==1: f[10] = math.nan  # in the second half
    return f,g

def train(o, f, g, world=1):
    "Output and gradients of three steps, of which the second is a bad batch; the loss is the mean over what this process has"
    res = []
    for step in range(3):
        x,z = (a.clone().requires_grad_() for a in (f[step], g[step]))
        out = o(x, z)[0]
        if step!=1: (out.square()*torch.linspace(0, 1, 6)).sum().backward()
        res += [out.detach(), x.grad, z.grad]
    return res

def one_of_two(rank, path, results):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{path}', rank=rank, world_size=2)
    f,g = zip(*[[a.chunk(2)[rank] for a in data(step)] for step in range(3)])
    for i,kwargs in enumerate(cases):
        o = layer(kwargs, sync=True)
        torch.save((train(o, f, g), o.state_dict(), [p.grad for p in o.parameters()]), f'{results}/{i}-{rank}.pt')
    dist.destroy_process_group()

def test_two_halves_are_one_whole(tmp_path):
    mp.spawn(one_of_two, (str(tmp_path/'meet'), str(tmp_path)), nprocs=2)
    f,g = zip(*[data(step) for step in range(3)])
    for i,kwargs in enumerate(cases):
        o = layer(kwargs)
        want = train(o, f, g)
        (a,a_state,a_grads),(b,b_state,b_grads) = (torch.load(tmp_path/f'{i}-{rank}.pt') for rank in (0, 1))
        for x,y,w in zip(a, b, want):
            if w is not None: assert_close(torch.cat([x, y]), w, equal_nan=True, msg=lambda m: f'{kwargs}: {m}')
        for x,y,p in zip(a_grads, b_grads, o.parameters()):
            if p.grad is not None: assert_close(x+y, p.grad)
        assert a_state['batches'].tolist()==[2, 1, 0]
        for k,v in o.state_dict().items():
            if kwargs.get('rank') and k.startswith('W_'): continue  # a factor has a free sign
            assert_close(a_state[k], v); assert_close(b_state[k], a_state[k], rtol=0, atol=0)
        if kwargs.get('rank'): assert_close(a_state['W_left']@a_state['W_right'], o.W_left@o.W_right)

def test_without_a_group_sync_changes_nothing():
    f,g = data(0)
    a,b = layer({}, sync=True),layer({})
    assert_close(a(f, g), b(f, g), rtol=0, atol=0)
